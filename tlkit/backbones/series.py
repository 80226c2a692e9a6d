"""Convolutional networks over time, for windows of sensor signals."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tlkit.backbones.temporal import check_arguments, check_windows, seen_channels, time_conv
from tlkit.errors import BackboneError

__all__ = ["CNN1d"]


class CNN1d(nn.Module):
    """The 1-D CNN of AdaTime (Ragab et al., ACM Transactions on Knowledge Discovery from Data 2023).

    Three blocks of convolution without bias, batch normalisation, ReLU and max-pooling by 2; dropout after the first;
    average pooling over time. The defaults are AdaTime's for UCI-HAR, WISDM and HHAR. Its settings for other data:
    ``kernel_size=25, stride=6, dropout=0.2, channels=(32, 64, 128)`` for sleep EEG, ``kernel_size=32, stride=6`` for
    machine faults.

    It is computed as a 2-D convolution over windows of height 1 in ``channels_last`` memory, which is faster on a CPU
    and equal to the 1-D network. The parameters keep the names and shapes of AdaTime's ``Conv1d`` network, so the
    weights of one load into the other.

    Args:
        in_channels: Signals a window, for example 9 for accelerometer, gyroscope and total acceleration in 3 axes; by
            default as many as the first windows have, or loaded weights.
        channels: Output channels of the three convolutions.
        kernel_size: Time steps that the first convolution sees; the other two see 8.
        stride: Step of the first convolution.
        dropout: Share of values dropped after the first block while training, in [0, 1).
        output_length: Time steps that the average pooling leaves; the features are ``channels[-1] * output_length``.

    Attributes:
        num_features: Width of the output.

    Raises:
        BackboneError: If an argument is out of its range, or in the forward pass if the windows have another number of
            channels or are too short.

    Shape:
        ``(B, in_channels, T)``, floating point, ``T >= kernel_size`` -> ``(B, num_features)``.

    Example:
        >>> backbone = CNN1d(in_channels=9)
        >>> backbone(torch.rand(4, 9, 128)).shape
        torch.Size([4, 128])
    """

    num_features: int

    def __init__(
        self,
        in_channels: int | None = None,
        channels: tuple[int, int, int] = (64, 128, 128),
        kernel_size: int = 5,
        stride: int = 1,
        dropout: float = 0.5,
        output_length: int = 1,
    ) -> None:
        super().__init__()
        if len(channels) != 3:
            raise BackboneError(f"CNN1d(channels=...) takes three numbers, one a convolution, got {tuple(channels)}")
        check_arguments("CNN1d", dropout, in_channels=in_channels, kernel_size=kernel_size, stride=stride)
        first, second, third = channels
        self.kernel_size, self.output_length = kernel_size, output_length
        self.conv_block1 = _block(in_channels, first, kernel_size, stride)
        self.conv_block1.append(nn.Dropout(dropout))
        self.conv_block2 = _block(first, second, 8)
        self.conv_block3 = _block(second, third, 8)
        self.adaptive_pool = nn.AdaptiveAvgPool2d((1, output_length))
        self.num_features = third * output_length

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, num_features)`` features of a batch of windows."""
        check_windows("CNN1d", x, seen_channels(self), self.kernel_size, "kernel_size")
        x = x.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        x = self.conv_block3(self.conv_block2(self.conv_block1(x)))
        if x.shape[3] < self.output_length:
            raise BackboneError(
                f"CNN1d(output_length={self.output_length}) cannot be had from these windows: the convolutions leave "
                f"{x.shape[3]} time steps; give longer windows, or a smaller output_length or stride"
            )
        features: Tensor = self.adaptive_pool(x).flatten(1)
        return features


def _block(in_channels: int | None, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        time_conv(in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2),
        nn.BatchNorm2d(out_channels),
        # max(relu(x)) = relu(max(x)): pooling first is the same function and leaves ReLU half of the work.
        nn.MaxPool2d((1, 2), stride=(1, 2), padding=(0, 1)),
        nn.ReLU(),
    )
