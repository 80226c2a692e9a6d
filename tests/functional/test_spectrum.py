import pytest
import torch

from tlkit.errors import ConfigurationError
from tlkit.functional import batch_spectral_shrinkage


def test_by_hand_and_its_gradient():
    """Of [[3, 0], [0, 1], [0, 0]] the smallest singular value is 1, along the second axis: its square grows by 2."""
    features = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]], requires_grad=True)
    loss = batch_spectral_shrinkage(features)
    assert loss.item() == pytest.approx(1.0)
    (gradient,) = torch.autograd.grad(loss, features)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 0.0], [0.0, 2.0], [0.0, 0.0]]))


def test_all_singular_values_are_the_squared_norm():
    features = torch.randn(3, 5, dtype=torch.float64)
    torch.testing.assert_close(batch_spectral_shrinkage(features, k=3), features.square().sum())


def test_repeated_singular_values_have_a_finite_gradient():
    features = torch.eye(4, requires_grad=True)
    (gradient,) = torch.autograd.grad(batch_spectral_shrinkage(features, 2), features)
    assert gradient.isfinite().all()
    assert gradient.norm() == pytest.approx(8**0.5)  # two directions, 2 sigma each


@pytest.mark.parametrize("k", [0, 4])
def test_more_singular_values_than_there_are(k):
    with pytest.raises(ConfigurationError, match=r"k=.*the 3 singular values of features of shape \(3, 8\)"):
        batch_spectral_shrinkage(torch.rand(3, 8), k)


@pytest.mark.parametrize("wrong", [torch.rand(3), torch.ones(3, 3, dtype=torch.int64)])
def test_what_is_no_matrix(wrong):
    with pytest.raises(ConfigurationError, match="takes a floating point matrix"):
        batch_spectral_shrinkage(wrong)
