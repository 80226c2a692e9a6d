from __future__ import annotations

import pytest
import torch

from tlkit.functional import gradient_reversal


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("coefficient", [0.0, 0.25, 1.0, -2.0])
def test_the_value_stays_and_the_gradient_is_flipped_and_scaled_exactly(dtype: torch.dtype, coefficient: float) -> None:
    x = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=dtype, requires_grad=True)
    upstream = torch.tensor([[1.0, 2.0], [-4.0, 0.5]], dtype=dtype)
    y = gradient_reversal(x, coefficient)
    assert torch.equal(y, x)
    assert y.dtype == dtype
    y.backward(upstream)
    assert x.grad is not None
    assert torch.equal(x.grad, -coefficient * upstream)


def test_what_follows_it_keeps_its_own_gradient() -> None:
    x = torch.tensor([2.0], requires_grad=True)
    w = torch.tensor([5.0], requires_grad=True)
    (gradient_reversal(x, 0.5) * w).backward()
    assert (x.grad, w.grad) == (torch.tensor([-2.5]), torch.tensor([2.0]))


def test_twice_is_a_plain_scale_and_a_second_derivative_works() -> None:
    x = torch.tensor([3.0], requires_grad=True)
    y = gradient_reversal(gradient_reversal(x, 0.5), 4.0) ** 3
    (first,) = torch.autograd.grad(y, x, create_graph=True)
    assert first.item() == 2 * 27
    (second,) = torch.autograd.grad(first, x)
    assert second.item() == 2 * 2 * 18
