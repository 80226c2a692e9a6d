"""Time a training step of TransferModule under the Trainer against plain PyTorch, in one interleaved run.

    python scripts/bench_step.py [--steps 20] [--rounds 15] [--threads 1]

Each round runs every contender once on the same batches, so drift of the machine hits all of them; the medians of the
rounds are compared. The plain loop is what one would write by hand: one concatenated forward pass, cross-entropy and
the same MMD, one backward, one optimizer step. Exit status 1 if a bound is missed.
"""

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import chain, islice, repeat
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tlkit import TransferModule
from tlkit.backbones import CNN1d, TimmBackbone
from tlkit.callbacks import MetricsFile, ProgressBar, Throughput
from tlkit.data import DomainDataModule
from tlkit.functional import mmd
from tlkit.losses import MMD
from tlkit.tasks import Classification
from tlkit.types import DomainBatch, Split

BATCH, CLASSES, WARM_UP = 32, 10, 3


class Noise(DomainDataModule):
    """Random inputs of a given shape in two domains."""

    domains = ["a", "b"]
    classes = [str(label) for label in range(CLASSES)]

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(["a"], ["b"], batch_size=BATCH)
        self.shape = shape

    def dataset(self, domain: str, split: Split) -> TensorDataset:
        generator = torch.Generator().manual_seed(self.domains.index(domain))
        x = torch.rand(16 * BATCH, *self.shape, generator=generator)
        y = torch.arange(len(x)) % CLASSES
        rows = self.split(domain, y)[split]
        return TensorDataset(x[rows], y[rows])


class TinyMLP(nn.Module):
    num_features = 32

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layers(x)
        return features


class Minimal(L.LightningModule):
    """The least that Lightning allows: the same network and losses, nothing logged."""

    def __init__(self, backbone: nn.Module, num_features: int) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(num_features, CLASSES)
        self.uses_target = True

    def training_step(self, batch: DomainBatch, batch_idx: int) -> Tensor:
        assert batch.source is not None and batch.target is not None and batch.source.y is not None
        source, target = self.backbone(torch.cat([batch.source.x, batch.target.x])).split(BATCH)
        return nn.functional.cross_entropy(self.head(source), batch.source.y) + mmd(source, target)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters())


class Clock(L.Callback):
    """Seconds a step between the end of the warm-up and the end of the last step."""

    def __init__(self, steps: int) -> None:
        self.steps, self.start, self.seconds = steps, 0.0, 0.0

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        now = time.perf_counter()
        if trainer.global_step == WARM_UP:
            self.start = now
        self.seconds = (now - self.start) / self.steps


def with_trainer(module: L.LightningModule, data: Noise, steps: int, logging: bool) -> float:
    clock = Clock(steps)
    with TemporaryDirectory() as folder:
        trainer = L.Trainer(
            accelerator="cpu",
            max_steps=steps + WARM_UP,
            limit_val_batches=0,
            enable_checkpointing=False,
            enable_progress_bar=logging,
            enable_model_summary=False,
            logger=MetricsFile(folder) if logging else False,
            callbacks=[ProgressBar(), Throughput(), clock] if logging else [clock],
        )
        trainer.fit(module, data)
    return clock.seconds


def with_loop(backbone: nn.Module, num_features: int, data: Noise, steps: int) -> float:
    head = nn.Linear(num_features, CLASSES)
    optimizer = torch.optim.AdamW([*backbone.parameters(), *head.parameters()])
    backbone.train()
    batches: Iterator[DomainBatch] = chain.from_iterable(repeat(data.train_dataloader()))
    start = 0.0
    for step, batch in enumerate(islice(batches, steps + WARM_UP)):
        if step == WARM_UP:
            start = time.perf_counter()
        assert batch.source is not None and batch.target is not None and batch.source.y is not None
        features = backbone(torch.cat([batch.source.x, batch.target.x]))
        source, target = features.split(BATCH)
        loss = nn.functional.cross_entropy(head(source), batch.source.y) + mmd(source, target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return (time.perf_counter() - start) / steps


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], float]] = {
    "ResNet-18, 3x64x64": (lambda: TimmBackbone("resnet18"), (3, 64, 64), 0.2),
    "CNN1d, 9x128": (lambda: CNN1d(in_channels=9), (9, 128), 1.0),
    "MLP, 16": (TinyMLP, (16,), 5.0),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="steps a contender and round, times a factor a case")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)

    print(
        f"torch {torch.__version__}, {options.threads} thread(s), batches {BATCH}+{BATCH}, ms a step (median of rounds)"
    )
    print(f"{'':20}{'plain loop':>12}{'minimal':>12}{'tlkit':>12}{'tlkit/loop':>12}{'over minimal':>14}  bound")
    missed = False
    for name, (make, shape, factor) in CASES.items():
        data, steps = Noise(shape), int(options.steps * factor)
        data.prepare_data()
        data.setup("fit")
        times: dict[str, list[float]] = {"loop": [], "minimal": [], "tlkit": []}
        for _ in range(options.rounds):
            backbone = make()
            width = int(backbone.num_features)  # type: ignore[arg-type]
            times["loop"].append(with_loop(backbone, width, data, steps))
            times["minimal"].append(with_trainer(Minimal(make(), width), data, steps, logging=False))
            module = TransferModule(make(), Classification(), [MMD()])
            times["tlkit"].append(with_trainer(module, data, steps, logging=True))
        # Ratios are taken within a round, where the contenders met the same machine, before the median.
        ratio = median(b / a for a, b in zip(times["loop"], times["tlkit"], strict=True))
        extra = median(b - a for a, b in zip(times["minimal"], times["tlkit"], strict=True)) * 1e3
        tiny = name.startswith("MLP")
        good = extra <= 1.0 if tiny else ratio <= 1.05
        missed |= not good
        loop, minimal, ours = (median(each) * 1e3 for each in times.values())
        bound = ("over minimal <= 1 ms" if tiny else "ratio <= 1.05") + (", met" if good else ", MISSED")
        print(f"{name:20}{loop:12.2f}{minimal:12.2f}{ours:12.2f}{ratio:12.3f}{extra:14.2f}  {bound}", flush=True)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
