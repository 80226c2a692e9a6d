"""Shards of small images and arrays, written by code."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tlkit.data import ShardSample, write_domain


def picture(seed: int, ending: str = "png", size: int = 24) -> bytes:
    """Return an image file of noise."""
    out = io.BytesIO()
    kind = {"jpg": "JPEG"}.get(ending, ending.upper())
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def pack(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write a tar file as other programs do, member by member."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def image_shards(root: Path) -> dict[str, Any]:
    """Write two domains of two classes, one with an index and one as other programs write them."""
    endings = ["png", "jpg", "webp"]
    samples = [ShardSample(picture(i, endings[i % 3]), ["cat", "dog"][i % 2], ending=endings[i % 3]) for i in range(40)]
    write_domain(root / "photo", samples)
    for shard in range(4):
        members = []
        for i in range(10):
            members += [
                (f"{i:04d}.jpg", picture(i + 100 * shard, "jpg")),
                (f"{i:04d}.cls", b"cat" if i % 2 else b"dog"),
            ]
        pack(root / "sketch" / f"sketch-{shard}.tar", members)
    return {"root": str(root)}


def array_samples(domain: int, number: int, groups: int = 0, shape: tuple[int, ...] = (3, 8)) -> list[ShardSample]:
    """Return arrays of two classes whose first value is the number of the row."""
    random = np.random.default_rng(domain)
    samples = []
    for row in range(number):
        x = random.standard_normal(shape).astype(np.float32)
        x.flat[0] = row
        samples.append(ShardSample(x, row % 2, f"wearer-{domain}-{row % groups}" if groups else None))
    return samples


def array_shards(root: Path) -> dict[str, Any]:
    """Write two domains of arrays of two classes, whose rows are of groups in one of them."""
    write_domain(root / "left", array_samples(0, 60))
    write_domain(root / "right", array_samples(1, 60, groups=12))
    return {"root": str(root)}
