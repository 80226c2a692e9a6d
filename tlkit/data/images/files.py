"""What every data module of image files shares: checking, reading, keeping in memory, augmenting and splitting."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset, Subset, get_worker_info

from tlkit.data.base import DomainDataModule
from tlkit.data.images.augment import Augment, augmented, check_augment
from tlkit.data.labels import class_order, label_numbers
from tlkit.data.rows import row_draws
from tlkit.errors import ContractError, DataError
from tlkit.types import Split

__all__ = [
    "EXTENSIONS",
    "ImageDomains",
    "ImageRows",
    "Listing",
    "check_image",
    "check_image_size",
    "decode",
    "is_image",
    "looks_whole",
    "shrunk",
]

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# How whole files begin and end: JPEG, PNG.
_ENDS = ((b"\xff\xd8\xff", b"\xff\xd9"), (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"))
_DARK = 1 << 13  # of 16 bits, what is darker than an eighth of white
_KEPT = 1 << 30  # bytes of one domain that may be kept in memory


@dataclass(frozen=True)
class Listing:
    """The images of one domain, in an order that is the same on every machine.

    Attributes:
        paths: Their files.
        labels: The name of each one's class; all are empty if the domain has no labels.
        names: What a user knows each by.
        groups: The group of each, such as a patient; a group is never divided by a split. None if there are none.
        test: Numbers of those in the published test split; None if none is published.
        val: Numbers of those in the published validation split; None if none is published.
    """

    paths: Sequence[Path]
    labels: Sequence[str]
    names: Sequence[str]
    groups: Sequence[str] | None = None
    test: Sequence[int] | None = None
    val: Sequence[int] | None = None


class ImageDomains(DomainDataModule):
    """Image files with a class each. A subclass names its ``domains`` and defines :meth:`listing`; the rest is here.

    Images are yielded as float32 RGB in [0, 1], ``(3, image_size, image_size)``; the backbone knows its mean and
    deviation. The shorter side is resized to 8/7 of ``image_size`` (256 for 224); then the centre is cropped, or, to
    train, what ``augment`` says. Files that are empty, cut off or no images are found before training, damage inside a
    file when it is read.

    Args:
        sources: Labelled domains.
        targets: Domains to adapt to.
        image_size: Height and width in pixels.
        augment: What is random in training: ``"none"``; ``"flip_crop"``, a crop at a random place, flipped left to
            right half of the time; or ``"strong"``, a random half or more of the image, flipped, with other brightness,
            contrast and saturation.
        cache: Keep the resized images in memory once they have been read, which is some twenty times as fast from the
            second pass on. Only of a domain whose images take at most 1 GiB as squares (29,000 of 96 px, 5,400 of
            224 px), and not in worker processes, each of which would keep its own: ``num_workers: 0`` is best then.
        **kwargs: The arguments of :class:`DomainDataModule`.

    Raises:
        DataError: If an image is empty or cannot be read, or the domains have other classes.
    """

    def __init__(
        self,
        sources: list[str],
        targets: list[str] | None = None,
        image_size: int = 224,
        augment: Augment = "flip_crop",
        cache: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(sources=sources, targets=targets, **kwargs)
        self.image_size, self.augment, self.cache = check_image_size(image_size), check_augment(augment), cache
        self._listings: dict[str, Listing] = {}
        self._stores: dict[str, _Store] = {}

    def listing(self, domain: str) -> Listing:
        """Return the images of one domain; a subclass defines it. It is asked once."""
        raise ContractError(f"{type(self).__name__} must define listing(domain)")

    @cached_property
    def classes(self) -> Sequence[str]:  # type: ignore[override]  # mypy takes a cached_property for read-only
        """The classes of the domains of this run, in alphabetical order, or by value if they are whole numbers."""
        return class_order({name for domain in self.eval_domains for name in self._listed(domain).labels} - {""})

    def domain_classes(self, domain: str) -> Sequence[str]:
        """Return the classes that a domain has images of, in the order of ``classes``."""
        return class_order(set(self._listed(domain).labels))

    def has_labels(self, domain: str) -> bool:
        """Return whether the images of a domain have classes."""
        return any(self._listed(domain).labels)

    def row_names(self, domain: str) -> Sequence[str]:
        """Return the file of each row of a domain."""
        return self._listed(domain).names

    def dataset(self, domain: str, split: Split) -> Dataset[tuple[Tensor, Tensor]]:
        """Return one split of one domain; training images are augmented, if so chosen."""
        listed = self._listed(domain)
        if domain not in self._stores:
            self._stores[domain] = _Store(listed.paths, round(self.image_size * 8 / 7), self.cache)
        labels = torch.from_numpy(label_numbers(listed.labels, self.classes))
        rows = self.split(domain, labels, groups=listed.groups, test=listed.test, val=listed.val)[split]
        augment = self.augment if split == "train" else "none"
        return Subset(ImageRows(self._stores[domain], labels, self.image_size, augment), rows.tolist())

    def _listed(self, domain: str) -> Listing:
        if domain not in self._listings:
            listed = self.listing(domain)
            for path in listed.paths:
                check_image(path)
            self._listings[domain] = listed
        return self._listings[domain]


class ImageRows(Dataset[tuple[Tensor, Tensor]]):
    """The images of a domain and their labels, read a batch at a time.

    Args:
        store: Where the images come from.
        labels: ``(N,)`` their labels.
        size: Height and width they are cut to.
        augment: What is random.
    """

    def __init__(self, store: _Store, labels: Tensor, size: int, augment: Augment) -> None:
        self.store, self.labels, self.size, self.augment = store, labels, size, augment

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        key = (int(torch.randint(2**62, ())),) if self.augment != "none" else ()
        x, y = self.seeded_batch(torch.tensor([row]), key)
        return x[0], y[0]

    def seeded_batch(self, rows: Tensor, key: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return images and labels of ``(B,)`` rows, augmented by what ``key`` and each row's number draw."""
        images = [self.store.read(row) for row in rows.tolist()]
        return augmented(images, self.size, self.augment, row_draws(key, rows)), self.labels[rows]


class _Store:
    """Image files, read as ``(3, H, W)`` bytes whose shorter side is ``short``."""

    def __init__(self, paths: Sequence[Path], short: int, cache: bool) -> None:
        self.paths, self.short = paths, short
        self.kept: dict[int, NDArray[np.uint8]] | None = {} if cache and len(paths) * 3 * short**2 <= _KEPT else None

    def read(self, row: int) -> NDArray[np.uint8]:
        if self.kept is None or get_worker_info() is not None:
            return self._open(row)
        if row not in self.kept:
            self.kept[row] = self._open(row)
        return self.kept[row]

    def _open(self, row: int) -> NDArray[np.uint8]:
        return shrunk(decode(self.paths[row]), self.short)


def check_image_size(size: int) -> int:
    """Return ``size`` if images can be of so many pixels.

    Raises:
        DataError: If they cannot.
    """
    if size < 8:
        raise DataError(f"image_size must be at least 8 pixels, got {size}")
    return size


def is_image(path: Path) -> bool:
    """Return whether a file has the ending of an image that can be read."""
    return path.suffix.lower() in EXTENSIONS


def shrunk(image: Image.Image, short: int) -> NDArray[np.uint8]:
    """Return ``(3, H, W)`` bytes of an image resized so that its shorter side is ``short``."""
    width, height = image.size
    shorter = min(width, height)
    size = int(short * width / shorter), int(short * height / shorter)
    return np.ascontiguousarray(np.asarray(image.resize(size, Image.Resampling.BILINEAR)).transpose(2, 0, 1))


def decode(file: Path | bytes, name: str = "", cure: str = "replace or delete the file") -> Image.Image:
    """Return an image in RGB, upright.

    Args:
        file: The file, or what it holds.
        name: What a user knows it by, if it is no file.
        cure: What to do about one that cannot be read.

    Raises:
        DataError: If it cannot be read, with its name.
    """
    name = name or str(file)
    try:
        with Image.open(BytesIO(file) if isinstance(file, bytes) else file) as image:
            # Pillow would cut 16 bits off at 255, and not divide them; those of a PGM it stretches to 65,535.
            if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
                levels = np.asarray(image).astype(np.uint16)
                if levels.max() < _DARK:
                    warnings.warn(
                        f"there are images of 16 bits with no level above {_DARK - 1}: white is 65,535 in 16 bits, so "
                        "they are read as nearly black. If their range is smaller (12 bits, say), write them again "
                        "with all of the 16",
                        stacklevel=2,
                    )
                return Image.fromarray((levels >> 8).astype(np.uint8)).convert("RGB")
            if image.mode in ("I", "F"):
                raise DataError(
                    f"the image {name} has levels of 32 bits, whose range is not known: convert it to 8 or 16 bits"
                )
            return ImageOps.exif_transpose(image).convert("RGB")
    # What Pillow raises on broken files, and on those so large that they might be an attack.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, DataError):
            raise
        reason = "it is none" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"cannot read the image {name}: {reason}; {cure}") from error


def looks_whole(start: bytes, end: bytes) -> bool:
    """Return whether a file is a JPEG or PNG that is not cut off, as far as its first and last bytes tell.

    Args:
        start: Its first 8 bytes.
        end: Its last 64 bytes.
    """
    end = end.rstrip(b"\0")  # some cameras pad
    return any(start.startswith(first) and end.endswith(last) for first, last in _ENDS)


def check_image(path: Path) -> None:
    """Refuse a file that is no whole image. Only those that do not look whole from their ends are decoded.

    Raises:
        DataError: If it is missing, empty, cut off or no image.
    """
    try:
        with path.open("rb") as file:
            start, size = file.read(8), file.seek(0, 2)
            file.seek(max(size - 64, 0))
            end = file.read()
    except OSError as error:
        raise DataError(f"cannot read the image {path}: {error.strerror or error}") from error
    if size == 0:
        raise DataError(f"the image {path} is empty (0 bytes); replace or delete the file")
    if not looks_whole(start, end):
        decode(path)
