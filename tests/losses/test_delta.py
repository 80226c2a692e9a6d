import copy

import pytest
import torch
from torch import nn

from tests.backbones.settings import tiny_bert, tokens
from tests.losses.settings import batch, network
from tlkit.backbones import TimmBackbone, TransformersBackbone
from tlkit.errors import ConfigurationError
from tlkit.losses import DELTA
from tlkit.network import Network
from tlkit.tasks import Classification
from tlkit.types import DataSpec, DomainBatch, Samples


def built(backbone, batch_norm="joint"):
    net = Network(backbone, Classification(), batch_norm)
    net.build(DataSpec(("a", "b"), ("a",), ("b",), classes=("x", "y")))
    return net


def source(x, rows):
    zeros = torch.zeros(rows, dtype=torch.int64)
    return DomainBatch(Samples(x, zeros, zeros, zeros), None)


def test_two_layers_by_hand():
    net = network()
    loss = DELTA(layers=["0", "3"])
    loss.build(net)
    before = copy.deepcopy(net.backbone).eval()
    with torch.no_grad():
        for parameter in net.backbone.parameters():
            parameter.mul_(1.5)
    x = batch().source.x
    now = copy.deepcopy(net.backbone).eval()
    first = (now[0](x) - before[0](x)).square().mean()
    last = (now(x) - before(x)).square().mean()
    torch.testing.assert_close(loss.step(net, batch(), None, None), first + last)


def test_the_copy_never_changes():
    net = network()
    loss = DELTA()
    loss.build(net)
    before = copy.deepcopy(loss.state_dict())
    loss.train()
    with torch.no_grad():
        net.backbone[0].weight.mul_(2)
    loss.step(net, batch(), None, None).backward()
    assert all(torch.equal(before[name], value) for name, value in loss.state_dict().items())
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    assert all(parameter.grad is None for parameter in loss.parameters())
    assert len(loss.state_dict()) == len(net.backbone.state_dict())


def test_feature_maps_of_a_convolutional_network():
    torch.manual_seed(0)
    net = built(TimmBackbone("test_resnet"))
    torch.nn.init.ones_(net.backbone.model.layer4[0].bn2.weight)  # timm begins with 0: the block adds nothing
    loss = DELTA(layers=["model.layer2", "model.layer4"])
    loss.build(net)
    x = torch.rand(4, 3, 32, 32)
    assert loss.step(net, source(x, 4), None, None) == 0
    with torch.no_grad():
        net.backbone.model.layer4[0].conv1.weight.mul_(2)
    result = loss.step(net, source(x, 4), None, None)
    assert result > 0
    result.backward()
    assert net.backbone.model.layer4[0].conv1.weight.grad.norm() > 0


@pytest.mark.parametrize("layers", [None, ["model.encoder.layer.0"]])
def test_positions_that_only_pad_do_not_count(tmp_path, layers):
    torch.manual_seed(0)
    net = built(TransformersBackbone(tiny_bert(str(tmp_path)), pretrained=False))
    loss = DELTA(layers=layers)
    loss.build(net)
    with torch.no_grad():
        net.backbone.model.encoder.layer[0].attention.self.value.weight.mul_(1.5)
    x = tokens()
    longer = {key: nn.functional.pad(value, (0, 5)) for key, value in x.items()}
    value = loss.step(net, source(x, 3), None, None)
    assert value > 0
    torch.testing.assert_close(loss.step(net, source(longer, 3), None, None), value, rtol=1e-4, atol=0)


def test_domain_specific_layers_are_compared_as_the_sources():
    backbone = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))
    backbone.num_features = 6
    net = built(backbone, "domain_specific")
    loss = DELTA()
    loss.build(net)
    with torch.no_grad():
        net.backbone[1].target.weight.mul_(3)
    net(torch.rand(4, 4), "target")  # the role of the last pass
    assert loss.step(net, source(torch.rand(5, 4), 5), None, None) == 0
    with torch.no_grad():
        net.backbone[1].source.weight.mul_(3)
    assert loss.step(net, source(torch.rand(5, 4), 5), None, None) > 0


def test_a_bottleneck_is_not_held_back_and_sees_each_row_once():
    net = Network(nn.Sequential(nn.Linear(4, 6)), Classification())
    net.backbone.num_features, net.backbone.bottleneck_features = 6, 3
    net.build(DataSpec(("a", "b"), ("a",), ("b",), classes=("x", "y")))
    loss = DELTA()
    loss.build(net)
    net.train()
    assert loss.step(net, source(torch.rand(5, 4), 5), None, None) == 0
    assert net.bottleneck[1].num_batches_tracked == 0
    assert net.training
    assert net.bottleneck.training


def test_misspelt_and_empty_layers():
    with pytest.raises(ConfigurationError, match=r"has no module 'model.layr4': did you mean 'model.layer4'"):
        DELTA(layers=["model.layr4"]).build(built(TimmBackbone("test_resnet")))
    with pytest.raises(ConfigurationError, match="is empty: name modules"):
        DELTA(layers=[]).build(network())


class Blocks(nn.Module):
    """Calls the blocks of a list one by one, and a part of its own never."""

    num_features = 6

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 6), nn.Linear(6, 6)])
        self.named = nn.ModuleDict({"only": nn.Linear(6, 6)})
        self.unused = nn.Linear(6, 6)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.named["only"](x)


def test_modules_without_an_output_of_their_own():
    for name, kind, inside in (("blocks", "ModuleList", "blocks.1"), ("named", "ModuleDict", "named.only")):
        with pytest.raises(ConfigurationError, match=f"'{name}' of Blocks is a {kind}, which is never .*{inside}$"):
            DELTA(layers=[name]).build(built(Blocks()))
    net, loss = built(Blocks()), DELTA(layers=["blocks.0", "unused"])
    loss.build(net)
    with pytest.raises(ConfigurationError, match="Blocks never calls 'unused' by itself, and there is no output"):
        loss.step(net, source(torch.rand(5, 4), 5), None, None)
