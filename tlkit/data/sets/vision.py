"""The public image sets of domain adaptation: where they are published and how they are laid out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from tlkit.data.files.fetch import Published, fetch, published_folder
from tlkit.data.files.folders import data_folder, find_folder
from tlkit.data.images.files import ImageDomains, Listing
from tlkit.data.images.folders import ImageFolderDomains
from tlkit.errors import DataError

__all__ = ["PACS", "DomainNet", "Office31", "OfficeHome", "VisDA2017"]

_DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="


class _PublishedFolders(ImageFolderDomains):
    """A published set in class folders.

    Attributes:
        published: The archive.
        default: Name of the folder among the data sets.
        places: Folders in it that the domains may lie in: as unpacked by hand, or as in an archive that goes round. The
            first is that of ``published``.
    """

    published: ClassVar[Published]
    default: ClassVar[str]
    places: ClassVar[tuple[str, ...]]

    def __init__(
        self, sources: list[str], targets: list[str] | None = None, root: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(root=root or "", sources=sources, targets=targets, **kwargs)

    @cached_property
    def folder(self) -> Path:
        """The folder of the domains; the set is fetched if it lacks one of this run."""
        folder = find_folder(self.root) if self.root else data_folder() / self.default
        held = {
            place: [domain for domain in self.domains if (folder / place / domain).is_dir()] for place in self.places
        }
        for place, there in held.items():
            if set(self.eval_domains) <= set(there):
                return folder / place
        for place, there in held.items():
            if self.root and there:  # somebody's own copy of a part: the archive would be unpacked beside it
                lacking = [domain for domain in self.eval_domains if domain not in there]
                raise DataError(
                    f"{folder / place} lacks {', '.join(lacking)} (it has {', '.join(there)}): put it there, or leave "
                    "root out, and the whole set is fetched"
                )
        needed = [f"{self.places[0]}/{domain}" for domain in self.eval_domains]
        return published_folder(self.root or None, self.default, needed, [self.published]) / self.places[0]

    def where(self, what: str) -> str:
        """Return the folders that the classes are named by; the domains are given."""
        return "" if what == "domains" else super().where(what)


class Office31(_PublishedFolders):
    """Office-31 (Saenko et al., ECCV 2010): 31 classes of office objects from a shop, a camera and a webcam.

    Domains: ``amazon`` (2,817 images), ``dslr`` (498), ``webcam`` (795), in ``<domain>/images/<class>/``.

    Licence: none is stated; published for research at https://faculty.cc.gatech.edu/~judy/domainadapt/. No checksum is
    published.

    Args:
        sources: Labelled domains.
        targets: Domains to adapt to.
        root: Folder of the set; else ``office31`` among the data sets (TLKIT_DATA, or ``~/.cache/tlkit``).
        **kwargs: The arguments of :class:`~tlkit.data.ImageFolderDomains`.
    """

    domains = ("amazon", "dslr", "webcam")
    default = "office31"
    places = (".", "domain_adaptation_images", "office31")
    published = Published(
        "domain_adaptation_images.tar.gz",
        f"{_DRIVE}0B4IapRTv9pJ1WGZVd1VDMmhwdlE&resourcekey=0-gNMHVtZfRAyO_t2_WrOunA",
        by_hand="Search for 'Office-31 domain_adaptation_images.tar.gz', or unpack any copy so that amazon, dslr and "
        "webcam lie in the folder",
    )

    def domain_folder(self, domain: str) -> Path:
        """Return the folder of a domain's class folders, with ``images`` in between as published or without."""
        folder = self.folder / domain
        return folder / "images" if (folder / "images").is_dir() else folder


class OfficeHome(_PublishedFolders):
    """Office-Home (Venkateswara et al., CVPR 2017): 65 classes of things in offices and homes, in four styles.

    Domains: ``Art`` (2,427 images), ``Clipart`` (4,365), ``Product`` (4,439), ``Real World`` (4,357).

    Licence: custom, for non-commercial research and education, https://www.hemanthdv.org/officeHomeDataset.html.

    Args:
        sources: Labelled domains.
        targets: Domains to adapt to.
        root: Folder of the set; else ``office_home`` among the data sets (TLKIT_DATA, or ``~/.cache/tlkit``).
        **kwargs: The arguments of :class:`~tlkit.data.ImageFolderDomains`.
    """

    domains = ("Art", "Clipart", "Product", "Real World")
    default = "office_home"
    places = ("OfficeHomeDataset_10072016", ".")
    published = Published(
        "OfficeHomeDataset_10072016.zip",
        f"{_DRIVE}0B81rNlvomiwed0V1YUxQdC1uOTg&resourcekey=0-2SNWq0CDAuWOBRRBL7ZZsw",
        md5="b1c14819770c4448fd5b6d931031c91c",
        by_hand="Get it from https://www.hemanthdv.org/officeHomeDataset.html",
    )


class PACS(_PublishedFolders):
    """PACS (Li et al., ICCV 2017): 7 classes of photos, paintings, cartoons and sketches.

    Domains: ``photo`` (1,670 images), ``art_painting`` (2,048), ``cartoon`` (2,344), ``sketch`` (3,929). No test split
    for adaptation is published: ``hold_out.test_fraction`` of each domain is held out, 0.3 in the recipes.

    Licence: none is stated; published for research at https://domaingeneralization.github.io.

    Args:
        sources: Labelled domains.
        targets: Domains to adapt to.
        root: Folder of the set; else ``PACS`` among the data sets (TLKIT_DATA, or ``~/.cache/tlkit``).
        **kwargs: The arguments of :class:`~tlkit.data.ImageFolderDomains`.
    """

    domains = ("photo", "art_painting", "cartoon", "sketch")
    default = "PACS"
    places = ("pacs/images", ".", "kfold")
    published = Published(
        "pacs.zip",
        f"{_DRIVE}1m4X4fROCCXMO0lRLrr6Zz9Vb3974NWhE",
        sha256="0dc9d0176fa27c9b4504e7c2e962aebe6a79ed0c1819b84148786e590f87e102",
        by_hand="Unpack any copy (https://domaingeneralization.github.io, DomainBed's, Dassl's) so that photo, "
        "art_painting, cartoon and sketch lie in the folder",
    )


class VisDA2017(ImageDomains):
    """VisDA-2017, classification (Peng et al., 2017): 12 classes, from rendered models to photographs.

    Domains: ``train`` (152,397 rendered images), ``validation`` (55,388 of COCO, the usual target), ``test`` (72,372
    of YouTube-BB). Each has a list ``image_list.txt`` of files and class numbers; that of ``test`` was published later.

    Licence: for non-commercial research and education, https://ai.bu.edu/visda-2017/. No checksum is published.

    Args:
        sources: Labelled domains.
        targets: Domains to adapt to.
        root: Folder of the set; else ``visda2017`` among the data sets (TLKIT_DATA, or ``~/.cache/tlkit``).
        **kwargs: The arguments of :class:`~tlkit.data.images.files.ImageDomains`.

    Raises:
        DataError: If a list is damaged, or an image is missing or cannot be read.
    """

    domains = ("train", "validation", "test")
    classes = (
        "aeroplane", "bicycle", "bus", "car", "horse", "knife", "motorcycle", "person", "plant", "skateboard", "train",
        "truck",
    )  # fmt: skip

    def __init__(
        self, sources: list[str], targets: list[str] | None = None, root: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(sources=sources, targets=targets, **kwargs)
        self.root = root

    def listing(self, domain: str) -> Listing:
        """Return the images of one domain, in the order of its list."""
        page = "https://github.com/VisionLearningGroup/taskcv-2017-public/tree/master/classification"
        archive = Published(
            f"{domain}.tar", f"http://csr.bu.edu/ftp/visda17/clf/{domain}.tar", by_hand=f"See {page} and README there"
        )
        folder = published_folder(self.root, "visda2017", [domain], [archive])
        lines = folder / domain / "image_list.txt"
        if domain == "test" and not (lines.is_file() and all(map(_labelled, lines.read_text().splitlines()))):
            raw = "https://raw.githubusercontent.com/VisionLearningGroup/taskcv-2017-public/master/classification/data"
            lines = fetch(Published("test_image_list.txt", f"{raw}/image_list.txt", by_hand=f"See {page}/data"), folder)
        names, numbers = _read_list(lines, len(self.classes))
        paths = [folder / domain / name for name in names]
        return Listing(paths, [self.classes[number] for number in numbers], [f"{domain}/{name}" for name in names])


# md5 of the files at these addresses, clipart and painting from groundtruth/ (cleaned): those that the loaders of
# continuum and of Renate check.
_DOMAINNET_SUMS = {
    "clipart.zip": "cd0d8f2d77a4e181449b78ed62bccf1e",
    "clipart_train.txt": "b4349693a7f9c05c53955725c47ed6cb",
    "clipart_test.txt": "f5ddbcfd657a3acf9d0f7da10db22565",
    "infograph.zip": "720380b86f9e6ab4805bb38b6bd135f8",
    "infograph_train.txt": "379b50054f4ac2018dca4f89421b92d9",
    "infograph_test.txt": "779626b50869edffe8ea6941c3755c71",
    "painting.zip": "1ae32cdb4f98fe7ab5eb0a351768abfd",
    "painting_train.txt": "7db0e7ca73ad9982f6e1f7f3ef372c0a",
    "painting_test.txt": "232b35dc53f26d414686ae579e38d9b5",
    "quickdraw.zip": "bdc1b6f09f277da1a263389efe0c7a66",
    "quickdraw_train.txt": "b732ced3939ac8efdd8c0a889dca56cc",
    "quickdraw_test.txt": "c1a828fdfe216fb109f1c0083a252c6f",
    "real.zip": "dcc47055e8935767784b7162e7c7cca6",
    "real_train.txt": "8ebf02c2075fadd564705f0dc7cd6291",
    "real_test.txt": "6098816791c3ebed543c71ffa11b9054",
    "sketch.zip": "658d8009644040ff7ce30bb2e820850f",
    "sketch_train.txt": "1233bd18aa9a8a200bf4cecf1c34ef3e",
    "sketch_test.txt": "d8a222e4672cfd585298aa14d02ea441",
}


class DomainNet(ImageDomains):
    """DomainNet (Peng et al., ICCV 2019), cleaned: 345 classes in six styles, 0.6 million images.

    Domains: ``clipart``, ``infograph``, ``painting``, ``quickdraw``, ``real``, ``sketch``. The published lists
    ``<domain>_train.txt`` and ``<domain>_test.txt`` of files and class numbers say which rows test, 3 of 10; they lie
    in the folder of the set, or in ``splits`` or ``image_list`` there. ``t-shirt`` is missing from
    ``painting_train.txt``.

    Licence: for non-commercial research, under fair use, https://ai.bu.edu/M3SDA/.

    Args:
        sources: Labelled domains.
        targets: Domains to adapt to.
        root: Folder of the set; else ``domainnet`` among the data sets (TLKIT_DATA, or ``~/.cache/tlkit``).
        **kwargs: The arguments of :class:`~tlkit.data.images.files.ImageDomains`.

    Raises:
        DataError: If a list is damaged, or an image is missing or cannot be read.
    """

    domains = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")

    def __init__(
        self, sources: list[str], targets: list[str] | None = None, root: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(sources=sources, targets=targets, **kwargs)
        self.root = root

    def domain_classes(self, domain: str) -> Sequence[str]:
        """Return the classes of all domains of the run: a number means the same class in every list."""
        return self.classes

    def listing(self, domain: str) -> Listing:
        """Return the images of one domain, those to train before those to test, in the order of the lists."""
        site = "https://csr.bu.edu/ftp/visda/2019/multi-source"
        cleaned = "groundtruth/" if domain in ("clipart", "painting") else ""
        by_hand = "See https://ai.bu.edu/M3SDA/, the cleaned version"
        name = f"{domain}.zip"
        archive = Published(name, f"{site}/{cleaned}{name}", md5=_DOMAINNET_SUMS[name], by_hand=by_hand)
        folder = published_folder(self.root, "domainnet", [domain], [archive])
        names: list[str] = []
        for split in ("train", "test"):
            name = f"{domain}_{split}.txt"
            found = [
                folder / place / name for place in (".", "splits", "image_list") if (folder / place / name).is_file()
            ]
            url = f"{site}/domainnet/txt/{name}"
            published = Published(name, url, md5=_DOMAINNET_SUMS[name], by_hand=by_hand)
            listed = _read_list(found[0] if found else fetch(published, folder), 345)[0]
            start = len(names)
            names += listed
        labels = [Path(name).parent.name for name in names]
        return Listing([folder / name for name in names], labels, names, test=range(start, len(names)))


def _labelled(line: str) -> bool:
    return not line.strip() or line.split()[-1].isdecimal()


def _read_list(path: Path, classes: int) -> tuple[list[str], list[int]]:
    """Read lines of a file and a class number, with a blank between."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list {path}: {error}; get it again") from error
    names, numbers = [], []
    for count, line in enumerate(lines, 1):
        name, _, number = line.strip().rpartition(" ")
        if not line.strip():
            continue
        if not name or not number.isdecimal() or int(number) >= classes or Path(name).is_absolute() or ".." in name:
            raise DataError(f"{path}, line {count}: expected a file and a number from 0 to {classes - 1}, got {line!r}")
        names.append(name)
        numbers.append(int(number))
    return names, numbers
