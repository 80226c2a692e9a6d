import numpy as np
import pytest
import torch

from tlkit.functional import l2_sp


def test_numpy_agrees():
    parameters = [torch.randn(2, 3, dtype=torch.float64), torch.randn(4, dtype=torch.float64)]
    start = torch.randn(10, dtype=torch.float64)
    flat = np.concatenate([parameter.numpy().ravel() for parameter in parameters])
    assert l2_sp(parameters, start).item() == pytest.approx(0.5 * ((flat - start.numpy()) ** 2).sum(), rel=1e-12)


def test_gradcheck_and_no_gradient_at_the_start():
    parameters = [torch.randn(2, 3, dtype=torch.float64, requires_grad=True)]
    start = torch.randn(6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda w: l2_sp([w], start), parameters)
    (gradient,) = torch.autograd.grad(l2_sp(parameters, parameters[0].detach().flatten()), parameters)
    assert not gradient.any()


def test_half_precision_is_raised():
    """In bfloat16 the sum of many small squares stands still."""
    parameters = [torch.full((4096,), 0.5, dtype=torch.bfloat16)]
    assert l2_sp(parameters, torch.zeros(4096)).item() == pytest.approx(512.0)
