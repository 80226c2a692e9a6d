"""Images in folders: ``root/domain/class/*``, the layout of the public domain-adaptation sets."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tlkit.data.files.folders import find_folder
from tlkit.data.images.augment import Augment
from tlkit.data.images.files import EXTENSIONS, ImageDomains, Listing, is_image
from tlkit.errors import DataError, unknown
from tlkit.notes import say

__all__ = ["ImageFolderDomains"]


class ImageFolderDomains(ImageDomains):
    r"""Images in ``root/domain/class/*``; those of a target without labels lie in ``root/domain/*``.

    What lies deeper in a class folder, ``root/domain/class/2024/*``, is of that class too. Hidden files and folders are
    passed over, and so are files without an image's extension, whose number is said. How images are read, resized and
    cut is said at :class:`~tlkit.data.images.files.ImageDomains`.

    Args:
        root: Folder of the domains; a relative one is looked for in the working folder, then in the folder that the
            environment variable TLKIT_DATA names (default ``~/.cache/tlkit``).
        sources: Labelled domains, named as their folders.
        targets: Domains to adapt to.
        image_size: Height and width in pixels.
        augment: What is random in training: ``"none"``, ``"flip_crop"`` (a crop at a random place, flipped left to
            right half of the time) or ``"strong"`` (a random half or more of the image, flipped, with other brightness,
            contrast and saturation).
        cache: Keep the resized images of a domain in memory once read, if they take at most 1 GiB.
        group_pattern: A regular expression with one group that finds in a file's name what it belongs to: of
            ``(person\d+)_`` the patient. All files of a patient then go to the same split, in all domains of the run:
            a patient who is tested on in one is not trained on in another. A file that it does not match is a group of
            its own.
        **kwargs: The arguments of :class:`DomainDataModule`.

    Raises:
        DataError: If ``root`` is not there, an image is empty or cannot be read, the domains have other classes, or
            ``group_pattern`` is no such expression or matches no file.
    """

    shared_groups = True

    def __init__(
        self,
        root: str,
        sources: list[str],
        targets: list[str] | None = None,
        image_size: int = 224,
        augment: Augment = "flip_crop",
        cache: bool = True,
        group_pattern: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sources=sources, targets=targets, image_size=image_size, augment=augment, cache=cache, **kwargs
        )
        self.root, self._pattern = root, None if group_pattern is None else _compiled(group_pattern)

    @cached_property
    def folder(self) -> Path:
        """The folder of the domains."""
        return find_folder(self.root)

    @cached_property
    def domains(self) -> Sequence[str]:  # type: ignore[override]  # mypy takes a cached_property for read-only
        """The folders in ``root``."""
        return _folders(self.folder)

    def where(self, what: str) -> str:
        """Return the folders that the domains or the classes are named by."""
        return f"the folders {self.folder}/*" if what == "domains" else f"the folders {self.folder}/<domain>/*"

    def domain_folder(self, domain: str) -> Path:
        """Return the folder of a domain's class folders."""
        return self.folder / domain

    def listing(self, domain: str) -> Listing:
        """Return the images of one domain, sorted by class, then by name."""
        if domain not in self.domains:
            raise DataError(f"root={self.root!r}: {unknown('domain', domain, self.domains)}")
        folder = self.domain_folder(domain)
        beside = _files(folder, deep=False) if folder.is_dir() else []
        inside = [(name, path) for name in _folders(folder) for path in _files(folder / name)]
        others = [path for path in (*beside, *(path for _, path in inside)) if not is_image(path)]
        if others:
            say(
                f"domain {domain!r}: {len(others)} files are passed over, they have no image's ending: {others[0]}, ..."
            )
        found = [(name, path) for name, path in inside if is_image(path)]
        loose = [path for path in beside if is_image(path)]
        if found and loose:
            raise DataError(
                f"{loose[0]} has no label, it lies in no class folder ({len(loose)} of the {len(loose) + len(found)} "
                f"images of domain {domain!r} are like this): move them into class folders or away; or, if no image "
                "of a target has a label, move all of them out of the class folders"
            )
        if loose and domain in self.sources:
            raise DataError(
                f"sources: domain {domain!r} has no labels, and a source is trained on with its labels: "
                f"{loose[0].name} lies in no class folder; images belong in {domain}/<class>/ below root, "
                f"{self.folder}, which may be one level too deep"
            )
        if loose:
            names = [f"{domain}/{path.name}" for path in loose]
            return Listing(loose, [""] * len(loose), names, self._groups(domain, loose, names))
        if not found:
            raise DataError(
                f"{folder} holds no images: they must lie in {domain}/<class>/ (in {domain}/ if none has a label) and "
                f"end in one of {' '.join(sorted(EXTENSIONS))}"
            )
        paths = [path for _, path in found]
        labels = [name for name, _ in found]
        names = [f"{domain}/{path.relative_to(folder).as_posix()}" for path in paths]
        return Listing(paths, labels, names, self._groups(domain, paths, names))

    def _groups(self, domain: str, paths: list[Path], names: list[str]) -> list[str] | None:
        if self._pattern is None:
            return None
        matches = [self._pattern.search(path.name) for path in paths]
        if not any(matches):
            fault = (
                f"group_pattern {self._pattern.pattern!r} matches none of the {len(paths)} files of {domain!r}, such "
                f"as {paths[0].name!r}"
            )
            learned = self.trained or self
            if domain in (*learned.sources, *learned.targets):
                raise DataError(f"{fault}: correct it, or leave it out")
            say(f"{fault}: each is taken for a group of its own")  # images of later may be called otherwise
        # A file's own group must not be taken for one that the pattern found: "/" is in no file name.
        return [match[1] if match and match[1] else f"/{name}" for match, name in zip(matches, names, strict=True)]


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DataError(f"group_pattern {pattern!r} is no regular expression: {error}") from error
    if compiled.groups != 1:
        raise DataError(
            f"group_pattern must have one group in parentheses, such as r'(person\\d+)_', got {compiled.groups} in "
            f"{pattern!r}"
        )
    return compiled


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(folder: Path, deep: bool = True) -> list[Path]:
    """Return the files of a folder, or all below it, sorted, so that a split means the same files on every machine."""
    files: list[Path] = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if not entry.is_dir():
                files.append(Path(entry.path))
            elif deep:
                files += _files(Path(entry.path))
    return files
