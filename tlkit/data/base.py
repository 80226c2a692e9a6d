"""The contract of a data module, and all that data modules share: roles, splits, checks and loaders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Dataset, Subset

from tlkit.data.checks import check_budgets, check_classes, check_domains, check_roles, check_sides, check_sizes, roles
from tlkit.data.division import Division
from tlkit.data.labels import find_labels, refuse_unlabelled, tell_unlabelled
from tlkit.data.loader import RowLoader, TrainLoader, eval_loader
from tlkit.data.rows import DomainRows, SideRows
from tlkit.data.splits import HoldOut, Rows, label_budgets, rows_in_use, tell_absent
from tlkit.data.statistics import label_statistics
from tlkit.distributed import run_seed
from tlkit.errors import ContractError, DataError
from tlkit.types import DataSpec, Samples, Split

__all__ = ["DomainDataModule"]


class DomainDataModule(L.LightningDataModule):
    """Domains in roles. A subclass names its domains and classes and defines :meth:`dataset`; the rest is here.

    Sources are trained on with labels. Targets are trained on without: their labels are not read for training batches.
    Both are validated and tested, the domains in ``also_test`` only tested.

    A target or a domain in ``also_test`` may have no labels: all of them are -1 where labels are classes, NaN where
    they are measured values. They reach no batch then: the domain is adapted to and predicted, but not tested.

    Args:
        sources: Labelled domains; may be empty where a target has labels to train on.
        targets: Domains to adapt to; empty for plain fine-tuning.
        also_test: Domains to test on besides the sources and targets.
        batch_size: Rows a batch, side and rank: a step sees ``batch_size`` source and ``batch_size`` target rows.
        num_workers: Worker processes a side; 0 reads in the main process, best for data in memory.
        hold_out: How rows are divided: ``{val_fraction: 0.1, test_fraction: 0.2, seed: 0}``.
        labels_per_class: How many labelled rows of each class a domain has to train on: a number for every source, or
            ``{domain: number}``. A source's other training rows are left out. A target named here joins the labelled
            side with that many rows; all its rows stay on the unlabelled side too.
        label_fraction: The same as a share of the training rows, in (0, 1].

    Attributes:
        domains: Names of all domains there are; a subclass sets it.
        classes: Names of the classes in label order, empty when labels are not classes; a subclass sets it.
        quantities: Names and units of the columns of the labels when they are measured values; a subclass sets it.
        input_names: What each column of ``x`` stands for (a word, an access point, a channel), if it has a meaning of
            its own; a subclass sets it. A model is evaluated on inputs of the same names alone.
        shared_groups: Whether a group of the same name is the same person, patient or place in every domain, so that it
            may not be trained on in one and tested on in another; a subclass sets it.
        group_by_length: Whether rows that have lengths are put into steps of about one length; a subclass sets it.
        splits: Row numbers by domain and split, as :meth:`split` made them.
        labelled: Row numbers of the targets' labelled training rows, by domain.
        trained: What the model to evaluate was trained on, if it is not the domains and roles of this module; set it
            before the data is read. The commands take it from the checkpoint.
        start: What the model that training starts from was trained on, whose classes count where no domain has labels.

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
    classes: Sequence[str] = ()
    quantities: Sequence[str] = ()
    input_names: Sequence[str] = ()
    shared_groups: bool = False
    group_by_length: bool = False

    def __init__(
        self,
        sources: list[str],
        targets: list[str] | None = None,
        also_test: list[str] | None = None,
        batch_size: int = 32,
        num_workers: int = 0,
        hold_out: HoldOut = HoldOut(),
        labels_per_class: int | dict[str, int] | None = None,
        label_fraction: float | dict[str, float] | None = None,
    ) -> None:
        super().__init__()
        check_roles(sources, targets or [], also_test or [])
        self.sources, self.targets, self.also_test = list(sources), list(targets or []), list(also_test or [])
        check_sizes(batch_size, num_workers)
        self.batch_size, self.num_workers, self.hold_out = batch_size, num_workers, hold_out
        self.budgets = label_budgets(self.sources, self.targets, labels_per_class, label_fraction)
        self.splits, self.labelled = dict[str, dict[Split, Rows]](), dict[str, Rows]()
        self.trained: DataSpec | None = None
        self.start: DataSpec | None = None
        self._unlabelled, self._told = set[str](), set[str]()
        self._divisions, self._labels = dict[str, Division](), dict[str, NDArray[Any]]()
        self._read: dict[tuple[str, Split], DomainRows] = {}
        self._loader: TrainLoader | None = None
        self._resumed: dict[str, int] | None = None

    # What a subclass defines

    def dataset(self, domain: str, split: Split) -> Dataset[Any]:
        """Return the rows ``(x, y)`` of one split of one domain; random augmentation only if ``split`` is ``"train"``.

        Args:
            domain: One of ``domains``.
            split: ``"train"``, ``"val"``, ``"test"``, or ``"reference"``: the training rows (of a source, with its
                validation rows) as they are read to evaluate. :meth:`split` says which rows these are.
        """
        raise ContractError(f"{type(self).__name__} must define dataset(domain, split)")

    def domain_classes(self, domain: str) -> Sequence[str]:
        """Return the classes found in one domain, in label order; ``classes`` unless a subclass finds out by domain."""
        return self.classes

    def has_labels(self, domain: str) -> bool:
        """Return whether a domain has labels: not if all that :meth:`split` was given are missing (-1, or NaN).

        A subclass overrides it to know before its rows are divided, or if it does not divide them by :meth:`split`.
        """
        return domain not in self._unlabelled

    def where(self, what: str) -> str:
        """Return what ``"domains"`` or ``"classes"`` are read from, a file and its column in words; "" if from none."""
        return ""

    def row_names(self, domain: str) -> Sequence[str] | None:
        """Return what a user knows each row of a domain by: a file, a line of a table. None if there is nothing."""
        return None

    # What a subclass may use

    def needs_labels(self, domain: str) -> bool:
        """Return whether labels of a domain are trained on: of a source, and of a target that has a budget."""
        return domain in self.sources or domain in self.budgets

    def split(
        self,
        domain: str,
        y: ArrayLike,
        groups: ArrayLike | None = None,
        test: ArrayLike | None = None,
        among: ArrayLike | None = None,
        val: ArrayLike | None = None,
    ) -> dict[Split, Rows]:
        """Divide the rows of a domain by chance, the same on every call, and remember it in ``splits``.

        Training, validation and test rows of a source are disjoint. A domain without labels to train on has none to
        validate on either: its validation rows are its training rows, for scores that need no labels. The test rows of
        a domain depend neither on its role nor on the other domains of the run. Where ``shared_groups`` is set, its
        training and validation rows leave out the groups that another domain tests on.

        Args:
            domain: Name of the domain.
            y: Labels of all its rows; every split gets its share of each if they are a column of integers. All are -1
                (classes) or NaN (measured values) if the domain has none.
            groups: Group of each row (patient, user, recording); a group is never divided.
            test: A published test split as row numbers or as a mask, or the number of rows to hold out; else
                ``hold_out.test_fraction`` of the rows.
            among: Row numbers or a mask of the rows that may be trained or validated on; all but the test rows by
                default.
            val: A published validation split of a source; else ``hold_out.val_fraction`` of those rows.

        Returns:
            Ascending row numbers of each split.

        Raises:
            DataError: If there are too few rows or groups, or labels are missing that are needed.
        """
        if domain in self.splits:
            return self.splits[domain]
        labels = np.asarray(y)
        used = rows_in_use(len(labels), test, among)
        if not find_labels(domain, labels, used, self._known_classes(), self.needs_labels(domain)):
            self._unlabelled.add(domain)
            refuse_unlabelled([domain], self.sources, self.budgets)
        self._labels[domain] = labels
        shared = self.shared_groups and groups is not None
        scored, budget = domain not in self._unlabelled, self.budgets.get(domain)
        trained = self.trained or self
        source, learns = domain in trained.sources, domain in (*trained.sources, *trained.targets)
        late = self.trained is not None and domain not in self.trained.domains
        self._divisions[domain] = Division(
            domain, self.hold_out, labels, groups, test, among, val, scored, source, budget, shared, learns, late
        )
        run = dict.fromkeys([*self.eval_domains, *(self.trained.domains if self.trained else ())])
        if shared:  # what the others test on must be known; a domain that asks while this one waits finds it here
            for other in run:
                if other not in self._divisions and other in self.domains:
                    self.dataset(other, "train")
        divisions = [self._divisions[name] for name in run if name in self._divisions]
        self.splits[domain], labelled = self._divisions[domain].split(divisions)
        if labelled is not None:
            self.labelled[domain] = labelled
        tell_absent(domain, self.classes, labels, self.splits[domain], self.labelled.get(domain))
        return self.splits[domain]

    # What the trainer and the module use

    @property
    def eval_domains(self) -> list[str]:
        """The domains that are tested, in the order of the loaders: sources, targets, ``also_test``."""
        return [*self.sources, *self.targets, *self.also_test]

    def spec(self) -> DataSpec:
        """Return what the model may know of the data.

        Statistics are of the labelled training rows, once a domain has been read; of measured values, always.
        """
        budgeted = [domain for domain in self.targets if domain in self.budgets]
        labelled = [] if self.trained else [*self.sources, *budgeted]
        learned = self.trained or (None if labelled else self.start)
        for domain in labelled if self.quantities else ():
            self._domain(domain, "train")
        known = [self._labels[d][self.labelled.get(d, self.splits[d]["train"])] for d in labelled if d in self.splits]
        return DataSpec(
            tuple(self.eval_domains),
            tuple(self.sources),
            tuple(self.targets),
            tuple(self._known_classes()),
            quantities=tuple(self.quantities),
            labelled=tuple(budgeted),
            input_names=tuple(self.input_names),
            **label_statistics(known, bool(self.quantities), len(self.classes), learned),
        )

    def example(self) -> Samples:
        """Return two rows of the first domain, without labels and augmentation, to learn shapes from."""
        first, read = self.eval_domains[0], self._read
        rows = self._domain(first, "test" if (first, "test") in read and (first, "val") not in read else "val")
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
        check_domains(roles(self), self.domains, self.where)
        unlabelled = [domain for domain in self.eval_domains if not self.has_labels(domain)]
        refuse_unlabelled(unlabelled, self.sources, self.budgets)
        named = {domain: self.domain_classes(domain) for domain in self.eval_domains if domain not in unlabelled}
        check_classes(named, self._known_classes() or self.quantities, self.where)
        training = stage in ("fit", None)
        self._resumed = None
        for domain in self.eval_domains:
            trained_on = domain not in self.also_test
            if training and trained_on:
                self._domain(domain, "train")
            if (training or stage == "validate") and trained_on:
                self._domain(domain, "val")
            if training or stage in ("test", "predict"):
                self._domain(domain, "test")
        if training:
            check_budgets(self.budgets, self.splits, type(self).__name__)
            check_sides(self._sides(), self.batch_size, self._ranks()[1], self._batches_a_step())
        if stage != "predict":
            tell_unlabelled([name for name in self.eval_domains if not self.has_labels(name)], self._told)

    def train_dataloader(self) -> TrainLoader:
        """Return the loader of :class:`~tlkit.types.DomainBatch`; an epoch is one pass over the longer side.

        The target side is not read at all when the module says that nothing uses it.
        """
        if getattr(self.trainer, "overfit_batches", 0):
            raise DataError(
                "trainer.overfit_batches repeats batches, and here every batch is drawn anew: leave it out, and lower "
                "trainer.limit_train_batches or the data instead"
            )
        sides = {role: SideRows(parts, self.group_by_length) for role, parts in self._sides().items()}
        # A trainer that asks again in the middle of its run (reload_dataloaders_every_n_epochs) goes on in the order.
        going_on = self.trainer is not None and self.trainer.current_epoch > 0 and self._loader is not None
        position = self._loader.position if going_on and self._loader is not None else 0
        spread = (self.batch_size, run_seed(self.trainer), *self._ranks(), self.num_workers, self._batches_a_step())
        self._loader = TrainLoader(sides.get("source"), sides.get("target"), *spread)
        self._loader.position = position
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
        return [
            self._loader_of([self._domain(name, "val")], persistent=True) for name in (*self.sources, *self.targets)
        ]

    def test_dataloader(self) -> list[RowLoader]:
        """Return one loader for each of ``eval_domains``, with labels."""
        return [self._loader_of([self._domain(domain, "test")]) for domain in self.eval_domains]

    def reference_loader(self) -> RowLoader:
        """Return a loader of the sources' training and validation rows, with labels, as they are read to evaluate."""
        return self._loader_of([self._domain(domain, "reference") for domain in self.sources])

    def target_train_loader(self) -> RowLoader:
        """Return a loader of the targets' training rows, without labels, as they are read to evaluate.

        They come in a random order: neighbours in a file are alike, and the statistics of a batch of them are not those
        of the domain.
        """
        return self._loader_of([self._domain(domain, "reference") for domain in self.targets], shuffled=True)

    def predict_dataloader(self) -> list[RowLoader]:
        """Return one loader for each of ``eval_domains``, of its rows to predict."""
        return [self._loader_of([self._predicted(domain)]) for domain in self.eval_domains]

    def rows_to_predict(self, domain: str) -> Rows:
        """Return the numbers of the test rows of a domain, or, if it has no labels to test by, of all rows in use."""
        splits = self.splits[domain]
        return splits["test"] if self.has_labels(domain) else np.union1d(splits["reference"], splits["test"])

    def teardown(self, stage: str) -> None:
        """End the worker processes of training."""
        if self._loader is not None:
            self._loader.close()

    def _domain(self, domain: str, split: Split) -> DomainRows:
        if (domain, split) not in self._read:
            number = self.eval_domains.index(domain)
            # Here the labels of targets are taken from training batches.
            sealed = split not in ("val", "test") and domain not in self.sources
            data = self.dataset(domain, split)  # which may find out that there are none
            labels = not sealed and self.has_labels(domain)
            self._read[domain, split] = DomainRows(domain, number, split, data, len(self.classes), labels)
        return self._read[domain, split]

    def _predicted(self, domain: str) -> DomainRows:
        tested = self._domain(domain, "test")
        if self.has_labels(domain) or domain not in self.splits:
            return tested
        reference, test = self.splits[domain]["reference"], self.splits[domain]["test"]
        order = np.unique(np.concatenate([reference, test]), return_index=True)[1]  # some test on training rows
        both = SideRows([*([self._domain(domain, "reference")] if len(reference) else []), tested])
        return DomainRows(domain, tested.domain, "test", Subset(both, order), 0, labels=False)  # type: ignore[arg-type]

    def _loader_of(self, parts: list[DomainRows], persistent: bool = False, shuffled: bool = False) -> RowLoader:
        rank, world = self._ranks()
        return eval_loader(SideRows(parts), self.batch_size, self.num_workers, rank, world, persistent, shuffled)

    def _sides(self) -> dict[str, list[DomainRows]]:
        """Return what each side of a training batch is drawn from; a side that nothing uses is left out."""
        labelled = [self._domain(domain, "train") for domain in self.sources]
        labelled += [self._labelled_rows(domain) for domain in self.targets if domain in self.budgets]
        module = getattr(self.trainer, "lightning_module", None)
        targets = self.targets if getattr(module, "uses_target", True) else []
        sides = {"source": labelled, "target": [self._domain(domain, "train") for domain in targets]}
        return {role: parts for role, parts in sides.items() if parts}

    def _labelled_rows(self, domain: str) -> DomainRows:
        """Return the labelled training rows of a target."""
        data = self.dataset(domain, "train")
        chosen = np.isin(self.splits[domain]["train"], self.labelled[domain]).nonzero()[0].tolist()
        return DomainRows(domain, self.eval_domains.index(domain), "train", Subset(data, chosen), len(self.classes))

    def _known_classes(self) -> Sequence[str]:
        learned = None if self.classes or self.quantities else self.trained or self.start
        return self.classes if learned is None else learned.classes

    def _batches_a_step(self) -> int:
        return getattr(self.trainer, "accumulate_grad_batches", 1)

    def _ranks(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
