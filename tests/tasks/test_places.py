"""Places as reference points: told apart anywhere, spread over neighbours, and brought by a checkpoint."""

import math

import pytest
import torch

from tlkit.errors import ConfigurationError
from tlkit.tasks import PlaceRegression
from tlkit.types import DataSpec


def test_places_far_from_the_origin_are_told_apart():
    """A distance by products of float32 loses a grid of 5 m at the coordinates of a country's projection."""
    points = tuple((430000.0 + 5 * i, 4430000.0 + 5 * j) for i in range(6) for j in range(6))
    task = PlaceRegression(distance_weight=0.0)
    task.build(4, DataSpec(("a",), ("a",), (), quantities=("x_m", "y_m"), points=points, scale=(1.0, 1.0)))
    y = torch.tensor(points)
    right = 50 * torch.eye(len(points))
    assert task.loss(right, y) < 1e-6


def test_a_label_is_spread_over_the_places_around_it():
    """By hand: places at 0, 1 and 3 m, a label at 1 m, sigma 1 m."""
    task = PlaceRegression(distance_weight=0.0, smoothing=1.0)
    task.build(4, DataSpec(("a",), ("a",), (), quantities=("x_m",), points=((0.0,), (1.0,), (3.0,)), scale=(1.0,)))
    outputs, y = torch.tensor([[0.5, -1.0, 2.0]], requires_grad=True), torch.tensor([[1.0]])
    near = [math.exp(-0.5), 1.0, math.exp(-2.0)]
    share = torch.tensor([near]) / sum(near)
    loss = task.loss(outputs, y)
    assert loss.item() == pytest.approx(-(share * outputs.log_softmax(1)).sum().item())
    loss.backward()
    assert torch.allclose(outputs.grad, outputs.detach().softmax(1) - share)
    task.smoothing = 1e-3  # the nearest place alone, in the limit
    sharp = task.loss(outputs, y)
    task.smoothing = 0.0
    assert torch.allclose(sharp, task.loss(outputs, y))


@pytest.mark.parametrize("arguments", [{"smoothing": -1.0}, {"distance_weight": -1.0}, {"smoothing": math.inf}])
def test_weights_and_widths_are_not_negative(arguments):
    with pytest.raises(ConfigurationError, match=r"=...\) is 0 or more and finite, got"):
        PlaceRegression(**arguments)


def test_the_metrics_ask_for_the_points_that_a_checkpoint_brought():
    def built(points):
        task = PlaceRegression()
        task.build(4, DataSpec(("a",), ("a",), (), quantities=("x_m",), points=points, scale=(1.0,)))
        return task

    task = built(((0.0,), (1.0,)))
    metrics = task.metrics()
    task.load_state_dict(built(((5.0,), (6.0,))).state_dict())
    metrics.update(torch.tensor([[30.0, 0.0]]), torch.tensor([[5.0]]))
    assert metrics.compute()["error_mean"] == 0
