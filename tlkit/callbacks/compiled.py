"""The backbone compiled in place, without a change to the model's names or checkpoints."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from typing import Any

import lightning as L
import torch
from torch import nn

from tlkit.errors import ConfigurationError, unknown

__all__ = ["CompileBackbone"]


class CompileBackbone(L.Callback):
    """Compile the backbone's forward pass while training, by ``torch.compile`` (Ansel et al., ASPLOS 2024).

    It is compiled in place: the names of weights stay, so that a run resumes, is tested and loaded with or without this
    callback. Head and losses stay as they are, the losses so that they keep their full precision. When training ends
    the backbone is an ordinary module again.

    The first step, the first validation and any new shape of a batch wait for the compiler, tens of seconds each for a
    large network: worth it for thousands of steps.

    Args:
        backend: One of ``torch.compiler.list_backends()``. ``"inductor"`` generates code, which needs a C++ compiler on
            the CPU and Triton on a GPU; ``"eager"`` and ``"aot_eager"`` compile nothing and are for finding faults.
        dynamic: Whether one compilation serves inputs of any size, such as texts; ``None`` finds out by itself.

    Raises:
        ConfigurationError: If the backend is unknown, or, before training, what it needs is not installed.

    Example:
        >>> CompileBackbone(dynamic=True).backend
        'inductor'
    """

    def __init__(self, backend: str = "inductor", dynamic: bool | None = None) -> None:
        known = torch.compiler.list_backends(exclude_tags=())
        if backend not in known:
            raise ConfigurationError(f"CompileBackbone: {unknown('backend', backend, known)}")
        self.backend, self.dynamic = backend, dynamic

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check before training that the backend finds what it generates code with."""
        if stage == "fit" and self.backend == "inductor":
            _check_toolchain(trainer.strategy.root_device)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compile, now that the layers are final: over ranks, by domain, sharded, with adapters."""
        self._backbone(pl_module).compile(backend=self.backend, dynamic=self.dynamic)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go back to the module as it was: a single test would wait for the compiler longer than it takes."""
        self._backbone(pl_module)._compiled_call_impl = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Go back to the module as it was after an error or a Ctrl-C too."""
        self.on_fit_end(trainer, pl_module)

    @staticmethod
    def _backbone(module: Any) -> nn.Module:
        backbone: nn.Module = module.network.backbone
        return backbone


def _check_toolchain(device: torch.device) -> None:
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise ConfigurationError(
                "CompileBackbone(backend='inductor') generates code by Triton, which is not installed: pip install "
                "triton, or leave the callback out"
            )
        return
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # where inductor looks
    if shutil.which(compiler) is None:
        raise ConfigurationError(
            f"CompileBackbone(backend='inductor') generates C++ for the CPU, and there is no compiler {compiler!r}: "
            "install one (apt-get install g++), name yours in the environment variable CXX, or leave the callback out"
        )
