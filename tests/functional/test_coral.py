from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.functional.largest import Largest
from tlkit.errors import ConfigurationError
from tlkit.functional import coral
from tlkit.functional.coral import _ThroughCovariance, _ThroughGram


def draw(n: int, m: int, d: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(n, d, generator=generator, dtype=torch.float64)
    target = torch.randn(m, d, generator=generator, dtype=torch.float64) * 1.5 + 0.7
    return source.to(dtype), target.to(dtype)


def by_loops(x: Tensor, y: Tensor) -> float:
    """Equation 1 of the paper in loops over scalars."""

    def covariance(rows: list[list[float]], i: int, j: int) -> float:
        mean_i, mean_j = (sum(row[k] for row in rows) / len(rows) for k in (i, j))
        return sum((row[i] - mean_i) * (row[j] - mean_j) for row in rows) / (len(rows) - 1)

    d = x.shape[1]
    total = 0.0
    for i in range(d):
        for j in range(d):
            total += (covariance(x.tolist(), i, j) - covariance(y.tolist(), i, j)) ** 2
    return total / (4 * d * d)


def test_hand_worked_numbers() -> None:
    source = torch.tensor([[0.0, 0.0], [2.0, 2.0]])  # covariance [[2, 2], [2, 2]]
    target = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])  # [[1, 0], [0, 0]]
    assert coral(source, target).item() == pytest.approx((1 + 4 + 4 + 4) / 16)
    wide = torch.zeros(3, 6)  # the same numbers by the Gram matrix: 5 rows, 6 features
    wide[:, :2] = target
    narrow = torch.zeros(2, 6)
    narrow[:, :2] = source
    assert coral(narrow, wide).item() == pytest.approx(13 / (4 * 36))


def test_the_scale_is_the_papers_not_the_mean_square() -> None:
    source, target = draw(30, 40, 8)
    difference = np.cov(source.numpy(), rowvar=False) - np.cov(target.numpy(), rowvar=False)
    assert coral(source, target).item() == pytest.approx(np.mean(difference**2) / 4, rel=1e-12)


def test_the_means_do_not_count() -> None:
    source, target = draw(10, 12, 4)
    torch.testing.assert_close(coral(source + 5, target - 3), coral(source, target))


@pytest.mark.parametrize(("n", "m", "d"), [(5, 7, 3), (2, 2, 3), (3, 5, 12), (6, 2, 12)])
def test_equals_loops_over_scalars(n: int, m: int, d: int) -> None:
    source, target = draw(n, m, d)
    expected = by_loops(source, target)
    assert coral(source, target).item() == pytest.approx(expected, rel=1e-11)
    assert coral(source.float(), target.float()).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("n", "m", "d"), [(5, 7, 3), (2, 2, 3), (3, 5, 12), (6, 2, 12)])
def test_gram_and_covariance_forms_are_equal_in_value_and_gradient(n: int, m: int, d: int) -> None:
    source, target = (side.requires_grad_() for side in draw(n, m, d))
    by_gram, by_covariance = _ThroughGram.apply(source, target), _ThroughCovariance.apply(source, target)
    torch.testing.assert_close(by_gram, by_covariance, rtol=1e-12, atol=0)
    for mine, other in zip(
        torch.autograd.grad(by_gram, (source, target)),
        torch.autograd.grad(by_covariance, (source, target)),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", [_ThroughGram, _ThroughCovariance])
def test_gradcheck(form: type[torch.autograd.Function]) -> None:
    source, target = (side.requires_grad_() for side in draw(3, 4, 9))
    assert torch.autograd.gradcheck(form.apply, (source, target))


@pytest.mark.parametrize("distance", [1e-1, 1e-3, 1e-5])
def test_nearly_equal_covariances_do_not_cancel_in_float32(distance: float) -> None:
    """A float32 sum of Gram matrices is off by the whole value from a relative distance of 3e-4."""
    source, noise = draw(32, 32, 2048, torch.float32)
    source = source + 3
    target = source + distance * noise
    source.requires_grad_()
    value = coral(source, target)
    (gradient,) = torch.autograd.grad(value, source)

    exact_source = source.detach().double().requires_grad_()
    difference = torch.cov(exact_source.T) - torch.cov(target.double().T)
    exact = difference.square().sum() / (4 * 2048**2)
    (exact_gradient,) = torch.autograd.grad(exact, exact_source)
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)
    assert (gradient - exact_gradient).norm() < 1e-5 * exact_gradient.norm()


@pytest.mark.parametrize("d", [2, 50])
def test_a_second_derivative_is_refused_in_words(d: int) -> None:
    source, target = (side.requires_grad_() for side in draw(3, 3, d))
    with pytest.raises(RuntimeError, match="coral has first derivatives only"):
        torch.autograd.grad(coral(source, target), source, create_graph=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("d", [4, 300])
def test_half_precision_and_autocast_keep_out(dtype: torch.dtype, d: int) -> None:
    source, target = (100 * side for side in draw(8, 12, d, dtype))
    source.requires_grad_()
    with torch.autocast("cpu", dtype):
        value = coral(source, target)
        value.backward()
    torch.testing.assert_close(value, coral(source.float(), target.float()), rtol=0, atol=0)
    assert value.dtype == torch.float32
    raised = source.detach().float().requires_grad_()
    coral(raised, target).backward()
    assert source.grad is not None
    assert raised.grad is not None
    torch.testing.assert_close(source.grad, raised.grad.to(dtype), rtol=0, atol=0)


def test_no_covariance_is_formed_when_the_rows_are_fewer_than_the_features() -> None:
    source, target = (side.requires_grad_() for side in draw(8, 12, 300, torch.float32))
    with Largest() as largest:
        coral(source, target).backward()
    assert largest.elements <= 20 * 300


@pytest.mark.parametrize("d", [3, 50])
@pytest.mark.parametrize(("n", "m", "side"), [(1, 5, "source"), (5, 1, "target")])
def test_a_batch_of_one_is_refused_instead_of_nan(d: int, n: int, m: int, side: str) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"coral\({side}=...\) needs at least 2 .* got 1: raise the batch size"
    ):
        coral(torch.randn(n, d), torch.randn(m, d))
