"""The batch nuclear norm against numpy, and where its derivative is not unique."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tlkit.errors import ConfigurationError
from tlkit.functional import batch_nuclear_norm


@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (6, 3), (3, 6), (64, 31)])
def test_numpy(rows: int, classes: int) -> None:
    p = torch.randn(rows, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(1)
    assert batch_nuclear_norm(p).item() == pytest.approx(np.linalg.norm(p.numpy(), "nuc") / rows, abs=1e-12)


def test_by_hand() -> None:
    # Rows (1, 0) and (1, 0): one singular value, sqrt 2. Rows (1, 0) and (0, 1): two of 1.
    assert batch_nuclear_norm(torch.tensor([[1.0, 0.0], [1.0, 0.0]])).item() == pytest.approx(math.sqrt(2) / 2)
    assert batch_nuclear_norm(torch.eye(2)).item() == pytest.approx(1)


def test_it_is_largest_for_certain_and_even_predictions() -> None:
    even = torch.eye(3).repeat(4, 1)
    bound = math.sqrt(3 / 12)
    assert batch_nuclear_norm(even).item() == pytest.approx(bound)
    for seed in range(5):
        other = (5 * torch.randn(12, 3, generator=torch.Generator().manual_seed(seed))).softmax(1)
        assert batch_nuclear_norm(other) < bound


def test_the_gradient_at_repeated_and_zero_singular_values_is_finite() -> None:
    identity = torch.eye(3, dtype=torch.float64).requires_grad_()
    batch_nuclear_norm(identity).backward()
    torch.testing.assert_close(identity.grad, torch.eye(3, dtype=torch.float64) / 3)
    equal = torch.full((4, 3), 1 / 3, dtype=torch.float64).requires_grad_()
    batch_nuclear_norm(equal).backward()
    torch.testing.assert_close(equal.grad, torch.full((4, 3), 1 / math.sqrt(12) / 4, dtype=torch.float64))


def test_a_second_derivative_and_bad_input_are_refused() -> None:
    p = torch.eye(2).requires_grad_()
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(batch_nuclear_norm(p), p, create_graph=True)
    with pytest.raises(ConfigurationError, match="two classes at least"):
        batch_nuclear_norm(torch.ones(4, 1))
