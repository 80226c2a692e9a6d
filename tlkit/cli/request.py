"""What a command line asks for: the recipe with its overrides, and the run or checkpoint it starts from."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlkit.cli.check import check_keys
from tlkit.cli.options import Options, override, parse_options
from tlkit.cli.recipes import find_recipe, read_recipe, recipe_name
from tlkit.cli.runfolder import check_names, run_of
from tlkit.errors import CheckpointError, ConfigurationError

__all__ = ["LENGTH", "Request", "ShardRequest", "checkpoint_request", "fit_request", "may_change", "shard_request"]

# What may differ when a run goes on: how long it trains, on which machine, where the data lie and how they are read;
# nothing that changes what it learns.
LENGTH = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time")
_MACHINE = ("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy")
_PLACE = ("data.root", "data.path", "data.table", "data.cache", "data.cache_gb", "data.num_workers")
_RESUMABLE = (*LENGTH, *_MACHINE, *_PLACE)


def may_change(key: str) -> bool:
    """Return whether an argument of the recipe, or what is below it, may differ when a run goes on.

    Example:
        >>> may_change("trainer.max_steps"), may_change("data.init_args.root"), may_change("data.init_args.batch_size")
        (True, True, False)
    """
    key = key.replace("data.init_args.", "data.")  # which a command line may leave out
    return any(f"{key}.".startswith(f"{each}.") for each in _RESUMABLE)


@dataclass
class Request:
    """A command that has been read.

    Attributes:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        line: The whole command line, for the run's summary.
        recipe: The recipe with its overrides; names not looked up yet.
        run: The run folder that is gone on with, or that the checkpoint is in.
        checkpoint: The checkpoint to start from.
        show: What to print instead of training: every option (``help``), or the resolved recipe (``config``).
        auto: Whether the run is gone on with only if there is one; the recipe must then still be the run's own.
    """

    command: str
    line: str
    recipe: dict[str, Any]
    run: Path | None = None
    checkpoint: Path | None = None
    show: str | None = None
    auto: bool = False


@dataclass
class ShardRequest:
    """A ``tlkit shards`` that has been read.

    Attributes:
        recipe: The recipe with its overrides.
        out: The folder to write into.
        megabytes: How large a shard becomes.
    """

    recipe: dict[str, Any]
    out: Path
    megabytes: float


def fit_request(words: list[str]) -> Request:
    """Read the words after ``tlkit fit``.

    Raises:
        ConfigurationError: If an option, the recipe or an override is at fault.
        CheckpointError: If the run to resume has no checkpoint.
    """
    options = parse_options("fit", words, own=["config", "resume"], flags=["help-all", "print_config"])
    line = shlex.join(["tlkit", "fit", *words])
    if "help-all" in options.own:
        return Request("fit", line, {}, show="help")
    if options.own.get("resume") == "auto":
        return _resume_if_there(options, line)
    if "resume" in options.own:
        return _resume(options, line)
    recipe = _named_recipe(options)
    return Request("fit", line, recipe, show="config" if "print_config" in options.own else None)


def checkpoint_request(command: str, words: list[str]) -> Request:
    """Read the words after ``tlkit validate``, ``test`` or ``predict``.

    Raises:
        ConfigurationError: If an option, the recipe or an override is at fault.
        CheckpointError: If there is no checkpoint.
    """
    options = parse_options(command, words, own=["config", "ckpt_path"])
    recipe = _recipe(command, options)
    beside = Path(options.own["config"]).parent / "checkpoints" / "best.ckpt"
    given = options.own.get("ckpt_path")
    checkpoint = Path(given) if given else beside
    if not checkpoint.is_file():
        why = f"there is no file {given!r}" if given else f"not given, and there is no {beside}"
        raise CheckpointError(f"--ckpt_path: {why}; 'tlkit fit' writes checkpoints to RUN/checkpoints")
    return Request(command, shlex.join(["tlkit", command, *words]), recipe, run_of(checkpoint), checkpoint)


def shard_request(words: list[str]) -> ShardRequest:
    """Read the words after ``tlkit shards``.

    Raises:
        ConfigurationError: If an option, the recipe or an override is at fault.
    """
    options = parse_options("shards", words, own=["config", "out", "megabytes"])
    if not options.own.get("out"):
        raise ConfigurationError("tlkit shards needs --out DIR, the folder to write DIR/<domain>/*.tar into")
    size = options.own.get("megabytes", "256")
    try:
        megabytes = float(size)
    except ValueError as error:
        raise ConfigurationError(f"--megabytes must be a number, got {size!r}") from error
    if not 0 < megabytes < 1e6:
        raise ConfigurationError(f"--megabytes must be a number between 0 and 1000000, got {size!r}")
    return ShardRequest(_recipe("shards", options), Path(options.own["out"]), megabytes)


def _recipe(command: str, options: Options) -> dict[str, Any]:
    if not options.own.get("config"):
        raise ConfigurationError(f"tlkit {command} needs --config RECIPE; 'tlkit recipes' lists the recipes")
    path = find_recipe(options.own["config"])
    recipe = read_recipe(path)
    if recipe.get("recipe") is None:  # left out, or left empty
        recipe["recipe"] = recipe_name(path)
    return _overridden(recipe, options)


def _named_recipe(options: Options) -> dict[str, Any]:
    """Return the recipe of a run that is to be made or found by its name."""
    recipe = _recipe("fit", options)
    check_names(recipe["recipe"], recipe.get("run_id"))
    return recipe


def _overridden(recipe: dict[str, Any], options: Options) -> dict[str, Any]:
    for key, value in options.overrides.items():
        override(recipe, key, value)
    check_keys(recipe)
    return recipe


def _resume(options: Options, line: str) -> Request:
    if "config" in options.own:
        raise ConfigurationError("--resume goes on with the run's own config.yaml: leave --config out")
    if "print_config" in options.own:
        raise ConfigurationError("--print_config has nothing to do with --resume: read RUN/config.yaml")
    run = Path(options.own["resume"])
    config, checkpoint = run / "config.yaml", run / "checkpoints" / "last.ckpt"
    if not config.is_file():
        raise ConfigurationError(f"--resume: {run} is not a run folder, it has no config.yaml")
    if not checkpoint.is_file():
        raise CheckpointError(f"--resume: there is no {checkpoint}; start anew with: tlkit fit --config {config}")
    for key in options.overrides:
        if not may_change(key):
            raise ConfigurationError(
                f"--{key} cannot change when a run goes on; only {', '.join(_RESUMABLE)} can. "
                f"For a new run: tlkit fit --config {config} --{key}=..."
            )
    recipe = read_recipe(config)
    if (run / "summary.json").exists() and not any(key.startswith(LENGTH) for key in options.overrides):
        trainer = recipe.get("trainer")
        limits = {key: trainer.get(key.partition(".")[2]) for key in LENGTH} if isinstance(trainer, dict) else {}
        had = [f"--{key}={limit}" for key, limit in limits.items() if limit not in (None, -1)]
        raise ConfigurationError(
            f"--resume: the run {run} is finished, its summary.json is there; to train longer "
            + (f"raise what it was limited by: {', '.join(had)}" if had else "give it --trainer.max_steps=...")
        )
    return Request("fit", line, _overridden(recipe, options), run, checkpoint)


def _resume_if_there(options: Options, line: str) -> Request:
    """Read a command that a scheduler gives again after it took the machine away: the first time it starts the run."""
    if "print_config" in options.own:
        raise ConfigurationError("--print_config has nothing to do with --resume: leave one of them out")
    recipe = _named_recipe(options)
    if not recipe.get("run_id"):
        raise ConfigurationError("--resume=auto finds the run by its name: add --run_id=NAME, the same at every start")
    run = Path(recipe.get("runs") or "runs", recipe["recipe"], recipe["run_id"])
    checkpoint = run / "checkpoints" / "last.ckpt"
    if checkpoint.is_file():
        return Request("fit", line, recipe, run, checkpoint, auto=True)
    if (run / "summary.json").is_file():
        return Request("fit", line, recipe, run, auto=True)
    _must_be_a_start(run)
    return Request("fit", line, recipe, auto=True)


def _must_be_a_start(run: Path) -> None:
    """Refuse to set aside what is no start of a run that ended before its first checkpoint."""
    # Another process of this run may be writing its config.yaml.
    there = [path.name for path in run.iterdir() if path.suffix != ".part"] if run.is_dir() else []
    if there and "config.yaml" not in there:
        raise ConfigurationError(
            f"--resume=auto: {run} is not a run's folder, it has no config.yaml: take another --run_id, or move the "
            "folder away"
        )
    if best := sorted(run.glob("checkpoints/*.ckpt")):
        raise CheckpointError(
            f"--resume=auto: the run {run} has {best[0].name} and no last.ckpt to go on from: copy it to "
            f"{run / 'checkpoints' / 'last.ckpt'} to go on from there, or take another --run_id"
        )
