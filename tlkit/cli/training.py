"""``tlkit fit``: train, choose a checkpoint, test it, and leave a run folder."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from tlkit.backbones.pretrained import skip_pretrained
from tlkit.callbacks import MetricsFile, ModelSelection, ProgressBar, StopCleanly, StopOnNonFinite, Throughput
from tlkit.cli.faults import worded
from tlkit.cli.loggers import make_loggers
from tlkit.cli.request import Request
from tlkit.cli.results import print_table
from tlkit.cli.resume import check_resume, is_done, set_aside, without_id
from tlkit.cli.runfolder import (
    check_splits,
    create_run,
    environment,
    learned_rows,
    rows_before,
    write_config,
    write_splits,
    write_summary,
)
from tlkit.cli.shell import TransferCLI, global_rank, quiet
from tlkit.cli.start import start
from tlkit.cli.unseen import Unseen
from tlkit.errors import ConfigurationError, DataError, RunError

__all__ = ["fit"]

# Tells the processes that Lightning starts for further devices which folder the first one made. Those of a launcher ask
# the first one when all have met.
_RUN = "TLKIT_RUN"
# A launcher kills the first process as soon as another has ended: it must have taken its folder away by then.
_GRACE_SECONDS = 3.0


@worded()
def fit(request: Request) -> int:
    """Train as the request says.

    Returns:
        The exit status: 0, or 130 (143) if the run was interrupted (terminated).

    Raises:
        TlkitError: If the recipe or the data are at fault. A folder made for the run is removed again when training
            has not begun in it, whatever was raised.
    """
    quiet()
    with skip_pretrained() if request.recipe.get("start_from") else nullcontext():
        cli = TransferCLI(request.recipe)
    if request.show == "config":
        print(yaml.safe_dump(cli.resolved, sort_keys=False), end="")
        return 0
    if request.auto and request.run is not None and is_done(cli, request, request.run):
        if global_rank() == 0:
            print(request.run)
        return 0
    unseen = None
    if request.run is not None and request.checkpoint is not None:
        cli.datamodule.start = check_resume(cli, request, request.run, request.checkpoint)
    elif cli.config["start_from"] is not None:
        unseen = start(cli)
    elif not cli.datamodule.sources and not cli.datamodule.budgets:
        raise ConfigurationError(
            "data.sources is empty and no target has labels to train on (data.labels_per_class, data.label_fraction), "
            "so that nothing says what a class looks like: name a source, or give --start_from RUN to adapt what a "
            "run has learned without its sources"
        )
    with _run_folder(cli, request) as run:
        return _Run(cli, request, run, unseen).fit()


class _Run:
    """One training in one run folder."""

    def __init__(self, cli: TransferCLI, request: Request, folder: Path, unseen: Unseen | None) -> None:
        self.cli, self.request, self.folder = cli, request, folder
        self.trial = cli.config["trainer"]["fast_dev_run"]
        self.throughput, self.stop = Throughput(), StopCleanly()
        callbacks: list[Callback] = [
            _Shared(folder),
            ModelSelection(dirpath=folder / "checkpoints"),
            ProgressBar(),
            self.throughput,
            StopOnNonFinite(),
            self.stop,
            _Unfinished(folder / "summary.json"),
            *([] if unseen is None else [unseen]),
            _Splits(folder, resumed=request.run is not None, start=unseen),
            _Loggers(
                partial(
                    make_loggers,
                    kind=cli.config["logger"],
                    run=folder,
                    recipe=cli.config["recipe"],
                    losses=[name for name, _ in cli.model.losses()],
                    sources=cli.datamodule.sources,
                    targets=cli.datamodule.targets,
                ),
                config=None if request.run else without_id(cli.resolved),
            ),
        ]
        self.metrics = MetricsFile(folder)
        self.trainer: Trainer = cli.make_trainer(callbacks, default_root_dir=str(folder), logger=self.metrics)
        self.selection = next(each for each in self.trainer.checkpoint_callbacks if isinstance(each, ModelSelection))

    def fit(self) -> int:
        """Train, test what was chosen, report."""
        try:
            with worded():
                self._train_and_test()
        except (SIGTERMException, KeyboardInterrupt, SystemExit) as error:
            return self._stopped(error)
        except RunError as error:
            raise RunError(f"{error}. {self._what_is_left(error.repeats)}", error.repeats) from error
        except DataError as error:
            if not self._last.is_file():
                raise
            raise DataError(f"{error}. {self._what_is_left(repeats=False)}") from error
        return 0

    @property
    def _last(self) -> Path:
        return self.folder / "checkpoints" / "last.ckpt"

    def _train_and_test(self) -> None:
        checkpoint = self.request.checkpoint
        self.trainer.fit(
            self.cli.model,
            datamodule=self.cli.datamodule,
            ckpt_path=None if checkpoint is None else str(checkpoint),
            weights_only=True,
        )
        best = self.selection.best_model_path or self.selection.last_model_path or None
        # Taken now: testing loads the chosen checkpoint, and with it what the callbacks knew when it was written.
        selection, train = self.selection.selection, self.throughput.summary
        self.metrics.tested_after = self.trainer.global_step
        self.trainer.test(
            self.cli.model, datamodule=self.cli.datamodule, ckpt_path=best, verbose=False, weights_only=True
        )
        if self.trainer.is_global_zero:
            if self.trial:
                print(
                    f"a trial (trainer.fast_dev_run={self.trial}): training, validation and test have run with a few "
                    "batches; nothing is kept of it, and no score is of the whole splits"
                )
            else:
                self._report(selection, train)

    def _what_is_left(self, repeats: bool) -> str:
        if not self._last.is_file():
            return f"There is no checkpoint yet; what there is: {self.folder}"
        if repeats:
            return f"The last checkpoint of before is {self._last}"
        return f"Then go on with: tlkit fit --resume {self.folder}"

    def _stopped(self, error: BaseException) -> int:
        code = getattr(error, "code", None)
        default = 143 if isinstance(error, SIGTERMException) else 130  # of a signal before the first step
        status = code if isinstance(code, int) and code > 1 else default
        if self.trainer.is_global_zero:
            if self._last.exists():
                print(f"stopped; go on with: tlkit fit --resume {self.folder}", file=sys.stderr)
            else:
                print(f"stopped before the first checkpoint; what there is: {self.folder}", file=sys.stderr)
        return status

    def _report(self, selection: dict[str, Any], train: dict[str, float]) -> None:
        config, found = self.cli.config, self.trainer.callback_metrics
        # Metrics are float32: the shortest number that means the same (0.971, not 0.9710000157356262).
        metrics = {key: float(str(np.float32(value))) for key, value in found.items() if key.startswith("test/")}
        summary: dict[str, Any] = {
            "recipe": config["recipe"],
            "seed": config["seed_everything"],
            "command": self.request.line,
            "selection": selection,
            "metrics": metrics,
            "train": train,
            "environment": environment(),
        }
        write_summary(self.folder, summary)
        labels = "with target labels" if selection["uses_target_labels"] else "without target labels"
        monitor = selection["monitor"]
        chosen = f"chosen by {monitor}, {labels}" if monitor else "the last one: no validation chose it"
        print_table(
            self.cli.datamodule.spec(),
            metrics,
            ("test",),
            title=f"{config['recipe']}, seed {config['seed_everything']}: held-out test splits",
            note=f"checkpoint of step {selection['step']}, {chosen}",
            rest=str(self.folder / "summary.json"),
        )
        print(self.folder)


class _Shared(Callback):
    """Refuses to train where a process cannot see the run's folder: it could not read the checkpoint to be tested."""

    def __init__(self, run: Path) -> None:
        self.run = run

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or trainer.world_size == 1:
            return
        run = Path(trainer.strategy.broadcast(os.path.abspath(self.run)))
        seen = (run / "config.yaml").is_file()
        if not trainer.strategy.reduce_boolean_decision(seen):
            where = "on another node" if seen else f"on {platform.node()}"
            raise ConfigurationError(
                f"the run folder {run} that the first process made is not there {where}: give --runs a folder on a "
                "file system that all nodes share"
            )


class _Splits(Callback):
    """Writes which rows were trained, validated and tested on, once the data is read.

    Of a run that goes on they are held against the ones of before first: data may have changed where they lie.
    """

    def __init__(self, run: Path, resumed: bool, start: Unseen | None) -> None:
        self.run, self.resumed, self.start = run, resumed, start

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and self.resumed:
            check_splits(self.run, trainer.datamodule, "val", "test")  # type: ignore[attr-defined]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            before = rows_before(self.run) if self.resumed else {}
            if self.start is not None and not self.start.differ:
                before = learned_rows(self.start.run)
            write_splits(self.run, trainer.datamodule, before)  # type: ignore[attr-defined]


class _Unfinished(Callback):
    """Moves the summary of the shorter training that a resumed run goes on from aside: until it ends there is none."""

    def __init__(self, summary: Path) -> None:
        self.summary = summary

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and self.summary.exists():
            self.summary.rename(self.summary.with_name(f"summary.step{trainer.global_step}.json"))


class _Loggers(Callback):
    """Starts the loggers when data and model have passed their checks: a run that is refused leaves no trace in W&B.

    Args:
        make: Makes all loggers of the run; ``metrics.csv``, the first, is on already.
        config: The resolved recipe for the loggers' own pages; ``None`` for a resumed run, whose loggers have it.
    """

    def __init__(self, make: Callable[[], list[Logger]], config: dict[str, Any] | None) -> None:
        self.make, self.config = make, config

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        _, *others = self.make()
        trainer.loggers = [*trainer.loggers, *others]
        if self.config is not None:
            for logger in others:
                logger.log_hyperparams(self.config)


@contextmanager
def _run_folder(cli: TransferCLI, request: Request) -> Iterator[Path]:
    """Make the run's folder, or take the one to go on in; take it away again if training could not start."""
    root, name, run_id = Path(cli.config["runs"]), cli.config["recipe"], cli.config["run_id"]
    if request.run is not None:
        config = without_id(cli.resolved)
        if global_rank() == 0 and yaml.safe_load((request.run / "config.yaml").read_text(encoding="utf-8")) != config:
            write_config(request.run, _with_header(config, request))
        yield request.run
        return
    if global_rank() != 0:
        # Only the first process writes. Where it cannot pass its folder on (torchrun), this one is made up and never
        # used: checkpoints go where the first process says.
        try:
            yield Path(os.environ.get(_RUN) or root / name / (run_id or f"rank-{global_rank()}"))
        except Exception:
            time.sleep(_GRACE_SECONDS)
            raise
        return
    if request.auto:
        set_aside(root / name / str(run_id))
    parents = [parent for parent in (root / name, *(root / name).parents) if not parent.exists()]
    folder = create_run(root, name, cli.config["seed_everything"], run_id)
    os.environ[_RUN] = str(folder)
    try:
        write_config(folder, _with_header(without_id(cli.resolved), request))
        yield folder
        if cli.config["trainer"]["fast_dev_run"]:
            _take_away(folder, parents)
    except Exception as error:
        if not isinstance(error, RunError):
            _take_away(folder, parents)
        raise
    finally:
        del os.environ[_RUN]


def _take_away(folder: Path, parents: list[Path]) -> None:
    """Remove the folder of a run in which nothing has begun, and those that were made for it."""
    if (folder / "metrics.csv").exists() or any(folder.glob("checkpoints/*.ckpt")):
        return
    shutil.rmtree(folder)
    for parent in parents:
        with suppress(OSError):  # another run has come into it
            parent.rmdir()


def _with_header(config: dict[str, Any], request: Request) -> str:
    return f"# Written by: {request.line}\n{yaml.safe_dump(config, sort_keys=False)}"
