"""Callbacks that the measurements of speed put into what they measure."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from measuring import FIRST_STEP


class FirstStep(Callback):
    """Ends the process when its first optimizer step is done."""

    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == 1:
            os._exit(FIRST_STEP)


class Stamps(Callback):
    """Notes wall time and CPU seconds of the first process every so many steps, and writes them when training ends.

    Args:
        file: Where to.
        every: Steps from one stamp to the next.
    """

    def __init__(self, file: str, every: int) -> None:
        self.file, self.every = file, every
        self.stamps: list[tuple[float, float]] = []

    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        if trainer.global_step % self.every == 0:
            self.stamps.append((time.perf_counter(), time.process_time()))

    def on_train_end(self, trainer: Any, *rest: Any) -> None:
        if trainer.is_global_zero:
            Path(self.file).write_text(json.dumps(self.stamps))
