import numpy as np
import pytest
import torch

from tests.losses.settings import encoded
from tlkit.losses import BSS


def test_numpy_agrees():
    features = torch.randn(7, 4, dtype=torch.float64)
    values = np.linalg.svd(features.numpy(), compute_uv=False)
    for k in (1, 3, 4):
        loss = BSS(k)(encoded(features), None)
        assert loss.item() == pytest.approx((np.sort(values)[:k] ** 2).sum(), rel=1e-12)
