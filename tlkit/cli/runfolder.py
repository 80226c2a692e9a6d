"""The folder that a run leaves: its name, and what is written into it once."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import product
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from tlkit.errors import ConfigurationError, DataError, brief

if TYPE_CHECKING:
    from tlkit.data import DomainDataModule
    from tlkit.data.splits import Rows
    from tlkit.types import Split

__all__ = [
    "check_names",
    "check_splits",
    "create_run",
    "environment",
    "learned_rows",
    "rows_before",
    "run_of",
    "write_aside",
    "write_config",
    "write_splits",
    "write_summary",
]

# What of a run's splits.json it has learned from.
_LEARNED = ("train", "labelled", "val", "before")
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "timm", "transformers")


def create_run(root: str | Path, recipe: str, seed: int, run_id: str | None = None) -> Path:
    """Make a new folder ``root/recipe/run_id``; nothing that exists is ever used again.

    Args:
        root: Folder of all runs.
        recipe: Name of the recipe, ``digits/mnist_to_optdigits_mmd``.
        seed: Seed of the run, a part of its id.
        run_id: Name of the run's folder; by default the UTC time and the seed, and a number if that is taken.

    Returns:
        The folder, empty.

    Raises:
        ConfigurationError: If the named run exists, if a name is not a folder's, or if ``root`` cannot be written to.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     run = create_run(root, "digits/mnist_to_optdigits_mmd", seed=0, run_id="first")
        ...     run.relative_to(root).as_posix()
        'digits/mnist_to_optdigits_mmd/first'
    """
    check_names(recipe, run_id)
    parent = Path(root, *PurePosixPath(recipe).parts)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        if run_id is not None:
            run = parent / run_id
            run.mkdir()
            return run
        return _first_free(parent, f"{datetime.now(UTC):%Y%m%d-%H%M%S}-seed{seed}")
    except FileExistsError as error:
        if run_id is None or not (parent / run_id).exists():
            raise ConfigurationError(f"the folder of runs {str(parent)!r} is a file: choose another") from error
        run = parent / run_id
        further = (run / "checkpoints" / "last.ckpt").is_file()
        raise ConfigurationError(
            f"the run {str(run)!r} exists and is not written over: choose another run id, "
            + (f"or go on with it by `tlkit fit --resume {run}`" if further else "or move its folder away")
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"no run can be kept under {str(root)!r} ({error.strerror}): choose a folder that can be written to"
        ) from error


def run_of(checkpoint: Path) -> Path:
    """Return the folder of the run that a checkpoint is of.

    Example:
        >>> run_of(Path("runs/r/checkpoints/best.ckpt")).name, run_of(Path("runs/r/mine.ckpt")).name
        ('r', 'r')
    """
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def check_names(recipe: str, run_id: str | None) -> None:
    """Refuse a run whose folder would not be one below its recipe's, which lies below that of all runs.

    Raises:
        ConfigurationError: If a name is not a folder's.
    """
    parts = PurePosixPath(recipe).parts
    if not parts or any(part in ("..", "/") for part in parts):
        raise ConfigurationError(f"a run is kept under its recipe's name, a relative path without '..', got {recipe!r}")
    if run_id is not None and (run_id in ("", ".", "..") or "/" in run_id or os.sep in run_id):
        raise ConfigurationError(f"the run id must be the name of one folder, got {run_id!r}")


def _first_free(parent: Path, stem: str) -> Path:
    number = 1
    while True:
        run = parent / (stem if number == 1 else f"{stem}-{number}")
        try:
            run.mkdir()  # makes it or fails, so that two runs of the same second never share one
        except FileExistsError:
            number += 1
        else:
            return run


def write_config(run: Path, text: str) -> Path:
    """Write ``config.yaml``, everything needed to run it again, and return its path."""
    return write_aside(run / "config.yaml", text)


def write_splits(run: Path, data: DomainDataModule, before: Mapping[str, Sequence[Any]] | None = None) -> Path:
    """Write ``splits.json``, the rows of every split of every domain, and return its path.

    A row is a number, or the name that the data module gives it. A domain in ``also_test`` has test rows alone.
    ``labelled`` are a target's rows whose labels were used, ``before`` those of each domain that the model had learned
    from when training started. Rows that the recipe divides the same way again need no file; it is there to be compared
    and cited.
    """
    return write_aside(run / "splits.json", _splits_text(data, before or {}))


def _splits_text(data: DomainDataModule, before: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """Yield the text of ``splits.json`` a piece at a time: all the names at once take more memory than the rows."""
    yield '{"hold_out":' + json.dumps(asdict(data.hold_out), separators=(",", ":"))
    for domain in dict.fromkeys([*data.eval_domains, *before]):
        yield f",{json.dumps(domain)}:{{"
        mark = ""
        if domain in data.eval_domains:
            names = data.row_names(domain)
            for split, rows in _rows(data, domain).items():
                yield f"{mark}{json.dumps(split)}:["
                for first in range(0, len(rows), 4096):
                    piece = _named(names, rows[first : first + 4096])
                    yield ("," if first else "") + json.dumps(piece, separators=(",", ":"))[1:-1]
                yield "]"
                mark = ","
        if domain in before:
            yield f'{mark}"before":' + json.dumps(list(before[domain]), separators=(",", ":"))
        yield "}"
    yield "}\n"


def learned_rows(run: Path) -> dict[str, list[Any]]:
    """Return the rows of each domain that a run learned from, or started from; none if it has no ``splits.json``.

    Raises:
        DataError: If ``splits.json`` is damaged.
    """
    learned: dict[str, list[Any]] = {}
    for domain, splits in _read_splits(run / "splits.json").items():
        if rows := list(dict.fromkeys(row for split in _LEARNED for row in splits.get(split, ()))):
            learned[domain] = rows
    return learned


def rows_before(run: Path) -> dict[str, list[Any]]:
    """Return the rows of each domain that the model of a run had learned from when its training started.

    Raises:
        DataError: If ``splits.json`` is damaged.
    """
    splits = _read_splits(run / "splits.json")
    return {domain: rows["before"] for domain, rows in splits.items() if "before" in rows}


def _rows(data: DomainDataModule, domain: str) -> dict[str, Rows]:
    splits = ("test",) if domain in data.also_test else ("train", "val", "test")  # nothing is learned from the former
    found: dict[str, Rows] = {split: rows for split, rows in data.splits.get(domain, {}).items() if split in splits}
    return found | ({"labelled": data.labelled[domain]} if domain in data.labelled else {})


def _named(names: Sequence[str] | None, rows: Rows) -> list[Any]:
    return rows.tolist() if names is None else [names[row] for row in rows]


def check_splits(run: Path, data: DomainDataModule, *splits: Split) -> None:
    """Refuse to score a model on rows that its run learned from, and did not score it on itself.

    That is what another ``hold_out`` than the run's, or other columns to group rows by, would come to. A domain without
    labels is not scored.

    Args:
        run: The run folder; without a ``splits.json`` there is nothing to compare with.
        data: The data to score it on, read.
        *splits: ``"val"`` or ``"test"``, or both.

    Raises:
        DataError: With the domain, and how many of its rows they are; or if ``splits.json`` is damaged.
    """
    file = run / "splits.json"
    content = _read_splits(file)
    for split, domain in product(splits, filter(data.has_labels, data.eval_domains)):
        learned = _LEARNED if split == "test" else tuple(each for each in _LEARNED if each != "val")
        use = "test" if split == "test" else "validate"
        then, rows = content.get(domain, {}), _rows(data, domain).get(split)
        now = [] if rows is None else _named(data.row_names(domain), rows)
        known = {row for each in learned for row in then.get(each, ())} - set(then.get(split, ()))
        if seen := [row for row in now if row in known]:
            raise DataError(
                f"{len(seen)} of the {len(now)} rows of domain {domain!r} to {use} on, {str(seen[0])!r} the "
                f"first, were learned from in the run {run} (see its {file.name}): divide the rows as it did, by "
                f"{run / 'config.yaml'}, or name another domain"
            )


def _read_splits(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not all(isinstance(each, dict) for each in content.values()):
            raise ValueError("it does not hold the splits of domains")
    except ValueError as error:
        raise DataError(
            f"{file} is damaged, so whether the run learned from these rows cannot be seen: {brief(error)}. Take it "
            "from where the run was made, or move it away to go on without that check"
        ) from error
    return content


def write_summary(run: Path, summary: Mapping[str, Any]) -> Path:
    """Write ``summary.json`` and return its path. JSON has no NaN or infinity: such a number becomes ``null``."""
    return write_aside(run / "summary.json", json.dumps(_plain(summary), indent=2, allow_nan=False) + "\n")


def write_aside(path: Path, text: str | Iterable[str]) -> Path:
    """Write a file, whole or in pieces, beside its place, sync and rename it: a reader never sees half of it."""
    aside = path.with_name(f"{path.name}.part")
    with aside.open("w", encoding="utf-8", newline="") as file:  # as it is, with the line ends that it has
        file.writelines([text] if isinstance(text, str) else text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    return path


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if hasattr(value, "item"):  # a number as a tensor or an array
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def environment() -> dict[str, Any]:
    """Return what a run ran on: Python, platform, processors, package versions, git commit and world size.

    ``git`` is the commit of the working directory's repository, with ``+changes`` if tracked files differ from it, and
    ``None`` outside of one.
    """
    import torch
    import torch.distributed as dist

    distributed = dist.is_available() and dist.is_initialized()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "packages": _versions(),
        "git": _commit(),
        "world_size": dist.get_world_size() if distributed else int(os.environ.get("WORLD_SIZE", "1")),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _versions() -> dict[str, str]:
    from tlkit import __version__

    versions = {"tlkit": __version__}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _commit() -> str | None:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or one without a commit
        return None
