"""Train on MNIST with and without adaptation to optdigits, and print both results and the gain as one table."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RUNS = {
    "source only": "digits/mnist_to_optdigits_source_only",
    "adapted with MMD": "digits/mnist_to_optdigits_mmd",
}
SOURCE, TARGET = "mnist", "optdigits"
QUICK_STEPS = 40


def fingerprint() -> str:
    """Return a short hash of all that decides a run's result: the code, the recipes and the lock."""
    digest = hashlib.sha256()
    files = [*(ROOT / "tlkit").rglob("*.py"), *(ROOT / "recipes").rglob("*.yaml"), ROOT / "requirements.lock"]
    for file in sorted(files):
        digest.update(f"{file.relative_to(ROOT)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:8]


def run(recipe: str, run_id: str, quick: bool) -> dict[str, Any]:
    """Train ``recipe`` unless this very run is there already, and return its ``summary.json``."""
    folder = Path("runs", recipe, run_id)
    summary = folder / "summary.json"
    if summary.exists():
        print(f"{recipe}: trained before with this code; delete {folder} to train again.", flush=True)
    else:
        if folder.exists():
            print(f"{recipe}: an earlier quickstart was interrupted; removing {folder}.", flush=True)
            shutil.rmtree(folder)
        command = ["-m", "tlkit.cli", "fit", "--config", recipe, "--run_id", run_id]
        if quick:
            command += [f"--trainer.max_steps={QUICK_STEPS}", f"--trainer.val_check_interval={QUICK_STEPS}"]
        print(f"\ntlkit {' '.join(command[2:])}", flush=True)
        # Threads that spin while they wait only take time from each other on a few cores.
        environment = {"OMP_WAIT_POLICY": "passive", **os.environ}
        status = subprocess.run([sys.executable, *command], env=environment, check=False).returncode
        if status:
            raise SystemExit(status)
    result: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
    return result


def table(summaries: dict[str, dict[str, Any]]) -> str:
    """Return test accuracy on both domains, one row a run, and the gain of the last over the first.

    Args:
        summaries: Name of the run -> its ``summary.json``.
    """
    accuracy = {
        name: [100 * summary["metrics"][f"test/{domain}/accuracy"] for domain in (SOURCE, TARGET)]
        for name, summary in summaries.items()
    }
    first, *_, last = accuracy.values()
    width = max(map(len, accuracy)) + 2
    lines = [
        f"{'held-out accuracy, %':<{width}}{SOURCE + ' (labelled)':>20}{TARGET + ' (no labels)':>26}",
        *(f"{name:<{width}}{source:>20.1f}{target:>26.1f}" for name, (source, target) in accuracy.items()),
        f"{'gain, points':<{width}}{last[0] - first[0]:>+20.1f}{last[1] - first[1]:>+26.1f}",
    ]
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def main() -> None:
    """Run both recipes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="a few steps only; the figures mean nothing")
    quick = parser.parse_args().quick
    os.chdir(ROOT)
    print("A model learns digits from MNIST, with labels, and is tested on optdigits, whose labels it never sees:")
    print(
        f"once as it is, once adapted with MMD. {'Seconds' if quick else 'About a minute'} on two CPU cores.",
        flush=True,
    )
    start = time.monotonic()
    run_id = f"quickstart-{'quick-' if quick else ''}{fingerprint()}"
    summaries = {name: run(recipe, run_id, quick) for name, recipe in RUNS.items()}
    print(f"\n{table(summaries)}")
    folders = ", ".join(f"runs/{recipe}/{run_id}" for recipe in RUNS.values())
    print(f"\n{time.monotonic() - start:.0f} seconds. Run folders: {folders}")
    if quick:
        print(f"After {QUICK_STEPS} steps the figures mean nothing; without --quick they do.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
