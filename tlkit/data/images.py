"""Images in folders: ``root/domain/class/*``, the layout of the public domain-adaptation sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from tlkit.data.base import DomainDataModule
from tlkit.data.folders import find_folder
from tlkit.errors import DataError, unknown
from tlkit.types import Split

__all__ = ["ImageFolderDomains"]

_EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# How whole files begin and end: JPEG, PNG.
_ENDS = ((b"\xff\xd8\xff", b"\xff\xd9"), (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"))


class ImageFolderDomains(DomainDataModule):
    """Images in ``root/domain/class/*``: Office-31, Office-Home, PACS, VisDA, DomainNet and your own.

    Office-31 (Saenko et al., ECCV 2010), Office-Home (Venkateswara et al., CVPR 2017), PACS (Li et al., ICCV 2017) and
    DomainNet (Peng et al., ICCV 2019) are published in this layout, each under terms of its own.

    Images are read when they are needed and yielded as float32 RGB in [0, 1], ``(3, image_size, image_size)``; the
    backbone knows its mean and deviation. The shorter side is resized to 8/7 of ``image_size`` (256 for 224); then the
    centre is cropped, or, to train with ``augment``, a random place, flipped left to right half of the time. Hidden
    files and those without an image's extension are passed over. Files that are empty, cut off or no images are found
    before training, damage inside a file when it is read.

    Args:
        root: Folder of the domains; a relative one is looked for in the working folder, then in the folder that the
            environment variable TLKIT_DATA names (default ``~/.cache/tlkit``).
        sources: Labelled domains, named as their folders.
        targets: Domains to adapt to.
        image_size: Height and width in pixels.
        augment: Random crops and flips in training.
        **kwargs: The arguments of :class:`DomainDataModule`.

    Raises:
        DataError: If ``root`` is not there, an image is empty or cannot be read, or the domains have other classes.
    """

    def __init__(
        self,
        root: str,
        sources: list[str],
        targets: list[str] | None = None,
        image_size: int = 224,
        augment: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(sources=sources, targets=targets, **kwargs)
        if image_size < 8:
            raise DataError(f"image_size must be at least 8 pixels, got {image_size}")
        self.root, self.image_size, self.augment = root, image_size, augment
        self._found: dict[str, dict[str, list[Path]]] = {}

    @cached_property
    def folder(self) -> Path:
        """The folder of the domains."""
        return find_folder(self.root)

    @cached_property
    def domains(self) -> Sequence[str]:  # type: ignore[override]  # mypy takes a cached_property for read-only
        """The folders in ``root``."""
        return _folders(self.folder)

    @cached_property
    def classes(self) -> Sequence[str]:  # type: ignore[override]
        """The class folders of the domains of this run, in alphabetical order."""
        return sorted({name for domain in self.eval_domains for name in self.domain_classes(domain)})

    def domain_classes(self, domain: str) -> Sequence[str]:
        """Return the class folders of a domain that hold images, in alphabetical order."""
        return list(self._files(domain))

    def dataset(self, domain: str, split: Split) -> Dataset[tuple[Tensor, int]]:
        """Return one split of one domain; training images are augmented, if so chosen."""
        files = [(path, name) for name, paths in self._files(domain).items() for path in paths]
        labels = [self.classes.index(name) for _, name in files]
        rows = self.split(domain, labels)[split]
        transform = _transform(self.image_size, random=self.augment and split == "train")
        return _Images([files[row][0] for row in rows], [labels[row] for row in rows], transform)

    def _files(self, domain: str) -> dict[str, list[Path]]:
        """Return the images of each class of a domain."""
        if domain not in self._found:
            if domain not in self.domains:
                raise DataError(f"root={self.root!r}: {unknown('domain', domain, self.domains)}")
            found = {name: _images(self.folder / domain / name) for name in _folders(self.folder / domain)}
            self._found[domain] = {name: paths for name, paths in found.items() if paths}
            if not self._found[domain]:
                raise DataError(
                    f"{self.folder / domain} holds no images: they must lie in {domain}/<class>/ and end in one of "
                    f"{' '.join(sorted(_EXTENSIONS))}"
                )
        return self._found[domain]


class _Images(Dataset[tuple[Tensor, int]]):
    """Image files and their labels."""

    def __init__(self, paths: list[Path], labels: list[int], transform: Callable[[Image.Image], Tensor]) -> None:
        self.paths, self.labels, self.transform = paths, labels, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.transform(_decode(self.paths[row])), self.labels[row]


def _decode(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on broken files
        raise DataError(f"cannot read the image {path}: {error}; replace or delete the file") from error


def _transform(size: int, random: bool) -> Callable[[Image.Image], Tensor]:
    crop = [v2.RandomCrop(size), v2.RandomHorizontalFlip()] if random else [v2.CenterCrop(size)]
    to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()]
    transform: Callable[[Image.Image], Tensor] = v2.Compose([v2.Resize(round(size * 8 / 7)), *crop, *to_tensor])
    return transform


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    """Return the images in a folder, sorted, so that a split means the same files on every machine."""
    paths = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in _EXTENSIONS and not path.name.startswith(".")
    )
    for path in paths:
        _check(path)
    return paths


def _check(path: Path) -> None:
    """Refuse a file that is no whole image. Only those that do not look whole from their ends are decoded."""
    size = path.stat().st_size
    if size == 0:
        raise DataError(f"the image {path} is empty (0 bytes); replace or delete the file")
    with path.open("rb") as file:
        start = file.read(8)
        file.seek(max(size - 64, 0))
        end = file.read().rstrip(b"\0")  # some cameras pad
    if not any(start.startswith(first) and end.endswith(last) for first, last in _ENDS):
        _decode(path)
