"""Amazon reviews of four kinds of goods: the Multi-Domain Sentiment data set."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from tlkit.data.files.fetch import Published, published_folder
from tlkit.data.files.folders import find_folder
from tlkit.data.splits import HoldOut
from tlkit.data.text.rows import TextModule, Texts
from tlkit.errors import DataError

__all__ = ["AmazonReviews"]

_FOLDERS = {"books": "books", "dvd": "dvd", "electronics": "electronics", "kitchen": "kitchen_&_housewares"}
_INSIDE = "sorted_data_acl"  # the folder in the archive
_CLASSES = ("negative", "positive")
_ARCHIVE = Published(
    name="domain_sentiment_data.tar.gz",
    url="https://www.cs.jhu.edu/~mdredze/datasets/sentiment/domain_sentiment_data.tar.gz",
    by_hand="If the site is gone, search for 'Multi-Domain Sentiment Dataset domain_sentiment_data.tar.gz'",
)
# The files look like XML and are none: tags are not closed in pairs, and & stands by itself.
_REVIEW = re.compile(r"<review>(.*?)</review>", re.DOTALL)


class AmazonReviews(TextModule):
    """Reviews of ``books``, ``dvd``, ``electronics`` and ``kitchen`` goods, negative or positive (Blitzer, ACL 2007).

    Blitzer, Dredze and Pereira, "Biographies, Bollywood, Boom-boxes and Blenders": 1,000 reviews of each class in each
    domain, 8,000 in all, of which 147 repeat the text of another one of the same domain and class and are left out: 44
    books, 46 dvd, 34 electronics, 23 kitchen. The raw text is read; the authors' bags of words are not.

    Licence: published for research, without a licence; the texts are those of Amazon's customers. No checksum is
    published.

    Args:
        sources: Labelled domains.
        targets: Domains to adapt to.
        root: The folder that holds ``sorted_data_acl/<domain>/{negative,positive}.review``, or ``sorted_data_acl``
            itself; else the folder that the environment variable TLKIT_DATA names (default ``~/.cache/tlkit``). Where
            the files are missing they are downloaded, 30 MB.
        title: Put the title of a review, and a line break, before its text.
        protocol: ``"transductive"`` is the literature's: all reviews of a target are its test rows and, unlabelled, its
            training rows. Of a source a fifth validates, 400 in 2,000, and the others are trained on, but for 40 that
            are held out, whatever ``test_fraction`` is, so that even a source's figure is not of rows that the
            checkpoint was chosen on. ``"inductive"`` holds out ``test_fraction`` of every domain.
        hold_out: As in :class:`DomainDataModule`, with a fifth of a source to validate on.
        **kwargs: The arguments of :class:`~tlkit.data.text.rows.TextModule`, ``tokenizer`` or ``words`` among them, and
            of :class:`DomainDataModule`.

    Raises:
        DataError: If the files cannot be had, or are not what their names say.
    """

    domains = tuple(_FOLDERS)
    classes = _CLASSES
    transductive_test = 40

    def __init__(
        self,
        sources: list[str],
        targets: list[str] | None = None,
        root: str | None = None,
        title: bool = False,
        protocol: Literal["transductive", "inductive"] = "transductive",
        hold_out: HoldOut = HoldOut(val_fraction=0.2),
        **kwargs: Any,
    ) -> None:
        super().__init__(sources=sources, targets=targets, protocol=protocol, hold_out=hold_out, **kwargs)
        self.root, self.title = root, title

    @cached_property
    def folder(self) -> Path:
        """The folder of the domains, ``sorted_data_acl``."""
        files = [f"{folder}/{label}.review" for folder in _FOLDERS.values() for label in _CLASSES]
        if self.root and find_folder(self.root).name == _INSIDE:
            return published_folder(self.root, "", files)
        return published_folder(self.root, ".", [f"{_INSIDE}/{file}" for file in files], [_ARCHIVE]) / _INSIDE

    def read(self, domain: str) -> Texts:
        """Return the 2,000 reviews of a domain, duplicates among them."""
        rows = []
        for label in self.classes:
            path = self.folder / _FOLDERS[domain] / f"{label}.review"
            for number, (title, text) in enumerate(_reviews(path), 1):
                whole = f"{title}\n{text}" if self.title and title else text
                rows.append((whole, text, label, f"{label}.review, review {number}", False))
        return Texts.of(rows)


def _reviews(path: Path) -> list[tuple[str, str]]:
    """Return title and text of each review in a file."""
    content = path.read_bytes().decode("latin-1")
    reviews = _REVIEW.findall(content)
    if not reviews or len(reviews) != content.count("<review>"):
        raise DataError(
            f"{path} should hold reviews between <review> and </review>: it begins {content.count('<review>')} of them "
            f"and ends {len(reviews)}, so it is cut off or another file; get it again from {_ARCHIVE.url}"
        )
    pairs = []
    for number, review in enumerate(reviews, 1):
        title, text = (_inside(tag, review) for tag in ("title", "review_text"))
        if not text:
            raise DataError(f"{path}, review {number}: expected a text in <review_text>, got none")
        pairs.append((title, text))
    return pairs


def _inside(tag: str, review: str) -> str:
    found = re.search(rf"<{tag}>(.*?)</{tag}>", review, re.DOTALL)
    return found[1].strip() if found else ""
