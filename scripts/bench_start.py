"""Time `tlkit fit` up to its first step against a script that imports lightning and builds the same parts.

    python scripts/bench_start.py [--pairs 7]    writes its section of docs/speed.md
    python scripts/bench_start.py --quick        one pair, with the clock in it; only prints

Both are fresh processes of one thread, one after the other, in turns the one and the other first, and end when the
first optimizer step is done; the ratio is the median of the pairs'. The script is what one would write without the
command: it checks and keeps nothing. The second table says where the CPU seconds of each go, a clock around every part.
Other processes lengthen wall time, and CPU seconds much less: those are shown too, and judged by when other work kept
more than a tenth of a core busy. Exit status 1 if the ratio is above 1.3.
"""

from __future__ import annotations

import argparse
import builtins
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from measuring import FIRST_STEP, UNITS, Clock, OthersAtWork, Spent, Unit, keep, run

BOUND = 1.3
RECIPE = "digits/mnist_to_optdigits_mmd"
PARTS = (
    "Python itself",
    "imports",
    "reading the recipe",
    "checking it",
    "parsing it",
    "building the parts",
    "config.yaml with every default",
    "folder, callbacks, the rest",
    "trainer",
    "reading the data",
    "start of training, first step",
)


def plain() -> None:
    """Train as the recipe says, from the same parts."""
    import lightning as L
    import torch
    from bench_callbacks import FirstStep
    from lightning.pytorch.loggers import CSVLogger

    from tlkit import TransferModule
    from tlkit.backbones import ConvNet
    from tlkit.data import Digits
    from tlkit.losses import MMD
    from tlkit.schedules import DannRamp
    from tlkit.tasks import Classification

    L.seed_everything(0)
    module = TransferModule(
        ConvNet(image_size=16, channels=(16, 32), hidden=128),
        Classification(),
        [MMD(weight=DannRamp(high=2.0))],
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.002),
    )
    trainer = L.Trainer(
        max_steps=600,
        val_check_interval=100,
        check_val_every_n_epoch=None,
        log_every_n_steps=10,
        logger=CSVLogger("."),  # in the folder that it is started in, a temporary one
        callbacks=[FirstStep()],
        enable_model_summary=False,
    )
    trainer.fit(module, Digits(["mnist"], ["optdigits"], image_size=16, batch_size=64))


def fit(runs: str) -> list[str]:
    """Return the words of the command."""
    return ["fit", f"--config={RECIPE}", f"--runs={runs}", "--trainer.callbacks=[bench_callbacks.FirstStep]"]


def parts(kind: str, out: Path) -> None:
    """Run one of the two in this process with a clock around its parts, and write the CPU seconds of each."""
    clock = Clock(time.process_time)
    clock.seconds["Python itself"] = time.process_time()
    clock.wrap(builtins, "__import__", "imports")
    clock.wrap(importlib, "import_module", "imports")
    # Imported here to be wrapped: nothing that the two would not import.
    import bench_callbacks
    from lightning import Trainer

    from tlkit.data import DomainDataModule

    start: Callable[[], Any] = plain
    if kind == "plain":
        clock.wrap(Trainer, "__init__", "trainer")
    else:
        from tlkit.cli import request, shell, training
        from tlkit.cli.main import main

        clock.wrap(request, "fit_request", "reading the recipe")
        clock.wrap(shell, "check_recipe", "checking it")
        clock.wrap(shell.TransferCLI, "__init__", "parsing it")
        clock.wrap(shell.TransferCLI, "instantiate_classes", "building the parts")
        clock.wrap(shell.TransferCLI, "make_trainer", "trainer")
        clock.wrap(training, "write_config", "config.yaml with every default")
        clock.wrap(shell.TransferCLI, "_plain", "config.yaml with every default")
        start = partial(main, fit(str(out.parent / "runs")))
    clock.wrap(Trainer, "fit", "start of training, first step")
    clock.wrap(DomainDataModule, "setup", "reading the data")

    def end(*arguments: Any) -> None:
        clock.settle()
        out.write_text(json.dumps(clock.seconds))
        os._exit(FIRST_STEP)

    bench_callbacks.FirstStep.on_train_batch_end = end  # type: ignore[method-assign, assignment]
    with clock.measure("building the parts" if kind == "plain" else "folder, callbacks, the rest"):
        start()


def commands(folder: Path) -> dict[str, list[str]]:
    """Return what starts the script and the command."""
    return {
        "plain": [sys.executable, __file__, "--in-here=plain"],
        "fit": [sys.executable, "-m", "tlkit.cli", *fit(str(folder / "runs"))],
    }


def with_clock(kind: str, folder: Path) -> tuple[Spent, dict[str, float]]:
    """Start one of the two with a clock around its parts; return what it took, and each of them."""
    out = folder / f"{kind}.json"
    spent = run([sys.executable, __file__, f"--in-here={kind}", f"--parts={out}"], FIRST_STEP, folder)
    return spent, json.loads(out.read_text())


def table(spent: dict[str, list[Spent]]) -> tuple[list[str], dict[Unit, float]]:
    """Return the first table's lines, and the ratios by wall time and CPU seconds."""
    found = {unit: {kind: [getattr(each, unit) for each in of] for kind, of in spent.items()} for unit in UNITS}
    ratios = {unit: median(b / a for a, b in zip(of["plain"], of["fit"], strict=True)) for unit, of in found.items()}
    lines = ["| | the script, s | `tlkit fit`, s | tlkit / script |", "|---|---:|---:|---:|"]
    for unit, title in UNITS.items():
        script, ours = (median(found[unit][kind]) for kind in ("plain", "fit"))
        lines.append(f"| {title} | {script:.2f} | {ours:.2f} | {ratios[unit]:.2f} |")
    return lines, ratios


def parts_table(found: dict[str, list[dict[str, float]]]) -> list[str]:
    """Return the second table's lines."""
    lines = ["| CPU seconds | the script | `tlkit fit` |", "|---|---:|---:|"]
    for part in PARTS:
        cells = (median(each.get(part, 0.0) for each in of) for of in found.values())
        lines.append(f"| {part} | {' | '.join(f'{seconds:.2f}' for seconds in cells)} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--in-here", choices=["plain", "fit"], help=argparse.SUPPRESS)  # what this starts itself with
    parser.add_argument("--parts", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_here:
        parts(options.in_here, options.parts) if options.parts else plain()
        raise SystemExit("training ended, and never came to its first step")
    spent: dict[str, list[Spent]] = {"plain": [], "fit": []}
    inside: dict[str, list[dict[str, float]]] = {"plain": [], "fit": []}
    with TemporaryDirectory() as name:
        folder = Path(name)
        others = OthersAtWork()
        if not options.quick:
            for words in commands(folder).values():
                run(words, FIRST_STEP, folder)  # files come from the disk only once
            for pair in range(options.pairs):
                for kind, words in sorted(commands(folder).items(), reverse=bool(pair % 2)):
                    others.look()
                    spent[kind].append(run(words, FIRST_STEP, folder))
        for _ in range(1 if options.quick else 3):
            for kind, each in inside.items():
                others.look()
                took, of_parts = with_clock(kind, folder)
                each.append(of_parts)
                if options.quick:
                    spent[kind].append(took)
    lines, ratios = table(spent)
    lines += ["", others.words(), "", *parts_table(inside)]
    print("\n".join(lines))
    if not options.quick:
        keep("start", lines)
    return int(ratios[others.judged_by] > BOUND)


if __name__ == "__main__":
    sys.exit(main())
