"""Measure the recipes of every application over several seeds and write docs/results.md.

    python scripts/measure_applications.py                    all of them: hours on two cores
    python scripts/measure_applications.py vision/pacs wifi   those whose name contains one of the words
    python scripts/measure_applications.py --report           only write docs/results.md again

Every run is one `tlkit fit` in a process of its own; the baselines are scripts/baselines.py on the same splits. What is
measured goes into docs/results.json at once, so an interrupted measurement goes on where it was; a recipe that has
changed since is measured again. The line "# Result:" of each recipe's header is written too. "Gap closed" is
(method - source only) / (oracle - source only) of the means.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes"
LOWER, UPPER = "source_only", "oracle"
SEEDED = ("itq", "extra_trees")  # the other baselines give the same with every seed


@dataclass(frozen=True)
class Task:
    """One row of the results: the recipes `group_<method>` and the metric they are compared by.

    Attributes:
        group: The recipes' common name.
        metric: Key in the summary, `test/<domain>/<metric>`.
        scale: Factor on the metric in the table: 100 for shares, 1 for metres.
        lower_is_better: Whether the metric is an error.
        more: Further metrics to show for the mean run, without the common `test/<domain>/`; with it if the domain is
            another one.
        baselines: Functions of scripts/baselines.py, run on the data of `group_source_only`.
        note: What must be known to compare the rows.
    """

    group: str
    metric: str
    scale: float = 100.0
    lower_is_better: bool = False
    more: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()
    note: str = ""

    def methods(self) -> list[str]:
        """Return the methods that there are recipes for, the bounds first and last."""
        names = [file.stem.removeprefix(f"{Path(self.group).name}_") for file in recipe_files(self.group)]
        others = sorted(name for name in names if name not in (LOWER, UPPER))
        return [name for name in (LOWER, *others, UPPER) if name in names]


def recipe_files(group: str) -> list[Path]:
    return sorted((RECIPES / group).parent.glob(f"{Path(group).name}_*.yaml"))


_FIFTH = (
    "The oracle trains on four fifths of the target's reviews and is tested on the last fifth; the others are tested "
    "on all of them."
)
TASKS = [
    Task("digits/mnist_to_optdigits", "test/optdigits/accuracy"),
    Task("vision/pacs_photo_to_art_painting", "test/art_painting/accuracy", baselines=("linear_probe",)),
    Task("vision/pacs_photo_to_cartoon", "test/cartoon/accuracy", baselines=("linear_probe",)),
    Task("vision/pacs_art_painting_to_cartoon", "test/cartoon/accuracy", baselines=("linear_probe",)),
    Task("retrieval/pacs_photo_to_art_painting", "test/art_painting/map", baselines=("itq",)),
    Task("retrieval/pacs_photo_to_cartoon", "test/cartoon/map", baselines=("itq",)),
    Task("retrieval/pacs_art_painting_to_cartoon", "test/cartoon/map", baselines=("itq",)),
    Task("text/amazon_words_electronics_to_dvd", "test/dvd/accuracy", baselines=("tfidf",), note=_FIFTH),
    Task("text/amazon_words_books_to_dvd", "test/dvd/accuracy", baselines=("tfidf",), note=_FIFTH),
    Task("text/amazon_words_books_to_kitchen", "test/kitchen/accuracy", baselines=("tfidf",), note=_FIFTH),
    Task("text/amazon_electronics_to_dvd", "test/dvd/accuracy", note=_FIFTH),
    Task("text/amazon_books_to_dvd", "test/dvd/accuracy", note=_FIFTH),
    Task("text/amazon_books_to_kitchen", "test/kitchen/accuracy", note=_FIFTH),
    Task("text/amazon_three_domains_to_dvd", "test/dvd/accuracy", note=_FIFTH),
    Task("sensors/seglearn_side0_to_side1", "test/side1/accuracy", more=("macro_f1",), baselines=("extra_trees",)),
    Task(
        "sensors/seglearn_s01_s07_to_s08_s10", "test/s08-s10/accuracy", more=("macro_f1",), baselines=("extra_trees",)
    ),
    Task(
        "sensors/sp_sw_har_s01_s07_to_s08_s14",
        "test/s08-s14/phone/macro_f1",
        more=("accuracy",),
        baselines=("extra_trees",),
    ),
    Task("sensors/sp_sw_har_phone_to_watch", "test/watch/macro_f1", more=("accuracy",), baselines=("extra_trees",)),
    *(
        Task(
            f"wifi/uji_library_month01_to_month{month}",
            f"test/month-{month}/error_mean",
            scale=1,
            lower_is_better=True,
            more=("error_median", "error_p75", "error_p95"),
            baselines=("knn_positive", "knn_powed"),
        )
        for month in ("11", "15")
    ),
    Task(
        "wifi/uji_library_month01_to_month02_month15",
        "test/month-02/error_mean",
        scale=1,
        lower_is_better=True,
        more=tuple(f"test/month-{month:02}/error_mean" for month in range(3, 16)),
        baselines=("knn_positive", "knn_powed"),
    ),
    Task(
        "wifi/ujiindoorloc_training_to_validation",
        "test/validation/error_mean",
        note="The oracle trains on half of the target's walks and is tested on the rest; the others are tested on all.",
        scale=1,
        lower_is_better=True,
        more=("error_median", "error_p75", "error_p95"),
        baselines=("knn_positive", "knn_powed"),
    ),
    Task(
        "wifi/ujiindoorloc_floor_training_to_validation",
        "test/validation/accuracy",
        note="The oracle trains on half of the target's walks and is tested on the rest; the others are tested on all.",
        more=("macro_f1", "mean_class_accuracy"),
        baselines=("knn_positive", "knn_powed"),
    ),
    *(
        Task(
            f"medical/chest_xray_{percent}_percent",
            "test/chest_xray/auroc",
            more=("auroc_low", "auroc_high", "sensitivity", "specificity", "accuracy"),
            baselines=("linear_probe",) if percent == "100" else (),
        )
        for percent in ("1", "10", "100")
    ),
    Task("medical/chest_xray_bacteria_to_virus", "test/virus/auroc", more=("sensitivity", "specificity")),
]


def fingerprint(recipe: str) -> str:
    """Return a short hash of what a recipe says; its comments do not count."""
    content = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8"))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


class Results:
    """What has been measured, kept in a JSON file, which several measurements may write at once."""

    def __init__(self, file: Path) -> None:
        self.file, self.lock = file, threading.Lock()
        self.content: dict[str, dict[str, Any]] = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        return json.loads(self.file.read_text()) if self.file.is_file() else {}

    def get(self, job: Job) -> dict[str, Any] | None:
        found = self.content.get(f"{job.name}, seed {job.seed}")
        return found if found is not None and found["version"] == fingerprint(job.recipe) else None

    def all(self, jobs: list[Job]) -> list[dict[str, Any]]:
        """Return the entries of those jobs that have been measured."""
        return [entry for job in jobs if (entry := self.get(job)) is not None]

    def put(self, job: Job, entry: dict[str, Any]) -> None:
        with self.lock, self.file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.content = self._read()
            self.content[f"{job.name}, seed {job.seed}"] = entry
            aside = self.file.with_suffix(".part")
            aside.write_text(json.dumps(dict(sorted(self.content.items())), indent=1) + "\n")
            os.replace(aside, self.file)


def measure(recipe: str, seed: int, runs: Path, threads: int) -> dict[str, Any]:
    """Train one recipe with one seed and return its entry."""
    run_id = f"{fingerprint(recipe)}-seed{seed}"
    folder = runs / recipe / run_id
    summary = folder / "summary.json"
    if not summary.is_file():
        words = ["fit", f"--config={recipe}", f"--seed_everything={seed}", f"--run_id={run_id}", f"--runs={runs}"]
        if (folder / "checkpoints" / "last.ckpt").is_file():
            words = ["fit", f"--resume={folder}"]
        elif folder.is_dir():  # stopped before its first checkpoint: there is nothing to go on from
            shutil.rmtree(folder)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
        command = [sys.executable, "-m", "tlkit.cli", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(f"{recipe}, seed {seed}, failed:\n{done.stderr[-3000:]}")
    content = json.loads(summary.read_text())
    environment = content["environment"]
    return {
        "version": fingerprint(recipe),
        "metrics": content["metrics"],
        "selection": content["selection"],
        "seconds": content["train"]["seconds"],
        "steps": content["train"]["steps"],
        "where": f"{threads} thread{'s' * (threads > 1)} of {environment['cpu']}, "
        f"torch {environment['packages']['torch']}",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }


def baseline(name: str, recipe: str, seed: int, threads: int) -> dict[str, Any]:
    """Run one baseline on the data of a recipe and return its entry."""
    command = [sys.executable, str(ROOT / "scripts" / "baselines.py"), name, recipe, f"--seed={seed}"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"baseline {name} of {recipe} failed:\n{done.stderr[-3000:]}")
    entry: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**entry, "version": fingerprint(recipe), "date": f"{datetime.now(UTC):%Y-%m-%d}"}


@dataclass(frozen=True)
class Job:
    """One thing to measure: a recipe, or a baseline on a recipe's data, with one seed."""

    recipe: str
    seed: int
    baseline: str | None = None

    @property
    def name(self) -> str:
        return self.recipe if self.baseline is None else f"{self.recipe} | {self.baseline}"

    def run(self, runs: Path, threads: int) -> dict[str, Any]:
        if self.baseline is None:
            return measure(self.recipe, self.seed, runs, threads)
        return baseline(self.baseline, self.recipe, self.seed, threads)


def jobs_of(task: Task, seeds: list[int]) -> dict[str, list[Job]]:
    """Return what there is to measure for a task, by the name of its row."""
    rows = {
        f"{name} (baseline)": [
            Job(f"{task.group}_{LOWER}", seed, name) for seed in (seeds if name in SEEDED else seeds[:1])
        ]
        for name in task.baselines
    }
    return rows | {method: [Job(f"{task.group}_{method}", seed) for seed in seeds] for method in task.methods()}


def section(task: Task, seeds: list[int], results: Results) -> list[str]:
    """Return the lines of one task's table; none if nothing has been measured."""
    measured = {row: results.all(jobs) for row, jobs in jobs_of(task, seeds).items()}
    rows = {row: entries for row, entries in measured.items() if entries}
    if not rows:
        return []
    values = {row: [task.scale * entry["metrics"][task.metric] for entry in entries] for row, entries in rows.items()}
    bounds = [mean(values[row]) for row in (LOWER, UPPER) if row in values]
    domain = task.metric.rpartition("/")[0]
    keys = [name if "/" in name else f"{domain}/{name}" for name in task.more]
    more = [name.split("/")[1] if "/" in name else name for name in task.more]
    lines = [
        f"### {task.group}",
        "",
        f"`{task.metric}`" + (", lower is better" if task.lower_is_better else "") + (task.note and f". {task.note}"),
        "",
        " | ".join(["| method", "seeds", "mean ± sd", "gap closed", *more, "seconds", "checkpoint chosen by |"]),
        "|---|---|---:|---:|" + "---:|" * (len(task.more) + 1) + "---|",
    ]
    digits = 1 if task.scale == 100 else 2
    for row, entries in rows.items():
        own = values[row]
        spread = f" ± {stdev(own):.{digits}f}" if len(own) > 1 else ""
        closed = ""
        if len(bounds) == 2 and row not in (LOWER, UPPER):
            closed = f"{100 * (mean(own) - bounds[0]) / (bounds[1] - bounds[0]):.0f}%"
        others = [[entry["metrics"].get(key) for entry in entries] for key in keys]
        cells = [
            row,
            " ".join(f"{value:.{digits}f}" for value in own),
            f"{mean(own):.{digits}f}{spread}",
            closed,
            *("" if None in each else f"{task.scale * mean(each):.{digits}f}" for each in others),
            f"{mean(entry['seconds'] for entry in entries):.0f}",
            _chosen_by(entries[0].get("selection")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    where = {f"{entry['where']}, {entry['date']}" for entries in rows.values() for entry in entries if "where" in entry}
    return [*lines, "", f"Measured on {'; '.join(sorted(where))}.", ""]


def _chosen_by(selection: dict[str, Any] | None) -> str:
    if selection is None:
        return ""
    if not selection["monitor"]:
        return "last step"
    return f"`{selection['monitor']}`" + (" (target labels)" if selection["uses_target_labels"] else "")


def report(results: Results, seeds: list[int]) -> str:
    """Return docs/results.md."""
    parts = [(ROOT / "docs" / "results.head.md").read_text(encoding="utf-8").rstrip(), ""]
    application = ""
    for task in TASKS:
        lines = section(task, seeds, results)
        if lines and task.group.split("/")[0] != application:
            application = task.group.split("/")[0]
            lines = [f"## {application}", "", *lines]
        parts += lines
    return "\n".join(parts).rstrip() + "\n"


def write_header(recipe: Path, task: Task, entries: list[dict[str, Any]]) -> None:
    """Write what was measured into the line "# Result:" of a recipe's header, which ends the header."""
    values = [task.scale * entry["metrics"][task.metric] for entry in entries]
    digits = 1 if task.scale == 100 else 2
    result = "to be measured"
    if values:
        spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
        result = f"{task.metric} {mean(values):.{digits}f}{spread}{' %' if task.scale == 100 else ' m'}"
        result += f", {len(values)} seed{'s' * (len(values) > 1)}, {entries[0]['where']}, {entries[-1]['date']}"
    content = recipe.read_text(encoding="utf-8")
    head, mark, rest = content.partition("\n# Result: ")
    lines = rest.splitlines(keepends=True)
    after = next(number for number, line in enumerate(lines) if number and not line.startswith("#"))
    new = f"{head}{mark}{result};\n#   the bounds and baselines are in docs/results.md\n{''.join(lines[after:])}"
    if new != content:
        recipe.write_text(new, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="measure the recipes and baselines whose name contains one of them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads a run; another number changes the last digits")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    options = parser.parse_args()

    results = Results(ROOT / "docs" / "results.json")
    todo: list[Job] = []
    for task in [] if options.report else TASKS:
        for job in sorted(
            (job for jobs in jobs_of(task, options.seeds).values() for job in jobs), key=lambda job: job.seed
        ):
            wanted = not options.words or any(word in job.name for word in options.words)
            if wanted and results.get(job) is None:
                todo.append(job)
    start, done = time.monotonic(), 0

    def one(job: Job) -> None:
        nonlocal done
        entry = job.run(options.runs, options.threads)
        results.put(job, entry)
        done += 1
        left = (time.monotonic() - start) / done * (len(todo) - done)
        print(
            f"{done}/{len(todo)}  {job.name}, seed {job.seed}, about {left / 60:.0f} min left",
            file=sys.stderr,
            flush=True,
        )

    with ThreadPoolExecutor(options.jobs) as pool:
        for _ in pool.map(one, todo):
            pass
    results = Results(results.file)  # with what others have measured meanwhile
    (ROOT / "docs" / "results.md").write_text(report(results, options.seeds), encoding="utf-8")
    for task in TASKS:
        for method in task.methods():
            name = f"{task.group}_{method}"
            entries = results.all([Job(name, seed) for seed in options.seeds])
            write_header(RECIPES / f"{name}.yaml", task, entries)
    print(ROOT / "docs" / "results.md")


if __name__ == "__main__":
    main()
