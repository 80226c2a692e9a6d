from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from tests.data.recording_files import windows_of
from tlkit.data import SeglearnWatch, Signals
from tlkit.errors import DataError


@pytest.fixture(scope="module")
def watch():
    from seglearn.datasets import load_watch

    return load_watch()


def test_the_first_half_trains_and_the_second_half_tests(watch):
    data = SeglearnWatch(["side0"], ["side1"])
    data.setup()
    names, windows = data.row_names("side1"), windows_of(data, "side1")
    for split, from_half in (("train", False), ("test", True)):
        for row in data.splits["side1"][split][::40]:
            recording, start = names[row].split("@")
            number, first = int(recording.split(":")[0]), round(float(start[:-1]) * 50)
            series = watch["X"][number]
            assert watch["side"][number] == 1
            torch.testing.assert_close(
                windows[row].double(), torch.tensor(series[first : first + 128].T), atol=1e-4, rtol=1e-4
            )
            half = len(series) - round(len(series) / 2)
            assert (first >= half) == from_half
            assert first + 128 <= half or from_half
            assert data.classes[data._windows("side1").y[row]] == watch["y_labels"][int(watch["y"][number])]


def test_every_recording_counts():
    data = SeglearnWatch(["side0"], ["side1"])
    data.setup()
    sizes = {d: {split: len(rows) for split, rows in splits.items()} for d, splits in data.splits.items()}
    assert sizes["side0"]["reference"] == sizes["side0"]["test"] == 884
    assert sizes["side1"] == {"train": 809, "val": 809, "test": 810, "reference": 809}
    assert len({name.split("@")[0] for d in ("side0", "side1") for name in data.row_names(d)}) == 140


def test_new_persons_and_sides_of_persons():
    data = SeglearnWatch(["s01-s07"], ["s08-s10"], signals=Signals(standardize="recording"))
    data.setup()
    assert {name.split(":")[1].split("/")[0] for name in data.row_names("s08-s10")} == {"s08", "s09", "s10"}
    pair = SeglearnWatch(["s03/side0"], ["s03/side1"], batch_size=4)
    pair.setup()
    assert {name.split(":")[1].split("/")[1] for name in pair.row_names("s03/side1")} == {"side1"}
    assert np.bincount(pair._windows("s03/side0").y, minlength=7).all()


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "seglearn.datasets", None)
    with pytest.raises(DataError, match=r'needs seglearn, which is not installed: pip install "tlkit\[sensors\]"'):
        SeglearnWatch(["side0"]).setup()
