"""Kill `tlkit fit` with SIGKILL at random moments, resume it until it is done, and compare it with a run left alone.

    python scripts/stress_resume.py --times 50 --seed 0 --report stress.md

Every trial takes a recipe of the table below, on one or two ranks, with workers or without, trains once without
interruption and once with one to three kills of the whole process group, some of them while a checkpoint is being
written, and compares weights, optimizer, random generators, metrics.csv, the choice of the checkpoint and the test
metrics bit for bit.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

# Imported once: a trial's processes are forked from this one, since the imports take longer than a small training.
import tlkit.cli.training
from tlkit.cli.main import main as tlkit_command
from tlkit.data import ImageFolderDomains, write_shards

STEPS, BATCH = 36, 8
FRESH_EVERY = 12  # so often a trial starts the command as a process of its own
RATES = ("train/samples_per_second",)
LIMIT = 600  # seconds that one process may take


def series(**model: Any) -> dict[str, Any]:
    """Return a recipe over made recordings: 1-D network with dropout, windows turned at random."""
    return {
        "model": {
            "backbone": {"class_path": "CNN1d", "init_args": {"channels": [8, 12, 12], "dropout": 0.3}},
            "task": "Classification",
            "optimizer": {"class_path": "SGD", "init_args": {"lr": 0.01, "momentum": 0.9}},
            **model,
        },
        "data": {
            "class_path": "SeriesDomains",
            "init_args": {
                "root": "recordings",
                "columns": {"channels": ["x", "y", "z"], "triads": [["x", "y", "z"]]},
                "windows": {"length": 32, "stride": 16},
                "signals": {"rotate": True},
            },
        },
    }


def images(**model: Any) -> dict[str, Any]:
    """Return a recipe over made images: a network with batch normalisation, images cropped and coloured at random."""
    convnet = {"in_channels": 3, "image_size": 16, "channels": [4, 8], "batch_norm": True, "hidden": 16}
    return {
        "model": {
            "backbone": {"class_path": "ConvNet", "init_args": convnet},
            "task": "Classification",
            "optimizer": {"class_path": "AdamW", "init_args": {"lr": 0.01}},
            **model,
        },
        "data": {
            "class_path": "ImageFolderDomains",
            "init_args": {"root": "pictures", "image_size": 16, "augment": "strong"},
        },
    }


def shards(**model: Any) -> dict[str, Any]:
    """Return the recipe of :func:`images` over shards, a few of which are shuffled together."""
    data = {"class_path": "ImageShardDomains", "init_args": {"root": "shards", "image_size": 16, "window": 2}}
    return {**images(**model), "data": data}


def loss(name: str, **arguments: Any) -> dict[str, Any]:
    """Return a loss whose weight grows with training."""
    weight = {"class_path": "DannRamp", "init_args": {"high": 0.5}}
    return {"adaptation": [{"class_path": name, "init_args": {"weight": weight, **arguments}}]}


LORA = {"class_path": "LoRA", "init_args": {"rank": 2, "dropout": 0.1, "target_modules": r"layers\.\d+"}}
CASES: dict[str, dict[str, Any]] = {
    "MMD, by epochs": {**series(**loss("MMD")), "trainer": {"max_steps": -1, "max_epochs": 4}},
    "CORAL, not validated": {**series(**loss("CORAL")), "trainer": {"limit_val_batches": 0}},
    "DANN": series(**loss("DANN", hidden_size=16, dropout=0.3)),
    "CDAN, random_size": series(**loss("CDAN", hidden_size=16, random_size=32, dropout=0.3)),
    "CDAN+E, images": images(**loss("CDAN", hidden_size=16, entropy=True)),
    "L2SP": series(adaptation=[{"class_path": "L2SP", "init_args": {"weight": 0.1}}]),
    "DELTA": images(adaptation=[{"class_path": "DELTA", "init_args": {"weight": 0.1}}]),
    "MMD, images": images(**loss("MMD")),
    "MMD, shards": shards(**loss("MMD")),
    "CORAL": series(**loss("CORAL"), lr_schedule={"class_path": "Linear", "init_args": {"start": 1.0, "end": 0.1}}),
    "MCC": series(**loss("MCC")),
    "BNM": series(**loss("BNM")),
    "AdaBN": series(batch_norm="adabn"),
    "MMD, domain-specific batch norm": images(**loss("MMD"), batch_norm="domain_specific"),
    "DANN, gradual unfreezing": series(**loss("DANN", hidden_size=16), finetuning="GradualUnfreezing"),
    "MMD, LoRA": images(**loss("MMD"), finetuning=LORA),
    "accumulated gradients": {**series(), "trainer": {"accumulate_grad_batches": 2}},
}


def make_data(folder: Path) -> None:
    """Write recordings and images of two domains, the source two and a half times as large as the target."""
    generator = np.random.default_rng(0)
    for domain, recordings in (("phone", 20), ("watch", 8)):
        for label, pace in (("walk", 0.3), ("run", 0.7)):
            for number in range(recordings):
                target = folder / "recordings" / domain / f"{label}-{number}.npz"
                target.parent.mkdir(parents=True, exist_ok=True)
                time_axis = np.arange(96)
                wave = np.sin(pace * time_axis + (domain == "watch")) + generator.normal(0, 0.5, (3, 96))
                np.savez(target, x=wave[0], y=wave[1], z=wave[2], label=np.full(96, label))
    for domain, count in (("photo", 50), ("sketch", 20)):
        for label in ("cat", "dog"):
            for number in range(count):
                target = folder / "pictures" / domain / label / f"{number}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                shade = generator.integers(0, 128, (18, 18, 3)) + (60 if label == "dog" else 0)
                Image.fromarray(shade.astype(np.uint8)).save(target)
    pictures = ImageFolderDomains(str(folder / "pictures"), ["photo"], ["sketch"])
    write_shards(pictures, folder / "shards", megabytes=0.05)  # 6 shards and 3


def write_recipe(file: Path, case: dict[str, Any], seed: int, ranks: int, workers: int) -> None:
    """Write the recipe of a trial."""
    domains = {"sources": ["phone"], "targets": ["watch"]}
    if case["data"]["class_path"] in ("ImageFolderDomains", "ImageShardDomains"):
        domains = {"sources": ["photo"], "targets": ["sketch"]}
    data = case["data"]
    arguments = {**data["init_args"], **domains, "batch_size": BATCH // ranks, "num_workers": workers}
    trainer = {
        "accelerator": "cpu",
        "max_steps": STEPS,
        "val_check_interval": 7,
        "check_val_every_n_epoch": None,
        "log_every_n_steps": 2,
        "callbacks": [{"class_path": "ModelSelection", "init_args": {"every_n_steps": 3}}],
        **case.get("trainer", {}),
    }
    recipe = {
        "seed_everything": seed,
        "model": case["model"],
        "data": {**data, "init_args": arguments},
        "trainer": trainer,
        "recipe": "stress",
    }
    file.write_text(yaml.safe_dump(recipe))


class Group:
    """The processes of one run, in a process group of their own.

    Args:
        words: What comes after ``tlkit``.
        folder: Where they run; their output goes to ``log.txt`` there.
        ranks: How many.
        fresh: Whether they are started as a user starts them, not forked with the environment that torchrun gives.
    """

    def __init__(self, words: list[str], folder: Path, ranks: int, fresh: bool) -> None:
        self.log = folder / "log.txt"
        self.began = time.monotonic()
        if fresh:
            devices = [f"--trainer.devices={ranks}"] if ranks > 1 else []
            command = [sys.executable, "-m", "tlkit.cli", *words, *devices]
            root = str(Path(tlkit.cli.training.__file__).parents[2])
            with self.log.open("ab") as log:
                process = subprocess.Popen(
                    command, cwd=folder, stdout=log, stderr=log, start_new_session=True,
                    env={**os.environ, "PYTHONPATH": root},
                )  # fmt: skip
            self.pids, self.group = [process.pid], process.pid
            process.returncode = 0  # reaped by wait() below
            return
        port, self.pids, self.group = random.SystemRandom().randrange(20000, 60000), [], 0
        for rank in range(ranks):
            pid = os.fork()
            if pid == 0:
                self._become(words, folder, rank, ranks, port)
            self.pids.append(pid)
            self.group = self.group or pid
            os.setpgid(pid, self.group)

    def _become(self, words: list[str], folder: Path, rank: int, ranks: int, port: int) -> None:
        code = 70
        try:
            os.setpgid(0, self.group)
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.chdir(folder)
            if ranks > 1:
                os.environ |= {
                    "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "GROUP_RANK": "0",
                    "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                    "TORCHELASTIC_RUN_ID": "stress",
                }  # fmt: skip
                from lightning.pytorch.utilities import rank_zero_only

                vars(rank_zero_only)["rank"] = rank  # found out when Lightning was imported, before there were ranks
            code = tlkit_command(words)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def running(self) -> bool:
        """Return whether any process is left; the exit statuses of the others are forgotten."""
        for pid in list(self.pids):
            done, _ = os.waitpid(pid, os.WNOHANG)
            if done:
                self.pids.remove(pid)
        return bool(self.pids)

    def kill(self) -> bool:
        """End them without a warning; return whether they were still running."""
        alive = self.running()
        with suppress(ProcessLookupError):
            os.killpg(self.group, signal.SIGKILL)
        while self.running():
            time.sleep(0.01)
        return alive

    def wait_until(self, condition: Callable[[], bool], pause: float) -> None:
        """Wait until a condition holds or the run has ended."""
        while self.running() and not condition():
            if time.monotonic() - self.began > LIMIT:
                self.kill()
                raise SystemExit(f"a run took more than {LIMIT} s:\n{self.log.read_text()}")
            time.sleep(pause)

    def wait(self) -> float:
        """Wait until the run has ended, and return how long it took."""
        self.wait_until(lambda: False, 0.01)
        return time.monotonic() - self.began


def load(run: Path, name: str) -> dict[str, Any]:
    """Read a checkpoint."""
    found: dict[str, Any] = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return found


def differences(run: Path, reference: Path) -> list[str]:
    """Return in what two runs differ, except for how long they took."""
    if not (run / "summary.json").is_file():
        return ["the run has no summary.json"]
    found = []
    for name in ("best", "last"):
        ours, theirs = load(run, name), load(reference, name)
        for checkpoint in (ours, theirs):
            checkpoint["callbacks"].pop("Throughput")
            checkpoint.pop("metrics_row")
            checkpoint["tlkit"].pop("recipe")  # the same file, but for the folder
            # How often Lightning entered the last epoch: it does not count an epoch that it goes on with.
            for counts in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
                counts.pop("ready"), counts.pop("started")
        found += [f"{name}.ckpt: {where}" for where in unequal(ours, theirs)]
    rows = []
    for folder in (run, reference):
        with (folder / "metrics.csv").open(newline="") as file:
            rows.append([{k: v for k, v in row.items() if k not in RATES} for row in csv.DictReader(file)])
    if rows[0] != rows[1]:
        steps = [[row["step"] for row in each] for each in rows]
        found.append(f"metrics.csv: {'other rows' if steps[0] != steps[1] else 'other values'}")
    ours, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (run, reference))
    found += [f"summary.json: {key}" for key in ("selection", "metrics") if ours[key] != theirs[key]]
    if ours["train"]["steps"] != theirs["train"]["steps"]:
        found.append("summary.json: train.steps")
    if (run / "splits.json").read_bytes() != (reference / "splits.json").read_bytes():
        found.append("splits.json")
    return found + [f"left behind: {path.name}" for path in run.rglob("*.part")]


def unequal(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Return the places at which two nested structures differ in any bit."""
    if isinstance(ours, torch.Tensor):
        same = ours.dtype == theirs.dtype and ours.shape == theirs.shape
        same = same and ours.contiguous().numpy().tobytes() == theirs.contiguous().numpy().tobytes()
        return [] if same else [where]
    if isinstance(ours, dict):
        if ours.keys() != theirs.keys():
            return [f"{where} has other keys"]
        return [place for key in ours for place in unequal(ours[key], theirs[key], f"{where}.{key}".lstrip("."))]
    if isinstance(ours, list | tuple):
        if len(ours) != len(theirs):
            return [f"{where} has another length"]
        pairs = zip(ours, theirs, strict=True)
        return [place for n, pair in enumerate(pairs) for place in unequal(*pair, f"{where}.{n}")]
    return [] if ours == theirs else [where]


class Trial:
    """One recipe, trained without and with kills.

    Args:
        root: Folder with the data.
        number: Its number.
        case: Name of the recipe.
        draw: What is random is drawn from it.
    """

    def __init__(self, root: Path, number: int, case: str, draw: random.Random) -> None:
        self.case, self.draw = case, draw
        self.ranks, self.workers = 1 + number % 2, draw.choice((0, 2))
        self.seed = draw.randrange(1000)
        self.fresh = number % FRESH_EVERY == FRESH_EVERY - 1
        self.folder = root / f"trial-{number}"
        self.counts: Counter[str] = Counter()

    def run(self) -> list[str]:
        """Return in what the two trainings differ."""
        self.folder.mkdir()
        for name in ("recordings", "pictures", "shards"):
            (self.folder / name).symlink_to(self.folder.parent / name)
        write_recipe(self.folder / "recipe.yaml", CASES[self.case], self.seed, self.ranks, self.workers)
        seconds = self._start("whole").wait()
        reference, run = (self.folder / "runs" / "stress" / name for name in ("whole", "killed"))
        if not (reference / "summary.json").is_file():
            return [f"the uninterrupted run failed: {(self.folder / 'log.txt').read_text()[-2000:]}"]
        wanted, tried = self.draw.randint(1, 3), 0
        while self.counts["kills"] < wanted and tried < 10:
            if (run / "summary.json").is_file():  # it had ended before it could be killed
                shutil.rmtree(run)
            group, tried = self._start("killed"), tried + 1
            if broken := self._kill(group, run, seconds):
                return broken
        self._start("killed").wait()
        found = differences(run, reference)
        if found:
            shutil.copy(self.folder / "log.txt", self.folder.with_suffix(".log"))
        return found

    def _start(self, name: str) -> Group:
        """Begin a run, or go on with it where there is a checkpoint to go on from."""
        run = self.folder / "runs" / "stress" / name
        words = ["fit", "--config", "recipe.yaml", f"--run_id={name}"]
        if (run / "summary.json").is_file():
            words = ["list", "losses"]  # it ended just before it was killed: nothing is left to do
        elif (run / "checkpoints" / "last.ckpt").is_file():
            words = ["fit", "--resume", str(run.relative_to(self.folder))]
            self.counts["resumed"] += 1
            self.counts["in mid-epoch"] += not load(run, "last")["loops"]["fit_loop"]["epoch_loop.batch_progress"][
                "is_last_batch"
            ]
        elif run.exists():
            shutil.rmtree(run)
            self.counts["begun anew"] += 1
        return Group(words, self.folder, self.ranks, self.fresh)

    def _kill(self, group: Group, run: Path, seconds: float) -> list[str]:
        """Kill at a random moment, or when a checkpoint is being written after it; say what is broken then."""
        # What starts anew imports for most of the time.
        moment = group.began + self.draw.uniform(0.6 if self.fresh else 0.15, 0.9) * seconds
        writing = self.draw.random() < 0.4
        part = run / "checkpoints" / "last.ckpt.part"
        group.wait_until(lambda: time.monotonic() >= moment, 0.005)
        if writing:
            group.wait_until(part.exists, 0.001)
        self.counts["kills"] += group.kill()
        self.counts["while writing"] += part.exists()
        broken = []
        for name in ("best", "last"):
            if (run / "checkpoints" / f"{name}.ckpt").is_file():
                try:
                    load(run, name)
                except Exception as error:
                    broken.append(f"{name}.ckpt is broken after a kill: {error}")
        return broken


def report(rows: dict[tuple[str, int], Counter[str]]) -> str:
    """Return the table of all trials."""
    columns = ("trials", "kills", "while writing", "resumed", "in mid-epoch", "begun anew", "exact")
    lines = [f"| recipe | ranks | {' | '.join(columns)} |", f"|---|---|{'---|' * len(columns)}"]
    total: Counter[str] = Counter()
    for (case, ranks), counts in sorted(rows.items()):
        lines.append(f"| {case} | {ranks} | {' | '.join(str(counts[column]) for column in columns)} |")
        total += counts
    lines.append(f"| all | | {' | '.join(str(total[column]) for column in columns)} |")
    return "\n".join(lines)


def main() -> int:
    """Run the trials; the exit status is 1 if any of them was not exact."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=50, help="number of trials")
    parser.add_argument("--seed", type=int, default=0, help="the trials of a seed are the same, the moments are not")
    parser.add_argument("--case", choices=CASES, help="only this recipe")
    parser.add_argument("--report", type=Path, help="file for the table")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
    cases = [options.case] if options.case else list(CASES)
    rows: dict[tuple[str, int], Counter[str]] = {}
    failed = 0
    root = Path(tempfile.mkdtemp(prefix="stress-"))
    make_data(root)
    for number in range(options.times):
        # Each recipe comes with one rank and with two.
        case = cases[(number // 2) % len(cases)]
        trial = Trial(root, number, case, random.Random(f"{options.seed} {number}"))
        began = time.monotonic()
        found = trial.run()
        counts = rows.setdefault((case, trial.ranks), Counter())
        counts += trial.counts + Counter({"trials": 1, "exact": int(not found)})
        failed += bool(found)
        how = f"{trial.ranks} ranks, {trial.workers} workers, seed {trial.seed}, {dict(trial.counts)}"
        print(
            f"{number + 1}/{options.times} {case}, {how}, {time.monotonic() - began:.0f} s: {found[:8] or 'exact'}",
            flush=True,
        )
        shutil.rmtree(trial.folder)
        if options.report:
            options.report.write_text(report(rows) + "\n")
    print(report(rows))
    if failed:
        print(f"{failed} of {options.times} trials were not exact; what their runs said: {root}", file=sys.stderr)
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
