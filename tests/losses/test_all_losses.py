"""What holds for every adaptation loss. A new loss only has to be listed in settings.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import tlkit.losses
from tests.losses.settings import CLASSES, SETTINGS, WIDTH, Setting, encoded, value
from tlkit.losses import AdaptationLoss
from tlkit.schedules import Linear
from tlkit.types import Encoded

every_loss = pytest.mark.parametrize("setting", SETTINGS, ids=str)
HALF = [torch.bfloat16, torch.float16]


def sides(
    n: int = 6, m: int = 9, dtype: torch.dtype = torch.float32, requires_grad: bool = False
) -> tuple[Encoded, Encoded, list[Tensor]]:
    """Two samples of different sizes and distributions, and their four tensors."""
    generator = torch.Generator().manual_seed(1)

    def draw(rows: int, width: int, shift: float) -> Tensor:
        x = torch.randn(rows, width, generator=generator, dtype=torch.float64) * (1 + shift) + shift
        return x.to(dtype).requires_grad_(requires_grad)

    tensors = [draw(n, WIDTH, 0), draw(n, CLASSES, 0), draw(m, WIDTH, 0.5), draw(m, CLASSES, 0.5)]
    return encoded(*tensors[:2]), encoded(*tensors[2:]), tensors


def gradients(loss: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, tensors, allow_unused=True)
    return [gradient for gradient in found if gradient is not None]


def test_every_public_loss_is_in_the_table() -> None:
    public = {getattr(tlkit.losses, name) for name in tlkit.losses.__all__} - {AdaptationLoss}
    assert public == {setting.loss for setting in SETTINGS}


@every_loss
def test_returns_a_scalar_or_a_dict_of_scalars_with_loss(setting: Setting) -> None:
    source, target, _ = sides()
    result = setting.make()(source, target)
    values = result if isinstance(result, dict) else {"loss": result}
    assert "loss" in values
    assert all(isinstance(v, Tensor) and v.shape == () and v.isfinite() for v in values.values())
    assert not any(v.requires_grad for key, v in values.items() if key != "loss")


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.gradcheck is not None], ids=str)
def test_gradcheck_in_float64(setting: Setting) -> None:
    loss = setting.make(**(setting.gradcheck or {})).double()
    tensors = sides(4, 5, torch.float64, requires_grad=True)[2]
    if setting.detached_outputs:
        for outputs in tensors[1::2]:
            outputs.requires_grad_(False)
    assert torch.autograd.gradcheck(
        lambda a, b, c, d: value(loss, encoded(a, b), encoded(c, d)), tensors, eps=1e-6, atol=1e-7
    )


@every_loss
def test_the_gradient_reaches_both_sides(setting: Setting) -> None:
    source, target, tensors = sides(requires_grad=True)
    found = gradients(value(setting.make(), source, target), tensors)
    assert len(found) == (1 if setting.target_only else 2)
    assert all(gradient.norm() > 1e-6 for gradient in found)


@pytest.mark.parametrize("setting", [s for s in SETTINGS if not s.target_only], ids=str)
@pytest.mark.parametrize("frozen", [0, 1])
def test_the_gradient_of_one_side_alone_is_the_same(setting: Setting, frozen: int) -> None:
    loss = setting.make()
    source, target, tensors = sides(requires_grad=True)
    both = gradients(value(loss, source, target), tensors)
    for tensor in tensors[2 * frozen : 2 * frozen + 2]:
        tensor.requires_grad_(False)
    live = tensors[2 - 2 * frozen : 4 - 2 * frozen]
    (alone,) = gradients(value(loss, source, target), live)
    torch.testing.assert_close(alone, both[1 - frozen])


@every_loss
@pytest.mark.parametrize(("n", "m"), [(2, 2), (2, 7), (7, 2), (33, 8)])
def test_unequal_batches_are_finite(setting: Setting, n: int, m: int) -> None:
    source, target, tensors = sides(n, m, requires_grad=True)
    loss = value(setting.make(), source, target)
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(loss, tensors))


@every_loss
@pytest.mark.parametrize(("a", "b"), [(0.0, 0.0), (0.1, 0.1), (1e4, 1e4), (0.1, 0.3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_constant_features_are_finite(setting: Setting, a: float, b: float, dtype: torch.dtype) -> None:
    source, target, tensors = sides(requires_grad=True, dtype=dtype)
    with torch.no_grad():
        for tensor, constant in zip(tensors, (a, a, b, b), strict=True):
            tensor.fill_(constant)
    loss = setting.make()
    if dtype == torch.float64:
        loss = loss.double()
    result = value(loss, source, target)
    assert result.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(result, tensors))


@every_loss
def test_nan_is_not_hidden(setting: Setting) -> None:
    source, target, tensors = sides()
    for tensor in tensors:
        tensor[1, 0] = float("nan")
    assert value(setting.make(), source, target).isnan()


@every_loss
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_precision_is_raised_to_float32(setting: Setting, dtype: torch.dtype) -> None:
    loss = setting.make()
    source, target, tensors = sides(dtype=dtype, requires_grad=True)
    result = value(loss, source, target)
    assert result.dtype == torch.float32
    found = gradients(result, tensors)
    assert all(gradient.dtype == dtype and gradient.isfinite().all() for gradient in found)
    raised = [tensor.detach().float() for tensor in tensors]
    expected = value(loss, encoded(*raised[:2]), encoded(*raised[2:]))
    torch.testing.assert_close(result, expected, rtol=0, atol=0)


@every_loss
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_autocast_changes_nothing_forward_or_backward(setting: Setting, dtype: torch.dtype) -> None:
    loss = setting.make()
    source, target, tensors = sides(requires_grad=True)
    plain = value(loss, source, target)
    expected = gradients(plain, tensors)
    with torch.autocast("cpu", dtype):
        cast = value(loss, source, target)
    torch.testing.assert_close(cast, plain, rtol=0, atol=0)
    for ours, theirs in zip(gradients(cast, tensors), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@every_loss
def test_float64_is_kept(setting: Setting) -> None:
    source, target, _ = sides(dtype=torch.float64)
    precise = value(setting.make().double(), source, target)
    assert precise.dtype == torch.float64
    source, target, _ = sides()
    torch.testing.assert_close(value(setting.make(), source, target).double(), precise, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.vanishes], ids=str)
def test_zero_for_identical_samples(setting: Setting) -> None:
    source, *_ = sides(8, dtype=torch.float64)
    assert value(setting.make(), source, source).abs() < 1e-14


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.symmetric], ids=str)
def test_source_and_target_may_be_swapped(setting: Setting) -> None:
    source, target, _ = sides(8, 8, dtype=torch.float64)
    loss = setting.make()
    torch.testing.assert_close(value(loss, source, target), value(loss, target, source), rtol=1e-12, atol=0)


@every_loss
def test_state_dict_round_trip(setting: Setting) -> None:
    source, target, _ = sides()
    loss = setting.make()
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.add_(0.3)
    fresh = setting.make()
    fresh.load_state_dict(loss.state_dict())
    assert torch.equal(value(fresh, source, target), value(loss, source, target))


@every_loss
def test_the_weight_is_a_number_or_a_schedule_and_scales_nothing_itself(setting: Setting) -> None:
    source, target, _ = sides()
    heavy, ramped = setting.make(weight=7), setting.make(weight=Linear(0.0, 2.0))
    assert heavy.weight(0.3) == 7.0
    assert ramped.weight(0.25) == 0.5
    assert torch.equal(value(heavy, source, target), value(ramped, source, target))
