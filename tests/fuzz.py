"""Damage every kind of file and recipe that tlkit reads, at random, and see that each ends in words or is read.

    python -m tests.fuzz files=50 modules=10 recipes=20 --seed=7

In this process memory is limited to 2 GiB above what the imports take, and each case to 20 seconds of a core. A case
that raises anything but a TlkitError is printed with what makes it again, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import io
import logging
import random
import resource
import shutil
import signal
import sys
import tarfile
import tempfile
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from PIL import Image
from scipy.io import savemat

from tests.data.settings import SETTINGS, Setting
from tlkit.cli.check import check_keys, check_recipe
from tlkit.cli.options import override, parse_options
from tlkit.cli.rebuild import load, read_checkpoint
from tlkit.cli.recipes import read_recipe
from tlkit.data.files.archives import unpack
from tlkit.data.files.tables import check_column, read_table, row_places, table_columns
from tlkit.data.images.files import _Store, check_image
from tlkit.data.series.files import SeriesColumns, SeriesTable
from tlkit.data.sets import digit_files
from tlkit.data.text import tokens
from tlkit.errors import TlkitError

SECONDS, BYTES, LETTERS = 20, 2 << 30, 20_000

# Cells that people's tables have, and that attackers' have.
CELLS = [
    b"", b"nan", b"NaN", b"inf", b"-inf", b"1e999", b"-1", b"99999999999999999999999", b"0x7f", b"1,5", b"1_000", b"\0",
    b"\xff\xfe", "é\u202e".encode(), b'"', b'""', b"'", b"\n", b"\r", b"\t", b",", b";", b"null", b"None", b"true",
    b"{}", b"[", b"[[[[", b"{", b"}", b"<review>", b"</review>", b"/etc/passwd", b"../../x", b"A" * 70000, b"1" * 5000,
    b"\xef\xbb\xbf",
]  # fmt: skip
# What a recipe may hold in the place of a value.
VALUES = [
    None, True, 0, -1, 2**70, 1e308, float("nan"), float("inf"), "", " ", "\0", "é", "a" * 5000, "builtins.eval",
    "os.system", "torch.nn.Linear", "tlkit.losses.MMD", "..", "a.", [], [[]], [None], {}, {"a": 1}, {1: 2, "a": 3},
    {"class_path": "MMD"}, {"class_path": None}, {"class_path": ["a"]}, {"init_args": {}},
    {"class_path": "builtins.exec"}, {"class_path": "MMD", "init_args": []},
    {"class_path": "MMD", "init_args": {"weight": {"class_path": "DannRamp"}}},
    ["MMD", "MMD", 3], b"bytes", [[[[[[[[]]]]]]]],
]  # fmt: skip


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Return other bytes: cut, empty, flipped, filled, moved, with a huge number or with a strange cell in them."""
    size = len(content)
    first, second = sorted(draw.randrange(size + 1) for _ in range(2))
    second = min(second, first + draw.choice((1, 4, 64, 4096)))
    middle = content[first:second]
    huge = draw.choice((b"\xff", b"\x7f", b"\0")) * draw.choice((1, 2, 4, 8))
    kind = draw.randrange(9)
    if kind == 0:
        return content[:first]
    if kind == 1:
        return b""
    if kind == 2:
        return draw.randbytes(draw.choice((1, 10, 1000)))
    if kind == 3:
        found = bytearray(content)
        for _ in range(draw.choice((1, 4, 40))):
            if found:
                found[draw.randrange(size)] ^= 1 << draw.randrange(8)
        return bytes(found)
    if kind == 4:
        return content[:first] + draw.randbytes(len(middle)) + content[second:]
    if kind == 5:
        return content[:first] + content[second:]
    if kind == 6:
        return content[:first] + middle * draw.choice((2, 50)) + content[second:]
    if kind == 7:
        return content[:first] + huge + content[first + len(huge) :]
    # Strange cells go where a cell begins, if this is a table.
    text = [place for place in range(size) if content[place] in b",\n\t "] or [first]
    start = draw.choice(text) + 1
    end = next((place for place in text if place >= start), start)
    return content[:start] + draw.choice(CELLS) + content[end:]


def damage(path: Path, draw: random.Random) -> None:
    """Damage a file, or what it holds compressed."""
    content = path.read_bytes()
    for ending, (unpacked, packed) in {
        ".gz": (gzip.decompress, gzip.compress), ".bz2": (bz2.decompress, bz2.compress)
    }.items():  # fmt: skip
        if path.name.endswith(ending) and draw.random() < 0.5:
            path.write_bytes(packed(damaged(unpacked(content), draw)))
            return
    if path.suffix in (".npz", ".zip") and draw.random() < 0.5:
        path.write_bytes(_members_damaged(content, draw))
        return
    path.write_bytes(damaged(content, draw))


def _members_damaged(content: bytes, draw: random.Random) -> bytes:
    """Return a zip archive whose directory is whole and one of whose members is not."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(result, "w") as new:
        victim = draw.choice(old.namelist())
        for name in old.namelist():
            new.writestr(name, damaged(old.read(name), draw) if name == victim else old.read(name))
    return result.getvalue()


# Files on their own: each writes a good one into a folder and returns how it is read.

Reader = Callable[[], Any]


def table(ending: str) -> Callable[[Path], tuple[Path, Reader]]:
    """Return what writes a table of texts, numbers and labels."""

    def write(folder: Path) -> tuple[Path, Reader]:
        frame = pd.DataFrame(
            {"text": ["a b", "c, d", 'e "f"'] * 9, "value": np.arange(27) / 4, "label": ["x", "y", "z"] * 9}
        )
        path = folder / f"table{ending}"
        if ending == ".parquet":
            frame.to_parquet(path)
        elif ending.startswith(".json"):
            frame.to_json(path, orient="records", lines=True)
        else:
            frame.to_csv(path, index=False, sep="\t" if ".tsv" in ending else ",")

        def read() -> None:
            table_columns(path)
            found = read_table(path, ["text", "value", "label"])
            for column, kind in (("text", "text"), ("value", "number"), ("label", "label")):
                check_column(found, path, column, kind)
            row_places(path, len(found))

        return path, read

    return write


def recording(ending: str) -> Callable[[Path], tuple[Path, Reader]]:
    """Return what writes a recording."""

    def write(folder: Path) -> tuple[Path, Reader]:
        columns = {"t": np.arange(40) / 50, "x": np.sin(np.arange(40)), "label": np.array(["walk", "rest"] * 20)}
        path = folder / f"recording{ending}"
        if ending == ".npz":
            np.savez_compressed(path, **columns)
        else:
            pd.DataFrame(columns).to_parquet(path)

        def read() -> None:
            series = SeriesTable(path, SeriesColumns(["x"], time="t"))
            series.recordings(), series.seconds(slice(None)), series.place(0)

        return path, read

    return write


def image(ending: str) -> Callable[[Path], tuple[Path, Reader]]:
    """Return what writes an image."""

    def write(folder: Path) -> tuple[Path, Reader]:
        pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8)
        path = folder / f"image{ending}"
        Image.fromarray(pixels).save(path)

        def read() -> None:
            check_image(path)
            _Store([path], 16, cache=False).read(0)

        return path, read

    return write


def archive(ending: str) -> Callable[[Path], tuple[Path, Reader]]:
    """Return what writes an archive of two files in a folder, or of one."""

    def write(folder: Path) -> tuple[Path, Reader]:
        path, content = folder / f"archive{ending}", b"some text\n" * 40
        if ending == ".zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
                bundle.writestr("data/a.txt", content)
                bundle.writestr("data/b.txt", content)
        elif ending.startswith(".tar"):
            with tarfile.open(path, "w:gz" if ending.endswith(".gz") else "w") as tar:
                for name in ("data/a.txt", "data/b.txt"):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        else:
            path.write_bytes((gzip.compress if ending == ".gz" else bz2.compress)(content))
        return path, lambda: unpack(path, folder / "unpacked")

    return write


def idx(folder: Path) -> tuple[Path, Reader]:
    """Write images as MNIST has them."""
    path = folder / "images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\x03" + np.array([4, 28, 28], ">u4").tobytes() + bytes(4 * 28 * 28)))
    return path, lambda: digit_files._read_idx(path)


def usps_zip(folder: Path) -> tuple[Path, Reader]:
    """Write digits as the zip.train of Hastie et al. has them."""
    path = folder / "zip.train.gz"
    path.write_bytes(gzip.compress(b"\n".join(b" ".join([b"3.0", *[b"-0.5"] * 256]) for _ in range(4))))
    return path, lambda: digit_files._read_zip_digits(path)


def usps_libsvm(folder: Path) -> tuple[Path, Reader]:
    """Write digits as LIBSVM has them."""
    path = folder / "usps.bz2"
    path.write_bytes(
        bz2.compress(b"\n".join(b"4 " + b" ".join(b"%d:0.25" % i for i in range(1, 257)) for _ in range(4)))
    )
    return path, lambda: digit_files._read_libsvm(path)


def matlab(folder: Path) -> tuple[Path, Reader]:
    """Write images as SVHN has them."""
    path = folder / "train_32x32.mat"
    savemat(path, {"X": np.zeros((32, 32, 3, 3), np.uint8), "y": np.array([[1], [10], [3]])}, do_compression=True)
    return path, lambda: digit_files._read_svhn(path)


def token_cache(folder: Path) -> tuple[Path, Reader]:
    """Write tokens as they are kept; damaged ones are worked out again, without an error."""
    kept = folder / "kept"
    tokens._write({"input_ids": np.ones((4, 5), np.int64), "attention_mask": np.ones((4, 5), np.int64)}, kept)
    return kept / "input_ids.npy", lambda: tokens._read(kept, "texts")


_CHECKPOINT: list[bytes] = []


def checkpoint(folder: Path) -> tuple[Path, Reader]:
    """Write a checkpoint of a small model."""
    path = folder / "last.ckpt"
    if not _CHECKPOINT:
        _CHECKPOINT.append(_checkpoint_bytes())
    path.write_bytes(_CHECKPOINT[0])

    def read() -> None:
        read_checkpoint(path)
        load(path)

    return path, read


def _checkpoint_bytes() -> bytes:
    import lightning as L

    from tlkit import TransferModule
    from tlkit.backbones import MLP
    from tlkit.tasks import Classification
    from tlkit.types import DataSpec

    model = TransferModule(MLP(in_features=4, hidden=(6,)), Classification())
    model.recipe = {
        "model": {
            "backbone": {"class_path": "MLP", "init_args": {"in_features": 4, "hidden": [6]}},
            "task": "Classification",
        },
        "data": {"class_path": "Digits", "init_args": {"sources": ["mnist"]}},
    }
    model.build(DataSpec(("a",), ("a",), (), classes=("x", "y")))
    content: dict[str, Any] = {"state_dict": model.state_dict(), "epoch": 0, "global_step": 3, "loops": {}}
    content["pytorch-lightning_version"] = L.__version__
    model.on_save_checkpoint(content)
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


FILES: dict[str, Callable[[Path], tuple[Path, Reader]]] = {
    **{f"table{e}": table(e) for e in (".csv", ".csv.gz", ".tsv", ".jsonl", ".jsonl.gz", ".parquet")},
    **{f"recording{e}": recording(e) for e in (".npz", ".parquet")},
    **{f"image{e}": image(e) for e in (".png", ".jpg", ".gif", ".bmp", ".tiff", ".webp", ".ppm")},
    **{f"archive{e}": archive(e) for e in (".zip", ".tar", ".tar.gz", ".gz", ".bz2")},
    "idx": idx, "usps zip": usps_zip, "usps libsvm": usps_libsvm, "matlab": matlab, "tokens": token_cache,
    "checkpoint": checkpoint,
}  # fmt: skip


def file_cases(draw: random.Random, rounds: int, folder: Path) -> Iterator[tuple[str, Reader]]:
    """Yield damaged files, each with what reads it."""
    for name, write in FILES.items():
        for number in range(rounds):
            place = folder / f"{name}-{number}"
            place.mkdir()
            path, read = write(place)
            damage(path, draw)
            yield f"{name} {number}", read
            shutil.rmtree(place)


def module_cases(draw: random.Random, rounds: int, folder: Path) -> Iterator[tuple[str, Reader]]:
    """Yield data modules, one of whose files is damaged, each with what reads them as training does."""
    for setting in SETTINGS:
        if setting.write is None:
            continue
        whole = folder / "whole"
        whole.mkdir()
        setting.files(whole)
        for number in range(rounds):
            place = folder / "damaged"
            place.mkdir()
            arguments = setting.files(place)
            chosen = draw.choice(sorted(path for path in place.rglob("*") if path.is_file()))
            damage(chosen, draw)
            yield f"{setting} {number}: {chosen.relative_to(place)}", lambda a=arguments, s=setting: _use(s, a)  # type: ignore[misc]
            shutil.rmtree(place)
        shutil.rmtree(whole)


def _use(setting: Setting, arguments: dict[str, Any]) -> None:
    data = setting.make(arguments)
    data.setup("fit")
    for batch, _ in zip(data.train_dataloader(), range(2), strict=False):
        assert len(batch)
    for loader in (*data.val_dataloader(), *data.test_dataloader()):
        for samples in loader:
            assert len(samples.index)
    data.teardown("fit")


def recipe_cases(draw: random.Random, rounds: int, folder: Path) -> Iterator[tuple[str, Reader]]:
    """Yield damaged recipes: as text, and with other values in their places; and damaged words of a command line."""
    recipes = sorted((Path(__file__).parents[1] / "recipes").rglob("*.yaml"))
    for number in range(rounds * 12):
        source, path = draw.choice(recipes), folder / "recipe.yaml"
        content = source.read_bytes()
        if number % 3 == 0:
            path.write_bytes(damaged(content, draw))
        else:
            path.write_text(yaml.safe_dump(_with_other_values(yaml.safe_load(content), draw)), encoding="utf-8")
        yield f"recipe {number} of {source.stem}", lambda path=path: check_recipe(read_recipe(path))  # type: ignore[misc]
        words = [draw.choice(_WORDS) for _ in range(draw.randint(0, 4))]
        yield f"words {words}", lambda words=words, source=source: _override(words, source)  # type: ignore[misc]
    for name, text in BOMBS.items():
        path.write_text(text, encoding="utf-8")
        yield name, lambda path=path: check_recipe(read_recipe(path))  # type: ignore[misc]


def _override(words: list[str], source: Path) -> None:
    recipe = read_recipe(source)
    for key, value in parse_options("fit", words, own=["config", "resume"], flags=["print_config"]).overrides.items():
        override(recipe, key, value)
    check_keys(recipe)
    check_recipe(recipe)


_WORDS = [
    "--config", "--config=x", "--", "-", "", "--=", "--model", "--model.=1", "--model..a=1", "--trainer.max_steps=x",
    "--trainer.max_steps=[", "--model.adaptation.0=3", "--model.adaptation.9.weight=1", "--model.adaptation.weight=1",
    "--model.adaptation={}", "--data.sources=[[[", "--data.sources={a: b}", "--data=null", "--data.x.y.z=1",
    "--model.backbone.class_path=builtins.eval", "--model.backbone.class_path=os.system", "--trainer=3",
    "--model.task=torch.nn.Linear",
    "--seed_everything=-1", "--seed_everything=1e9", "--seed_everything=x", "--run_id=..", "--runs=\0", "--logger=[]",
    "--trainer.callbacks=3", "--trainer.callbacks=[3]", "--trainer.callbacks=[EarlyStopping, {a: 1}]", "--a=1", "é",
    "--model.optimizer.lr=" + "9" * 5000, "--data.batch_size=" + "[" * 3000, "--data.batch_size=*a",
    "--data.batch_size=&a [*a]",
]  # fmt: skip

BOMBS = {
    "deep nesting": "model: " + "[" * 20000,
    "deep nesting, closed": "model: " + "[" * 3000 + "]" * 3000 + "\ndata: Digits\n",
    "a cycle": "model: &a {backbone: *a, task: *a}\ndata: Digits\n",
    "a cycle of lists": "model: {backbone: MLP, task: Classification, adaptation: &a [*a]}\ndata: Digits\n",
    "a billion laughs": "data: Digits\nmodel: {backbone: MLP, task: Classification, adaptation: [&a [x], "
    + ", ".join(f"&{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in pairwise("abcdefghijk"))
    + "]}\n",
    "laughs in arguments": "data: {class_path: Digits, init_args: {sources: &a [x], targets: "
    + "".join(f"&{b} [{', '.join([f'*{a}'] * 9)}, " for a, b in pairwise("abcdefgh"))
    + "1]]]]]]]}}\nmodel: 1\n",
    "many keys": "\n".join(f"key{n}: {n}" for n in range(40000)),
    "a huge number": f"model: {'9' * 100000}\ndata: Digits\n",
    "a date that is none": "model: 2024-13-45\ndata: 2024-02-31T99:99:99\n",
    "a huge text": f"model: {'x' * 20_000_000}\n",
    "python": "model: !!python/object/apply:os.system ['true']\n",
    "two documents": "model: 1\n---\nmodel: 2\n",
    "a tab": "model:\n\t- a\n",
    "base 60": "model: 1:99:99\ndata: 1" + ":59" * 2000 + "\n",
    "merge": "model: {<<: [1, 2]}\ndata: {<<: 3}\n",
    "null keys": "? [a, b]\n: c\n? {d: e}\n: f\nmodel: {? null : 1}\n",
}


def _with_other_values(recipe: Any, draw: random.Random) -> Any:
    """Put something else into a random place of a recipe."""
    node, steps = recipe, draw.randint(0, 5)
    for step in range(steps + 1):
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            break
        key = draw.choice(keys)
        if step == steps or not isinstance(node[key], dict | list):
            kind = draw.randrange(3)
            if kind == 0 and isinstance(node, dict):
                node[draw.choice(("", "x", 1, None, "class_path", "init_args", "weight"))] = node.pop(key)
            elif kind == 1:
                del node[key]
            else:
                node[key] = draw.choice([value for value in VALUES if not isinstance(value, bytes)])
            break
        node = node[key]
    return recipe


GROUPS = {"files": file_cases, "modules": module_cases, "recipes": recipe_cases}


class TooSlow(BaseException):
    """A case took longer than it may."""


def _too_slow(*_: Any) -> None:
    raise TooSlow


def main() -> int:
    """Run the cases."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "groups", nargs="*", default=[f"{group}=5" for group in GROUPS], help="files, modules or recipes, and rounds"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, resource.RLIM_INFINITY))
    signal.signal(signal.SIGPROF, _too_slow)
    counts: Counter[str] = Counter()
    for group, _, rounds in (each.partition("=") for each in options.groups):
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        draw = random.Random(f"{options.seed} {group}")
        for name, read in GROUPS[group](draw, int(rounds), folder):
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                read()
                outcome = "read"
            except TlkitError as error:
                outcome = "refused" if 0 < len(str(error).strip()) < LETTERS else "refused, in no or too many words"
            except TooSlow:
                outcome = "too slow"
            except BaseException as error:
                outcome = type(error).__name__
                traceback.print_exc(limit=-4)
            signal.setitimer(signal.ITIMER_PROF, 0)
            counts[f"{group}: {outcome}"] += 1
            if outcome not in ("read", "refused"):
                print(f"{group}, {name[:300]}: {outcome}", file=sys.stderr, flush=True)
        shutil.rmtree(folder)
    for outcome, count in sorted(counts.items()):
        print(f"{outcome} {count}")
    return int(any(not outcome.endswith((": read", ": refused")) for outcome in counts))


if __name__ == "__main__":
    raise SystemExit(main())
