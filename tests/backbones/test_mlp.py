import pytest
import torch
from torch import nn

from tlkit.backbones import MLP
from tlkit.backbones.contract import check_backbone
from tlkit.errors import BackboneError


def test_the_layers_are_those_asked_for():
    kinds = [type(layer) for layer in MLP(4, (8, 6), dropout=0.1, batch_norm=True).layers]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout] * 2
    assert [type(layer) for layer in MLP(4, [8]).layers] == [nn.Linear, nn.ReLU]


def test_a_value_worked_by_hand():
    mlp = MLP(2, (2, 1))
    with torch.no_grad():
        mlp.layers[0].weight.copy_(torch.tensor([[1.0, -1.0], [2.0, 0.0]]))
        mlp.layers[0].bias.copy_(torch.tensor([0.0, -3.0]))
        mlp.layers[2].weight.copy_(torch.tensor([[1.0, 5.0]]))
        mlp.layers[2].bias.zero_()
    # relu(1 - 3, 2 - 3) = (0, 0); relu(3 - 1, 6 - 3) = (2, 3) -> 17
    assert mlp(torch.tensor([[1.0, 3.0], [3.0, 1.0]])).tolist() == [[0.0], [17.0]]


def test_the_width_is_taken_from_the_data_and_kept():
    backbone = MLP(hidden=(5,), batch_norm=True)
    assert check_backbone(backbone, torch.rand(2, 3, 4)) == 5
    assert backbone.layers[0].in_features == 12
    other = MLP(hidden=(5,), batch_norm=True)
    other.load_state_dict(backbone.state_dict())
    x = torch.rand(4, 3, 4)
    assert torch.equal(other.eval()(x), backbone.eval()(x))


def test_what_does_not_fit_is_said():
    for arguments, message in (
        ({"in_features": 0}, "in_features=...\\) must be at least 1, or None, got 0"),
        ({"hidden": ()}, "must name the width of one layer or more, got \\[\\]"),
        ({"hidden": (8, 0)}, "must name the width of one layer or more"),
        ({"dropout": 1.0}, "must be at least 0 and below 1, got 1.0"),
    ):
        with pytest.raises(BackboneError, match=message):
            MLP(**arguments)
    with pytest.raises(BackboneError, match=r"in_features=4\) got rows of 5 numbers: leave in_features out"):
        MLP(4)(torch.rand(2, 5))
    with pytest.raises(BackboneError, match=r"got \(2, 4\) of int64"):
        MLP(4)(torch.ones(2, 4, dtype=torch.int64))
    with pytest.raises(BackboneError, match="got a dict"):
        MLP()({"input_ids": torch.ones(2, 4)})
