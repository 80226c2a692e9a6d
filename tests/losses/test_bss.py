import numpy as np
import pytest
import torch

from tests.losses.settings import encoded
from tlkit.errors import ConfigurationError
from tlkit.losses import BSS


def test_no_singular_value_is_refused():
    with pytest.raises(ConfigurationError, match=r"BSS\(k=...\) is a number of singular values from 1 up, got 0"):
        BSS(k=0)


def test_numpy_agrees():
    features = torch.randn(7, 4, dtype=torch.float64)
    values = np.linalg.svd(features.numpy(), compute_uv=False)
    for k in (1, 3, 4):
        loss = BSS(k)(encoded(features), None)
        assert loss.item() == pytest.approx((np.sort(values)[:k] ** 2).sum(), rel=1e-12)
