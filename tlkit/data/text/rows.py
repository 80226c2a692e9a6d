"""What data modules of texts share: duplicates, splits, and texts as tokens or as bags of words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch.utils.data import Subset

from tlkit.data.base import DomainDataModule
from tlkit.data.labels import label_numbers
from tlkit.data.rows import TensorRows
from tlkit.data.splits import Rows, divide, generator
from tlkit.data.text.tokens import TokenRows, tokenize
from tlkit.errors import ContractError, DataError
from tlkit.notes import say
from tlkit.types import DataSpec, Split

__all__ = ["TextModule", "Texts"]


@dataclass(frozen=True)
class Texts:
    """The texts of one domain.

    Attributes:
        texts: The texts.
        keys: By what two of them are the same: mostly the texts themselves.
        labels: Names of their classes; all are empty if the domain has no labels.
        places: What a user knows each by.
        test: Whether each is of a published test split.
    """

    texts: list[str]
    keys: list[str]
    labels: list[str]
    places: list[str]
    test: list[bool]

    @classmethod
    def of(cls, rows: Sequence[tuple[str, str, str, str, bool]]) -> Texts:
        """Return texts of rows that hold the attributes in their order."""
        texts, keys, labels, places, test = (list(column) for column in zip(*rows, strict=True))
        return cls(texts, keys, labels, places, test)

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Rows) -> Texts:
        """Return some of the rows."""
        everything = list(zip(self.texts, self.keys, self.labels, self.places, self.test, strict=True))
        return Texts.of([everything[row] for row in rows])


class TextModule(DomainDataModule):
    """Texts in domains, as tokens or as bags of words. A subclass sets ``domains`` and defines :meth:`read`.

    Of equal texts in a domain one is kept; equal texts with different labels are all left out. Texts that differ in
    case and blanks alone stay in one split. A text with a label that a target, an ``also_test`` domain or an earlier
    source has too, or that another source tests on, is not trained or validated on; one that a model has learned from
    is not in the test of a domain that is tested later. Each of this is said, with its count.

    Args:
        tokenizer: What makes tokens, for a :class:`~tlkit.backbones.TransformersBackbone` of the same name: a folder, a
            name of the hub, or ``package:<name>``. Rows are mappings of ``input_ids`` and ``attention_mask``, each
            batch cut to its longest text. Tokens are kept on disk (:func:`tlkit.data.text.tokens.tokenize`).
        max_length: Number of tokens at which a text is cut.
        group_by_length: Put texts of about the same length into a training step, which saves padding. The lengths of
            the two sides of a step are then drawn apart from each other, and a loss that aligns the sides sees that
            too: best for ``adaptation: []``. Texts are always sorted by length to be evaluated.
        words: Instead of ``tokenizer``: rows are float32 vectors, the TF-IDF of that many most frequent words. They are
            fitted on the training rows of the sources and, unlabelled, of the targets.
        bigrams: Count pairs of neighbouring words among the ``words`` too.
        protocol: ``"inductive"`` holds out test rows in every domain. ``"transductive"`` trains on all rows of a
            target, unlabelled, and tests on the same rows; a source holds out test rows all the same.
        **kwargs: The arguments of :class:`DomainDataModule`.

    Attributes:
        transductive_test: How many rows of a source are held out to test on when the protocol is transductive; ``None``
            takes ``hold_out.test_fraction`` of them.

    Raises:
        DataError: If not exactly one of ``tokenizer`` and ``words`` is given, or one is out of range.
    """

    transductive_test: int | None = None

    def __init__(
        self,
        tokenizer: str | None = None,
        max_length: int = 128,
        group_by_length: bool = False,
        words: int | None = None,
        bigrams: bool = False,
        protocol: Literal["inductive", "transductive"] = "inductive",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (tokenizer is None) == (words is None):
            came = "neither" if words is None else f"tokenizer={tokenizer!r} and words={words}"
            raise DataError(
                f"give one of tokenizer (for a transformer) and words (how many, for a bag of words), got {came}"
            )
        if max_length < 3:
            raise DataError(f"max_length must be at least 3, two tokens are special, got {max_length}")
        if words is not None and words < 1:
            raise DataError(f"words must be at least 1, got {words}")
        if bigrams and words is None:
            raise DataError("bigrams goes with words, and tokenizer is given: leave it out")
        if group_by_length and tokenizer is None:
            raise DataError("group_by_length goes with tokenizer, bags of words have one length: leave it out")
        if protocol not in ("inductive", "transductive"):
            raise DataError(f"protocol must be 'inductive' or 'transductive', got {protocol!r}")
        if protocol == "transductive" and (labelled := [name for name in self.targets if name in self.budgets]):
            raise DataError(
                f"labels of the target {labelled[0]!r} are to be trained on, and protocol: transductive tests on all "
                "its rows: set protocol: inductive, which holds test rows out"
            )
        self.tokenizer, self.max_length, self.words, self.bigrams = tokenizer, max_length, words, bigrams
        self.group_by_length, self.protocol = group_by_length, protocol
        self._texts: dict[str, Texts] = {}
        self._normal_keys: dict[str, list[str]] = {}
        self._numbers: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        self._rows: dict[str, TokenRows | TensorRows] = {}

    def read(self, domain: str) -> Texts:
        """Return all texts of a domain, duplicates among them."""
        raise ContractError(f"{type(self).__name__} must define read(domain)")

    def texts(self, domain: str) -> Texts:
        """Return the texts of a domain that are used, in the order that row numbers count."""
        if domain not in self._texts:
            self._texts[domain] = _without_duplicates(domain, self.read(domain))
        return self._texts[domain]

    def has_labels(self, domain: str) -> bool:
        """Return whether the texts of a domain have labels."""
        return any(self.texts(domain).labels)

    def row_names(self, domain: str) -> Sequence[str]:
        """Return where each text of a domain stands."""
        return self.texts(domain).places

    def dataset(self, domain: str, split: Split) -> Subset[Any]:
        """Return one split of one domain."""
        rows = self._divided(domain)[split]
        if domain not in self._rows:
            texts = self.texts(domain)
            y = torch.from_numpy(label_numbers(texts.labels, self.classes))
            if self.tokenizer is not None:
                self._rows[domain] = TokenRows(tokenize(texts.texts, self.tokenizer, self.max_length, domain), y)
            else:
                x = torch.from_numpy(self._vectorizer.transform(texts.texts).toarray())
                self._rows[domain] = TensorRows(x, y)
        return Subset(self._rows[domain], rows)  # type: ignore[arg-type]  # an array, not a list: an eighth of it

    @property
    def vocabulary(self) -> list[str]:
        """The words that the columns of ``x`` stand for, with ``words``."""
        return list(self._vectorizer.get_feature_names_out())

    @property
    def input_names(self) -> Sequence[str]:  # type: ignore[override]  # mypy takes a property for read-only
        """The vocabulary, with ``words``; none with ``tokenizer``."""
        return self.vocabulary if self.words is not None else ()

    @cached_property
    def _vectorizer(self) -> Any:
        from sklearn.feature_extraction.text import TfidfVectorizer

        texts = []
        roles = self.trained or self  # a model is evaluated on inputs made as those that it was trained on
        for domain in (*roles.sources, *roles.targets):
            texts += self.texts(domain).take(self._divided(domain)["train"]).texts
        vectorizer = TfidfVectorizer(
            max_features=self.words, ngram_range=(1, 2 if self.bigrams else 1), dtype=np.float32
        )
        try:
            return vectorizer.fit(texts)
        except ValueError as error:
            raise DataError(f"words={self.words}: the training texts hold no words of two letters or more") from error

    def _divided(self, domain: str) -> dict[Split, Rows]:
        if domain in self.splits:
            return self.splits[domain]
        keys, learned = self._keys(domain), self.trained or self
        if self.protocol == "transductive" and domain not in learned.sources:
            everything = np.arange(len(keys))
            self.splits[domain] = dict.fromkeys(("train", "val", "test", "reference"), everything)
        elif domain not in (*learned.sources, *learned.targets) and not self.has_labels(domain):
            # All of it is to be predicted, be it one text.
            self.split(domain, *self._numbered(domain))
        else:
            y, groups = self._numbered(domain)
            test = self._held_out(domain)
            leaking = np.isin(groups, groups[test]) | self._elsewhere(domain)
            if leaking.all():
                raise DataError(self._nothing_left(domain))
            self.split(domain, y, groups, test, among=~leaking)
        if self.trained is not None and domain not in self.trained.domains and self.has_labels(domain):
            self._leave_out_learned(domain, self.trained)
        return self.splits[domain]

    def _nothing_left(self, domain: str) -> str:
        named = sum(self.texts(domain).test)
        why = f" ({named} are in a file or split named test)" if named else ""
        return f"domain {domain!r} has no text to train on that is not tested on, there or in a target{why}"

    def _leave_out_learned(self, domain: str, trained: DataSpec) -> None:
        """Take what a model learned from out of the test of a domain that its run did not have."""
        learned: set[str] = set()
        for other in (*trained.sources, *trained.targets):
            keys = self._keys(other)
            learned.update(keys[row] for part in ("train", "val") for row in self._divided(other)[part])
        known = np.fromiter((key in learned for key in self._keys(domain)), bool)
        splits = self.splits[domain]
        count = int(known[splits["test"]].sum())
        if count == len(splits["test"]):
            raise DataError(f"domain {domain!r}: the model has learned from all {count} texts to test on")
        if count:
            say(f"{domain}: {count} texts are left out of the test, the model has learned from them")
        self.splits[domain] = {name: rows[~known[rows]] for name, rows in splits.items()}

    def _keys(self, domain: str) -> list[str]:
        """Return by what two texts must be in one split: themselves, but for case and blanks."""
        if domain not in self._normal_keys:
            self._normal_keys[domain] = [" ".join(key.lower().split()) for key in self.texts(domain).keys]
        return self._normal_keys[domain]

    def _numbered(self, domain: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the labels of a domain as numbers, and its keys."""
        if domain not in self._numbers:
            keys = self._keys(domain)
            # Not by numpy, whose arrays of text give every text the room of the longest.
            number = {key: place for place, key in enumerate(sorted(set(keys)))}
            labels = label_numbers(self.texts(domain).labels, self.classes)
            self._numbers[domain] = labels, np.array([number[key] for key in keys])
        return self._numbers[domain]

    def _held_out(self, domain: str) -> Rows:
        """Return the test rows of a domain, which do not follow from its role."""
        if any(published := self.texts(domain).test):
            return np.flatnonzero(published)
        y, groups = self._numbered(domain)
        count = max(round(self.hold_out.test_fraction * len(y)), 1)
        if self.protocol == "transductive" and self.transductive_test is not None:
            count = self.transductive_test
        try:
            return divide(np.arange(len(y)), count, y, groups, generator(self.hold_out.seed, f"{domain}, test"))[1]
        except DataError as error:
            raise DataError(f"domain {domain!r} cannot be split: {error}") from error

    def _elsewhere(self, domain: str) -> NDArray[np.bool_]:
        """Return which texts of a domain with labels are also tested on in another, or in an earlier source."""
        sources, keys = (self.trained or self).sources, self._keys(domain)
        run = self.trained.domains if self.trained else self.eval_domains
        others: dict[str, set[str]] = {}
        if domain in sources or domain in self.budgets:
            others = {other: set(self._keys(other)) for other in run if other not in (domain, *sources)}
        if domain in sources:
            place = sources.index(domain)
            others |= {other: set(self._keys(other)) for other in sources[:place]}
            # A later source gives up what both train on; what it tests on stays its own.
            for other in sources[place + 1 :]:
                others[other] = {self._keys(other)[row] for row in self._held_out(other)}
        found = np.zeros(len(keys), bool)
        for other, there in others.items():
            shared = np.fromiter((key in there for key in keys), bool, len(keys))
            if shared.any():
                say(f"{domain}: {shared.sum()} texts are in {other} too, and are not trained on")
            found |= shared
        return found


def _without_duplicates(domain: str, texts: Texts) -> Texts:
    # Published test rows come first: of equal texts theirs is kept.
    order = sorted(range(len(texts)), key=lambda row: not texts.test[row])
    first: dict[str, int] = {}
    contradicted: dict[str, int] = {}
    for row in order:
        key = texts.keys[row].strip()
        if texts.labels[first.setdefault(key, row)] != texts.labels[row]:
            contradicted.setdefault(key, row)
    if contradicted:
        key, row = next(iter(contradicted.items()))
        rank_zero_warn(
            f"{domain}: {len(contradicted)} texts stand with different labels and are left out, the first is "
            f"{key[:40]!r} ({texts.places[first[key]]}, {texts.places[row]})"
        )
    if repeated := len(texts) - len(first):
        say(f"{domain}: {repeated} of {len(texts)} texts repeat another one and are left out")
    kept = np.array(sorted(row for key, row in first.items() if key not in contradicted), np.int64)
    if not len(kept):
        raise DataError(f"domain {domain!r} has no texts left: all stand with different labels")
    return texts.take(kept)
