"""DANN: features from which no discriminator can tell the domain."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from tlkit import functional
from tlkit.errors import ConfigurationError
from tlkit.functional.samples import autocast_off, full_precision
from tlkit.losses.base import AdaptationLoss
from tlkit.schedules import Constant, DannRamp, Schedule
from tlkit.types import Encoded, Encoder

__all__ = ["DANN"]


class DANN(AdaptationLoss):
    r"""The loss of a domain discriminator on the features, behind a gradient reversal.

    .. math:: \tfrac12\left(\frac1n \sum_i -\log \sigma(D(x_i)) + \frac1m \sum_j -\log(1 - \sigma(D(y_j)))\right)

    Both sides weigh the same whatever their batch sizes; a discriminator that cannot tell them gives log 2 = 0.693 (the
    paper's sum of the two means is twice this). The discriminator descends on it; the features receive its gradient
    times ``-reversal``, which follows the paper's ramp, so the discriminator learns at full weight from the first step.
    Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016.

    ``forward`` returns ``"loss"``, ``"discriminator_accuracy"`` (mean over the two sides; 0.5 is confusion) and
    ``"reversal"`` (the coefficient now).

    Args:
        hidden_size: Width of the discriminator's hidden layers.
        num_layers: Number of hidden layers, each linear, ReLU, dropout; 0 makes the discriminator linear.
        dropout: Dropout rate after each hidden layer. Each rank draws its own mask, so only at 0 is the loss equal on
            all ranks.
        reversal: Coefficient of the reversed gradient, a number or a schedule of training progress; ``None`` is
            ``DannRamp()``, from 0 to 1.
        weight: Factor of the whole loss, for discriminator and features alike.

    Example:
        >>> from types import SimpleNamespace
        >>> loss = DANN(hidden_size=8)
        >>> loss.build(SimpleNamespace(num_features=4))
        >>> rows, zeros = torch.randn(6, 4), torch.zeros(6, dtype=torch.int64)
        >>> source, target = Encoded(rows, rows, None, zeros, zeros), Encoded(rows, rows, None, zeros + 1, zeros)
        >>> loss.progress = 0.5
        >>> result = loss(source, target)
        >>> result["discriminator_accuracy"], result["reversal"]  # one side's hits are the other's misses
        (tensor(0.5000), tensor(0.9866))
    """

    accumulates = True

    def __init__(
        self,
        hidden_size: int = 1024,
        num_layers: int = 2,
        dropout: float = 0.0,
        reversal: float | Schedule | None = None,
        weight: float | Schedule = 1.0,
    ) -> None:
        super().__init__(weight)
        if hidden_size < 1:
            raise ConfigurationError(f"{type(self).__name__}(hidden_size=...) is at least 1, got {hidden_size}")
        if num_layers < 0:
            raise ConfigurationError(
                f"{type(self).__name__}(num_layers=...) is at least 0 (a linear discriminator), got {num_layers}"
            )
        if not 0 <= dropout < 1:
            raise ConfigurationError(f"{type(self).__name__}(dropout=...) is a rate in [0, 1), got {dropout}")
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.dropout = dropout
        if reversal is None:
            reversal = DannRamp()
        self.reversal: Schedule = reversal if isinstance(reversal, Schedule) else Constant(float(reversal))
        self.discriminator = nn.Sequential()

    def build(self, network: Encoder) -> None:
        """Create the discriminator for the width of the network's features."""
        super().build(network)
        layers: list[nn.Module] = []
        width = self.input_width(network)
        for _ in range(self.num_layers):
            layers += [nn.Linear(width, self.hidden_size), nn.ReLU(), nn.Dropout(self.dropout)]
            width = self.hidden_size
        self.discriminator = nn.Sequential(*layers, nn.Linear(width, 1))

    def input_width(self, network: Encoder) -> int:
        """Return the width of what the discriminator sees."""
        return network.num_features

    def inputs(self, side: Encoded) -> Tensor:
        """Return what the discriminator sees of a side, ``(B, input_width)``."""
        return side.features

    def row_weights(self, side: Encoded) -> Tensor | None:
        """Return how much each row of a side counts, with mean 1; ``None`` is all alike."""
        return None

    def forward(self, source: Encoded, target: Encoded) -> dict[str, Tensor]:
        """Return the discriminator's loss, its accuracy, and the reversal coefficient."""
        if not self.discriminator:
            raise RuntimeError(f"{type(self).__name__} has no discriminator yet: call build(network) before a batch")
        coefficient = self.reversal(self.progress)
        with autocast_off(source.features):
            inputs = torch.cat([self.inputs(source), self.inputs(target)])
            inputs = inputs.to(next(self.discriminator.parameters()).dtype)
            logits = self.discriminator(functional.gradient_reversal(inputs, coefficient))
            logits = full_precision(logits).squeeze(1)
            on_source, on_target = logits[: len(source)], logits[len(source) :]
            loss = (
                binary_cross_entropy_with_logits(on_source, torch.ones_like(on_source), self.row_weights(source))
                + binary_cross_entropy_with_logits(on_target, torch.zeros_like(on_target), self.row_weights(target))
            ) / 2
        accuracy = ((on_source > 0).float().mean() + (on_target <= 0).float().mean()) / 2
        return {"loss": loss, "discriminator_accuracy": accuracy, "reversal": torch.full_like(accuracy, coefficient)}
