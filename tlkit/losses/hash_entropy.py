"""Hash entropy: target codes that lie near the source codes of one class."""

from __future__ import annotations

from torch import Tensor

from tlkit import functional
from tlkit.errors import ConfigurationError
from tlkit.losses.base import AdaptationLoss
from tlkit.schedules import Schedule
from tlkit.types import Encoded, Encoder

__all__ = ["HashEntropy"]


class HashEntropy(AdaptationLoss):
    """The entropy of the target's classes, as told by the products of its codes with labelled source codes.

    See :func:`tlkit.functional.hash_entropy`. Venkateswara et al., "Deep Hashing Network for Unsupervised Domain
    Adaptation", CVPR 2017, which adds it to a supervised hashing loss and MMD. By itself it draws all of the target to
    one class, as every entropy does: use it beside ``MMD(on="outputs")``, or BNM. It is made for the outputs of
    :class:`tlkit.tasks.Hashing`; a batch should hold source rows of most classes.

    Args:
        scale: Factor of the mean product over bits; the paper's is the number of bits.
        weight: Factor of the loss, a number or a schedule.

    Raises:
        ConfigurationError: If ``scale`` is not positive.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> loss = HashEntropy()
        >>> loss.build(SimpleNamespace(num_probabilities=2, task=SimpleNamespace(probabilities=None)))
        >>> codes, y = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([0, 1])
        >>> zeros = torch.zeros(2, dtype=torch.int64)
        >>> undecided = Encoded(codes, torch.zeros(2, 2), None, zeros, zeros)
        >>> loss(Encoded(codes, codes, y, zeros, zeros), undecided)
        tensor(0.6931)
    """

    needs_classes = True
    needs_probabilities = True  # of the task: there are as many as classes

    def __init__(self, scale: float = 10.0, weight: float | Schedule = 1.0) -> None:
        super().__init__(weight)
        if scale <= 0:
            raise ConfigurationError(f"HashEntropy(scale=...) must be positive, got {scale}")
        self.scale = scale

    def build(self, network: Encoder) -> None:
        """Take over the number of classes."""
        super().build(network)
        self.num_classes = network.num_probabilities

    def forward(self, source: Encoded, target: Encoded) -> Tensor:
        """Return the entropy of a target batch by a labelled source batch."""
        assert source.y is not None
        return functional.hash_entropy(source.outputs, source.y, target.outputs, self.num_classes, self.scale)
