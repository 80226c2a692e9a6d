"""The backbone compiled in place, without a change to the model's names or checkpoints."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from typing import Any, cast

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
    large network: worth it for thousands of steps. Under :class:`tlkit.finetuning.GradualUnfreezing` so does each start
    of a layer; the limit on how often torch compiles anew before it gives up is raised by as much until training ends.

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
        self._limit: int | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check before training that the backend finds what it generates code with."""
        if stage == "fit" and self.backend == "inductor":
            _check_toolchain(trainer.strategy.root_device)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compile, now that the layers are final: over ranks, by domain, sharded, with adapters."""
        from torch._dynamo import config

        backbone, finetuning = self._backbone(pl_module), cast(Any, pl_module).finetuning
        starts = {group.start for group in finetuning.groups(backbone)} - {0.0}
        if starts:  # the modes of the layers are part of what was compiled: between starts there is one more network
            self._limit = config.cache_size_limit  # recompile_limit by a name that torch 2.6 has too
            config.cache_size_limit = self._limit * (len(starts) + 1)
        backbone.compile(backend=self.backend, dynamic=self.dynamic)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go back to the module as it was: a single test would wait for the compiler longer than it takes."""
        from torch._dynamo import config

        if self._limit is not None:
            config.cache_size_limit, self._limit = self._limit, None
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
