"""Hashing: binary codes by which rows of the query's class are found in a data base."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.wrappers import LambdaInputTransformer

from tlkit.errors import ConfigurationError
from tlkit.functional import pack_codes
from tlkit.functional.samples import autocast_off, full_precision
from tlkit.metrics import HashRetrieval, MutualInformation
from tlkit.tasks.base import Task
from tlkit.types import DataSpec

__all__ = ["Hashing"]


class Hashing(Task):
    r"""A linear layer and tanh on the features; the signs of its outputs are the code of a row.

    Every class has a centre, a binary code half of whose bits differ from those of any other centre, and codes are
    drawn to the centre of their class:

    .. math::
        -\frac1n \sum_i \log \mathrm{softmax}_{y_i}\!\left(\frac{s}{K}\, C u_i\right)
        + \frac{\lambda}{nK} \sum_i \sum_k (1 - |u_{ik}|)^2

    with the outputs :math:`u_i`, the centres as the rows of C, K bits and the scale s. Centres are rows of a Hadamard
    matrix, or of it and its negative, as in central similarity quantization (Yuan et al., CVPR 2020); the softmax over
    orthogonal centres is that of Hoe et al. (NeurIPS 2021) with the inner product of bounded codes for the cosine and
    without a margin. The second term keeps outputs near the signs that replace them. Both are means over rows, so that
    the loss of several ranks is that of one; a likelihood of pairs is not, and is the adaptation loss
    :class:`tlkit.losses.HashPairwise`, which sees the rows of all ranks.

    The softmax gives the class probabilities that CDAN, MCC, BNM and mutual information need. For codes of the target:
    :class:`tlkit.losses.HashEntropy`.

    Metrics are ``accuracy`` (share of rows whose nearest centre is that of their class) and those of
    :class:`tlkit.metrics.HashRetrieval`: ``map``, ``map_at_<k>``, ``precision_radius_2``. The data base is the training
    and validation rows of the sources, encoded anew before every evaluation. The source's validation rows are part of
    it and find themselves, so a checkpoint is chosen by accuracy there.

    Predictions are ``prediction``, the class of the nearest centre, and ``code``, packed eight bits a byte
    (:func:`tlkit.functional.pack_codes`; ``tlkit predict`` writes it in hexadecimal).

    Args:
        bits: Length of the codes. A power of two that is at least half the number of classes has Hadamard centres;
            otherwise they are drawn at random, far from each other.
        scale: Factor s of the similarity to the centres, which lies in [-1, 1].
        quantization: Weight :math:`\lambda` of the second term.
        k: Length of the ranking of ``map_at_<k>``.

    Raises:
        ConfigurationError: If an argument is out of its range, or in ``build`` if the data has fewer than two classes,
            more than the bits can tell apart, or no source.

    Example:
        >>> import torch
        >>> from tlkit.types import DataSpec
        >>> task = Hashing(bits=16)
        >>> task.build(8, DataSpec(("a", "b"), ("a",), ("b",), classes=("cat", "dog", "owl")))
        >>> outputs = task(torch.randn(5, 8))
        >>> outputs.shape, task.probabilities(outputs).shape, task.predict(outputs)["code"].shape
        (torch.Size([5, 16]), torch.Size([5, 3]), torch.Size([5, 2]))
    """

    needs_reference = True
    has_probabilities = True
    selection_metric = "accuracy"
    selection_mode = "max"
    label_free_score = "mutual_information"
    centres: Tensor

    def __init__(self, bits: int = 64, scale: float = 10.0, quantization: float = 0.1, k: int = 100) -> None:
        super().__init__()
        for name, value, allowed, right in (
            ("bits", bits, "at least 8", bits >= 8),
            ("scale", scale, "positive", scale > 0),
            ("quantization", quantization, "0 or more", quantization >= 0),
            ("k", k, "at least 1", k >= 1),
        ):
            if not right:
                raise ConfigurationError(f"Hashing({name}=...) must be {allowed}, got {value}")
        self.bits, self.scale, self.quantization, self.k = bits, scale, quantization, k
        # Not a buffer: it is no part of the model, and ranks have it without sending it to each other at every step.
        self._database: tuple[Tensor, Tensor] | None = None

    def build(self, num_features: int, data: DataSpec) -> None:
        """Create the code layer ``num_features -> bits`` and the centres of the classes."""
        if data.num_classes < 2:
            raise ConfigurationError(
                f"Hashing needs data with at least two classes, but the data module names "
                f"{list(data.classes) or 'none'}: set its `classes`, or use another task"
            )
        if not data.sources:
            raise ConfigurationError("Hashing looks queries up among the rows of the sources: name one in data.sources")
        self.num_outputs, self._num_classes = self.bits, data.num_classes
        self.code = nn.Linear(num_features, self.bits)
        self.register_buffer("centres", _centres(data.num_classes, self.bits))
        if len(torch.unique(self.centres, dim=0)) < data.num_classes:
            raise ConfigurationError(
                f"Hashing(bits={self.bits}) is too short to tell {data.num_classes} classes apart: raise bits"
            )

    @property
    def num_probabilities(self) -> int:
        """The number of classes."""
        return self._num_classes

    def forward(self, features: Tensor) -> Tensor:
        """Return ``(B, bits)`` real-valued codes in (-1, 1)."""
        codes: Tensor = self.code(features).tanh()
        return codes

    def logits(self, outputs: Tensor) -> Tensor:
        """Return the scaled similarity to the centre of each class, ``(B, num_classes)``."""
        outputs = full_precision(outputs)
        with autocast_off(outputs):  # codes that saturate in half precision would look equal to several centres
            return outputs @ self.centres.T.to(outputs.dtype) * (self.scale / self.bits)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the mean over rows for ``(B, bits)`` outputs and ``(B,)`` labels."""
        distance = (1 - full_precision(outputs).abs()).square().mean()
        return nn.functional.cross_entropy(self.logits(outputs), y) + self.quantization * distance

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Return the softmax of the logits."""
        return self.logits(outputs).softmax(dim=1)

    def metrics(self) -> MetricCollection:
        """Return ``accuracy`` and the metrics of the retrieval."""
        return MetricCollection(
            {"accuracy": self._accuracy(), "retrieval": HashRetrieval(self.bits, self.database, self.k)}
        )

    def batch_metrics(self) -> MetricCollection:
        """Return ``accuracy``; a training batch is not looked up."""
        return MetricCollection({"accuracy": self._accuracy()})

    def _accuracy(self) -> Metric:
        accuracy = MulticlassAccuracy(self._num_classes, average="micro", validate_args=False)
        return LambdaInputTransformer(accuracy, transform_pred=self.logits)

    def label_free_metrics(self) -> MetricCollection:
        """Return ``mutual_information`` of the class probabilities."""
        score = LambdaInputTransformer(MutualInformation(self._num_classes), transform_pred=self.logits)
        return MetricCollection({"mutual_information": score})

    def refer(self, outputs: Tensor, y: Tensor) -> None:
        """Take the codes of the sources' rows as the data base."""
        self._database = pack_codes(outputs), y

    def database(self) -> tuple[Tensor, Tensor]:
        """Return packed codes and labels of the data base.

        Raises:
            RuntimeError: If there is none yet.
        """
        if self._database is None:
            raise RuntimeError("Hashing has no data base yet: call refer(outputs, y) with the outputs of its rows")
        return self._database

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        """Return ``prediction``, ``(B,)`` class indices, and ``code``, ``(B, ceil(bits / 8))`` uint8."""
        return {"prediction": self.logits(outputs).argmax(dim=1), "code": pack_codes(outputs)}


def _centres(classes: int, bits: int) -> Tensor:
    """Return a row of -1 and 1 for each class, far from each other."""
    if bits & (bits - 1) == 0 and classes <= 2 * bits:
        hadamard = torch.ones(1, 1)
        while len(hadamard) < bits:
            hadamard = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), hadamard)
        if classes < bits:  # the first row has no -1, all others as many as 1
            return hadamard[1 : classes + 1].clone()
        return torch.cat([hadamard, -hadamard])[:classes]
    chosen = torch.zeros(0, bits)
    for _ in range(classes):
        drawn = torch.randint(0, 2, (256, bits)) * 2.0 - 1
        nearest = (drawn @ chosen.T).amax(1) if len(chosen) else torch.zeros(256)
        chosen = torch.cat([chosen, drawn[nearest.argmin()][None]])
    return chosen
