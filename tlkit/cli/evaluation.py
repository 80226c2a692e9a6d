"""``tlkit validate``, ``test`` and ``predict``: a checkpoint on the domains of its recipe."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from tlkit.backbones.pretrained import skip_pretrained
from tlkit.callbacks import ProgressBar
from tlkit.cli.faults import worded
from tlkit.cli.launch import launched
from tlkit.cli.rebuild import read_checkpoint
from tlkit.cli.request import Request
from tlkit.cli.results import print_table
from tlkit.cli.runfolder import write_aside
from tlkit.cli.shell import TransferCLI, quiet
from tlkit.cli.unseen import Unseen
from tlkit.data import DomainDataModule
from tlkit.data.loader import RowLoader
from tlkit.data.splits import Rows
from tlkit.errors import ConfigurationError, DataError
from tlkit.notes import say
from tlkit.types import DataSpec

__all__ = ["evaluate", "predict"]

_PREFIXES = {"validate": ("val", "oracle"), "test": ("test",)}


@worded()
def evaluate(request: Request) -> int:
    """Score a checkpoint on the validation or the test splits and print a table.

    Raises:
        CheckpointError: If the checkpoint cannot be read, or is of another model, other classes or other inputs.
        DataError: If it learned from rows that it would be scored on.
    """
    cli, unseen = _start(request)
    assert request.run is not None
    unseen.say_if_unchecked(f"tlkit {request.command}", f"a row to {request.command} on")
    trainer = cli.make_trainer([ProgressBar(), unseen], logger=False, enable_checkpointing=False)
    run = trainer.validate if request.command == "validate" else trainer.test
    run(cli.model, datamodule=cli.datamodule, ckpt_path=str(request.checkpoint), verbose=False, weights_only=True)
    if trainer.is_global_zero:
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        splits = "validation splits" if request.command == "validate" else "held-out test splits"
        title, note = f"{cli.config['recipe']}: {splits}", f"checkpoint {request.checkpoint}"
        if sealed := sorted({key.rpartition("/")[2] for key in metrics if key.startswith("oracle/")}):
            note = f"{', '.join(sealed)} of a target: computed with its sealed labels\n{note}"
        # Nothing is written; the run's own test has them all.
        summary = request.run / "summary.json"
        rest = str(summary) if summary.is_file() else ""
        print_table(cli.datamodule.spec(), metrics, _PREFIXES[request.command], title, note, rest)
    return 0


@worded()
def predict(request: Request) -> int:
    """Write the predictions on the test splits, and on all rows of a domain without labels, a CSV file a domain.

    Of a task that is evaluated against the sources' rows (the data base of a retrieval) they are written too, to
    ``<domain>.reference.csv``. Where two files would have one name, each is followed by the number of its domain.

    Raises:
        CheckpointError: If the checkpoint cannot be read, or is of another model, other classes or other inputs.
        ConfigurationError: If more than one process was started.
        DataError: If there are predictions already, a file is where their folder is to be, or test rows of a domain
            with labels were learned from.
    """
    launch = launched()
    if launch is not None and launch.per_node * launch.nodes > 1:
        raise ConfigurationError("tlkit predict runs in one process; start it without torchrun or srun")
    cli, unseen = _start(request)
    assert request.run is not None
    data, folder = cli.datamodule, request.run / "predictions"
    searched = data.sources if cli.model.network.task.needs_reference else []
    names = _file_names(data.eval_domains, searched)
    files = {domain: folder / f"{names[domain]}.csv" for domain in data.eval_domains}
    references = {domain: folder / f"{names[domain]}.reference.csv" for domain in searched}
    if not folder.is_dir() and (folder.exists() or folder.is_symlink()):
        raise DataError(f"{folder} is the folder of the predictions, and there is a file of that name; move it away")
    for file in (*files.values(), *references.values()):
        if file.exists():
            raise DataError(f"{file} exists and is not written over; move it away to predict again")
    unseen.say_if_unchecked("tlkit predict", "a test row of a domain with labels")
    callbacks = [ProgressBar(), unseen]
    trainer = cli.make_trainer(callbacks, logger=False, enable_checkpointing=False, devices=1, num_nodes=1)
    batches: Any = trainer.predict(cli.model, datamodule=data, ckpt_path=str(request.checkpoint), weights_only=True)
    by_domain = [batches] if len(files) == 1 else batches
    folder.mkdir(exist_ok=True)
    for (domain, file), found in zip(files.items(), by_domain, strict=True):
        _write_domain(file, _columns(found), data, domain, data.rows_to_predict)
    if references:

        def reference(domain: str) -> Rows:
            return data.splits[domain]["reference"]

        rows = _columns(trainer.predict(cli.model, datamodule=_Reference(data)))  # type: ignore[arg-type]
        for number, (domain, file) in enumerate(references.items()):
            own = rows["domain"] == number
            _write_domain(file, {key: values[own] for key, values in rows.items()}, data, domain, reference)
    return 0


class _Reference(L.LightningDataModule):
    """The sources' training and validation rows, as they are read to evaluate, in the place of the test rows."""

    def __init__(self, data: DomainDataModule) -> None:
        super().__init__()
        self.data = data

    def spec(self) -> DataSpec:
        """Return that of the data."""
        return self.data.spec()

    def predict_dataloader(self) -> RowLoader:
        """Return the loader of the reference: the role of its rows is that of the first domain, a source."""
        return self.data.reference_loader()


def _start(request: Request) -> tuple[TransferCLI, Unseen]:
    """Return the parts that the recipe names, and what holds their rows against those that the run learned from."""
    quiet()
    assert request.checkpoint is not None
    assert request.run is not None
    trained = read_checkpoint(request.checkpoint)["tlkit"]  # before anything is built: whether it can be read
    with skip_pretrained():
        cli = TransferCLI(request.recipe)
    cli.datamodule.trained = trained["data"] and DataSpec.from_checkpoint(trained["data"])
    return cli, Unseen(request.run, trained["recipe"], cli.resolved)


def _columns(batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.cat([batch[key] for batch in batches]).cpu() for key in batches[0]}


def _write_domain(
    file: Path, columns: dict[str, Tensor], data: DomainDataModule, domain: str, rows: Callable[[str], Rows]
) -> None:
    # A data module that divides its rows in its own way does not say which they are.
    names = data.row_names(domain) if domain in data.splits else None
    _write(file, columns, data.spec(), names and [names[row] for row in rows(domain)])
    print(file)


def _write(file: Path, columns: dict[str, Tensor], data: DataSpec, row_names: Sequence[str] | None = None) -> None:
    """Write one row a sample in the order of the data set.

    A tensor of several columns gets a column each; packed codes (uint8) are one, in hexadecimal.
    """
    order = columns["index"].argsort()
    table: dict[str, list[Any]] = {}
    for key, values in columns.items():
        if key == "domain":
            continue
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
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    write_aside(file, text.getvalue())  # half a file would be taken for all predictions, and not written over


def _file_names(domains: Sequence[str], searched: Sequence[str]) -> dict[str, str]:
    """Return what the files of each domain are called, without an ending; those ``searched`` have a second file."""
    names = {domain: re.sub(r"[^\w.&+-]", "_", domain) for domain in domains}
    files = [*names.values(), *(f"{names[domain]}.reference" for domain in searched)]
    # Lower case, as the file systems of macOS and Windows compare them.
    if len({file.lower() for file in files}) < len(files):
        names = {domain: f"{name}_{number}" for number, (domain, name) in enumerate(names.items())}
        told = ", ".join(f"{name} is domain {domain!r}" for domain, name in names.items())
        say(f"files of two domains would have one name, so each is followed by the domain's number: {told}")
    return names
