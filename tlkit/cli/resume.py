"""What must still hold when a run goes on: it learns the same from the same, and there is something left to train."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Timer

from tlkit.cli.rebuild import read_checkpoint
from tlkit.cli.recipes import read_recipe
from tlkit.cli.request import LENGTH, Request, may_change
from tlkit.cli.shell import TransferCLI
from tlkit.errors import CheckpointError, ConfigurationError
from tlkit.notes import say
from tlkit.types import DataSpec

__all__ = ["check_resume", "is_done", "set_aside", "without_id"]


def is_done(cli: TransferCLI, request: Request, run: Path) -> bool:
    """Return whether a run that is asked for again has ended, as long as it was to be.

    Raises:
        ConfigurationError: If it was a run of another recipe.
        CheckpointError: If it is to train longer, and its last checkpoint is gone.
    """
    differ = _changed(cli, run)
    for key in differ:
        if key != "runs" and not may_change(key):
            raise ConfigurationError(
                f"--resume=auto: the run {run} has another {key} than this command: take another --run_id for a new "
                "run, or give the command that the run was started with"
            )
    finished = (run / "summary.json").is_file()
    if not any(key.startswith(LENGTH) for key in differ):
        return finished
    if request.checkpoint is None:
        raise CheckpointError(
            f"--resume=auto: the run {run} is finished and has no checkpoints/last.ckpt to train longer from: take "
            "another --run_id for a new run"
        )
    return False


def check_resume(cli: TransferCLI, request: Request, run: Path, file: Path) -> DataSpec:
    """Refuse to go on from a checkpoint with what it was not trained with, or where no step would be taken.

    Returns:
        What the run has learned from.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        ConfigurationError: If model or data are not the checkpoint's, or a limit of the training is reached.
    """
    checkpoint = _read(file)
    stored = checkpoint["tlkit"].get("recipe")
    # With the defaults of arguments that have come since: a run may go on under a later version of what it names.
    differ = {} if stored is None else dict(_differences(cli.resolve(stored), cli.model.recipe))
    for key, (old, new) in differ.items():
        if not may_change(key):
            raise ConfigurationError(
                f"{file} was trained with {key}={old!r}, but {'this command' if request.auto else run / 'config.yaml'} "
                f"says {new!r}: what a run learns cannot change when it goes on. Put it back, or start a new run"
            )
    if cli.config["trainer"]["fast_dev_run"]:
        raise ConfigurationError(
            f"trainer.fast_dev_run is a trial, which leaves nothing: a run does not go on with it. Take it out of "
            f"{run / 'config.yaml'}"
        )
    _check_length(cli, run, file, checkpoint)
    return DataSpec.from_checkpoint(checkpoint["tlkit"]["data"])


def _check_length(cli: TransferCLI, run: Path, file: Path, checkpoint: dict[str, Any]) -> None:
    limits, loop = cli.config["trainer"], checkpoint["loops"].get("fit_loop", {})
    epochs = loop.get("epoch_progress", {}).get("current", {}).get("processed", checkpoint["epoch"])
    done = {"trainer.max_steps": checkpoint["global_step"], "trainer.max_epochs": epochs}
    if 0 <= limits["max_steps"] < checkpoint["global_step"]:
        raise ConfigurationError(
            f"trainer.max_steps={limits['max_steps']}, but {file} is at step {checkpoint['global_step']} already"
        )
    ends = {key: limits[key.partition(".")[2]] for key in done}
    ends = {key: limit for key, limit in ends.items() if limit is not None and 0 <= limit <= done[key]}
    if _is_over(limits["max_time"], checkpoint):
        ends["trainer.max_time"] = limits["max_time"]
    asked = {key for key in _changed(cli, run) if key.startswith(LENGTH)}
    # A run without a summary that ends at once is still to be tested; but not one that was to train longer.
    if ends and ((run / "summary.json").is_file() or (asked and not asked & ends.keys())):
        named = " and ".join(f"--{key}={limit}" for key, limit in ends.items())
        raise ConfigurationError(
            f"--resume: no step would be taken: {file} is at step {checkpoint['global_step']}, after {epochs} epochs, "
            f"where {named} ends the run; raise it to train longer"
        )


def _is_over(max_time: Any, checkpoint: dict[str, Any]) -> bool:
    """Return whether the time that a training may take was over when its checkpoint was written."""
    timer = checkpoint.get("callbacks", {}).get("Timer")
    left = Timer(max_time).time_remaining()
    return timer is not None and left is not None and timer["time_elapsed"]["train"] >= left


def _read(file: Path) -> dict[str, Any]:
    try:
        return read_checkpoint(file)
    except CheckpointError as error:
        best = file.with_name("best.ckpt")
        hint = f". If {best} can be read, copy it to {file.name} to go on from there" if best.is_file() else ""
        raise CheckpointError(f"{error}{hint}") from error


def set_aside(run: Path) -> None:
    """Move what a start left that ended before its first checkpoint, so that the run can be started under its name."""
    if not run.is_dir():
        return
    number = 1
    while (aside := run.with_name(f"{run.name}.stopped-{number}")).exists():
        number += 1
    run.rename(aside)
    say(f"{run} ended before its first checkpoint: it is now {aside}, and the run starts anew")


def without_id(resolved: dict[str, Any]) -> dict[str, Any]:
    """Return the resolved recipe without the run's id: run again, it is another run."""
    return {key: value for key, value in resolved.items() if key != "run_id"}


def _changed(cli: TransferCLI, run: Path) -> list[str]:
    """Return in which keys the recipe differs from what the run's folder says that it is."""
    return [key for key, _ in _differences(read_recipe(run / "config.yaml"), without_id(cli.resolved))]


def _differences(a: Any, b: Any, key: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for name in (*a, *(each for each in b if each not in a)):
            yield from _differences(a.get(name), b.get(name), f"{key}.{name}" if key else str(name))
    elif a != b:
        yield key, (a, b)
