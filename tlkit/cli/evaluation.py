"""``tlkit validate``, ``test`` and ``predict``: a checkpoint on the domains of its recipe."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tlkit.backbones.pretrained import skip_pretrained
from tlkit.callbacks import ProgressBar
from tlkit.cli.rebuild import read_checkpoint
from tlkit.cli.request import Request
from tlkit.cli.results import print_table
from tlkit.cli.shell import TransferCLI, quiet
from tlkit.errors import ConfigurationError, DataError
from tlkit.types import DataSpec

__all__ = ["evaluate", "predict"]

_PREFIXES = {"validate": ("val", "oracle"), "test": ("test",)}


def evaluate(request: Request) -> int:
    """Score a checkpoint on the validation or the test splits and print a table.

    Raises:
        CheckpointError: If the checkpoint cannot be read, or is of another model, other classes or other inputs.
    """
    cli = _start(request)
    trainer = cli.make_trainer([ProgressBar()], logger=False, enable_checkpointing=False)
    run = trainer.validate if request.command == "validate" else trainer.test
    run(cli.model, datamodule=cli.datamodule, ckpt_path=str(request.checkpoint), verbose=False, weights_only=True)
    if trainer.is_global_zero:
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        splits = "validation splits" if request.command == "validate" else "held-out test splits"
        title, note = f"{cli.config['recipe']}: {splits}", f"checkpoint {request.checkpoint}"
        if sealed := sorted({key.rpartition("/")[2] for key in metrics if key.startswith("oracle/")}):
            note = f"{', '.join(sealed)} of a target: computed with its sealed labels\n{note}"
        # Nothing is written; the run's own test has them all.
        summary = request.run and request.run / "summary.json"
        rest = str(summary) if summary and summary.is_file() else ""
        print_table(cli.datamodule.spec(), metrics, _PREFIXES[request.command], title, note, rest)
    return 0


def predict(request: Request) -> int:
    """Write the predictions on the test splits, a CSV file a domain.

    Raises:
        CheckpointError: If the checkpoint cannot be read, or is of another model, other classes or other inputs.
        ConfigurationError: If more than one process was started.
        DataError: If there are predictions already.
    """
    cli = _start(request)
    assert request.run is not None
    data = cli.datamodule
    files = [request.run / "predictions" / f"{_file_name(domain)}.csv" for domain in data.eval_domains]
    for file in files:
        if file.exists():
            raise DataError(f"{file} exists and is not written over; move it away to predict again")
    trainer = cli.make_trainer([ProgressBar()], logger=False, enable_checkpointing=False, devices=1, num_nodes=1)
    if trainer.world_size > 1:
        raise ConfigurationError("tlkit predict runs in one process; start it without torchrun or srun")
    batches: Any = trainer.predict(cli.model, datamodule=data, ckpt_path=str(request.checkpoint), weights_only=True)
    by_domain = [batches] if len(files) == 1 else batches
    files[0].parent.mkdir(exist_ok=True)
    for domain, file, found in zip(data.eval_domains, files, by_domain, strict=True):
        names = data.row_names(domain)
        _write(file, found, data.spec(), names and [names[row] for row in data.splits[domain]["test"]])
        print(file)
    return 0


def _start(request: Request) -> TransferCLI:
    quiet()
    assert request.checkpoint is not None
    read_checkpoint(request.checkpoint)  # before anything is built: whether it can be read
    with skip_pretrained():
        return TransferCLI(request.recipe)


def _write(
    file: Path, batches: list[dict[str, Tensor]], data: DataSpec, row_names: Sequence[str] | None = None
) -> None:
    """Write one row a sample in the order of the data set.

    A tensor of several columns gets a column each; packed codes (uint8) are one, in hexadecimal.
    """
    columns = {key: torch.cat([batch[key] for batch in batches]).cpu() for key in batches[0] if key != "domain"}
    order = columns["index"].argsort()
    table: dict[str, list[Any]] = {}
    for key, values in columns.items():
        values = values[order]
        if values.dim() == 1:
            table[key] = values.tolist()
            if key == "index" and row_names is not None:
                table["name"] = [row_names[index] for index in table[key]]
            if key == "prediction" and data.classes:
                table["class"] = [data.classes[label] for label in table[key]]
            continue
        if values.dtype == torch.uint8:
            table[key] = [bytes(row).hex() for row in values.tolist()]
            continue
        names = data.classes if values.shape[1] == data.num_classes else range(values.shape[1])
        for name, column in zip(names, values.T, strict=True):
            table[f"{key}/{name}"] = column.tolist()
    with file.open("x", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))


def _file_name(domain: str) -> str:
    return re.sub(r"[^\w.&+-]", "_", domain)
