"""What every function of two samples does first: check them, raise half precision, and take one Gram matrix."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from tlkit.errors import ConfigurationError

__all__ = [
    "autocast_off",
    "check_classes",
    "check_probabilities",
    "first_derivative_only",
    "full_precision",
    "gram_matrix",
    "two_samples",
]


def full_precision(x: Tensor) -> Tensor:
    """Raise float16 and bfloat16 to float32; leave float32 and float64 as they are.

    Example:
        >>> full_precision(torch.ones(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def autocast_off(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which operations on the device of ``x`` keep the precision of their inputs."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def first_derivative_only(function: str) -> None:
    """Refuse a backward pass that is to be differentiated again; called inside one.

    ``once_differentiable`` is not enough: when the incoming gradient is a constant it lets the result pass as one too,
    and a gradient penalty on a sum of losses would silently miss a term.

    Raises:
        RuntimeError: If the backward pass runs with ``create_graph=True``.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(f"{function} has first derivatives only: call backward or grad without create_graph=True")


def check_probabilities(probabilities: Tensor, function: str) -> Tensor:
    """Check a matrix of predicted probabilities and raise half precision.

    That rows sum to 1 is not checked: it would wait for the device at every step.

    Args:
        probabilities: ``(b, c)``.
        function: Name of the caller, for the message.

    Raises:
        ConfigurationError: If it is not a floating point matrix with a row and two columns at least.
    """
    shape = tuple(probabilities.shape)
    if len(shape) != 2 or not probabilities.is_floating_point() or shape[0] < 1 or shape[1] < 2:
        raise ConfigurationError(
            f"{function}(probabilities=...) takes a floating point matrix of shape (rows, classes), two classes at "
            f"least, got {probabilities.dtype} of shape {shape}"
        )
    return full_precision(probabilities)


def check_classes(y: Tensor, rows: int, function: str) -> None:
    """Check that there is a class for each row.

    Args:
        y: ``(rows,)``.
        rows: Number of rows.
        function: Name of the caller, for the message.

    Raises:
        ConfigurationError: If it is no vector of integers with an entry for each row.
    """
    if y.shape != (rows,) or y.is_floating_point():
        raise ConfigurationError(
            f"{function}(y=...) takes the class of each of {rows} row(s), integers of shape ({rows},), got {y.dtype} "
            f"of shape {tuple(y.shape)}: measured values are no classes"
        )


def two_samples(source: Tensor, target: Tensor, function: str, least: int) -> tuple[Tensor, Tensor]:
    """Check two samples of rows and bring them to one floating point type, float32 at least.

    Args:
        source: ``(n, d)``.
        target: ``(m, d)``.
        function: Name of the caller, for the message.
        least: Fewest rows a side for which the caller is defined.

    Returns:
        Both samples in float32, or in float64 if either of them is.

    Raises:
        ConfigurationError: If a side is not a floating point matrix, has too few rows, or the widths differ.
    """
    for name, rows in (("source", source), ("target", target)):
        if rows.ndim != 2 or not rows.is_floating_point():
            raise ConfigurationError(
                f"{function}({name}=...) takes a floating point matrix of shape (rows, features), got {rows.dtype} of "
                f"shape {tuple(rows.shape)}: flatten each sample to one row of features"
            )
        if len(rows) < least:
            raise ConfigurationError(
                f"{function}({name}=...) needs at least {least} row(s), got {len(rows)}: raise the batch size, or drop "
                "the incomplete last batch (drop_last=True)"
            )
    if source.shape[1] != target.shape[1]:
        raise ConfigurationError(
            f"{function}(source, target) takes two samples of the same width, got {source.shape[1]} and "
            f"{target.shape[1]} features: encode both with the same network"
        )
    dtype = torch.promote_types(full_precision(source).dtype, full_precision(target).dtype)
    return source.to(dtype), target.to(dtype)


def gram_matrix(rows: Tensor, split: int) -> Tensor:
    """Return ``rows @ rows.T`` at three quarters of the cost: the block under the diagonal is the one above it.

    Args:
        rows: ``(n + m, d)``.
        split: ``n``, where the second sample begins.

    Example:
        >>> gram_matrix(torch.tensor([[1.0, 0.0], [2.0, 1.0]]), 1)
        tensor([[1., 2.],
                [2., 5.]])
    """
    gram = rows.new_empty(len(rows), len(rows))
    torch.mm(rows[:split], rows.T, out=gram[:split])
    torch.mm(rows[split:], rows[split:].T, out=gram[split:, split:])
    gram[split:, :split] = gram[:split, split:].T
    return gram
