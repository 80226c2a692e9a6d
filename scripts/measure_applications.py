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
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
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
        baselines: Functions of scripts/baselines.py, run on the data of the recipe `base`.
        base: The recipe of the group whose data the baselines are run on.
        note: What must be known to compare the rows.
    """

    group: str
    metric: str
    scale: float = 100.0
    lower_is_better: bool = False
    more: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()
    base: str = LOWER
    note: str = ""

    @property
    def digits(self) -> int:
        """Digits behind the point of a figure."""
        return 1 if self.scale == 100 else 2

    def values(self, entries: Iterable[dict[str, Any]]) -> list[float]:
        """Return the metric of each entry, scaled."""
        return [self.scale * entry["metrics"][self.metric] for entry in entries]

    def figure(self, entries: Sequence[dict[str, Any]]) -> str:
        """Return mean and standard deviation as text, empty without entries."""
        values = self.values(entries)
        spread = f" ± {stdev(values):.{self.digits}f}" if len(values) > 1 else ""
        return f"{mean(values):.{self.digits}f}{spread}" if values else ""

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
_SEEN = "These settings were chosen in trials that saw target labels: see the headers of the recipes."
TASKS = [
    Task("digits/mnist_to_optdigits", "test/optdigits/accuracy", note=_SEEN),
    Task("vision/pacs_photo_to_art_painting", "test/art_painting/accuracy", baselines=("linear_probe",), note=_SEEN),
    Task(
        "vision/pacs_photo_to_cartoon",
        "test/cartoon/accuracy",
        baselines=("linear_probe",),
        note="The settings are those of photos to paintings; no label of the cartoons was seen.",
    ),
    Task(
        "vision/pacs_art_painting_to_cartoon",
        "test/cartoon/accuracy",
        baselines=("linear_probe",),
        note="The settings are those of photos to paintings; no label of the cartoons was seen.",
    ),
    *(
        Task(f"retrieval/pacs_{pair}", f"test/{pair.partition('_to_')[2]}/map", baselines=("itq",), note=_SEEN)
        for pair in ("photo_to_art_painting", "photo_to_cartoon", "art_painting_to_cartoon")
    ),
    Task("text/amazon_words_electronics_to_dvd", "test/dvd/accuracy", baselines=("tfidf",), note=_FIFTH),
    Task("text/amazon_words_books_to_dvd", "test/dvd/accuracy", baselines=("tfidf",), note=_FIFTH),
    Task("text/amazon_words_books_to_kitchen", "test/kitchen/accuracy", baselines=("tfidf",), note=_FIFTH),
    Task("text/amazon_electronics_to_dvd", "test/dvd/accuracy", baselines=("tfidf",), note=_FIFTH),
    Task("text/amazon_books_to_dvd", "test/dvd/accuracy", baselines=("tfidf",), note=_FIFTH),
    Task("text/amazon_books_to_kitchen", "test/kitchen/accuracy", baselines=("tfidf",), note=_FIFTH),
    Task("text/amazon_three_domains_to_dvd", "test/dvd/accuracy", baselines=("tfidf",), note=_FIFTH),
    Task(
        "sensors/seglearn_side0_to_side1",
        "test/side1/accuracy",
        more=("macro_f1",),
        baselines=("extra_trees",),
        note="`magnitude` and `mirror` train on the source alone too, on signals read in another way: what a loss adds "
        "to them is the difference from these rows. `magnitude` was chosen in trials that saw target labels, `mirror` "
        "follows from how a watch is worn.",
    ),
    Task(
        "sensors/seglearn_s01_s07_to_s08_s10", "test/s08-s10/accuracy", more=("macro_f1",), baselines=("extra_trees",)
    ),
    Task(
        "sensors/sp_sw_har_s01_s07_to_s08_s14",
        "test/s08-s14/phone/macro_f1",
        more=("accuracy",),
        baselines=("extra_trees",),
    ),
    Task(
        "sensors/sp_sw_har_phone_to_watch",
        "test/watch/macro_f1",
        more=("accuracy",),
        baselines=("extra_trees",),
        note="`rotate` trains on the source alone too, on windows that are standardised and turned: what a loss adds "
        "to it is the difference from that row. This reading was chosen in trials that saw target labels.",
    ),
    *(
        Task(
            f"wifi/uji_library_month01_to_month{month}",
            f"test/month-{month}/error_mean",
            scale=1,
            lower_is_better=True,
            more=("error_median", "error_p75", "error_p95"),
            baselines=("knn", "knn_positive", "knn_powed"),
            note="Representation and augmentation were chosen in trials judged on month 1 that saw these months too.",
        )
        for month in ("11", "15")
    ),
    Task(
        "wifi/uji_library_month01_to_month02_month15",
        "test/month-02/error_mean",
        scale=1,
        lower_is_better=True,
        more=tuple(f"test/month-{month:02}/error_mean" for month in range(3, 16)),
        baselines=("knn", "knn_positive"),
    ),
    Task(
        "wifi/ujiindoorloc_training_to_validation",
        "test/validation/error_mean",
        note="The oracle trains on half of the target's walks and is tested on the rest; the others are tested on all. "
        "Why `coral` does harm is in docs/wifi.md.",
        scale=1,
        lower_is_better=True,
        more=("error_median", "error_p75", "error_p95"),
        baselines=("knn", "knn_positive", "knn_powed"),
    ),
    Task(
        "wifi/ujiindoorloc_phone13_phone14_to_phone06_phone07",
        "test/training/phone-06/error_mean",
        scale=1,
        lower_is_better=True,
        more=("error_p95", "test/training/phone-07/error_mean"),
        baselines=("knn", "knn_positive", "knn_powed"),
        note="Why `adabn` and `mcc` do harm is in docs/wifi.md.",
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
            baselines=("linear_probe",),
            base="linear_probe",
        )
        for percent in ("1", "10", "100")
    ),
    Task(
        "medical/chest_xray_bacteria_to_virus",
        "test/virus/auroc",
        more=("sensitivity", "specificity"),
        baselines=("linear_probe",),
    ),
]


def fingerprint(recipe: str) -> str:
    """Return a short hash of what a recipe says; its comments do not count."""
    content = _named(yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8")))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _named(content: Any) -> Any:
    """Return a recipe with words for keys: YAML 1.1 reads the key `on` of a loss as true."""
    if isinstance(content, dict):
        return {str(key): _named(value) for key, value in content.items()}
    return [_named(each) for each in content] if isinstance(content, list) else content


class Results:
    """What has been measured, kept in a JSON file, which several measurements may write at once."""

    def __init__(self, file: Path) -> None:
        self.file, self.lock = file, threading.Lock()
        self.content: dict[str, dict[str, Any]] = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        return json.loads(self.file.read_text()) if self.file.is_file() else {}

    def get(self, job: Job) -> dict[str, Any] | None:
        """Return what a job gave, or another one that says the same by another name, as oracles of one target do."""
        version = fingerprint(job.recipe)
        rest = f"{job.name.removeprefix(job.recipe)}, seed {job.seed}"  # the baseline, if it is one, and the seed
        same = (
            entry
            for name, entry in self.content.items()
            if entry["version"] == version and name[len(name.split(",")[0].split(" | ")[0]) :] == rest
        )
        return next(same, None)

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
            Job(f"{task.group}_{task.base}", seed, name) for seed in (seeds if name in SEEDED else seeds[:1])
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
    values = {row: task.values(entries) for row, entries in rows.items()}
    bounds = {row: values[row] for row in (LOWER, UPPER) if row in values}
    domain = task.metric.rpartition("/")[0]
    keys = [name if "/" in name else f"{domain}/{name}" for name in task.more]
    more = [name.partition("/")[2].rpartition("/")[0] or name for name in task.more]
    lines = [
        f"### {task.group}",
        "",
        f"`{task.metric}`" + (", lower is better" if task.lower_is_better else "") + (task.note and f". {task.note}"),
        "",
        " | ".join(["| method", "seeds", "mean ± sd", "gap closed", *more, "seconds", "checkpoint chosen by |"]),
        "|---|---|---:|---:|" + "---:|" * (len(task.more) + 1) + "---|",
    ]
    for row, entries in rows.items():
        own = values[row]
        others = [[entry["metrics"].get(key) for entry in entries] for key in keys]
        cells = [
            row,
            " ".join(f"{value:.{task.digits}f}" for value in own),
            task.figure(entries),
            "" if row in bounds else _closed(task, mean(own), bounds),
            *("" if None in each else f"{task.scale * mean(each):.{task.digits}f}" for each in others),
            f"{mean(entry['seconds'] for entry in entries):.0f}",
            _chosen_by(entries[0].get("selection")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    where = {f"{entry['where']}, {entry['date']}" for entries in rows.values() for entry in entries if "where" in entry}
    return [*lines, "", *([f"Measured on {'; '.join(sorted(where))}.", ""] if where else [])]


def _closed(task: Task, value: float, bounds: dict[str, list[float]]) -> str:
    """Return the share of the gap that is closed, and whether that is worse than not to adapt."""
    if LOWER not in bounds:
        return ""
    sign = -1 if task.lower_is_better else 1
    lower = mean(bounds[LOWER])
    hurts = " (worse)" if sign * (value - lower) < 0 else ""
    gap = sign * (mean(bounds[UPPER]) - lower) if UPPER in bounds else 0.0
    spread = max((stdev(each) for each in bounds.values() if len(each) > 1), default=0.0)
    if gap <= spread:  # no ceiling, one below the floor, or one that other seeds may put there: no share of it
        return hurts.strip()
    share = sign * (value - lower) / gap
    if abs(share) > 2:  # of a small gap: more digits would say nothing more
        return f"{'above 200' if share > 0 else 'below -200'}%{hurts}"
    return f"{100 * share:.0f}%{hurts}"


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
    result = "to be measured"
    if entries:
        result = f"{task.metric} {task.figure(entries)}{' %' if task.scale == 100 else ' m'}"
        if task.more and "/" in task.more[-1]:  # of several domains the first and the last
            result += f", {task.more[-1]} {replace(task, metric=task.more[-1]).figure(entries)} m"
        result += f", {len(entries)} seed{'s' * (len(entries) > 1)}, {entries[0]['where']}, {entries[-1]['date']}"
    content = recipe.read_text(encoding="utf-8")
    head, mark, rest = content.partition("\n# Result: ")
    lines = rest.splitlines(keepends=True)
    after = next(number for number, line in enumerate(lines) if number and not line.startswith("#"))
    new = f"{head}{mark}{result};\n#   the bounds and baselines are in docs/results.md\n{''.join(lines[after:])}"
    if new != content:
        recipe.write_text(new, encoding="utf-8")


# What the README shows of each application: a name, its page, the task, the method.
SHOWN = (
    ("images: photos to cartoons, accuracy", "images", "vision/pacs_photo_to_cartoon", "mcc"),
    ("hashing: paintings find photos, 64 bit, mAP", "hashing", "retrieval/pacs_photo_to_art_painting", "mcc"),
    (
        "texts: reviews of books to kitchenware, bags of words, accuracy",
        "text",
        "text/amazon_words_books_to_kitchen",
        "dann",
    ),
    ("texts: reviews of electronics to films, MiniLM, accuracy", "text", "text/amazon_electronics_to_dvd", "mcc"),
    ("activities: phone in the pocket to watch, macro-F1", "sensors", "sensors/sp_sw_har_phone_to_watch", "rotate_mmd"),
    ("activities: left arm to right arm, accuracy", "sensors", "sensors/seglearn_side0_to_side1", "mirror"),
    ("WiFi: ten months later, mean error in m", "wifi", "wifi/uji_library_month01_to_month11", "adabn"),
    ("X-rays: pneumonia with 10 % of the labels, AUROC", "medical", "medical/chest_xray_10_percent", "gradual"),
)


def readme(results: Results, seeds: list[int]) -> str:
    """Return the table of the README, one line an application."""
    lines = ["| | source only | tlkit | oracle | baseline |", "|---|---:|---:|---:|---:|"]
    for name, page, group, method in SHOWN:
        task = next(task for task in TASKS if task.group == group)
        shown = {row: task.figure(results.all(each)) or "to be measured" for row, each in jobs_of(task, seeds).items()}
        baselines = [f"{shown[row]} ({row.split(' ')[0]})" for row in shown if "(baseline)" in row]
        cells = [
            f"[{name}](docs/{page}.md)",
            shown.get(LOWER, ""),
            f"**{shown[method]}** (`{method}`)",
            shown.get(UPPER, ""),
            ", ".join(baselines),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_readme(file: Path, table: str) -> None:
    """Put the table between the two marks of the README."""
    before, start, rest = file.read_text(encoding="utf-8").partition("<!-- measured -->\n")
    _, end, after = rest.partition("<!-- /measured -->")
    if not end:
        raise SystemExit(f"{file} has lost the marks <!-- measured --> and <!-- /measured --> around its table")
    file.write_text(f"{before}{start}{table}\n{end}{after}", encoding="utf-8")


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
        if results.get(job) is None:  # not measured meanwhile, by this or another process
            results.put(job, job.run(options.runs, options.threads))
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
    write_readme(ROOT / "README.md", readme(results, options.seeds))
    print(ROOT / "docs" / "results.md")


if __name__ == "__main__":
    main()
