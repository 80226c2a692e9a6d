"""The contract of a backbone, and the check that words what breaks it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from tlkit.errors import BackboneError, TlkitError
from tlkit.types import map_tensors

__all__ = ["check_backbone"]


def check_backbone(backbone: Any, x: Any | None = None) -> int:
    """Check that a backbone maps ``x`` to ``(B, num_features)`` and return ``num_features``.

    The check is one forward pass in evaluation mode without gradients. It leaves no trace: training flags, batch-norm
    statistics and random number generators are as before. Only lazy layers get their parameters in it, and then the
    generator goes on, so that a layer made afterwards does not begin with the same numbers.

    Args:
        backbone: The module to check.
        x: Inputs of a few rows, ``(B, ...)`` or a mapping of such tensors; without it only the attribute is checked.

    Returns:
        The width of the features.

    Raises:
        BackboneError: If it is no module, if ``num_features`` is missing or no positive integer, if the forward pass
            fails on ``x``, if ``x`` is float64 and neither the backbone nor the precision of the run is, or if the
            output is not a floating-point tensor of shape ``(B, num_features)``.

    Example:
        >>> class Mine(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        ...         self.num_features = 10
        ...     def forward(self, x):
        ...         return self.layers(x)
        >>> check_backbone(Mine(), torch.rand(2, 1, 8, 8))
        10
    """
    if isinstance(backbone, type):
        raise BackboneError(f"backbone must be an instance, got the class {backbone.__name__}: write it with ()")
    if not isinstance(backbone, nn.Module):
        raise BackboneError(
            f"backbone must be a torch.nn.Module called as backbone(x) -> (B, num_features), got {_describe(backbone)}"
        )
    name = type(backbone).__name__
    width = getattr(backbone, "num_features", None)
    if width is None:
        found = "" if x is None else _width_hint(_dry_forward(backbone, x))
        raise BackboneError(
            f"backbone {name} has no attribute num_features, the width D of its output (B, D): set it in __init__, "
            f"`self.num_features = {found or 'D'}`" + (f" (its output on this data is {found} wide)" if found else "")
        )
    if not isinstance(width, int) or isinstance(width, bool) or width < 1:
        raise BackboneError(f"{name}.num_features must be a positive int, got {_describe(width)}")
    if x is not None:
        _check_output(name, width, _dry_forward(backbone, x), _rows(x))
        _check_double(backbone, x)
    return width


def _check_output(name: str, width: int, features: Any, rows: int) -> None:
    if not isinstance(features, Tensor):
        raise BackboneError(
            f"backbone {name} must return one tensor of shape (B, {width}), got {_describe(features)}: return the "
            "features alone, pooled to one row a sample"
        )
    shape = tuple(features.shape)
    if not features.is_floating_point():
        raise BackboneError(f"backbone {name} must return floating-point features, got {features.dtype}")
    if shape == (rows, width):
        return
    problem = f"backbone {name} must return ({rows}, {width}) for {rows} rows (num_features is {width}), got {shape}"
    if len(shape) == 2 and shape[0] == rows:
        raise BackboneError(f"{problem}: set num_features to {shape[1]}, or make the output {width} wide")
    raise BackboneError(f"{problem}: {_pooling_hint(shape, rows, width)}")


def _check_double(backbone: nn.Module, x: Any) -> None:
    """Refuse float64, numpy's default, where it meets parameters of float32 in the first step.

    Autocast leaves float64 as it is, and ``32-true`` converts nothing. The other precisions convert inputs and
    parameters, and Lightning makes theirs the default type while the model is built.
    """
    parameter = _parameter(backbone)
    device, taken = (None, torch.float32) if parameter is None else (parameter.device, parameter.dtype)
    double = any(each.dtype == torch.float64 for each in ([x] if isinstance(x, Tensor) else x.values()))
    if not double or taken == torch.float64 or torch.get_default_dtype() != torch.float32:
        return
    with _undisturbed(backbone):
        try:
            if backbone(map_tensors(x, lambda tensor: tensor.to(device=device))).dtype != torch.float64:
                return  # it converts its input itself
            cause = None
        except Exception as error:
            cause = error
    raise BackboneError(
        f"backbone {type(backbone).__name__} and the head take {str(taken).removeprefix('torch.')}, and x is "
        f"{_shapes(x)}, which this precision does not convert: return x.float() from the data set (numpy's numbers "
        "are float64), or set trainer.precision: 64-true"
    ) from cause


def _pooling_hint(shape: tuple[int, ...], rows: int, width: int) -> str:
    """Say how features of another rank become one row a sample."""
    if not shape or shape[0] != rows:
        return "the first dimension must be that of the input, one row a sample"
    if len(shape) == 1:
        return "add the feature dimension, features.unsqueeze(1)"
    others = [d for d in range(1, len(shape)) if d != (len(shape) - 1 if shape[1] != width == shape[-1] else 1)]
    pooled = f"pool over the other dimensions, features.mean(dim={tuple(others)})"
    flat = int(torch.Size(shape[1:]).numel())
    return f"{pooled}, or flatten them, features.flatten(1), with num_features {flat}"


def _width_hint(features: Any) -> str:
    return str(features.shape[1]) if isinstance(features, Tensor) and features.dim() == 2 else ""


def _dry_forward(backbone: nn.Module, x: Any) -> Any:
    """Return ``backbone(x)`` in evaluation mode on the backbone's own device and in its own precision."""
    parameter = _parameter(backbone)

    def place(tensor: Tensor) -> Tensor:
        if parameter is None:
            return tensor
        # The trainer's precision converts inputs later, or autocast does; here the parameters say what they will be.
        return tensor.to(parameter.device, parameter.dtype if tensor.is_floating_point() else None)

    with _undisturbed(backbone):
        try:
            return backbone(map_tensors(x, place))
        except TlkitError:
            raise
        except Exception as error:
            raise BackboneError(
                f"backbone {type(backbone).__name__} failed on input of shape {_shapes(x)}: "
                f"{type(error).__name__}: {error}. Does it fit this data (channels, size, keys)?"
            ) from error


def _parameter(backbone: nn.Module) -> nn.Parameter | None:
    return next((parameter for parameter in backbone.parameters() if parameter.is_floating_point()), None)


@contextmanager
def _undisturbed(backbone: nn.Module) -> Iterator[None]:
    flags = [(module, module.training) for module in backbone.modules()]
    devices = sorted({p.device.index for p in backbone.parameters() if p.device.type == "cuda"})
    lazy = any(map(nn.parameter.is_lazy, backbone.parameters()))
    # no_grad and not inference_mode: what a backbone caches in its first call must still work in training.
    with nullcontext() if lazy else torch.random.fork_rng(devices), torch.no_grad():
        try:
            for module, _ in flags:
                # The flag itself and not eval(): an overridden train() may do more, such as merging adapters.
                module.training = False
            yield
        finally:
            for module, training in flags:
                module.training = training


def _rows(x: Any) -> int:
    return len(x if isinstance(x, Tensor) else next(iter(x.values())))


def _shapes(x: Any) -> str:
    if isinstance(x, Tensor):
        return f"{tuple(x.shape)} ({str(x.dtype).removeprefix('torch.')})"
    return "{" + ", ".join(f"{key}: {_shapes(value)}" for key, value in x.items()) + "}"


def _describe(value: Any) -> str:
    if isinstance(value, (int, float, str)):
        return repr(value)
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
