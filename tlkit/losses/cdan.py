"""CDAN: a domain discriminator that sees features together with predictions."""

from __future__ import annotations

import torch
from torch import Tensor

from tlkit.errors import ConfigurationError
from tlkit.functional.confusion import certainty
from tlkit.functional.samples import full_precision
from tlkit.losses.dann import DANN
from tlkit.schedules import Schedule
from tlkit.types import Encoded, Encoder

__all__ = ["CDAN"]

LARGEST_PRODUCT = 4096  # the paper's limit on features x classes, above which the product is projected


class CDAN(DANN):
    r"""The loss of :class:`DANN` with a discriminator on the outer product of features and predicted probabilities.

    Domains are aligned class by class: the discriminator sees :math:`f \otimes p`, ``num_features * num_classes`` wide,
    or, where that is more than 4,096, the random projection :math:`(R_f f) \odot (R_g p) / \sqrt d` of it to ``d``
    numbers, unless ``random_size`` is None. The probabilities condition and are not trained by this loss: they are
    detached, as in the authors' code. With ``entropy`` (CDAN+E) a row counts :math:`1 + e^{-H(p)}`, scaled to mean 1 on
    each side, so that certain rows lead; these weights are constants here, where the authors' code lets a reversed
    gradient through them. Long et al., "Conditional Adversarial Domain Adaptation", NeurIPS 2018.

    The projection is drawn from the run's seed, the same on all ranks, and saved with the model.

    Args:
        entropy: Weigh rows by the certainty of their prediction (CDAN+E).
        random_size: Width ``d`` of the random projection; None takes the product itself however wide it is.
        hidden_size: As in :class:`DANN`.
        num_layers: As in :class:`DANN`.
        dropout: As in :class:`DANN`.
        reversal: As in :class:`DANN`.
        weight: As in :class:`DANN`.

    Raises:
        ConfigurationError: If ``random_size`` is below 1, or an argument of :class:`DANN` is out of its range.

    Example:
        >>> from types import SimpleNamespace
        >>> loss = CDAN(hidden_size=8, entropy=True)
        >>> task = SimpleNamespace(probabilities=lambda outputs: outputs.softmax(1))
        >>> loss.build(SimpleNamespace(num_features=4, num_probabilities=3, task=task))
        >>> loss.discriminator[0].in_features
        12
    """

    needs_probabilities = True
    project_features: Tensor | None
    project_classes: Tensor | None

    def __init__(
        self,
        entropy: bool = False,
        random_size: int | None = 1024,
        hidden_size: int = 1024,
        num_layers: int = 2,
        dropout: float = 0.0,
        reversal: float | Schedule | None = None,
        weight: float | Schedule = 1.0,
    ) -> None:
        super().__init__(hidden_size, num_layers, dropout, reversal, weight)
        if random_size is not None and random_size < 1:
            raise ConfigurationError(f"CDAN(random_size=...) must be at least 1, or None, got {random_size}")
        self.entropy, self.random_size = entropy, random_size
        self.accumulates = not entropy  # the weights of rows have mean 1 over the batch that they come in
        # Buffers, so that a checkpoint brings back the projection that the discriminator was trained on.
        self.register_buffer("project_features", None)
        self.register_buffer("project_classes", None)

    def build(self, network: Encoder) -> None:
        """Create the discriminator and, for wide features or many classes, the projection."""
        if self.random_size is not None and network.num_features * network.num_probabilities > LARGEST_PRODUCT:
            self.project_features = torch.randn(network.num_features, self.random_size)
            self.project_classes = torch.randn(network.num_probabilities, self.random_size)
        super().build(network)

    def input_width(self, network: Encoder) -> int:
        """Return the width of the product, or of its projection."""
        if self.project_features is not None:
            return self.project_features.shape[1]
        return network.num_features * network.num_probabilities

    def inputs(self, side: Encoded) -> Tensor:
        """Return the outer product of features and probabilities, or its projection."""
        features, p = full_precision(side.features), self._predicted(side)
        if self.project_features is None or self.project_classes is None:
            return (features[:, :, None] * p[:, None, :]).flatten(1)
        first, second = self.project_features.to(features.dtype), self.project_classes.to(p.dtype)
        projected: Tensor = (features @ first) * (p @ second) / first.shape[1] ** 0.5
        return projected

    def row_weights(self, side: Encoded) -> Tensor | None:
        """Return the rows' certainty with ``entropy``, else ``None``."""
        return certainty(self._predicted(side)) if self.entropy else None

    def _predicted(self, side: Encoded) -> Tensor:
        return self.probabilities(full_precision(side.outputs.detach()))
