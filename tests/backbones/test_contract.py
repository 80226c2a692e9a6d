from __future__ import annotations

import pytest
import torch
from torch import nn

from tlkit.backbones import TransformersBackbone
from tlkit.backbones.contract import check_backbone
from tlkit.errors import BackboneError

X = torch.rand(2, 3, 8, 8)


class Mine(nn.Module):
    """A backbone whose output is whatever ``function`` makes of the input."""

    def __init__(self, function, num_features=None):
        super().__init__()
        self.function = function
        if num_features is not None:
            self.num_features = num_features

    def forward(self, x):
        return self.function(x)


def message(backbone, x=X) -> str:
    with pytest.raises(BackboneError) as caught:
        check_backbone(backbone, x)
    return str(caught.value)


def test_returns_the_width():
    assert check_backbone(Mine(lambda x: x.flatten(1), 192), X) == 192


def test_without_an_example_the_attribute_is_taken_at_its_word():
    assert check_backbone(Mine(lambda x: 1 / 0, 7)) == 7
    with pytest.raises(BackboneError, match=r"no attribute num_features.*self\.num_features = D"):
        check_backbone(Mine(lambda x: x))


def test_a_class_or_a_function_is_no_module():
    assert "must be an instance, got the class Mine" in message(Mine)
    assert "must be a torch.nn.Module" in message(lambda x: x)
    assert "got 'resnet18'" in message("resnet18")


def test_a_missing_width_is_named():
    assert "`self.num_features = 192` (its output on this data is 192 wide)" in message(Mine(lambda x: x.flatten(1)))
    assert "`self.num_features = D`" in message(Mine(lambda x: x))


@pytest.mark.parametrize("width", [0, -1, 2.0, True, "192", (192,)])
def test_a_width_that_is_no_positive_int(width):
    assert "num_features must be a positive int, got" in message(Mine(lambda x: x.flatten(1), width))


def test_another_width():
    text = message(Mine(lambda x: x.flatten(1), 100))
    assert "must return (2, 100)" in text
    assert "got (2, 192): set num_features to 192" in text


@pytest.mark.parametrize(
    ("shape", "advice"),
    [
        ((2, 5, 4, 4), "features.mean(dim=(2, 3)), or flatten them, features.flatten(1), with num_features 80"),
        ((2, 5, 9), "features.mean(dim=(2,))"),
        ((2, 9, 5), "features.mean(dim=(1,))"),
        ((2,), "features.unsqueeze(1)"),
        ((5,), "the first dimension must be that of the input"),
        ((4, 5), "the first dimension must be that of the input"),
        ((), "the first dimension must be that of the input"),
    ],
)
def test_another_shape_comes_with_advice(shape, advice):
    assert advice in message(Mine(lambda x: torch.rand(shape), 5))


def test_the_advice_for_a_feature_map_works():
    backbone = Mine(lambda x: nn.functional.conv2d(x, torch.ones(5, 3, 3, 3)).mean(dim=(2, 3)), 5)
    assert check_backbone(backbone, X) == 5


def test_output_that_is_no_floating_point_tensor():
    assert "got a tuple of 2: return the features alone" in message(Mine(lambda x: (x.flatten(1), x), 192))
    assert "got a dict" in message(Mine(lambda x: {"features": x}, 192))
    assert "got torch.int64" in message(Mine(lambda x: x.flatten(1).long(), 192))


def test_an_error_inside_comes_with_the_shape_of_the_input():
    text = message(nn.Sequential(nn.Conv2d(1, 4, 3)).requires_grad_())
    assert "has no attribute num_features" not in text
    assert "backbone Sequential failed on input of shape (2, 3, 8, 8) (float32): RuntimeError: " in text
    text = message(Mine(lambda x: x["pixel"], 5), {"input_ids": torch.ones(2, 6, dtype=torch.long)})
    assert "{input_ids: (2, 6) (int64)}: KeyError: 'pixel'" in text


def test_errors_of_tlkit_pass_as_they_are(tmp_path):
    from tests.backbones.settings import tiny_bert

    backbone = TransformersBackbone(tiny_bert(str(tmp_path)), pretrained=False)
    assert message(backbone).startswith("TransformersBackbone takes a mapping")


def test_leaves_no_trace():
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten())
    layers.num_features = 144
    layers[1].eval()  # partly frozen, which must stay as it is
    before = {key: value.clone() for key, value in layers.state_dict().items()}
    random = torch.get_rng_state()
    check_backbone(layers, X)
    assert [module.training for module in layers.modules()] == [True, True, False, True, True]
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[key]) for key, value in layers.state_dict().items())
    assert all(parameter.grad is None for parameter in layers.parameters())


def test_leaves_no_trace_when_the_backbone_draws_or_fails():
    def draw_and_fail(x):
        torch.rand(3)
        raise RuntimeError("no")

    random = torch.get_rng_state()
    backbone = Mine(draw_and_fail, 4)
    message(backbone)
    assert backbone.training
    assert torch.equal(torch.get_rng_state(), random)


def test_layers_made_after_lazy_ones_begin_with_other_numbers():
    torch.manual_seed(0)
    first = nn.LazyLinear(4)
    check_backbone(Mine(first, 4), torch.rand(2, 10))
    assert not torch.allclose(nn.Linear(10, 4).weight, first.weight)


def test_an_overridden_train_is_not_called():
    class Adapter(nn.Flatten):
        num_features = 192

        def train(self, mode=True):
            raise AssertionError("merging adapters is a side effect")

    assert check_backbone(Adapter(), X) == 192


def test_what_the_first_call_caches_can_be_trained_with():
    class Caching(nn.Module):
        num_features = 192
        cache = None

        def forward(self, x):
            if self.cache is None:
                self.cache = torch.ones(192)
            return x.flatten(1) * self.cache

    backbone = Caching()
    check_backbone(backbone, X)
    x = X.clone().requires_grad_()
    backbone(x).sum().backward()
    assert x.grad is not None


def test_a_backbone_in_half_precision_gets_half_precision_input():
    layers = nn.Sequential(nn.Flatten(), nn.Linear(192, 6)).to(torch.bfloat16)
    layers.num_features = 6
    assert check_backbone(layers, X) == 6


@pytest.mark.parametrize("layer", [nn.Linear(192, 6), nn.Identity()])
def test_float64_is_refused_where_nothing_converts_it(layer):
    layers = nn.Sequential(nn.Flatten(), layer)
    layers.num_features = 6 if isinstance(layer, nn.Linear) else 192
    text = message(layers, X.double())
    assert "backbone Sequential and the head take float32, and x is (2, 3, 8, 8) (float64)" in text
    assert "return x.float() from the data set" in text


def test_float64_of_an_own_conversion_or_parameters_is_fine():
    layers = nn.Sequential(nn.Flatten(), nn.Linear(192, 6))
    assert check_backbone(Mine(lambda x: layers(x["scan"].float()), 6), {"scan": X.double()}) == 6
    layers.double().num_features = 6
    assert check_backbone(layers, X.double()) == 6


def test_a_backbone_without_memory_is_checked_by_shape():
    with torch.device("meta"):
        layers = nn.Sequential(nn.Flatten(), nn.Linear(192, 6))
    layers.num_features = 6
    assert check_backbone(layers, X) == 6
