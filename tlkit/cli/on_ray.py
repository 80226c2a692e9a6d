"""``tlkit ray fit``: the same command in several processes of a Ray cluster, by Ray Train."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import secrets
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlkit.cli.request import checkpoint_request, fit_request
from tlkit.errors import ConfigurationError, TlkitError, unknown
from tlkit.notes import say

__all__ = ["COMMANDS", "run_on_ray"]

COMMANDS = ("fit", "validate", "test")

_STORE_BYTES = 128 * 2**20  # of a Ray started for one command: nothing but that command goes through it


@dataclass
class _Resources:
    workers: int = 1
    gpus_per_worker: int | None = None
    cpus_per_worker: int = 1


def run_on_ray(words: list[str]) -> int:
    """Run the words after ``tlkit ray`` in each worker, and print what the first of them printed.

    A Ray cluster that runs here, or that ``RAY_ADDRESS`` names, is used; otherwise one is started for this command.
    The working directory must be there on every node, and the run folder on a file system that all of them share.

    Returns:
        The exit status: 0, 1 if a worker failed, 130 after a Ctrl-C.

    Raises:
        ConfigurationError: If Ray is not installed, or an option is at fault.
        TlkitError: What a worker raised.
    """
    if not words or words[0] not in COMMANDS:
        raise ConfigurationError(unknown("command of tlkit ray", words[0] if words else "", COMMANDS))
    command, (resources, rest) = words[0], _split(words[1:])
    request = fit_request(rest) if command == "fit" else checkpoint_request(command, rest)
    if request.show is not None:
        raise ConfigurationError("--print_config and --help-all need no Ray: leave the word 'ray' out")
    if importlib.util.find_spec("ray") is None:
        raise ConfigurationError('tlkit ray needs the package ray: pip install "tlkit[ray]"')
    runs = request.run or Path(request.recipe.get("runs") or "runs")
    return _run([command, *rest], resources, runs.resolve())


def _split(words: list[str]) -> tuple[_Resources, list[str]]:
    """Take the options of ``tlkit ray`` out of a command line."""
    resources, rest = _Resources(), []
    words = list(words)
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        key = name.replace("-", "_")
        if not word.startswith("--") or key not in vars(resources):
            rest.append(word)
            continue
        value = value if equals else (words.pop(0) if words else "")
        least, most = (0, 1) if key == "gpus_per_worker" else (1, 100_000)
        if not value.isdigit() or not least <= int(value) <= most:
            allowed = (
                "0 or 1: a worker trains on one device" if key == "gpus_per_worker" else "a whole number from 1 up"
            )
            raise ConfigurationError(f"--{name} must be {allowed}; got {value!r}")
        setattr(resources, key, int(value))
    return resources, rest


def _run(words: list[str], resources: _Resources, runs: Path) -> int:
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # print() goes to stdout, which the first worker keeps
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a process that nobody here would listen to
    import ray
    from ray.train import LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    _connect(ray, resources)
    there = next(folder for folder in (runs, *runs.parents) if folder.is_dir())
    # Ray Train wants a place that all nodes see, and keeps nothing in it: checkpoints are the run's own.
    storage = there / f".ray-{secrets.token_hex(4)}"
    gpus = resources.gpus_per_worker
    job = TorchTrainer(
        _work,
        train_loop_config={"words": words, "folder": os.getcwd()},
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=bool(gpus),
            resources_per_worker={"CPU": resources.cpus_per_worker, **({"GPU": gpus} if gpus else {})},
        ),
        run_config=RunConfig(name="tlkit", storage_path=str(storage), logging_config=LoggingConfig("CRITICAL")),
    )
    try:
        printed = job.fit().return_value
    except TrainingFailedError as error:
        return _failed(error)
    finally:
        shutil.rmtree(storage, ignore_errors=True)
        ray.shutdown()
    if printed is None:  # aborted by a Ctrl-C
        print("tlkit: stopped; go on from the last checkpoint with: tlkit ray fit --resume RUN", file=sys.stderr)
        return 130
    print(printed, end="")
    return 0


def _connect(ray: Any, resources: _Resources) -> None:
    """Join the cluster that there is, or start one, and see that it is large enough."""
    here = os.environ.get("RAY_ADDRESS") == "local"
    errors = ray.LoggingConfig(log_level="ERROR")  # what Ray's own actors say; the workers' progress comes through
    settings = {"log_to_driver": True, "logging_level": logging.ERROR, "logging_config": errors}
    if not here:
        try:
            ray.init(address="auto", **settings)
        except ConnectionError as error:
            if os.environ.get("RAY_ADDRESS"):
                raise ConfigurationError(
                    f"no Ray cluster answers at RAY_ADDRESS={os.environ['RAY_ADDRESS']}: {error}. Start one there, or "
                    "set RAY_AUTH_MODE=token if it asks for a token"
                ) from error
            here = True
    if here:
        # As many CPUs as asked for: torchrun does not count them either.
        cpus = max(resources.workers * resources.cpus_per_worker, os.cpu_count() or 1)
        ray.init(address="local", num_cpus=cpus, object_store_memory=_STORE_BYTES, include_dashboard=False, **settings)
    there = ray.cluster_resources()
    if resources.gpus_per_worker is None:
        resources.gpus_per_worker = int(there.get("GPU", 0) >= 1)
    for kind, each in (("CPU", resources.cpus_per_worker), ("GPU", resources.gpus_per_worker)):
        needed, found = resources.workers * each, there.get(kind, 0)
        if needed <= found:
            continue
        lacking = f"{resources.workers} workers need {needed} {kind}s, the Ray cluster has {found:g}"
        if here:
            ray.shutdown()
            raise ConfigurationError(f"--workers={resources.workers}: {lacking}; ask for fewer")
        say(f"{lacking}: waiting for more nodes")


def _work(task: dict[str, Any]) -> str:
    """Run the command in a worker, for which Ray has set torchrun's variables, and return what it printed."""
    from tlkit.cli.main import dispatch

    try:
        os.chdir(task["folder"])
    except OSError as error:
        raise ConfigurationError(
            f"the folder {task['folder']} that tlkit ray was started in is not there on every node ({error.strerror}): "
            "start it in a folder that all nodes share, or give Ray a working_dir"
        ) from error
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        dispatch(task["words"])
    return out.getvalue()


def _failed(error: Any) -> int:
    """Raise what the user can mend; say of anything else which worker it was."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    for failure in failures.values():
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, TlkitError):
                raise cause
            cause = cause.__cause__
    for rank, failure in sorted(failures.items()):
        print(f"tlkit: error: worker {rank} failed: {failure}", file=sys.stderr)
    if not failures:
        print(f"tlkit: error: {error}", file=sys.stderr)
    print("tlkit: go on from the last checkpoint, if there is one, with: tlkit ray fit --resume RUN", file=sys.stderr)
    return 1
