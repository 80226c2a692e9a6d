"""Places as reference points: told apart anywhere, and brought by a checkpoint."""

import torch

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
