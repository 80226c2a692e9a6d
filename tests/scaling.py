"""One table of runs that must give the same numbers however they are spread, and the run that they are put through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import nn
from torch.optim import SGD

from tests.backbones.settings import SETTINGS as BACKBONES
from tests.shift import MLP, QUIET, ShiftedBlobs
from tests.tasks.settings import SETTINGS as TASKS
from tlkit import TransferModule
from tlkit.backbones import CNN1d, FingerprintNet, TransformersBackbone
from tlkit.data import DomainDataModule
from tlkit.data.rows import TensorRows
from tlkit.finetuning import GradualUnfreezing, LoRA
from tlkit.losses import BNM, BSS, CDAN, CORAL, DANN, DELTA, L2SP, MCC, MMD, AdaptationLoss, HashEntropy, HashPairwise
from tlkit.schedules import Linear
from tlkit.tasks import Classification, Diagnosis, Hashing
from tlkit.types import map_tensors

GLOBAL_BATCH = 24


class Drawn(DomainDataModule):
    """Two domains of inputs as a backbone takes them, with labels as a task takes them; sizes are odd."""

    domains = ["still", "moved"]

    def __init__(self, inputs, labels, spec, batch_size, dtype):
        super().__init__(["still"], ["moved"], batch_size=batch_size)
        self.classes, self.quantities = list(spec.classes), list(spec.quantities)
        self.inputs, self.labels, self.dtype = inputs, labels, dtype

    def dataset(self, domain, split):
        with torch.random.fork_rng():
            torch.manual_seed(self.domains.index(domain))
            drawn = [self.inputs() for _ in range(45)]
        names = drawn[0].keys() if isinstance(drawn[0], dict) else [None]
        x = {name: torch.cat([each if name is None else each[name] for each in drawn]) for name in names}
        y = self.labels(135 - 30 * self.domains.index(domain))
        rows = torch.as_tensor(self.split(domain, y)[split])
        inputs = x.get(None, x)
        return TensorRows(
            map_tensors(inputs, lambda t: _cast(t[: len(y)][rows], self.dtype)), _cast(y[rows], self.dtype)
        )


def _cast(tensor, dtype):
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


class Unlabelled(ShiftedBlobs):
    """The target has no label at all."""

    def rows(self, domain):
        x, y = super().rows(domain)
        return x, y if domain == "still" else torch.full_like(y, -1)


@dataclass(frozen=True)
class Case:
    """A run: its parts, and the data that fits them.

    Attributes:
        losses: Makes the adaptation losses.
        backbone: Makes the backbone.
        task: Makes the task.
        data: Makes the data for a batch size a rank and a floating point type.
        options: Further arguments of the module.
        trainer: Further arguments of the trainer.
        lr: Learning rate. With a large one a deep network's steps double what rounding does to them, over and over.
    """

    losses: Callable[[], list[AdaptationLoss]] = list
    backbone: Callable[[], nn.Module] = MLP
    task: Callable[[], Any] = Classification
    data: Callable[[int, torch.dtype], Any] = lambda batch, dtype: ShiftedBlobs(
        ["still"], ["moved"], batch_size=batch, dtype=dtype
    )
    options: Callable[[], dict[str, Any]] = dict
    trainer: dict[str, Any] = field(default_factory=dict)
    lr: float = 0.05


def several() -> list[AdaptationLoss]:
    return [MMD(weight=0.5), CORAL(on="outputs"), DANN(hidden_size=8, weight=Linear(0, 1)), MCC(), L2SP(weight=0.01)]


def hashing() -> Hashing:
    return Hashing(bits=8)


LOSSES = {
    "mmd": Case(lambda: [MMD(weight=2.0)]),
    "mmd_unbiased": Case(lambda: [MMD(estimator="unbiased", on="outputs")]),
    "mmd_linear": Case(lambda: [MMD(estimator="linear")]),
    "coral": Case(lambda: [CORAL(weight=Linear(0, 5))]),
    "dann": Case(lambda: [DANN(weight=Linear(0, 2))]),  # at weight 0 its parameters must not count as unused
    "cdan": Case(lambda: [CDAN(entropy=True)]),
    "mcc": Case(lambda: [MCC()], task=lambda: Diagnosis(["red", "blue"], class_weights="balanced")),
    "bnm": Case(lambda: [BNM()]),
    "bss": Case(lambda: [BSS(k=2)]),
    "l2_sp": Case(lambda: [L2SP(beta=0.1)]),
    "delta": Case(lambda: [DELTA(layers=["layers.0", "layers.3"])]),
    "hash_entropy": Case(lambda: [HashEntropy()], task=hashing),
    "hash_pairwise": Case(lambda: [HashPairwise(weight=Linear(0, 2))], task=lambda: Hashing(bits=8, k=10)),
    "several": Case(several),
}


def _of_backbone(setting) -> Case:
    # Dropout and noise draw on each rank: at 0 they draw nothing.
    off = {CNN1d: {"dropout": 0.0}, FingerprintNet: {"dropout": 0.0, "ap_dropout": 0.0, "noise": 0.0}}

    def backbone():
        made = type(setting)(**{**vars(setting), "arguments": setting.arguments | off.get(setting.backbone, {})}).make()
        for layer in made.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        if isinstance(made, TransformersBackbone):
            made.model.config._attn_implementation = "eager"
            for layer in made.modules():
                if hasattr(layer, "dropout_prob"):
                    layer.dropout_prob = 0.0
        return made

    def data(batch, dtype):
        return Drawn(setting.input, lambda rows: torch.arange(rows) % 3, TASKS[0].data, batch, dtype)

    return Case(lambda: [MMD(), CORAL()], backbone, data=data, trainer={"sync_batchnorm": True}, lr=0.002)


def _of_task(setting) -> Case:
    def data(batch, dtype):
        blobs = ShiftedBlobs(["still"])

        def inputs():
            return torch.randn(3, 8) + 0.5 * blobs.domains.index("still")

        return Drawn(inputs, setting.labels, setting.data, batch, dtype)

    return Case(lambda: [MMD()], task=lambda: setting.task(**setting.arguments), data=data)


def _first_of_each(settings, attribute):
    found: dict[str, Any] = {}
    for setting in settings:
        found.setdefault(getattr(setting, attribute).__name__, setting)
    return found


BACKBONE_CASES = {name: _of_backbone(each) for name, each in _first_of_each(BACKBONES, "backbone").items()}
del BACKBONE_CASES["TimmBackbone"]  # of which there are several
BACKBONE_CASES |= {
    f"timm {each.arguments['name']}": _of_backbone(each) for each in BACKBONES if "name" in each.arguments
}
TASK_CASES = {str(each): _of_task(each) for each in TASKS}
LAYERS = ["layers.0", "layers.3"]
OTHERS = {
    "batch norm over ranks": Case(several, lambda: MLP(batch_norm=True), trainer={"sync_batchnorm": True}),
    "domain-specific batch norm over ranks": Case(
        lambda: [MMD()],
        lambda: MLP(batch_norm=True),
        options=lambda: {"batch_norm": "domain_specific"},
        trainer={"sync_batchnorm": True},
    ),
    "separate": Case(several, options=lambda: {"batch_norm": "separate"}),
    "lora": Case(several, options=lambda: {"finetuning": LoRA(rank=2, target_modules=LAYERS)}),
    "gradual": Case(several, options=lambda: {"finetuning": GradualUnfreezing(over=0.6, decay=0.5)}),
    "unlabelled target": Case(
        several, data=lambda batch, dtype: Unlabelled(["still"], ["moved"], batch_size=batch, dtype=dtype)
    ),
    "clipped": Case(several, trainer={"gradient_clip_val": 0.1}),
}
CASES = {**LOSSES, **BACKBONE_CASES, **TASK_CASES, **OTHERS}


class Record(L.Callback):
    """Keeps the loss of every step, the first gradient of the whole batch, and the target rows of every batch."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.gradient: dict[str, np.ndarray] = {}
        self.target: list[list[int]] = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch.target is not None:  # a loss of the source alone
            assert batch.target.y is None
            self.target.append(batch.target.index.tolist())

    def on_before_optimizer_step(self, trainer, module, optimizer):
        if not self.gradient:
            named = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
            self.gradient = {name: whole(grad).numpy().copy() for name, grad in named.items()}

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(float(trainer.callback_metrics.get("train/loss", torch.nan)))


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of all ranks' shards."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@dataclass
class Result:
    """What a run left on a rank."""

    losses: list[float]
    gradient: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]
    metrics: dict[str, float]
    target: list[list[int]]


def train(
    case: Case,
    world: int,
    dtype: torch.dtype = torch.float64,
    steps: int = 8,
    callbacks: Sequence[Any] = (),
    ckpt_path: str | None = None,
    **more: Any,
) -> Result:
    """Run a case on this process's share of the global batch, from the same start on any number of ranks."""
    L.seed_everything(7, verbose=False)
    backbone = case.backbone().to(dtype)
    L.seed_everything(7, verbose=False)  # some are made from a seed of their own
    options = {
        "strategy": "ddp" if world > 1 else "auto",
        "precision": "64-true" if dtype == torch.float64 else "32-true",
        "log_every_n_steps": 1,
        **QUIET,
        **case.trainer,
        **more,
    }
    module = TransferModule(
        backbone, case.task(), case.losses(), optimizer=lambda p: SGD(p, lr=case.lr), **case.options()
    )
    data = case.data(GLOBAL_BATCH // world // options.get("accumulate_grad_batches", 1), dtype)
    record = Record()
    trainer = L.Trainer(devices=world, max_steps=steps, callbacks=[record, *callbacks], **options)
    trainer.fit(module, data, ckpt_path=ckpt_path)
    tested = trainer.test(module, data, verbose=False)
    weights = {name: whole(value).numpy().copy() for name, value in module.state_dict().items()}
    return Result(
        record.losses, record.gradient, weights, {k: v for part in tested for k, v in part.items()}, record.target
    )


def train_all(world: int, names: Sequence[str], dtype: torch.dtype, steps: int) -> dict[str, Result]:
    """Run several cases; a module-level function, so that it can be sent to other processes."""
    return {name: train(CASES[name], world, dtype, steps) for name in names}


def distance(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """Return the largest difference of two sets of arrays, in units of the largest value of the first."""
    assert one.keys() == other.keys()
    largest = max(np.abs(value).max() for value in one.values())
    return max(np.abs(other[name].astype(np.float64) - one[name]).max() for name in one) / largest
