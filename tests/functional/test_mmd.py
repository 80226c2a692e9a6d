from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor

from tests.functional.largest import Largest
from tlkit.errors import ConfigurationError
from tlkit.functional import mmd
from tlkit.functional.mmd import Estimator

every_estimator = pytest.mark.parametrize("estimator", get_args(Estimator))


def draw(n: int, m: int, d: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(n, d, generator=generator, dtype=torch.float64)
    target = torch.randn(m, d, generator=generator, dtype=torch.float64) * 1.5 + 0.7
    return source.to(dtype), target.to(dtype)


def by_loops(x: Any, y: Any, estimator: str, num_kernels: int) -> float:
    """The three estimators as Gretton et al. write them, in loops over scalars."""
    pooled = [*x.tolist(), *y.tolist()]

    def distance(a: list[float], b: list[float]) -> float:
        return sum((p - q) ** 2 for p, q in zip(a, b, strict=True))

    pairs = [(i, j) for i in range(len(pooled)) for j in range(len(pooled)) if i != j]
    base = sum(distance(pooled[i], pooled[j]) for i, j in pairs) / len(pairs)
    reach = num_kernels // 2

    def k(a: list[float], b: list[float]) -> float:
        return sum(math.exp(-distance(a, b) / (base * 2.0**j)) for j in range(-reach, reach + 1))

    x, y = x.tolist(), y.tolist()
    n, m = len(x), len(y)
    if estimator == "linear":
        terms = []
        for i in range(min(n, m) // 2):
            a, b, c, d = x[2 * i], x[2 * i + 1], y[2 * i], y[2 * i + 1]
            terms.append(k(a, b) + k(c, d) - k(a, d) - k(b, c))
        return sum(terms) / len(terms)
    skip = estimator == "unbiased"
    first = [k(x[i], x[j]) for i in range(n) for j in range(n) if not (skip and i == j)]
    second = [k(y[i], y[j]) for i in range(m) for j in range(m) if not (skip and i == j)]
    cross = [k(a, b) for a in x for b in y]
    return sum(first) / len(first) + sum(second) / len(second) - 2 * sum(cross) / len(cross)


def by_autograd(source: Tensor, target: Tensor, unbiased: bool, num_kernels: int) -> Tensor:
    """The same by differences of rows, for the gradient; its memory is what mmd must avoid."""
    n, m = len(source), len(target)
    pooled = torch.cat([source, target])
    distances = (pooled[:, None] - pooled).square().sum(2)
    base = distances.detach().sum() / ((n + m) * (n + m - 1))
    reach = num_kernels // 2
    k = sum((torch.exp(-distances / (base * 2.0**j)) for j in range(-reach, reach + 1)), torch.zeros(()))
    if unbiased:
        k = k - torch.diag(k.diagonal())
        return k[:n, :n].sum() / (n * (n - 1)) + k[n:, n:].sum() / (m * (m - 1)) - 2 * k[:n, n:].mean()
    return k[:n, :n].mean() + k[n:, n:].mean() - 2 * k[:n, n:].mean()


def test_hand_worked_numbers() -> None:
    source, target = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [3.0]])
    cross = (3 * math.exp(-1) + math.exp(-9)) / 2  # twice the mean over distances 1, 9, 1, 1
    value = mmd(source, target, num_kernels=1, bandwidth=1.0)
    assert value.item() == pytest.approx(1 + math.exp(-4) - cross, rel=1e-6)
    value = mmd(source, target, num_kernels=1, bandwidth=1.0, estimator="unbiased")
    assert value.item() == pytest.approx(2 * math.exp(-4) - cross, rel=1e-6)
    value = mmd(source, target, num_kernels=1, bandwidth=1.0, estimator="linear")
    assert value.item() == pytest.approx(2 * math.exp(-4) - math.exp(-9) - math.exp(-1), rel=1e-6)


def test_the_bandwidth_is_the_mean_squared_distance_over_pairs_of_different_rows() -> None:
    # two constants at distance 3: 8 of the 12 ordered pairs are across, so s = 8 * 9 / 12 = 6
    source, target = torch.zeros(2, 1), torch.full((2, 1), 3.0)
    assert mmd(source, target, num_kernels=1).item() == pytest.approx(2 - 2 * math.exp(-9 / 6), rel=1e-6)
    kernel = sum(math.exp(-9 / (6 * factor)) for factor in (0.5, 1, 2))
    assert mmd(source, target, num_kernels=3).item() == pytest.approx(2 * 3 - 2 * kernel, rel=1e-6)


def test_the_kernel_is_gaussian_not_laplacian() -> None:
    def log_kernel(distance: float) -> float:
        value = mmd(torch.zeros(1, 1), torch.full((1, 1), distance), num_kernels=1, bandwidth=10.0)
        return math.log(1 - value.item() / 2)

    assert log_kernel(2.0) / log_kernel(1.0) == pytest.approx(4, rel=1e-5)


@every_estimator
@pytest.mark.parametrize("num_kernels", [1, 3, 5, 9])
@pytest.mark.parametrize(("n", "m"), [(4, 4), (3, 6), (7, 2)])
def test_equals_loops_over_scalars(estimator: Estimator, num_kernels: int, n: int, m: int) -> None:
    source, target = draw(n, m, 3)
    expected = by_loops(source.numpy(), target.numpy(), estimator, num_kernels)
    value = mmd(source, target, estimator=estimator, num_kernels=num_kernels)
    assert value.item() == pytest.approx(expected, rel=1e-11)
    single = mmd(source.float(), target.float(), estimator=estimator, num_kernels=num_kernels)
    assert single.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_equals_scikit_learns_kernel() -> None:
    source, target = (side.numpy() for side in draw(20, 13, 6))
    base, expected = 4.0, 0.0
    for factor in (0.25, 0.5, 1, 2, 4):
        gamma = 1 / (base * factor)
        expected += np.mean(rbf_kernel(source, gamma=gamma)) + np.mean(rbf_kernel(target, gamma=gamma))
        expected -= 2 * np.mean(rbf_kernel(source, target, gamma=gamma))
    value = mmd(torch.from_numpy(source), torch.from_numpy(target), bandwidth=base)
    assert value.item() == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("num_kernels", [1, 5])
def test_the_gradient_is_that_of_plain_autograd_with_a_detached_bandwidth(
    estimator: Estimator, num_kernels: int
) -> None:
    source, target = (side.requires_grad_() for side in draw(5, 8, 4))
    ours = torch.autograd.grad(mmd(source, target, estimator=estimator, num_kernels=num_kernels), (source, target))
    plain = by_autograd(source, target, estimator == "unbiased", num_kernels)
    theirs = torch.autograd.grad(plain, (source, target))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-14)


@every_estimator
def test_no_gradient_flows_through_the_bandwidth(estimator: Estimator) -> None:
    source, target = (side.requires_grad_() for side in draw(6, 6, 4))
    pooled = torch.cat([source, target]).detach()
    base = torch.pdist(pooled).square().mean().item()
    free = torch.autograd.grad(mmd(source, target, estimator=estimator), (source, target))
    fixed = torch.autograd.grad(mmd(source, target, estimator=estimator, bandwidth=base), (source, target))
    for mine, other in zip(free, fixed, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-14)


def test_a_step_along_the_gradient_brings_the_samples_together() -> None:
    source, target = draw(16, 16, 4, torch.float32)
    source.requires_grad_()
    before = mmd(source, target)
    (gradient,) = torch.autograd.grad(before, source)
    assert mmd(source.detach() - gradient, target) < before


def test_a_second_derivative_is_refused_in_words() -> None:
    source, target = (side.requires_grad_() for side in draw(3, 3, 2))
    with pytest.raises(RuntimeError, match="mmd has first derivatives only"):
        torch.autograd.grad(mmd(source, target), source, create_graph=True)


def test_only_the_biased_estimate_is_biased() -> None:
    """Two samples of one distribution, many times over."""
    generator = torch.Generator().manual_seed(0)
    values: dict[str, list[float]] = {estimator: [] for estimator in get_args(Estimator)}
    for _ in range(400):
        source, target = torch.randn(2, 16, 4, generator=generator, dtype=torch.float64)
        for estimator in get_args(Estimator):
            values[estimator].append(mmd(source, target, estimator=estimator, bandwidth=8.0).item())
    standings = {key: np.mean(kept) / (np.std(kept) / np.sqrt(len(kept))) for key, kept in values.items()}
    assert abs(standings["unbiased"]) < 3
    assert abs(standings["linear"]) < 3
    assert standings["biased"] > 30
    assert min(values["biased"]) > 0


@every_estimator
def test_constant_features_give_0_and_no_gradient(estimator: Estimator) -> None:
    source, target = torch.full((4, 700), 0.1).requires_grad_(), torch.full((6, 700), 0.1).requires_grad_()
    value = mmd(source, target, estimator=estimator)
    assert value.item() == pytest.approx(0, abs=1e-6)
    for gradient in torch.autograd.grad(value, (source, target)):
        assert gradient.abs().max() == 0


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("offset", [100.0, 1e4])
def test_a_common_offset_does_not_cancel(estimator: Estimator, offset: float) -> None:
    source, target = ((side + offset) for side in draw(32, 24, 64, torch.float32))
    exact = mmd(source.double(), target.double(), estimator=estimator)
    torch.testing.assert_close(mmd(source, target, estimator=estimator).double(), exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_the_scale_of_the_features_does_not_matter(scale: float) -> None:
    source, target = draw(16, 12, 32, torch.float32)
    torch.testing.assert_close(mmd(source * scale, target * scale), mmd(source, target), rtol=1e-4, atol=1e-6)


def test_half_precision_where_distances_would_overflow() -> None:
    """2,048 features of size 200 have squared distances beyond float16."""
    source, target = (200 * side for side in draw(16, 16, 2048, torch.float16))
    source.requires_grad_()
    with torch.autocast("cpu", torch.float16):
        value = mmd(source, target)
        value.backward()  # the backward pass keeps out of autocast too
    torch.testing.assert_close(value, mmd(source.float(), target.float()), rtol=0, atol=0)
    assert source.grad is not None
    assert source.grad.dtype == torch.float16
    raised = source.detach().float().requires_grad_()
    mmd(raised, target).backward()
    assert raised.grad is not None
    torch.testing.assert_close(source.grad, raised.grad.half(), rtol=0, atol=0)


@pytest.mark.parametrize(("n", "m", "d"), [(96, 64, 8), (96, 64, 300)])
def test_memory_is_of_the_order_of_the_gram_matrix(n: int, m: int, d: int) -> None:
    source, target = (side.requires_grad_() for side in draw(n, m, d, torch.float32))
    saved: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with Largest() as largest, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        mmd(source, target).backward()
    assert largest.elements <= max((n + m) ** 2, (n + m) * d)
    assert sum(saved) <= (n + m) ** 2 + (n + m) * d + 1


def test_the_linear_estimate_makes_no_gram_matrix() -> None:
    source, target = (side.requires_grad_() for side in draw(96, 64, 8, torch.float32))
    with Largest() as largest:
        mmd(source, target, estimator="linear").backward()
    assert largest.elements <= (96 + 64) * 8


@pytest.mark.parametrize(
    ("source", "target", "arguments", "words"),
    [
        ((4, 3), (4, 2), {}, "same width, got 3 and 2"),
        (
            (4, 3, 1),
            (4, 3),
            {},
            r"source=...\) takes a floating point matrix .* got torch.float32 of shape \(4, 3, 1\)",
        ),
        ((0, 3), (4, 3), {}, r"source=...\) needs at least 1"),
        ((4, 3), (1, 3), {"estimator": "unbiased"}, r"target=...\) needs at least 2"),
        ((4, 3), (4, 3), {"estimator": "liner"}, "did you mean 'linear'"),
        ((4, 3), (4, 3), {"num_kernels": 2}, "odd number"),
        ((4, 3), (4, 3), {"bandwidth": -1.0}, "positive squared distance"),
    ],
)
def test_bad_input_is_refused(
    source: tuple[int, ...], target: tuple[int, ...], arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        mmd(torch.zeros(source), torch.zeros(target), **arguments)


def test_integers_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"torch\.int64"):
        mmd(torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, 2))
