"""Small files of the layout in which the sets of digits are published."""

import bz2
import gzip
import struct

import numpy as np
from PIL import Image
from scipy.io import savemat


def idx(values):
    """The bytes of an IDX file, written from its description."""
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.astype(np.uint8).tobytes()


def write_mnist(folder, part, number, gz=True):
    random = np.random.default_rng(len(part))
    images, labels = random.integers(0, 256, (number, 28, 28)), np.arange(number) % 10
    for name, values in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
        if gz:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(values)))
        else:
            (folder / name).write_bytes(idx(values))
    return images, labels


def write_usps(folder, part, number):
    values = np.random.default_rng(len(part)).uniform(-1, 1, (number, 256)).round(4)
    lines = [f"{row % 10:.4f} " + " ".join(f"{v:.4f}" for v in values[row]) + " \n" for row in range(number)]
    (folder / f"zip.{part}.gz").write_bytes(gzip.compress("".join(lines).encode()))
    return values


def write_libsvm(folder, name, number):
    values = np.random.default_rng(len(name)).uniform(-1, 1, (number, 256)).round(4)
    values[:, 5] = 0  # a zero is left out
    lines = []
    for row in range(number):
        pairs = " ".join(f"{i}:{v:.4f}" for i, v in enumerate(values[row], 1) if v)
        lines.append(f"{row % 10 + 1} {pairs} \n")
    (folder / name).write_bytes(bz2.compress("".join(lines).encode()))
    return values


def write_svhn(folder, part, number):
    images = np.random.default_rng(len(part)).integers(0, 256, (32, 32, 3, number), dtype=np.uint8)
    labels = np.arange(number) % 10
    savemat(folder / f"{part}_32x32.mat", {"X": images, "y": np.where(labels == 0, 10, labels)[:, None]})
    return images.transpose(3, 2, 0, 1), labels


def write_mnist_m(folder, train, test):
    """Images whose first two columns and rows, outside the digit, are white and the rest grey level ``row``."""
    for part, number in (("train", train), ("test", test)):
        (folder / "mnist_m" / f"mnist_m_{part}").mkdir(parents=True)
        lines = []
        for row in range(number):
            pixels = np.full((28, 28, 3), row, np.uint8)
            pixels[:4] = pixels[:, :4] = 255
            Image.fromarray(pixels).save(folder / "mnist_m" / f"mnist_m_{part}" / f"{row:08d}.png")
            lines.append(f"{row:08d}.png {row % 10}\n")
        (folder / "mnist_m" / f"mnist_m_{part}_labels.txt").write_text("".join(lines))
