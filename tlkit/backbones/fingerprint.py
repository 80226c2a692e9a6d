"""A network for WiFi fingerprints: one value an access point, 0 where it was not heard."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tlkit.errors import BackboneError, unknown

__all__ = ["FingerprintNet", "FingerprintNorm"]

FingerprintNorm = Literal["none", "count", "length"]

_START = 0.05  # of the usual initial weights


class FingerprintNet(nn.Module):
    r"""Residual blocks of fully connected layers on received signal strengths, with missing access points as missing.

    An input is exactly 0 where an access point was not heard and positive where it was, as
    :class:`tlkit.data.FingerprintDomains` yields it. What was not heard adds nothing to the first layer, gets no noise,
    and is not counted. The first layer's weights begin near 0 and batch normalisation restores the scale, so that an
    access point that no training scan heard, a new one of next year, has little influence.

    A block is batch norm, ReLU, linear, batch norm, ReLU, dropout, linear, added to its input (He et al., ECCV 2016);
    batch norm and ReLU follow the last. While training, scans are changed as receivers and time change them: access
    points go missing, a phone does not hear the faint ones, and each value fluctuates.

    Args:
        in_features: Number of access points; None takes it from the first batch.
        width: Width of the blocks and of the features.
        blocks: Number of residual blocks.
        dropout: Share of hidden values dropped while training, in [0, 1).
        ap_dropout: Largest share of access points that go missing from a scan while training, in [0, 1): each scan
            draws its own share between 0 and this.
        ap_threshold: Largest value that goes missing from a scan while training, in [0, 1): each scan draws its own
            threshold between 0 and this, and what is below it is not heard, as by a less sensitive receiver. Inputs are
            what the data's ``representation`` makes of dBm: with ``powed`` and an exponent of 1.8, 0.1 is -76 dBm.
        noise: Standard deviation of what is added to each heard value while training.
        normalize: ``"count"`` divides a scan by the root of the number of access points heard, ``"length"`` by its
            Euclidean length; both make a scan that hears few comparable with one that hears many.

    Attributes:
        num_features: Width of the output.

    Raises:
        BackboneError: If an argument is out of its range, or in the forward pass if a scan has another width.

    Shape:
        ``(B, in_features)``, floating point -> ``(B, width)``.

    Example:
        >>> backbone = FingerprintNet(in_features=520)
        >>> backbone(torch.rand(4, 520)).shape
        torch.Size([4, 256])
    """

    num_features: int

    def __init__(
        self,
        in_features: int | None = None,
        width: int = 256,
        blocks: int = 2,
        dropout: float = 0.2,
        ap_dropout: float = 0.3,
        ap_threshold: float = 0.0,
        noise: float = 0.05,
        normalize: FingerprintNorm = "none",
    ) -> None:
        super().__init__()
        for name, count, least in (("in_features", in_features, 1), ("width", width, 1), ("blocks", blocks, 0)):
            if count is not None and count < least:
                raise BackboneError(f"FingerprintNet({name}=...) must be at least {least}, got {count}")
        for name, share in (("dropout", dropout), ("ap_dropout", ap_dropout), ("ap_threshold", ap_threshold)):
            if not 0 <= share < 1:
                raise BackboneError(f"FingerprintNet({name}=...) must be in [0, 1), got {share}")
        if not 0 <= noise < float("inf"):
            raise BackboneError(f"FingerprintNet(noise=...) is a standard deviation from 0 up, got {noise}")
        if normalize not in get_args(FingerprintNorm):
            raise BackboneError(f"FingerprintNet: {unknown('normalize', normalize, get_args(FingerprintNorm))}")
        self.ap_dropout, self.ap_threshold, self.noise, self.normalize = ap_dropout, ap_threshold, noise, normalize
        self.first = _LazyFirst(width) if in_features is None else _begin(nn.Linear(in_features, width, bias=False))
        self.blocks = nn.Sequential(*(_Block(width, dropout) for _ in range(blocks)))
        self.last = nn.Sequential(nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout))
        self.num_features = width

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, num_features)`` features of a batch of scans."""
        features: Tensor = self.last(self.blocks(self.first(self._prepare(x))))
        return features

    def _prepare(self, x: Tensor) -> Tensor:
        """Check a batch, change its scans while training, and normalise them."""
        # Not first.in_features: that of a lazy layer stays 0 when its weights come from a checkpoint.
        width = None if nn.parameter.is_lazy(self.first.weight) else self.first.weight.shape[1]
        if x.dim() != 2 or not x.is_floating_point() or width not in (None, x.shape[1]):
            wanted = "in_features" if width is None else str(width)
            raise BackboneError(
                f"FingerprintNet takes floating-point scans of shape (B, {wanted}), got {x.dtype} of shape "
                f"{tuple(x.shape)}: every scan must have the same access points in the same order as in training"
            )
        if self.training:
            x = self._change(x)
        if self.normalize == "count":
            x = x / (x > 0).sum(1, keepdim=True).clamp(min=1).to(x.dtype).sqrt()
        elif self.normalize == "length":
            x = F.normalize(x, dim=1)
        return x

    def _change(self, x: Tensor) -> Tensor:
        if self.ap_threshold:
            x = x * (x >= self.ap_threshold * torch.rand_like(x[:, :1]))
        if self.noise:
            changed = x + self.noise * torch.randn_like(x)
            x = torch.where(x > 0, changed.clamp(min=torch.finfo(x.dtype).tiny), x)  # what is heard stays heard
        if self.ap_dropout:
            share = self.ap_dropout * torch.rand_like(x[:, :1])
            x = x * (torch.rand_like(x) >= share)
        return x


class _LazyFirst(nn.LazyLinear):
    """The first layer while the number of access points is not known."""

    def __init__(self, width: int) -> None:
        super().__init__(width, bias=False)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if not self.has_uninitialized_params():
            _begin(self)


def _begin(layer: nn.Linear) -> nn.Linear:
    with torch.no_grad():
        layer.weight.mul_(_START)
    return layer


class _Block(nn.Module):
    """A residual block before whose layers stand batch norm and ReLU. Batch norm would undo a bias."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out
