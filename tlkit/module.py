"""The one LightningModule: backbone, task and adaptation losses, joined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from tlkit import __version__
from tlkit.combinations import check_run
from tlkit.distributed import gather, mean_over_ranks, same_initial_weights
from tlkit.errors import ConfigurationError
from tlkit.evaluation import calibrate, estimate_statistics, learn_from, refer, role_of
from tlkit.finetuning import FineTuning, ParameterGroup, make_optimizer
from tlkit.losses.base import AdaptationLoss, as_values, by_name
from tlkit.metrics import DomainMetrics
from tlkit.network import BatchNormMode, Network, check_checkpoint
from tlkit.random_state import random_states, restore_random_state
from tlkit.schedules import Schedule
from tlkit.sharding import lay_out
from tlkit.tasks import Task
from tlkit.types import DataSpec, DomainBatch, Encoded, Samples

__all__ = ["TransferModule"]


class TransferModule(L.LightningModule):
    """Train a backbone and a task on labelled source domains while adaptation losses align the target domains.

    The head and the losses' own layers are made when the data is known: by the trainer from its data module, or by
    :meth:`build`. One optimizer trains everything. The total is ``task + sum(weight(progress) * loss)``.

    Args:
        backbone: Any module with ``num_features`` that maps ``x`` to ``(B, num_features)``.
        task: Head, supervised loss, metrics.
        adaptation: Adaptation losses; empty is plain training on the sources.
        batch_norm: How the domains meet in batch normalisation, see :class:`tlkit.network.Network`.
        optimizer: Called with the parameter groups ``backbone`` and ``head``; the losses' own layers are in ``head``.
        lr_schedule: Factor on every learning rate as a function of training progress.
        backbone_lr_scale: Factor on the backbone's learning rate, for backbones that come trained.
        finetuning: Which parameters of the backbone learn, when and how fast; by default all of them, always.

    Example:
        >>> import torch
        >>> from tlkit.backbones import ConvNet
        >>> from tlkit.losses import CORAL
        >>> from tlkit.tasks import Classification
        >>> from tlkit.types import DataSpec
        >>> model = TransferModule(ConvNet(), Classification(), adaptation=[CORAL()])
        >>> model.build(DataSpec(("day", "night"), ("day",), ("night",), classes=("cat", "dog")))
        >>> model(torch.rand(4, 1, 16, 16)).shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        backbone: nn.Module,
        task: Task,
        adaptation: list[AdaptationLoss] | None = None,
        batch_norm: BatchNormMode = "joint",
        optimizer: Callable[[Iterable[Any]], Optimizer] = AdamW,
        lr_schedule: Schedule | None = None,
        backbone_lr_scale: float = 1.0,
        finetuning: FineTuning | None = None,
    ) -> None:
        super().__init__()
        self.network = Network(backbone, task, batch_norm)
        self.adaptation = nn.ModuleDict(by_name(adaptation or []))
        self.optimizer, self.lr_schedule, self.backbone_lr_scale = optimizer, lr_schedule, backbone_lr_scale
        self.finetuning, self._groups = finetuning or FineTuning(), list[ParameterGroup]()
        self._random_states: list[dict[str, Any]] = []
        self.data_spec: DataSpec | None = None  # what it was trained on, or else built for
        self.recipe: dict[str, Any] | None = None  # what the command line was given; travels in checkpoints

    @property
    def uses_target(self) -> bool:
        """Whether training needs target batches; without a loss that looks at them they are not even loaded."""
        return any(loss.needs_target for _, loss in self.losses())

    def losses(self) -> list[tuple[str, AdaptationLoss]]:
        """Return the adaptation losses with their names in logs."""
        return [(name, cast(AdaptationLoss, loss)) for name, loss in self.adaptation.items()]

    def build(self, data: DataSpec, example: Any | None = None) -> None:
        """Create head, losses' layers and metrics. The trainer does it; call it to use the model without one.

        Args:
            data: What the model may know of the data.
            example: Inputs of a few rows to check the backbone with.

        Raises:
            TlkitError: If the backbone or the task cannot work with this data.
        """
        if self.data_spec is None:
            with same_initial_weights():
                self.finetuning.prepare(self.network.backbone)
                self.network.build(data, example)
                self._groups = self.finetuning.groups(self.network.backbone)
                for _, loss in self.losses():
                    loss.build(self.network)
            self.data_spec = data
        elif difference := self.data_spec.difference(data):
            raise ConfigurationError(f"the model {difference}")
        self._evaluated = data
        self._batch_metrics = self.network.task.batch_metrics()
        self._domain_metrics = DomainMetrics(data, self.network.task)

    def configure_model(self) -> None:
        """Build from the trainer's data module; Lightning calls it before every fit, validation, test and predict."""
        data: Any = getattr(self._trainer, "datamodule", None)
        if not hasattr(data, "spec"):
            raise ConfigurationError("TransferModule takes a DomainDataModule: call trainer.fit(model, datamodule)")
        spec = data.spec()
        if self.trainer.training:
            check_run(self.trainer, self.network, [loss for _, loss in self.losses()], self.finetuning, spec)
        with torch.device("cpu"):  # where data and backbone still are; Lightning has set the accelerator
            self.build(spec, data.example().x if self.data_spec is None else None)
        self.data_spec = learn_from(self.trainer, self.network.task, cast(DataSpec, self.data_spec), spec)
        lay_out(self.trainer, self.network, dict(self.losses()))

    def forward(self, x: Any) -> Tensor:
        """Return the task's outputs, ``(B, num_outputs)``, for inputs of the target domain."""
        return cast(Tensor, self.network(x)[1])

    def on_train_batch_start(self, batch: DomainBatch, batch_idx: int) -> None:
        """Keep in evaluation mode what does not learn yet; a resumed run draws on from where it stood."""
        restore_random_state(self._random_states, self.global_rank)
        self.finetuning.hold(self.network.backbone, self._groups, self._progress(self.global_step))

    def training_step(self, batch: DomainBatch, batch_idx: int) -> dict[str, Any]:
        """Return the total loss of a batch, ``"loss"``, and the ``"values"`` that it is made of."""
        source, target = self.network.encode(batch)
        values: dict[str, Tensor | float] = {}
        terms: list[Tensor] = []
        labelled = [side for side in (source, target) if side is not None and side.y is not None]
        if labelled:
            outputs = torch.cat([side.outputs for side in labelled])
            y = torch.cat([cast(Tensor, side.y) for side in labelled])
            terms.append(self.network.task.loss(outputs, y))
            values["train/task"] = terms[0].detach()
        if self.adaptation:
            terms += self._adapt(batch, source, target, values)
        total = torch.stack(terms).sum() if len(terms) > 1 else terms[0]
        # Values are only read at logging steps, so that is when they are worked out: self.log is most of a small step.
        if (every := self.trainer.log_every_n_steps) and (self.global_step + 1) % every == 0:  # type: ignore[attr-defined]
            logged = {**values, "train/loss": total.detach()}
            if labelled:
                logged |= {f"train/{name}": value for name, value in self._batch_metrics(outputs.detach(), y).items()}
                self._batch_metrics.reset()
            self.log_dict(mean_over_ranks(logged, self.device), batch_size=len(batch))  # sync_dist: one exchange each
        return {"loss": total, "values": values}

    def _adapt(
        self, batch: DomainBatch, source: Encoded | None, target: Encoded | None, values: dict[str, Tensor | float]
    ) -> Iterator[Tensor]:
        source, target = gather(source, target)
        progress = self._progress(self.global_step)
        with torch.autocast(self.device.type, enabled=False):
            source, target = source and source.raised(), target and target.raised()
            for name, loss in self.losses():
                loss.progress = progress
                # A side is None only for losses that were checked not to need it.
                returned = loss.step(self.network, batch, cast(Encoded, source), cast(Encoded, target))
                result = as_values(loss, returned)
                weight = loss.weight(progress)
                values |= {f"train/{name}": result["loss"].detach(), f"train/{name}/weight": weight}
                values |= {f"train/{name}/{key}": value for key, value in result.items() if key != "loss"}
                yield weight * result["loss"]

    def _progress(self, step: int) -> float:
        # At step 0 the scheduler asks before a resumed run may make its loader, which the total is counted on.
        return min(step / max(self.trainer.estimated_stepping_batches, 1), 1.0) if step else 0.0

    def validation_step(self, batch: Samples, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Update the metrics of one domain; one without labels cannot be tested."""
        if batch.y is not None or not self.trainer.testing:
            batch, outputs = self._outputs(batch, batch_idx, dataloader_idx)
            self._domain_metrics.update(dataloader_idx, outputs, batch.y, self.trainer.testing)

    test_step = validation_step

    def predict_step(self, batch: Samples, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Return index, domain and the task's predictions of a batch."""
        batch, outputs = self._outputs(batch, batch_idx, dataloader_idx)
        return {"index": batch.index, "domain": batch.domain, **self.network.task.predict(outputs)}

    def _outputs(self, batch: Samples, number: int, loader: int) -> tuple[Samples, Tensor]:
        _, outputs = self.network(batch.x, role_of(batch, number, self._evaluated, self.data_spec, loader))
        real = batch.index >= 0
        if self.trainer.world_size > 1 and not bool(real.all()):  # rows that pad the last batch of a rank
            y = None if batch.y is None else batch.y[real]
            batch, outputs = Samples(None, y, batch.domain[real], batch.index[real]), outputs[real]
        return batch, outputs

    def on_validation_epoch_start(self) -> None:
        """Estimate the target's batch-norm statistics where they are the method, and encode the task's reference."""
        estimate_statistics(self.trainer, self.network)
        self.on_test_epoch_start()

    def on_test_epoch_start(self) -> None:
        """Encode the rows that the task is evaluated against, if it asks for them."""
        refer(self.trainer, self.network)

    def on_validation_epoch_end(self) -> None:
        """Log what validation found; see :class:`tlkit.metrics.DomainMetrics` for the names."""
        calibrate(self.trainer, self.network.task, self._domain_metrics.calibration())
        self.log_dict(self._domain_metrics.validation_values(), sync_dist=True)

    def on_test_epoch_end(self) -> None:
        """Log the metrics of every domain under ``test/<domain>/<metric>``."""
        self.log_dict(self._domain_metrics.test_values(), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Return one optimizer with the fine-tuning's groups and the group ``head``, and its schedule."""
        # Anew: synchronised batch norm has taken the place of the layers that there were.
        self._groups = self.finetuning.groups(self.network.backbone)
        backbone = [replace(group, lr_scale=group.lr_scale * self.backbone_lr_scale) for group in self._groups]
        known = {parameter for group in backbone for parameter in group.parameters}
        head = [p for p in self.parameters() if p.requires_grad and p not in known]
        groups = [*backbone, *([ParameterGroup("head", head)] if head else [])]
        return make_optimizer(self.optimizer, groups, self.lr_schedule, self._progress)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take a step; the last may be followed by no validation that would estimate the target's statistics."""
        super().optimizer_step(*args, **kwargs)
        if self.network.batch_norm == "adabn" and self.global_step + 1 >= self.trainer.estimated_stepping_batches:
            estimate_statistics(self.trainer, self.network)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Take the gradients of what does not learn yet."""
        self.finetuning.release(self._groups, self._progress(self.global_step))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what it takes to build this model again, in plain types."""
        spec = None if self.data_spec is None else {k: list(v) for k, v in asdict(self.data_spec).items()}
        checkpoint["tlkit"] = {"version": __version__, "recipe": self.recipe, "data": spec}
        checkpoint["tlkit"]["random"] = random_states(self._random_states)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another model, or of other data, in words."""
        trained = check_checkpoint(checkpoint, self.data_spec, self.state_dict(keep_vars=True))  # lazy: not detached
        if self._trainer is not None and self._trainer.state.fn == "fit":
            self._random_states, trained = list(checkpoint.get("tlkit", {}).get("random", [])), None
        self.data_spec = trained or self.data_spec
