from __future__ import annotations

import pytest
import torch

from tests.losses.settings import encoded
from tlkit import functional
from tlkit.errors import ConfigurationError
from tlkit.losses import MMD


def test_on_outputs_leaves_the_features_alone() -> None:
    torch.manual_seed(0)
    f, g, p, q = torch.randn(4, 6), torch.randn(5, 6), torch.randn(4, 3), torch.randn(5, 3)
    source, target = encoded(f, p), encoded(g, q)
    assert torch.equal(MMD(on="outputs")(source, target), functional.mmd(p, q))
    assert torch.equal(MMD()(source, target), functional.mmd(f, g))


def test_arguments_reach_the_function() -> None:
    torch.manual_seed(0)
    f, g = torch.randn(4, 6), torch.randn(6, 6)
    for arguments in ({"estimator": "unbiased"}, {"estimator": "linear"}, {"num_kernels": 3}, {"bandwidth": 2.5}):
        assert torch.equal(MMD(**arguments)(encoded(f), encoded(g)), functional.mmd(f, g, **arguments))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"estimator": "unbaised"}, "did you mean 'unbiased'"),
        ({"num_kernels": 4}, "odd number from 1 to 9, got 4"),
        ({"num_kernels": 11}, "odd number from 1 to 9, got 11"),
        ({"bandwidth": 0.0}, "positive squared distance, got 0.0"),
    ],
)
def test_bad_arguments_are_refused_before_training(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        MMD(**arguments)  # type: ignore[arg-type]
