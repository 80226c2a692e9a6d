"""Positions as a weighted mean of the places where training data was taken."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from tlkit.errors import ConfigurationError
from tlkit.metrics import PositioningError
from tlkit.tasks.base import Task
from tlkit.tasks.regression import check_quantities
from tlkit.types import DataSpec

__all__ = ["PlaceRegression"]


class PlaceRegression(Task):
    r"""Measured values, such as positions, as a mean over the reference points :math:`a_1, \dots, a_P` of the survey.

    The reference points are the distinct labels of the labelled training rows. A linear layer with softmax says how
    likely each is, :math:`p = \mathrm{softmax}(W f + b)`, and the prediction is the expected point,
    :math:`\hat y = \sum_j p_j a_j`: what weighted k-NN does, with learned weights, and never outside of what was
    surveyed. The loss is

    .. math:: -\log p_{j(y)} + w \, \lVert \hat y - y \rVert_2 / \bar s,

    a mean over rows, where :math:`j(y)` is the reference point nearest to the label and :math:`\bar s` the root mean
    square of the quantities' standard deviations. With a ``smoothing`` of :math:`\sigma` the first term is
    :math:`-\sum_j q_j \log p_j` instead, the label being spread over the reference points around it,
    :math:`q = \mathrm{softmax}(-\lVert y - a_j \rVert_2^2 / 2 \sigma^2)`: soft labels by distance (Díaz and Marathe,
    CVPR 2019), for positions between reference points, of which a network that learned to tell neighbours apart knows
    little. The first term learns each point by itself, where the squared or absolute error of a regression would settle
    between points that look alike; the second learns to be near. Taking the expectation makes a position out of a
    classification, as for joints in images (Sun et al., ECCV 2018).

    Outputs are the logits, ``(B, P)``; the probabilities are there for adaptation losses that need some. Metrics are
    those of :class:`tlkit.tasks.Regression`. Values measured on the move have no reference points: use that.

    Args:
        distance_weight: w, 0 for classification of places alone.
        smoothing: Sigma in the units of the quantities, such as metres: about the distance between reference points; 0
            for the nearest one alone.

    Raises:
        ConfigurationError: If an argument is negative or infinite, or in ``build`` if the data has no quantities, fewer
            than two reference points or too many.

    Example:
        >>> task = PlaceRegression()
        >>> points = ((0.0, 0.0), (0.0, 4.0), (4.0, 0.0))
        >>> task.build(8, DataSpec(("a",), ("a",), (), quantities=("x_m", "y_m"), points=points))
        >>> logits = torch.tensor([[30.0, 0.0, 0.0], [0.0, 30.0, 30.0]])
        >>> {name: values.round(decimals=3).tolist() for name, values in task.predict(logits).items()}
        {'x_m': [0.0, 2.0], 'y_m': [0.0, 2.0]}
    """

    has_probabilities = True
    selection_metric = "error_mean"
    selection_mode = "min"
    points: Tensor
    scale: Tensor

    def __init__(self, distance_weight: float = 1.0, smoothing: float = 0.0) -> None:
        super().__init__()
        for name, value in (("distance_weight", distance_weight), ("smoothing", smoothing)):
            if not 0 <= value < float("inf"):
                raise ConfigurationError(f"PlaceRegression({name}=...) is 0 or more and finite, got {value}")
        self.distance_weight, self.smoothing = distance_weight, smoothing

    def build(self, num_features: int, data: DataSpec) -> None:
        """Create the linear layer ``num_features -> number of reference points``."""
        check_quantities(self, data)
        if len(data.points) < 2:
            raise ConfigurationError(
                "PlaceRegression needs data whose labels repeat, 2 to 4,096 distinct reference points in the training "
                "rows, and this data has fewer or more: use Regression, or round the coordinates to a grid"
            )
        self.quantities = data.quantities
        self.num_outputs = len(data.points)
        self.register_buffer("points", torch.tensor(data.points))
        self.register_buffer("scale", torch.tensor(data.scale or [1.0] * len(data.quantities)))
        self.head = nn.Linear(num_features, self.num_outputs)

    def learn_from(self, data: DataSpec) -> None:
        """Refuse other places than those that the head was built for."""
        points = torch.tensor(data.points).to(self.points)
        if data.points and not torch.equal(points, self.points):
            raise ConfigurationError(
                f"PlaceRegression was built for {len(self.points)} reference points, and the labelled rows of this "
                f"data have others, {len(points)}: make a new TransferModule for them; tlkit.start_from(new, trained) "
                "takes over the backbone"
            )

    def take_over(self, trained: Task, keep: Collection[str] = ()) -> bool:
        """Take over the linear layer if its outputs are the same places."""
        same = isinstance(trained, PlaceRegression) and torch.equal(trained.points, self.points)
        return same and super().take_over(trained, [*keep, "scale"])

    def forward(self, features: Tensor) -> Tensor:
        """Return ``(B, P)`` logits."""
        logits: Tensor = self.head(features)
        return logits

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the loss of ``(B, P)`` logits and ``(B, K)`` labels, or ``(B,)`` of a single quantity."""
        y = y.reshape(len(outputs), -1).to(self.points.dtype)
        # By differences: far from the origin the expansion into products loses whole cells of the grid.
        away = torch.cdist(y, self.points, compute_mode="donot_use_mm_for_euclid_dist")
        wanted = (-0.5 * (away / self.smoothing).square()).softmax(dim=1) if self.smoothing else away.argmin(dim=1)
        loss = nn.functional.cross_entropy(outputs, wanted)
        if self.distance_weight:
            distance = torch.linalg.vector_norm(_expected(outputs, self.points) - y, dim=1).mean()
            loss = loss + self.distance_weight * distance / self.scale.square().mean().sqrt()
        return loss

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Return the softmax of the logits."""
        return outputs.softmax(dim=1)

    def metrics(self) -> MetricCollection:
        """Return ``error_mean``, ``error_median``, ``error_p75`` and ``error_p95``."""
        return MetricCollection({"error": _PlaceError(self._places)})

    def _places(self) -> Tensor:
        """Return the points as they are now; unlike a lambda, a copy of the task has its own."""
        return self.points

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        """Return a column a quantity, ``(B,)`` each, under its name."""
        return dict(zip(self.quantities, _expected(outputs, self.points).unbind(1), strict=True))


class _PlaceError(PositioningError):
    def __init__(self, points: Callable[[], Tensor]) -> None:
        super().__init__()
        self.points = points  # asked at each update: a checkpoint loaded later brings its own

    def update(self, outputs: Tensor, y: Tensor) -> None:
        super().update(_expected(outputs, self.points()), y)


def _expected(logits: Tensor, points: Tensor) -> Tensor:
    """Return ``(B, K)`` expected points; in half precision their coordinates would be off by metres."""
    with torch.autocast(logits.device.type, enabled=False):
        return logits.to(points.dtype).softmax(dim=1) @ points
