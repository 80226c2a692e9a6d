"""Crops, flips and colours of images, a batch at a time, each row with chance of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tlkit.errors import DataError

__all__ = ["LUMINANCE", "Augment", "augmented", "check_augment"]

Augment = Literal["none", "flip_crop", "strong"]
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)

_SCALE = 0.5, 1.0  # share of the image's area that a strong crop keeps
_ASPECT = 3 / 4, 4 / 3  # its width to its height
_JITTER = 0.4  # how far brightness, contrast and saturation go from 1


def check_augment(augment: str) -> Augment:
    """Return ``augment`` if it is one of :data:`Augment`.

    Raises:
        DataError: If it is not.
    """
    if augment not in get_args(Augment):
        raise DataError(
            f"augment must be 'none' (the centre), 'flip_crop' (random crops and flips) or 'strong' (random crops of "
            f"half the image and more, flips and colours), got {augment!r}"
        )
    return augment  # type: ignore[return-value]  # mypy does not narrow str to Literal


def augmented(images: Sequence[NDArray[np.uint8]], size: int, augment: Augment, draws: NDArray[np.float64]) -> Tensor:
    """Cut each image to ``(3, size, size)`` and return all as one float32 batch in [0, 1].

    - ``"none"``: the centre.
    - ``"flip_crop"``: a random place, flipped left to right half of the time.
    - ``"strong"``: a random half or more of the area, its width 3/4 to 4/3 of its height, resized; flipped half of the
      time; brightness, contrast and saturation each times 0.6 to 1.4.

    Args:
        images: ``(3, H, W)`` each, neither side less than ``size``.
        size: Height and width to cut to.
        augment: What is done.
        draws: ``(B, 8)`` random numbers in [0, 1), one row an image.

    Example:
        >>> image = np.arange(3 * 4 * 6, dtype=np.uint8).reshape(3, 4, 6)
        >>> (augmented([image], 2, "none", np.zeros((1, 8)))[0, 0] * 255).int()
        tensor([[ 8,  9],
                [14, 15]], dtype=torch.int32)
    """
    cut = {"none": _centre, "flip_crop": _random_crop, "strong": _resized_crop}[augment]
    batch = np.empty((len(images), 3, size, size), np.uint8)
    for row, image in enumerate(images):
        piece = cut(image, size, draws[row])
        batch[row] = piece[:, :, ::-1] if augment != "none" and draws[row, 0] < 0.5 else piece
    x = torch.from_numpy(batch).float().div_(255)
    return _jittered(x, draws[:, 5:8]) if augment == "strong" else x


def _centre(image: NDArray[np.uint8], size: int, draws: NDArray[np.float64]) -> NDArray[np.uint8]:
    top, left = round((image.shape[1] - size) / 2), round((image.shape[2] - size) / 2)
    return image[:, top : top + size, left : left + size]


def _random_crop(image: NDArray[np.uint8], size: int, draws: NDArray[np.float64]) -> NDArray[np.uint8]:
    top, left = (int(draw * (side - size + 1)) for draw, side in zip(draws[1:3], image.shape[1:], strict=True))
    return image[:, top : top + size, left : left + size]


def _resized_crop(image: NDArray[np.uint8], size: int, draws: NDArray[np.float64]) -> NDArray[np.uint8]:
    height, width = image.shape[1:]
    area = height * width * (_SCALE[0] + (_SCALE[1] - _SCALE[0]) * draws[3])
    aspect = _ASPECT[0] * (_ASPECT[1] / _ASPECT[0]) ** draws[4]
    tall, wide = min(round((area / aspect) ** 0.5), height), min(round((area * aspect) ** 0.5), width)
    top, left = int(draws[1] * (height - tall + 1)), int(draws[2] * (width - wide + 1))
    piece = torch.from_numpy(image[:, top : top + tall, left : left + wide])[None]
    resized = F.interpolate(piece, (size, size), mode="bilinear", antialias=True, align_corners=False)[0]
    pixels: NDArray[np.uint8] = resized.numpy()
    return pixels


def _jittered(x: Tensor, draws: NDArray[np.float64]) -> Tensor:
    """Scale brightness, then contrast about the mean grey, then saturation about each pixel's grey; clamp at the end.

    All three are linear in the colours, so together they are one 3x3 matrix and one offset an image.
    """
    brightness, contrast, saturation = torch.from_numpy(1 + _JITTER * (2 * draws - 1)).float().T[:, :, None, None]
    grey = torch.tensor(LUMINANCE)
    colour = saturation * torch.eye(3) + (1 - saturation) * grey
    mean = (x.mean((2, 3)) @ grey)[:, None, None]
    return (
        torch.baddbmm(brightness * (1 - contrast) * mean, brightness * contrast * colour, x.flatten(2))
        .clamp_(0, 1)
        .view_as(x)
    )
