import math

import numpy as np
import pytest
import torch

from tlkit.metrics import MutualInformation


def test_by_hand():
    # Two predictions, (3/4, 1/4) and (1/4, 3/4): the mean is uniform, H = log 2; each has H = 0.5623 nats.
    score = MutualInformation(2)
    score.update(torch.tensor([[math.log(3.0), 0.0], [0.0, math.log(3.0)]]))
    each = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert score.compute().item() == pytest.approx((math.log(2) - each) / math.log(2), abs=1e-6)


def test_a_collapsed_and_an_undecided_model_score_zero():
    for logits in (torch.tensor([[50.0, 0.0, 0.0]]).repeat(10, 1), torch.zeros(10, 3)):
        score = MutualInformation(3)
        score.update(logits)
        assert score.compute().item() == pytest.approx(0, abs=1e-6)


def test_batches_add_up_to_the_numpy_value():
    logits = torch.randn(200, 7, generator=torch.Generator().manual_seed(0)) * 3
    score = MutualInformation(7)
    for part in logits.split([3, 90, 107]):
        score.update(part)
    p = np.exp(logits.double().numpy())
    p /= p.sum(1, keepdims=True)
    mean = p.mean(0)
    expected = (-(mean * np.log(mean)).sum() + (p * np.log(p)).sum(1).mean()) / math.log(7)
    assert score.compute().item() == pytest.approx(expected, abs=1e-6)


def test_half_precision_and_certain_logits_stay_finite():
    score = MutualInformation(3)
    score.update(torch.tensor([[1000.0, -1000.0, 0.0]], dtype=torch.bfloat16))
    assert torch.isfinite(score.compute())
