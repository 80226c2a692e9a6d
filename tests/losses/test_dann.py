from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy

from tests.losses.settings import encoded
from tlkit.errors import ConfigurationError
from tlkit.losses import DANN
from tlkit.schedules import DannRamp, Linear


def built(width: int = 3, **arguments: Any) -> DANN:
    torch.manual_seed(0)
    loss = DANN(**{"hidden_size": 8, **arguments})
    loss.build(SimpleNamespace(num_features=width))
    return loss


def samples(n: int = 4, m: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    source, target = torch.randn(n, 3, generator=generator), torch.randn(m, 3, generator=generator) + 0.5
    return source.requires_grad_(), target.requires_grad_()


def test_a_hand_worked_number() -> None:
    loss = built(width=1, num_layers=0)
    with torch.no_grad():
        loss.discriminator[0].weight.fill_(1.0)
        loss.discriminator[0].bias.fill_(0.0)
    # logits ln 3 and -ln 3 on the source: p(source) 3/4, 1/4; 0 and -ln 3, -ln 3 on the target: p(target) 1/2, 3/4, 3/4
    third = math.log(3)
    result = loss(encoded(torch.tensor([[third], [-third]])), encoded(torch.tensor([[0.0], [-third], [-third]])))
    of_source = (-math.log(3 / 4) - math.log(1 / 4)) / 2
    of_target = (-math.log(1 / 2) - 2 * math.log(3 / 4)) / 3
    assert result["loss"].item() == pytest.approx((of_source + of_target) / 2, rel=1e-6)
    assert result["discriminator_accuracy"].item() == pytest.approx((1 / 2 + 1) / 2)


def test_a_discriminator_that_cannot_tell_gives_log_2() -> None:
    loss = built()
    with torch.no_grad():
        loss.discriminator[-1].weight.zero_()
        loss.discriminator[-1].bias.zero_()
    source, target = samples()
    assert loss(encoded(source), encoded(target))["loss"].item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("coefficient", [0.0, 0.3, 2.0])
def test_the_discriminator_trains_at_full_weight_and_the_features_at_minus_the_coefficient(coefficient: float) -> None:
    loss = built(reversal=coefficient)
    source, target = samples()
    loss(encoded(source), encoded(target))["loss"].backward()
    ours = [p.grad for p in loss.discriminator.parameters()]
    of_source, of_target = source.grad, target.grad

    # the same loss written out: sigmoids, no reversal
    a, b = samples()
    on_a, on_b = torch.sigmoid(loss.discriminator(a)), torch.sigmoid(loss.discriminator(b))
    plain = (binary_cross_entropy(on_a, torch.ones(4, 1)) + binary_cross_entropy(on_b, torch.zeros(6, 1))) / 2
    theirs = torch.autograd.grad(plain, [*loss.discriminator.parameters(), a, b])
    for mine, other in zip(ours, theirs[:-2], strict=True):
        torch.testing.assert_close(mine, other)
    torch.testing.assert_close(of_source, -coefficient * theirs[-2])
    torch.testing.assert_close(of_target, -coefficient * theirs[-1])


def test_source_and_target_weigh_the_same_whatever_their_sizes() -> None:
    loss = built()
    source, target = samples(4, 4)
    once = loss(encoded(source), encoded(target))
    thrice = loss(encoded(source), encoded(torch.cat([target] * 3)))
    torch.testing.assert_close(once["loss"], thrice["loss"])
    torch.testing.assert_close(once["discriminator_accuracy"], thrice["discriminator_accuracy"])


def test_the_reversal_follows_the_ramp_of_the_paper_from_0_to_1() -> None:
    loss = built()
    source, target = (encoded(side) for side in samples())
    seen = []
    for progress in (0.0, 0.1, 0.5, 1.0):
        loss.progress = progress
        seen.append(loss(source, target)["reversal"].item())
    assert seen == pytest.approx([DannRamp()(p) for p in (0.0, 0.1, 0.5, 1.0)], rel=1e-6)
    assert seen[0] == 0
    assert seen[-1] > 0.999


def test_the_reversal_is_a_pure_function_of_progress() -> None:
    source, target = (encoded(side) for side in samples())
    resumed, straight = built(reversal=Linear(0, 2)), built(reversal=Linear(0, 2))
    for step in range(5):
        straight.progress = step / 5
        straight(source, target)
    straight.progress = resumed.progress = 0.75
    assert resumed(source, target)["reversal"] == straight(source, target)["reversal"] == 1.5


def test_at_progress_0_the_features_rest_while_the_discriminator_learns() -> None:
    loss = built()
    source, target = samples()
    loss(encoded(source), encoded(target))["loss"].backward()
    assert source.grad is not None
    assert source.grad.abs().sum() == 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in loss.discriminator[-1].parameters())


def test_one_optimizer_ascends_the_features_and_descends_the_discriminator() -> None:
    """The reason for the reversal: a step on the features alone makes the discriminator worse, on itself better."""
    source, target = samples()
    for moves_features in (True, False):
        loss = built(reversal=1.0)
        before = loss(encoded(source), encoded(target))["loss"]
        source.grad = target.grad = None
        before.backward()
        moved = [side.detach() - 0.1 * side.grad * moves_features for side in (source, target) if side.grad is not None]
        if not moves_features:
            torch.optim.SGD(loss.parameters(), lr=0.1).step()
        after = loss(encoded(moved[0]), encoded(moved[1]))["loss"]
        assert (after > before) == moves_features


def test_the_options_shape_the_discriminator() -> None:
    loss = built(num_layers=3, hidden_size=16, dropout=0.25)
    linear = [layer for layer in loss.discriminator if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(3, 16), (16, 16), (16, 16), (16, 1)]
    assert [layer.p for layer in loss.discriminator if isinstance(layer, nn.Dropout)] == [0.25] * 3
    source, target = samples()
    assert loss(encoded(source), encoded(target))["loss"] != loss(encoded(source), encoded(target))["loss"]
    loss.eval()
    assert loss(encoded(source), encoded(target))["loss"] == loss(encoded(source), encoded(target))["loss"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_in_another_precision(dtype: torch.dtype) -> None:
    """Under bf16-true the parameters are bfloat16 while the features arrive in float32."""
    loss = built().to(dtype)
    source, target = samples()
    result = loss(encoded(source), encoded(target))["loss"]
    assert result.dtype == (torch.float32 if dtype == torch.bfloat16 else torch.float64)
    result.backward()
    assert source.grad is not None
    assert source.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"hidden_size": 0}, "hidden_size"),
        ({"num_layers": -1}, "num_layers"),
        ({"dropout": 1.0}, r"dropout=...\) is a rate in \[0, 1\), got 1.0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        DANN(**arguments)


def test_a_batch_before_build_is_refused() -> None:
    source, target = (encoded(side) for side in samples())
    with pytest.raises(RuntimeError, match="build"):
        DANN()(source, target)
