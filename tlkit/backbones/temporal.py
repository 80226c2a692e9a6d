"""What the 1-D networks share: a convolution that is fast on a CPU, and the checks of their arguments and input."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tlkit.errors import BackboneError

__all__ = ["LazyTimeConv", "TimeConv", "check_arguments", "check_windows", "seen_channels", "time_conv"]


class TimeConv(nn.Conv1d):
    """A ``Conv1d`` without bias over ``(B, C, 1, T)`` in channels_last memory, which is faster on a CPU and equal.

    Its parameter has the name and the shape of ``Conv1d``'s.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return ``(B, out_channels, 1, T')``; ``padding="same"`` keeps T, an even kernel pads one step more behind."""
        padding = self.padding[0]
        if self.padding == "same":  # by hand: torch warns about even kernels
            padding = (self.kernel_size[0] - 1) // 2
            if self.kernel_size[0] % 2 == 0:
                input = F.pad(input, (0, 1)).contiguous(memory_format=torch.channels_last)
        out = F.conv2d(input, self.weight.unsqueeze(2), None, (1, self.stride[0]), (0, int(padding)))
        # The format of an input with one channel is ambiguous, and the convolution then does not keep it.
        return out.contiguous(memory_format=torch.channels_last)


class LazyTimeConv(nn.LazyConv1d):
    """A :class:`TimeConv` that takes the number of its input channels from the first input, or from loaded weights."""

    cls_to_become = TimeConv
    forward = TimeConv.forward

    def _get_in_channels(self, input: Tensor) -> int:
        return input.shape[1]


def time_conv(in_channels: int | None, out_channels: int, kernel_size: int, **arguments: Any) -> nn.Conv1d:
    """Return a :class:`TimeConv`, a lazy one if ``in_channels`` is None."""
    if in_channels is not None:
        return TimeConv(in_channels, out_channels, kernel_size, bias=False, **arguments)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Lazy modules are a new feature")
        lazy: nn.Conv1d = LazyTimeConv(out_channels, kernel_size, bias=False, **arguments)
    return lazy


def seen_channels(network: nn.Module) -> int | None:
    """Return the number of input channels of the first convolution; None if it is lazy and has not seen any yet."""
    conv = next(module for module in network.modules() if isinstance(module, nn.Conv1d))
    return None if nn.parameter.is_lazy(conv.weight) else conv.weight.shape[1]


def check_arguments(name: str, dropout: float, **numbers: int | None) -> None:
    """Refuse arguments that make no network.

    Args:
        name: The backbone, for the message.
        dropout: Must be in [0, 1).
        **numbers: By the names of their arguments; must be at least 1, or None.

    Raises:
        BackboneError: If one is out of its range.
    """
    for argument, value in numbers.items():
        if value is not None and value < 1:
            raise BackboneError(f"{name}({argument}=...) must be at least 1, got {value}")
    if not 0 <= dropout < 1:
        raise BackboneError(f"{name}(dropout=...) must be in [0, 1), got {dropout}")


def check_windows(name: str, x: Tensor, in_channels: int | None, shortest: int = 1, why: str = "") -> None:
    """Refuse what are no windows of ``in_channels`` channels.

    Args:
        name: The backbone, for the message.
        x: ``(B, C, T)`` windows.
        in_channels: How many channels there must be; None for any number.
        shortest: Time steps that a window must have.
        why: The argument that asks for them.

    Raises:
        BackboneError: If the shape is another.
    """
    if x.dim() != 3 or in_channels not in (None, x.shape[1]):
        wanted = "C" if in_channels is None else in_channels
        swapped = x.dim() == 3 and x.shape[2] == in_channels
        raise BackboneError(
            f"{name}(in_channels={in_channels}) takes windows of shape (B, {wanted}, T), got {tuple(x.shape)}: "
            + ("these look like (B, T, C), transpose them" if swapped else "set in_channels to that of the data")
        )
    if x.shape[2] < shortest:
        raise BackboneError(
            f"{name}({why}={shortest}) needs windows of at least {shortest} time steps, got {x.shape[2]}: give longer "
            f"windows or a smaller {why}"
        )
