"""Measure the digits recipes over several seeds and print the table of the README.

    python scripts/measure_digits.py [--seeds 0 1 2 3 4] [--runs runs] [--key=value ...]

Every run is one `tlkit fit` in a process of its own, with the checkpoint chosen without target labels. A run folder
that has its summary is not run again, so an interrupted measurement goes on where it was. Options that are not the
script's own go to `tlkit fit`. "Gap closed" is (method - source only) / (oracle - source only) of the mean target
accuracies.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

METHODS = ("source_only", "mmd", "coral", "dann", "oracle")
TARGET = "test/optdigits/accuracy"


def summary(method: str, seed: int, runs: Path, overrides: list[str]) -> dict[str, dict[str, float]]:
    recipe = f"digits/mnist_to_optdigits_{method}"
    file = runs / recipe / f"seed{seed}" / "summary.json"
    if not file.is_file():
        words = ["fit", f"--config={recipe}", f"--seed_everything={seed}", f"--run_id=seed{seed}", f"--runs={runs}"]
        result = subprocess.run([sys.executable, "-m", "tlkit.cli", *words, *overrides], capture_output=True, text=True)
        if result.returncode:
            sys.exit(f"{recipe}, seed {seed}, failed:\n{result.stderr}")
    content: dict[str, dict[str, float]] = json.loads(file.read_text())
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options, overrides = parser.parse_known_args()

    accuracy: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}
    for method in METHODS:
        found = []
        for seed in options.seeds:
            found.append(summary(method, seed, options.runs, overrides))
            print(f"{method}, seed {seed}: {found[-1]['metrics'][TARGET]:.3f}", file=sys.stderr, flush=True)
        accuracy[method] = [100 * each["metrics"][TARGET] for each in found]
        seconds[method] = mean(each["train"]["seconds"] for each in found)

    lower, upper = mean(accuracy["source_only"]), mean(accuracy["oracle"])
    print(
        "| method | " + " | ".join(f"seed {seed}" for seed in options.seeds) + " | mean ± sd | gap closed | seconds |"
    )
    print("|---|" + "---:|" * (len(options.seeds) + 3))
    for method, values in accuracy.items():
        spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
        cells = [*(f"{value:.1f}" for value in values), f"{mean(values):.1f}{spread}"]
        closed = "" if method in ("source_only", "oracle") else f"{100 * (mean(values) - lower) / (upper - lower):.0f}%"
        print(f"| {method} | {' | '.join(cells)} | {closed} | {seconds[method]:.0f} |")


if __name__ == "__main__":
    main()
