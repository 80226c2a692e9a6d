"""The learning rates of the optimizer's groups, given as a number or as a tensor."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

from tlkit.finetuning import ParameterGroup, make_optimizer


def groups():
    return [
        ParameterGroup(name, [nn.Parameter(torch.ones(2))], scale, start)
        for name, scale, start in (("deep", 0.1, 0.5), ("middle", 0.5, 0.0), ("head", 1.0, 0.0))
    ]


@pytest.mark.parametrize("kind", [SGD, Adam])
@pytest.mark.parametrize("rate", [0.1, torch.tensor(0.1)], ids=["number", "tensor"])
def test_each_group_has_its_own_factor(kind, rate):
    made = make_optimizer(lambda given: kind(given, lr=rate), groups(), None, lambda step: step / 4)
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    for expected in ([0.0, 0.05, 0.1], [0.0, 0.05, 0.1], [0.01, 0.05, 0.1]):
        assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx(expected)
        optimizer.step()
        scheduler.step()
    assert float(rate) == pytest.approx(0.1)  # the user's own tensor
