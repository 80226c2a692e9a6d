"""tlkit: transfer learning and domain adaptation with PyTorch Lightning.

Names are imported when they are first used, so that ``import tlkit`` and ``tlkit --help`` cost nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlkit.cli.rebuild import load as load
    from tlkit.module import TransferModule as TransferModule
    from tlkit.start import start_from as start_from

__version__ = "0.1.0"
__all__ = ["TransferModule", "__version__", "load", "start_from"]

_HOME = {"TransferModule": "tlkit.module", "load": "tlkit.cli.rebuild", "start_from": "tlkit.start"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'tlkit' has no attribute {name!r}")
