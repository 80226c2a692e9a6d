"""A multi-layer perceptron for vectors: bags of words, tables, features of another model."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from tlkit.errors import BackboneError

__all__ = ["MLP"]


class MLP(nn.Module):
    """Fully connected layers, each followed by batch normalisation (if so chosen), ReLU and dropout.

    The network of Rumelhart et al. (Nature 1986), and of DANN's experiments on bags of words.

    Args:
        in_features: Width of the rows; ``None`` takes it from the data, the first time that rows pass.
        hidden: Width of each layer; the last is that of the features.
        dropout: Share of the activations dropped after each layer, in [0, 1).
        batch_norm: Normalise each layer before its ReLU.

    Attributes:
        num_features: Width of the output, the last of ``hidden``.

    Raises:
        BackboneError: If an argument is out of range, or in the forward pass if the rows do not fit.

    Shape:
        ``(B, in_features)`` -> ``(B, num_features)``; what a row has more dimensions of is flattened.

    Example:
        >>> import torch
        >>> MLP(hidden=(32, 16))(torch.rand(4, 50)).shape
        torch.Size([4, 16])
    """

    num_features: int

    def __init__(
        self,
        in_features: int | None = None,
        hidden: Sequence[int] = (256,),
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if in_features is not None and in_features < 1:
            raise BackboneError(f"MLP(in_features=...) must be at least 1, or None, got {in_features}")
        if not hidden or min(hidden) < 1:
            raise BackboneError(f"MLP(hidden=...) must name the width of one layer or more, got {list(hidden)}")
        if not 0 <= dropout < 1:
            raise BackboneError(f"MLP(dropout=...) must be at least 0 and below 1, got {dropout}")
        layers: list[nn.Module] = []
        width = in_features
        for size in hidden:
            layers.append(nn.LazyLinear(size) if width is None else nn.Linear(width, size))
            layers += [nn.BatchNorm1d(size)] if batch_norm else []
            layers += [nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
            width = size
        self.layers = nn.Sequential(*layers)
        self.num_features = hidden[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, num_features)`` features of a batch of rows."""
        if not isinstance(x, Tensor) or x.dim() < 2 or not x.is_floating_point():
            came = f"a {type(x).__name__}"
            if isinstance(x, Tensor):
                came = f"{tuple(x.shape)} of {str(x.dtype).removeprefix('torch.')}"
            raise BackboneError(f"MLP takes rows of numbers, (B, in_features) in floating point, got {came}")
        x = x.flatten(1)
        first = self.layers[0]
        if first.in_features not in (0, x.shape[1]):  # 0: not known yet
            raise BackboneError(
                f"MLP(in_features={first.in_features}) got rows of {x.shape[1]} numbers: leave in_features out, and it "
                "is taken from the data"
            )
        features: Tensor = self.layers(x)
        return features
