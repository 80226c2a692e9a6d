"""The contract of a data module, and all that data modules share: roles, splits, checks and loaders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.utils.data import Dataset

from tlkit.data.checks import check_classes, check_domains, check_roles
from tlkit.data.loader import RowLoader, TrainLoader, eval_loader
from tlkit.data.rows import DomainRows, SideRows
from tlkit.data.splits import Rows, generator, hold_out
from tlkit.errors import DataError
from tlkit.types import DataSpec, Samples, Split

__all__ = ["DomainDataModule"]


class DomainDataModule(L.LightningDataModule):
    """Domains in roles. A subclass names its domains and classes and defines :meth:`dataset`; the rest is here.

    Sources are trained on with labels. Targets are trained on without: their labels are not read for training batches.
    Both are validated and tested, the domains in ``also_test`` only tested.

    Args:
        sources: Labelled domains; empty for source-free adaptation.
        targets: Domains to adapt to; empty for plain fine-tuning.
        also_test: Domains to test on besides the sources and targets.
        batch_size: Rows a batch, side and rank: a step sees ``batch_size`` source and ``batch_size`` target rows.
        num_workers: Worker processes a side; 0 reads in the main process, best for data in memory.
        val_fraction: Share of a source's rows outside the test split that are held out to validate on.
        test_fraction: Share of a domain's rows held out to test on, where no test split is published.
        split_seed: Seed of the splits. It is not the seed of the run, so that runs with other seeds are comparable.

    Attributes:
        domains: Names of all domains there are; a subclass sets it.
        classes: Names of the classes in label order, empty when labels are not classes; a subclass sets it.
        splits: Row numbers by domain and split, as :meth:`split` made them.

    Raises:
        DataError: If the arguments contradict each other.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> class Steps(DomainDataModule):
        ...     domains = ["low", "high"]
        ...     classes = ["even", "odd"]
        ...     def dataset(self, domain, split):
        ...         x = torch.arange(40.0)[:, None] + (100 if domain == "high" else 0)
        ...         y = torch.arange(40) % 2
        ...         rows = self.split(domain, y)[split]
        ...         return TensorDataset(x[rows], y[rows])
        >>> data = Steps(sources=["low"], targets=["high"], batch_size=4)
        >>> data.setup()
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch.source.y.shape, batch.target.y
        (torch.Size([4]), None)
    """

    domains: Sequence[str]
    classes: Sequence[str]

    def __init__(
        self,
        sources: list[str],
        targets: list[str] | None = None,
        also_test: list[str] | None = None,
        batch_size: int = 32,
        num_workers: int = 0,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        split_seed: int = 0,
    ) -> None:
        super().__init__()
        check_roles(sources, targets or [], also_test or [])
        self.sources, self.targets, self.also_test = list(sources), list(targets or []), list(also_test or [])
        if batch_size < 2:
            raise DataError(f"batch_size must be at least 2, one row has no covariance, got {batch_size}")
        if num_workers < 0:
            raise DataError(f"num_workers must be 0 (read in the main process) or more, got {num_workers}")
        for name, fraction in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
            if not 0 < fraction < 1:
                raise DataError(f"{name} must lie between 0 and 1, both excluded, got {fraction}")
        self.batch_size, self.num_workers = batch_size, num_workers
        self.val_fraction, self.test_fraction, self.split_seed = val_fraction, test_fraction, split_seed
        self.splits: dict[str, dict[Split, Rows]] = {}
        self._read: dict[tuple[str, Split], DomainRows] = {}
        self._loader: TrainLoader | None = None
        self._resumed: dict[str, int] | None = None

    # What a subclass defines

    def dataset(self, domain: str, split: Split) -> Dataset[Any]:
        """Return the rows ``(x, y)`` of one split of one domain; random augmentation only if ``split`` is ``"train"``.

        Args:
            domain: One of ``domains``.
            split: ``"train"``, ``"val"`` or ``"test"``; :meth:`split` says which rows these are.
        """
        raise TypeError(f"{type(self).__name__} must define dataset(domain, split)")

    def domain_classes(self, domain: str) -> Sequence[str]:
        """Return the classes found in one domain, in label order; ``classes`` unless a subclass finds out by domain."""
        return self.classes

    # What a subclass may use

    def split(
        self, domain: str, y: ArrayLike, groups: ArrayLike | None = None, test: ArrayLike | None = None
    ) -> dict[Split, Rows]:
        """Divide the rows of a domain by chance, the same on every call, and remember it in ``splits``.

        Training, validation and test rows of a source are disjoint. A domain without labels to train on has none to
        validate on either: its validation rows are its training rows, for scores that need no labels. The test rows of
        a domain do not depend on its role.

        Args:
            domain: Name of the domain.
            y: Labels of all its rows; every split gets its share of each if they are a column of integers.
            groups: Group of each row (patient, user, recording); a group is never divided.
            test: A published test split as row numbers or as a mask, or the number of rows to hold out; else
                ``test_fraction`` of the rows.

        Returns:
            Ascending row numbers of each split.

        Raises:
            DataError: If there are too few rows or groups.
        """
        if domain in self.splits:
            return self.splits[domain]
        rows, random = np.arange(len(y)), generator(self.split_seed, domain)  # type: ignore[arg-type]
        published = None if test is None or np.ndim(test) == 0 else np.asarray(test)
        try:
            if published is not None:
                mask = np.zeros(len(rows), bool)
                mask[published] = True
                train, held = rows[~mask], rows[mask]
            else:
                count = round(self.test_fraction * len(rows)) if test is None else int(test)  # type: ignore[arg-type]
                train, held = hold_out(rows, max(count, 1), y, groups, random)
            validation = train
            if domain in self.sources:
                train, validation = hold_out(train, max(round(self.val_fraction * len(train)), 1), y, groups, random)
        except DataError as error:
            raise DataError(f"domain {domain!r} cannot be split: {error}") from error
        self.splits[domain] = {"train": train, "val": validation, "test": held}
        return self.splits[domain]

    # What the trainer and the module use

    @property
    def eval_domains(self) -> list[str]:
        """The domains that are tested, in the order of the loaders: sources, targets, ``also_test``."""
        return [*self.sources, *self.targets, *self.also_test]

    def spec(self) -> DataSpec:
        """Return what the model may know of the data."""
        return DataSpec(tuple(self.eval_domains), tuple(self.sources), tuple(self.targets), tuple(self.classes))

    def example(self) -> Samples:
        """Return two rows of the first training domain, without labels and augmentation, to learn shapes from."""
        rows = self._domain(self.eval_domains[0], "val")
        index = torch.arange(2).clamp(max=len(rows) - 1)
        return Samples(rows.read(index)[0], None, torch.zeros_like(index), index)

    def setup(self, stage: str | None = None) -> None:
        """Read the data of ``stage`` and check it, so that a fault is found before training.

        Args:
            stage: ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``; everything if not given. Fit checks
                everything too: a run that trains for hours must not fail at its test.

        Raises:
            DataError: In words that say which domain, what is wrong and what to do.
        """
        check_domains({"sources": self.sources, "targets": self.targets, "also_test": self.also_test}, self.domains)
        check_classes({domain: self.domain_classes(domain) for domain in self.eval_domains})
        training = stage in ("fit", None)
        self._resumed = None
        for domain in self.eval_domains:
            trained_on = domain not in self.also_test
            for split, needed in (
                ("train", training and trained_on),
                ("val", (training or stage == "validate") and trained_on),
                ("test", training or stage in ("test", "predict")),
            ):
                if needed:
                    self._domain(domain, split)  # type: ignore[arg-type]
        if training:
            self._check_batch_size()

    def train_dataloader(self) -> TrainLoader:
        """Return the loader of :class:`~tlkit.types.DomainBatch`; an epoch is one pass over the longer side.

        The target side is not read at all when the module says that nothing uses it.
        """
        if getattr(self.trainer, "overfit_batches", 0):
            raise DataError(
                "trainer.overfit_batches repeats batches, and here every batch is drawn anew: leave it out, and lower "
                "trainer.limit_train_batches or the data instead"
            )
        sides = self._sides()
        if not sides:
            raise DataError("sources is empty and no adaptation loss uses the target: there is nothing to train on")
        source, target = (
            SideRows([self._domain(domain, "train") for domain in sides[role]]) if role in sides else None
            for role in ("source", "target")
        )
        # A trainer that asks again in the middle of its run (reload_dataloaders_every_n_epochs) goes on in the order.
        going_on = self.trainer is not None and self.trainer.current_epoch > 0 and self._loader is not None
        position = self._loader.position if going_on and self._loader is not None else 0
        rank, world = self._ranks()
        self._loader = TrainLoader(
            source, target, self.batch_size, self._seed(), rank, world, self.num_workers, position
        )
        if self._resumed is not None:
            self._loader.load_state_dict(self._resumed)
            self._resumed = None
        return self._loader

    def state_dict(self) -> dict[str, int]:
        """Return where training stands in its batches, for the checkpoint.

        The trainer keeps it too, but does not give it back to a run that resumes from the end of an epoch, or whose
        loader was made early, to count the steps.
        """
        return {} if self._loader is None else self._loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on, in the fit that resumes, where the checkpoint stood."""
        if self.trainer is not None and self.trainer.state.fn == "fit":
            self._resumed = dict(state_dict)

    def val_dataloader(self) -> list[RowLoader]:
        """Return one loader for each source and target, with labels."""
        return [self._eval_loader(domain, "val") for domain in (*self.sources, *self.targets)]

    def test_dataloader(self) -> list[RowLoader]:
        """Return one loader for each of ``eval_domains``, with labels."""
        return [self._eval_loader(domain, "test") for domain in self.eval_domains]

    def predict_dataloader(self) -> list[RowLoader]:
        """Return the loaders of :meth:`test_dataloader`."""
        return self.test_dataloader()

    def teardown(self, stage: str) -> None:
        """End the worker processes of training."""
        if self._loader is not None:
            self._loader.close()

    def _domain(self, domain: str, split: Split) -> DomainRows:
        if (domain, split) not in self._read:
            number = self.eval_domains.index(domain)
            # Here the labels of targets are taken from training batches.
            labels = split != "train" or domain in self.sources
            data = self.dataset(domain, split)
            self._read[domain, split] = DomainRows(domain, number, split, data, len(self.classes), labels)
        return self._read[domain, split]

    def _eval_loader(self, domain: str, split: Split) -> RowLoader:
        rows, (rank, world) = SideRows([self._domain(domain, split)]), self._ranks()
        return eval_loader(rows, self.batch_size, self.num_workers, rank, world, persistent=split == "val")

    def _sides(self) -> dict[str, list[str]]:
        module = getattr(self.trainer, "lightning_module", None)
        targets = self.targets if getattr(module, "uses_target", True) else []
        return {role: names for role, names in (("source", self.sources), ("target", targets)) if names}

    def _check_batch_size(self) -> None:
        world = self._ranks()[1]
        for role, names in self._sides().items():
            size = sum(len(self._domain(name, "train")) for name in names)
            if self.batch_size * world > size:
                ranks = f" on each of {world} ranks" if world > 1 else ""
                raise DataError(
                    f"batch_size {self.batch_size}{ranks} is larger than the training split of the {role} "
                    f"{', '.join(map(repr, names))}, which has {size} rows: choose at most {size // world}"
                )

    def _ranks(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _seed(self) -> int:
        """Return rank 0's seed of the run."""
        seed = int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed() % 2**31))
        if self.trainer is not None and self.trainer.world_size > 1:
            seed = self.trainer.strategy.broadcast(seed)
        return seed
