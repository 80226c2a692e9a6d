import tempfile

import pytest
import torch
import transformers
from torch import nn

from tests.backbones.settings import SETTINGS
from tests.finetuning.networks import Deep
from tlkit.backbones import TimmBackbone, TransformersBackbone
from tlkit.batchnorm import DomainBatchNorm
from tlkit.errors import BackboneError
from tlkit.finetuning import layers_of

every_backbone = pytest.mark.parametrize("setting", SETTINGS, ids=str)


def names(backbone):
    """Return the names of the parameters of each layer."""
    known = {parameter: name for name, parameter in backbone.named_parameters()}
    return [[known[parameter] for parameter in layer.parameters] for layer in layers_of(backbone)]


@every_backbone
def test_every_trainable_parameter_is_in_one_layer(setting):
    backbone = setting.make()
    layers = layers_of(backbone)
    inside = [parameter for layer in layers for parameter in layer.parameters]
    assert len(inside) == len(set(inside))
    assert set(inside) == set(backbone.parameters())
    assert len({layer.name for layer in layers}) == len(layers)
    next(backbone.parameters()).requires_grad_(False)
    assert sum(len(layer.parameters) for layer in layers_of(backbone)) == len(inside) - 1


@every_backbone
def test_the_modules_of_the_layers_are_all_there_is(setting):
    """In evaluation mode together, they leave nothing of the backbone in training mode that has a mode to speak of."""
    backbone = setting.make()
    layers = layers_of(backbone)
    for layer in layers:
        for module in layer.modules:
            module.train(False)
    drops = (nn.Dropout, nn.modules.batchnorm._BatchNorm)
    assert not [name for name, m in backbone.named_modules() if isinstance(m, drops) and m.training]
    assert not [name for name, m in backbone.named_modules() if not list(m.children()) and m.training]


@every_backbone
def test_the_layers_are_in_the_order_in_which_they_are_computed(setting):
    backbone = setting.make()
    first_call = []
    for number, layer in enumerate(layers_of(backbone)):
        for module in layer.modules:
            if list(module.parameters()):
                module.register_forward_pre_hook(lambda *_, n=number: first_call.append(n))
    backbone(setting.input())
    order = list(dict.fromkeys(first_call))
    assert order == sorted(order)
    assert order


def test_efficientnet_lite0():
    found = names(TimmBackbone("tf_efficientnet_lite0"))
    assert len(found) == 17  # the stem and 16 blocks; the last convolution counts to the last block
    assert found[0] == ["model.conv_stem.weight", "model.bn1.weight", "model.bn1.bias"]
    assert {name.split(".")[1] for name in found[-1]} == {"blocks", "conv_head", "bn2"}
    for block in found[1:-1]:
        assert len({tuple(name.split(".")[1:4]) for name in block}) == 1


def test_vision_transformer():
    found = names(TimmBackbone("test_vit"))
    assert len(found) == 7
    assert {"model.cls_token", "model.pos_embed", "model.patch_embed.proj.weight"} <= set(found[0])
    assert {name.split(".")[1] for name in found[-1]} == {"blocks", "norm"}


def test_a_timm_model_that_says_nothing_of_its_layers_is_cut_into_its_children():
    backbone = TimmBackbone("poolformer_s12")
    assert backbone.layer_groups() is None
    assert [{name.split(".")[1] for name in layer} for layer in names(backbone)] == [
        {"stem"}, {"stages"}, {"stages"}, {"stages"}, {"stages", "head"},
    ]  # fmt: skip


def test_normalisation_by_domain_stays_with_its_layer():
    """The layers are cut after the network has put in its own batch normalisation."""
    backbone = TimmBackbone("test_resnet")
    before = [len(layer) for layer in names(backbone)]
    DomainBatchNorm.replace(backbone)
    after = names(backbone)
    assert len(after) == len(before)
    assert "model.bn1.target.weight" in after[0]
    assert sum(map(len, after)) == len(list(backbone.parameters()))


def encoder(config):
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        return TransformersBackbone(folder, pretrained=False)


SIZES = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 20}


@pytest.mark.parametrize(
    ("config", "layers", "first", "last"),
    [
        (transformers.BertConfig(**SIZES), 4, "embeddings.LayerNorm.weight", "encoder.layer.2.output.dense.weight"),
        (
            transformers.DistilBertConfig(vocab_size=50, dim=16, n_layers=3, n_heads=2, hidden_dim=20),
            4,
            "embeddings.word_embeddings.weight",
            "transformer.layer.2.ffn.lin2.weight",
        ),
        (  # registered after the layers and used by all of them
            transformers.DebertaV2Config(
                **SIZES, relative_attention=True, position_biased_input=False, pos_att_type=["c2p", "p2c"]
            ),
            4,
            "encoder.rel_embeddings.weight",
            "encoder.layer.2.output.dense.weight",
        ),
        (transformers.ElectraConfig(**SIZES, embedding_size=8), 4, "embeddings_project.weight", "encoder.layer.2"),
        (transformers.AlbertConfig(**SIZES, embedding_size=8), 2, "encoder.embedding_hidden", "encoder.albert_layer"),
        (
            transformers.ModernBertConfig(
                **SIZES, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2
            ),
            4,
            "embeddings.tok_embeddings.weight",
            "final_norm.weight",
        ),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_text_encoders(config, layers, first, last):
    found = names(encoder(config))
    assert len(found) == layers
    assert any(name.startswith(f"model.{first}") for name in found[0])
    assert any(name.startswith(f"model.{last}") for name in found[-1])
    assert not any(".layer." in name or ".layers." in name for name in found[0])


def test_children_and_what_belongs_to_them():
    assert names(Deep()) == [
        ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"],
        ["layers.4.weight", "layers.4.bias"],
        ["layers.6.weight", "layers.6.bias"],
    ]
    assert [layer.name for layer in layers_of(Deep())] == [
        "backbone.layers.0",
        "backbone.layers.4",
        "backbone.layers.6",
    ]
    dropout = Deep().layers[3]
    assert isinstance(dropout, nn.Dropout)
    assert any(isinstance(module, nn.Dropout) for module in layers_of(Deep())[0].modules)


class Own(nn.Module):
    num_features = 2

    def __init__(self, groups=None):
        super().__init__()
        self.late, self.early = nn.Linear(3, 2), nn.Linear(4, 3)
        self.token = nn.Parameter(torch.zeros(4))
        if groups is not None:
            self.layer_groups = lambda: groups(self)

    def forward(self, x):
        return self.late(self.early(x + self.token))


def test_a_backbone_says_it_itself():
    backbone = Own(lambda own: [("in", [own.token, own.early]), ("out", [own.late])])
    assert names(backbone) == [["token", "early.weight", "early.bias"], ["late.weight", "late.bias"]]
    assert [layer.modules for layer in layers_of(backbone)] == [[backbone.early], [backbone.late]]


def test_a_parameter_beside_the_children_is_nearest_to_the_input():
    assert "token" in names(Own())[0]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (lambda own: [("in", [own.early])], r"leaves out 3 parameters, token, late.weight, late.bias among them"),
        (lambda own: [("all", [own]), ("out", [own.late])], "has in several groups 2 parameters, late.weight"),
    ],
)
def test_groups_that_are_wrong(groups, message):
    with pytest.raises(BackboneError, match=rf"Own.layer_groups\(\) {message}"):
        layers_of(Own(groups))


def test_a_single_layer():
    assert names(nn.Linear(3, 2)) == [["weight", "bias"]]
    assert layers_of(nn.Flatten()) == []
