"""A residual network over time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tlkit.backbones.temporal import check_arguments, check_windows, seen_channels, time_conv
from tlkit.errors import BackboneError

__all__ = ["ResNet1d"]

_KERNELS = (8, 5, 3)


class ResNet1d(nn.Module):
    """The residual network for time series of Wang, Yan and Oates, IJCNN 2017.

    Blocks of three convolutions (8, 5 and 3 samples wide, without bias) with batch normalisation, ReLU between them and
    after the sum with the block's input. That goes through batch normalisation, and before it, in the first block and
    where the number of channels changes, through a convolution of width 1. Average pooling over time. Windows
    of any length keep it up to the pooling. Computed in channels_last memory, as :class:`~tlkit.backbones.CNN1d` is.

    Args:
        in_channels: Signals a window; by default as many as the first windows have, or loaded weights.
        channels: Output channels of the blocks; more of them make a wider and a deeper network.
        dropout: Share of features dropped while training, in [0, 1).

    Attributes:
        num_features: Width of the output.

    Raises:
        BackboneError: If an argument is out of its range, or in the forward pass if the windows have another number of
            channels.

    Shape:
        ``(B, in_channels, T)``, floating point -> ``(B, channels[-1])``.

    Example:
        >>> backbone = ResNet1d()
        >>> backbone(torch.rand(4, 6, 128)).shape
        torch.Size([4, 128])
    """

    num_features: int

    def __init__(
        self, in_channels: int | None = None, channels: tuple[int, ...] = (64, 128, 128), dropout: float = 0.0
    ) -> None:
        super().__init__()
        if not channels or min(channels) < 1:
            raise BackboneError(f"ResNet1d(channels=...) takes numbers from 1 up, one a block, got {tuple(channels)}")
        check_arguments("ResNet1d", dropout, in_channels=in_channels)
        widths = [in_channels, *channels]
        self.blocks = nn.Sequential(*(_Block(widths[i], channels[i], first=i == 0) for i in range(len(channels))))
        self.dropout = nn.Dropout(dropout)
        self.num_features = channels[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, num_features)`` features of a batch of windows."""
        check_windows("ResNet1d", x, seen_channels(self))
        x = self.blocks(x.unsqueeze(2).contiguous(memory_format=torch.channels_last))
        features: Tensor = self.dropout(x.mean(dim=(2, 3)))
        return features


class _Block(nn.Module):
    """Three convolutions and what is added to them."""

    def __init__(self, in_channels: int | None, out_channels: int, first: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, kernel_size in enumerate(_KERNELS):
            width = out_channels if i else in_channels
            layers += [time_conv(width, out_channels, kernel_size, padding="same"), nn.BatchNorm2d(out_channels)]
            layers += [nn.ReLU()] if i < len(_KERNELS) - 1 else []
        self.layers = nn.Sequential(*layers)
        same = in_channels == out_channels and not first
        self.shortcut = nn.Sequential(
            nn.Identity() if same else time_conv(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layers(x) + self.shortcut(x))
