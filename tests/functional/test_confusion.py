"""Class confusion against a value worked by hand and loops over the paper's equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tlkit.errors import ConfigurationError
from tlkit.functional import class_confusion


def predictions(rows: int, classes: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)).softmax(1)


def loops(p: np.ndarray, weights: np.ndarray) -> float:
    rows, classes = p.shape
    total = 0.0
    for j in range(classes):
        row = [sum(weights[i] * p[i, j] * p[i, k] for i in range(rows)) for k in range(classes)]
        total += sum(row[k] for k in range(classes) if k != j) / sum(row)
    return total / classes


def certainty(p: np.ndarray) -> np.ndarray:
    w = 1 + np.exp([sum(q * math.log(q) for q in row) for row in p])
    return len(p) * w / w.sum()


def test_by_hand() -> None:
    # One row (3/4, 1/4): C is its outer product, row 1 = (9, 3)/16 and row 2 = (3, 1)/16. Off-diagonal: 3/12 and 3/4.
    assert class_confusion(torch.tensor([[0.75, 0.25]])).item() == pytest.approx((0.25 + 0.75) / 2)


@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (5, 3), (40, 7), (3, 12)])
def test_loops_over_the_equations(rows: int, classes: int) -> None:
    p = predictions(rows, classes)
    expected = loops(p.numpy(), certainty(p.numpy()))
    assert class_confusion(p).item() == pytest.approx(expected, abs=1e-12)


def test_the_gradient_is_that_of_the_value_with_constant_weights() -> None:
    p = predictions(4, 3)
    weights = certainty(p.numpy())
    (gradient,) = torch.autograd.grad(class_confusion(p.requires_grad_()), p)
    step = 1e-6
    for i in range(4):
        for j in range(3):
            up, down = p.detach().numpy().copy(), p.detach().numpy().copy()
            up[i, j] += step
            down[i, j] -= step
            expected = (loops(up, weights) - loops(down, weights)) / (2 * step)
            assert gradient[i, j].item() == pytest.approx(expected, abs=1e-8)


def test_extremes_are_finite() -> None:
    assert class_confusion(torch.eye(5)) == 0
    assert class_confusion(torch.full((8, 4), 0.25)).item() == pytest.approx(0.75)
    one_class = torch.tensor([[1.0, 0.0, 0.0]]).repeat(6, 1).requires_grad_()  # two classes without any probability
    value = class_confusion(one_class)
    value.backward()
    assert value == 0
    assert one_class.grad is not None
    assert one_class.grad.isfinite().all()


def test_bad_input_is_refused() -> None:
    for wrong in (torch.ones(3), torch.ones(3, 1), torch.ones(0, 3), torch.ones(3, 3, dtype=torch.int64)):
        with pytest.raises(ConfigurationError, match=r"class_confusion\(probabilities=...\) takes .*\(rows, classes\)"):
            class_confusion(wrong)
