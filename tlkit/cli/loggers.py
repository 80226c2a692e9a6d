"""Loggers by one short option: project, group, tags and run id are filled in."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from lightning.pytorch.utilities import rank_zero_only

from tlkit.callbacks import MetricsFile
from tlkit.cli.runfolder import write_aside
from tlkit.errors import ConfigurationError, unknown

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

__all__ = ["LoggerKind", "make_loggers"]

LoggerKind = Literal["none", "wandb", "tensorboard", "mlflow"]

LONGEST_WANDB_TAG = 64  # characters; W&B refuses the whole run for a longer one


def make_loggers(
    kind: LoggerKind, run: Path, recipe: str, losses: list[str], sources: list[str], targets: list[str]
) -> list[Logger]:
    """Return the loggers of a run: ``metrics.csv`` first, always, then the one asked for.

    W&B gets the project ``tlkit`` (or ``WANDB_PROJECT``), the recipe as group, and the losses and ``source->target`` as
    tags; MLflow gets the recipe as experiment and the same as tags, in ``MLFLOW_TRACKING_URI`` or a database in the
    run's folder, which takes MLflow some seconds to make. Their run ids are kept in ``logger.json`` there, so that a
    resumed run continues the same run.

    Args:
        kind: Which logger.
        run: The run's folder.
        recipe: Name of the recipe.
        losses: Names of the adaptation losses.
        sources: Names of the source domains.
        targets: Names of the target domains.

    Raises:
        ConfigurationError: If the logger is not known, its package is not installed, or W&B does not let the run in.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as run:
        ...     [type(each).__name__ for each in make_loggers("none", Path(run), "mine", [], ["a"], ["b"])]
        ['MetricsFile']
    """
    metrics = MetricsFile(run)
    transfer = f"{'+'.join(sources)}->{'+'.join(targets)}"
    if kind == "none":
        return [metrics]
    if kind == "wandb":
        _require("wandb", kind)
        return [metrics, _wandb(run, recipe, [*losses, transfer])]
    if kind == "tensorboard":
        _require("tensorboard", kind)
        from lightning.pytorch.loggers import TensorBoardLogger

        return [metrics, TensorBoardLogger(run, name="tensorboard", version="", default_hp_metric=False)]
    if kind == "mlflow":
        _require("mlflow", kind)
        return [metrics, _mlflow(run, recipe, {"losses": ",".join(losses), "transfer": transfer})]
    raise ConfigurationError(unknown("logger", kind, get_args(LoggerKind)))


def _require(package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigurationError(f'the logger {extra!r} needs the package {package}: pip install "tlkit[{extra}]"')


def _wandb(run: Path, recipe: str, tags: list[str]) -> Logger:
    from lightning.pytorch.loggers import WandbLogger
    from wandb.errors import Error as WandbError

    kept = _kept(run)
    if "wandb" not in kept:
        kept["wandb"] = secrets.token_hex(4)
        _keep(run, kept)
    logger = WandbLogger(
        project=os.environ.get("WANDB_PROJECT") or "tlkit",
        group=recipe,
        tags=[_shortened(tag) for tag in tags],
        name=run.name,
        id=kept["wandb"],  # WandbLogger asks for resume="allow": the id's run is continued if there is one
        save_dir=run,
    )
    try:
        _ = logger.experiment  # starts the run: a refusal comes before training, not with the first metric
    except WandbError as error:
        raise ConfigurationError(
            f"the logger 'wandb' cannot start: {' '.join(str(error).split()).rstrip('.')}: run 'wandb login' or set "
            "WANDB_API_KEY, or set WANDB_MODE=offline to keep the run in its folder"
        ) from error
    return logger


def _shortened(tag: str) -> str:
    return tag if len(tag) <= LONGEST_WANDB_TAG else f"{tag[: LONGEST_WANDB_TAG - 3]}..."


def _mlflow(run: Path, recipe: str, tags: dict[str, Any]) -> Logger:
    from lightning.pytorch.loggers import MLFlowLogger

    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        # Not MLflow's file store: it makes a file of train/mmd, and then train/mmd/weight has no folder to be in.
        for package in ("sqlalchemy", "alembic"):
            _require(package, "mlflow")
    kept = _kept(run)
    logger = MLFlowLogger(
        experiment_name=recipe,
        run_name=run.name,
        tracking_uri=uri or f"sqlite:///{run.resolve() / 'mlflow.db'}",
        artifact_location=None if uri else (run.resolve() / "mlflow").as_uri(),
        tags=tags,
        run_id=kept.get("mlflow"),
    )
    if "mlflow" not in kept and logger.run_id is not None:  # None on other ranks than 0
        _keep(run, {**kept, "mlflow": str(logger.run_id)})  # the server names the run
    return logger


def _kept(run: Path) -> dict[str, str]:
    path = run / "logger.json"
    ids: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return ids


@rank_zero_only
def _keep(run: Path, ids: dict[str, str]) -> None:
    write_aside(run / "logger.json", json.dumps(ids, indent=2) + "\n")
