"""Medical images: chest X-rays and retinal scans of Kermany et al., and two sets of MedMNIST."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, Subset

from tlkit.data.base import DomainDataModule
from tlkit.data.files.compressed import check_zip
from tlkit.data.files.fetch import Published, fetch, published_folder
from tlkit.data.files.folders import data_folder, find_folder
from tlkit.data.images.files import ImageDomains, Listing, is_image
from tlkit.errors import DataError, brief
from tlkit.types import Split

__all__ = ["OCT", "ChestXRay", "MedMNIST"]

_MENDELEY = "https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files"
_BY_HAND = "Get {} from Mendeley Data, doi 10.17632/rscbjbr9sj.2, by a browser"


class _Kermany(ImageDomains):
    """What both sets share: ``{train,test}/<class>/*``, and the patient of an image in its file's name.

    Patients of the test are trained on in no domain, which is why ``shared_groups`` is not needed here.
    """

    archive: Published
    unpacked: str  # the folder that the archive unpacks to, and that the data lies in by default
    class_names: tuple[str, ...]
    patient: re.Pattern[str]  # its first group that matches is the patient

    def __init__(
        self, sources: list[str], targets: list[str] | None = None, root: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(sources=sources, targets=targets, **kwargs)
        self.root = root

    @cached_property
    def folder(self) -> Path:
        """The folder that holds ``train`` and ``test``."""
        folder = find_folder(self.root) if self.root else data_folder() / self.unpacked
        needed = [f"{part}/{name}" for part in ("train", "test") for name in self.class_names]
        if all((folder / name).is_dir() for name in needed):
            return folder
        needed = [f"{self.unpacked}/{name}" for name in needed]
        return published_folder(self.root, self.unpacked, needed, [self.archive]) / self.unpacked

    @cached_property
    def _images(self) -> list[tuple[Path, str, str]]:
        """Every image with its part and its patient, without training images of patients of the test."""
        found = []
        for part in ("train", "val", "test"):  # "val" is in a copy of the X-rays that holds 16 images out
            for name in self.class_names:
                for path in sorted((self.folder / part / name).glob("[!.]*")):
                    if is_image(path):
                        found.append((path, part, self._patient(path)))
        tested = {patient for _, part, patient in found if part == "test"}
        return [image for image in found if image[1] == "test" or image[2] not in tested]

    def _patient(self, path: Path) -> str:
        match = self.patient.match(path.name)
        if match is None:
            raise DataError(
                f"{path}: no patient in the name, so that images of one patient could not be kept in one split; "
                "images are named as published, or belong into ImageFolderDomains with a group_pattern"
            )
        return next(group for group in match.groups() if group)

    def _listing(self, images: Sequence[tuple[Path, str, str]]) -> Listing:
        return Listing(
            paths=[path for path, _, _ in images],
            labels=[path.parent.name for path, _, _ in images],
            names=[path.relative_to(self.folder).as_posix() for path, _, _ in images],
            groups=[patient for _, _, patient in images],
            test=[number for number, (_, part, _) in enumerate(images) if part == "test"],
        )


class ChestXRay(_Kermany):
    """Chest X-rays of children, NORMAL or PNEUMONIA (Kermany et al., Cell 2018), as grey RGB images.

    5,856 images from one hospital in Guangzhou: 5,232 to train, 624 to test. The published test split is the test split
    of every domain; validation rows are held out from the training rows. A patient is in one split only: what the name
    of a file says, ``person<id>_bacteria``, ``person<id>_virus``, ``IM-<id>``, ``NORMAL2-IM-<id>``, or, as in the
    archive at Mendeley, the number in ``BACTERIA-<id>-<n>``. Training images of a patient of the test are left out.

    Domains:

    - ``chest_xray``: all images;
    - ``bacteria``, ``virus``: pneumonia of one kind, each with half of the healthy patients, who are divided by chance,
      the same on every machine.

    ``chest_xray`` holds the rows of the other two and cannot be in a run with them.

    Licence: CC BY 4.0. Published at Mendeley Data, doi 10.17632/rscbjbr9sj.2 (1.2 GB). No checksum is published.

    Args:
        sources: Labelled domains.
        targets: Domains to adapt to.
        root: Folder that holds ``train`` and ``test``, or ``chest_xray`` with these in it; else the folder
            ``chest_xray`` in the one that the environment variable TLKIT_DATA names (default ``~/.cache/tlkit``),
            where it is fetched to.
        **kwargs: The arguments of :class:`~tlkit.data.images.files.ImageDomains`: ``image_size``, ``augment``,
            ``cache``, and of :class:`DomainDataModule`.

    Raises:
        DataError: If files are missing and cannot be fetched, or the name of one has no patient.
    """

    domains = ("chest_xray", "bacteria", "virus")
    archive = Published(
        "ChestXRay2017.zip",
        f"{_MENDELEY}/f12eaf6d-6023-432f-acc9-80c9d7393433/file_downloaded",
        by_hand=_BY_HAND.format("ChestXRay2017.zip"),
    )
    unpacked = "chest_xray"
    class_names = ("NORMAL", "PNEUMONIA")
    patient = re.compile(
        r"(person\d+_(?:bacteria|virus))_|((?:NORMAL2-)?IM-\d+)-|(?:NORMAL|BACTERIA|VIRUS)-(\d+)-", re.IGNORECASE
    )

    def listing(self, domain: str) -> Listing:
        """Return the images of one domain, training images first, by class and name."""
        if "chest_xray" in self.eval_domains and len(self.eval_domains) > 1:
            raise DataError(
                f"the domain 'chest_xray' holds the rows of 'bacteria' and 'virus': a run has it alone, or the other "
                f"two; got {', '.join(self.eval_domains)}"
            )
        return self._listing([image for image in self._images if domain in ("chest_xray", _kind(image[0], image[2]))])


def _kind(path: Path, patient: str) -> str:
    """Return the domain of an X-ray, bacteria or virus."""
    for kind in ("bacteria", "virus"):
        if kind in path.name.lower():
            return kind
    if path.parent.name == "PNEUMONIA":
        raise DataError(f"{path}: the name says neither bacteria nor virus")
    return ("bacteria", "virus")[zlib.crc32(patient.encode()) % 2]


class OCT(_Kermany):
    """Retinal scans by optical coherence tomography: CNV, DME, DRUSEN or NORMAL (Kermany et al., Cell 2018).

    Some 109,000 grey images, yielded as RGB: choroidal neovascularisation and diabetic macular oedema, which are
    urgent, drusen, and healthy. The published test split, 250 images a class, is the test split; validation rows are
    held out from the training rows. Files are named ``<class>-<patient>-<n>.jpeg``, and a patient is in one split
    only. Most patients of the published test are in its training images too: these images are left out here, so that
    figures are not comparable with those of runs that train on them.

    The one domain is ``oct``. Licence: CC BY 4.0. Published at Mendeley Data, doi 10.17632/rscbjbr9sj.2 (5.8 GB).
    No checksum is published.

    Args:
        sources: ``[oct]``, or empty.
        targets: ``[oct]``, or empty.
        root: Folder that holds ``train`` and ``test``, or ``OCT2017`` with these in it; else the folder ``OCT2017`` in
            the one that the environment variable TLKIT_DATA names (default ``~/.cache/tlkit``), where it is fetched to.
        **kwargs: The arguments of :class:`~tlkit.data.images.files.ImageDomains`: ``image_size``, ``augment``,
            ``cache``, and of :class:`DomainDataModule`.

    Raises:
        DataError: If files are missing and cannot be fetched, or the name of one has no patient.
    """

    domains = ("oct",)
    archive = Published(
        "OCT2017.tar.gz",
        f"{_MENDELEY}/5699a1d8-d1b6-45db-bb92-b61051445347/file_downloaded",
        by_hand=_BY_HAND.format("OCT2017.tar.gz"),
    )
    unpacked = "OCT2017"
    class_names = ("CNV", "DME", "DRUSEN", "NORMAL")
    patient = re.compile(r"(?:CNV|DME|DRUSEN|NORMAL)-(\d+)-", re.IGNORECASE)

    def listing(self, domain: str) -> Listing:
        """Return all images, training images first, by class and name."""
        return self._listing(self._images)


_MEDMNIST_BY_HAND = (
    "It is in the record 10.5281/zenodo.10519652, and the same file in 10.5281/zenodo.6496656 and "
    "10.5281/zenodo.5208230; https://medmnist.com names other places"
)
_MEDMNIST = {
    "pneumoniamnist": ("28209eda62fecd6e6a2d98b1501bb15f", ("normal", "pneumonia")),
    "octmnist": (
        "c68d92d5b585d8d81f7112f81e2d0842",
        ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    ),
}


class MedMNIST(DomainDataModule):
    """Two sets of MedMNIST, 28x28 grey images in [0, 1] (Yang et al., Scientific Data 2023).

    - ``pneumoniamnist``: 5,856 of the chest X-rays of :class:`ChestXRay`, normal or pneumonia;
    - ``octmnist``: 109,309 of the retinal scans of :class:`OCT`, four classes.

    Their classes differ, so that a run has one of them. The published splits are used: training, validation and test.
    They are by image: which patient an image is of is not published with it.

    Licence: CC BY 4.0. Published at Zenodo, doi 10.5281/zenodo.10519652 (4 and 55 MB).

    Args:
        sources: Labelled domains.
        targets: Domains to adapt to.
        image_size: Height and width in pixels; bilinear, with antialiasing where an image shrinks.
        channels: 1, or 3 equal channels for a backbone that takes colour images.
        root: Folder of the ``.npz`` files, which are taken as they are; else the folder ``medmnist`` in the one that
            the environment variable TLKIT_DATA names (default ``~/.cache/tlkit``), where they are fetched to and their
            sums checked.
        **kwargs: The arguments of :class:`DomainDataModule`.

    Raises:
        DataError: If a file is missing and cannot be fetched, or is not what its name says.
    """

    domains = tuple(_MEDMNIST)

    def __init__(
        self,
        sources: list[str],
        targets: list[str] | None = None,
        image_size: int = 28,
        channels: Literal[1, 3] = 3,
        root: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(sources=sources, targets=targets, **kwargs)
        if image_size < 8:
            raise DataError(f"image_size must be at least 8 pixels, got {image_size}")
        if channels not in (1, 3):
            raise DataError(f"channels must be 1 or 3, got {channels}")
        self.image_size, self.channels = image_size, channels
        self.root = root
        self._stored: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def classes(self) -> Sequence[str]:  # type: ignore[override]  # mypy takes a property for read-only
        """The classes of the first domain of the run."""
        return self.domain_classes(self.eval_domains[0])

    def domain_classes(self, domain: str) -> Sequence[str]:
        """Return the classes of one set."""
        return _MEDMNIST[domain][1] if domain in _MEDMNIST else ()

    def dataset(self, domain: str, split: Split) -> Dataset[Any]:
        """Return one split of one set."""
        if domain not in self._stored:
            images, labels, parts = _read_npz(self._file(domain))
            self.split(domain, labels, test=parts == 2, val=parts == 1)
            self._stored[domain] = torch.from_numpy(images), torch.from_numpy(labels)
        rows = _GreyRows(*self._stored[domain], self.image_size, self.channels)
        return Subset(rows, self.splits[domain][split].tolist())

    def _file(self, domain: str) -> Path:
        folder = find_folder(self.root) if self.root else data_folder() / "medmnist"
        path = folder / f"{domain}.npz"
        if self.root and path.is_file():
            return path
        url = f"https://zenodo.org/records/10519652/files/{path.name}"
        return fetch(Published(path.name, url, md5=_MEDMNIST[domain][0], by_hand=_MEDMNIST_BY_HAND), folder)


class _GreyRows(Dataset[tuple[Tensor, Tensor]]):
    """Grey images held as bytes, resized a batch at a time: as colour images in float32 they take twelve times more."""

    def __init__(self, images: Tensor, labels: Tensor, size: int, channels: int) -> None:
        self.images, self.labels, self.size, self.channels = images, labels, size, channels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        x, y = self.seeded_batch(torch.tensor([row]), ())
        return x[0], y[0]

    def seeded_batch(self, rows: Tensor, key: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return images and labels of ``(B,)`` rows; nothing is random."""
        x = self.images[rows][:, None].float() / 255
        if self.size != x.shape[-1]:
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True).clamp(0, 1)
        return x.repeat(1, self.channels, 1, 1), self.labels[rows]


def _read_npz(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Return images, labels, and the number of the part that each row is of: 0 training, 1 validation, 2 test."""
    images, labels, parts = [], [], []
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            check_zip(path, content.zip)
            for number, part in enumerate(("train", "val", "test")):
                images.append(content[f"{part}_images"])
                labels.append(content[f"{part}_labels"])
                parts.append(np.full(len(labels[-1]), number))
    except DataError:
        raise
    except Exception as error:  # what zipfile, zlib and numpy raise on damaged files is written down nowhere
        raise DataError(
            f"{path} is no file of MedMNIST with train, val and test images and labels: {brief(error)}"
        ) from error
    for found, y in zip(images, labels, strict=True):
        if found.dtype != np.uint8 or found.shape != (len(y), 28, 28) or y.reshape(-1).shape != (len(y),):
            raise DataError(
                f"{path} must hold 28x28 images of bytes and a label for each, got {found.dtype} of shape "
                f"{found.shape} and labels of shape {y.shape}"
            )
    return np.concatenate(images), np.concatenate(labels).reshape(-1).astype(np.int64), np.concatenate(parts)
