"""Convolutions of several widths side by side over time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tlkit.backbones.temporal import check_arguments, check_windows, seen_channels, time_conv
from tlkit.errors import BackboneError

__all__ = ["InceptionTime"]

_BETWEEN = 3  # modules from one shortcut to the next


class InceptionTime(nn.Module):
    """One network of the ensemble InceptionTime (Ismail Fawaz et al., Data Mining and Knowledge Discovery 2020).

    A module brings its input to ``bottleneck`` channels, passes that through convolutions of the widths
    ``kernel_sizes`` side by side, and its input through max-pooling over 3 samples and a convolution of width 1; all
    are joined, normalised by batch, and rectified. To every third module what went into the one two before it is added,
    through a convolution of width 1 and batch normalisation, and the sum is rectified. Average pooling over time.
    Windows of any length keep it up to the pooling. Computed in channels_last memory, as
    :class:`~tlkit.backbones.CNN1d` is. In the authors' code a window of one channel passes by the first bottleneck,
    here through it.

    Args:
        in_channels: Signals a window; by default as many as the first windows have, or loaded weights.
        filters: Output channels of each of a module's branches; the features are ``filters * (len(kernel_sizes) + 1)``.
        depth: Number of modules.
        kernel_sizes: Time steps that the convolutions of a module see. The paper's are for series of hundreds of steps.
        bottleneck: Channels that the input of a module is brought to before the wide convolutions.
        dropout: Share of features dropped while training, in [0, 1).

    Attributes:
        num_features: Width of the output.

    Raises:
        BackboneError: If an argument is out of its range, or in the forward pass if the windows have another number of
            channels.

    Shape:
        ``(B, in_channels, T)``, floating point -> ``(B, num_features)``.

    Example:
        >>> backbone = InceptionTime()
        >>> backbone(torch.rand(4, 6, 128)).shape
        torch.Size([4, 128])
    """

    num_features: int

    def __init__(
        self,
        in_channels: int | None = None,
        filters: int = 32,
        depth: int = 6,
        kernel_sizes: tuple[int, ...] = (40, 20, 10),
        bottleneck: int = 32,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        numbers = {"in_channels": in_channels, "filters": filters, "depth": depth, "bottleneck": bottleneck}
        check_arguments("InceptionTime", dropout, **numbers)
        if not kernel_sizes or min(kernel_sizes) < 1:
            raise BackboneError(
                f"InceptionTime(kernel_sizes=...) takes numbers from 1 up, one a branch, got {tuple(kernel_sizes)}"
            )
        self.num_features = width = filters * (len(kernel_sizes) + 1)
        inputs = [in_channels, *[width] * (depth - 1)]
        self.inceptions = nn.ModuleList(_Module(each, filters, kernel_sizes, bottleneck) for each in inputs)
        self.shortcuts = nn.ModuleList(
            nn.Sequential(time_conv(inputs[first], width, 1), nn.BatchNorm2d(width))
            for first in range(0, depth - _BETWEEN + 1, _BETWEEN)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, num_features)`` features of a batch of windows."""
        check_windows("InceptionTime", x, seen_channels(self))
        x = into = x.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        for number, module in enumerate(self.inceptions, 1):
            x = module(x)
            if number % _BETWEEN == 0:
                x = into = torch.relu(x + self.shortcuts[number // _BETWEEN - 1](into))
        features: Tensor = self.dropout(x.mean(dim=(2, 3)))
        return features

    def layer_groups(self) -> list[tuple[str, list[nn.Module]]]:
        """Return the modules from the input on, each third with the shortcut that is added to it."""
        groups: list[tuple[str, list[nn.Module]]] = []
        for number, module in enumerate(self.inceptions):
            groups.append((f"inceptions.{number}", [module]))
            if (number + 1) % _BETWEEN == 0:
                groups[-1][1].append(self.shortcuts[number // _BETWEEN])
        return groups


class _Module(nn.Module):
    """Branches of several widths."""

    def __init__(self, in_channels: int | None, filters: int, kernel_sizes: tuple[int, ...], bottleneck: int) -> None:
        super().__init__()
        self.bottleneck = time_conv(in_channels, bottleneck, 1)
        self.branches = nn.ModuleList(time_conv(bottleneck, filters, size, padding="same") for size in kernel_sizes)
        self.pooled = nn.Sequential(nn.MaxPool2d((1, 3), 1, (0, 1)), time_conv(in_channels, filters, 1))
        self.norm = nn.BatchNorm2d(filters * (len(kernel_sizes) + 1))

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.bottleneck(x)
        joined = torch.cat([*(branch(narrow) for branch in self.branches), self.pooled(x)], dim=1)
        return torch.relu(self.norm(joined))
