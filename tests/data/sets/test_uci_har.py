from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from tests.data.recording_files import uci_har, windows_of
from tlkit.data import UCIHAR, Signals, Windowing
from tlkit.data.sets import uci_har as module
from tlkit.errors import DataError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uci")
    uci_har(folder)
    return folder


def make(root, sources=("s01",), targets=("s02",), **arguments):
    data = UCIHAR(list(sources), list(targets), root=str(root), batch_size=4, **arguments)
    data.setup()
    return data


def published(root, part):
    names = [f"{name}_{axis}" for name in ("body_acc", "body_gyro", "total_acc") for axis in "xyz"]
    signals = [np.loadtxt(root / part / "Inertial Signals" / f"{name}_{part}.txt") for name in names]
    return torch.tensor(np.stack(signals, axis=1)).float(), torch.tensor(
        np.loadtxt(root / part / f"y_{part}.txt")
    ).long() - 1


def test_whole_recordings_give_the_published_windows_and_labels(root):
    data = make(root, windows=Windowing(longest=None))
    for domain, part in (("s01", "train"), ("s02", "test")):
        x, y = published(root, part)
        torch.testing.assert_close(windows_of(data, domain), x, rtol=1e-4, atol=1e-4)
        assert torch.equal(data._windows(domain).y, y)
    assert len({name.split("@")[0] for name in data.row_names("s01")}) == 6


def test_labels_that_change_inside_a_recording_stay_as_published(tmp_path):
    uci_har(tmp_path, windows=6)
    path = tmp_path / "train" / "y_train.txt"
    labels = [1, 2, 3, 3, 2, 1] * 6
    path.write_text("".join(f"{label}\n" for label in labels))
    data = make(tmp_path, windows=Windowing(longest=None))
    assert (data._windows("s01").y + 1).tolist() == labels


def test_no_two_splits_share_a_sample(root):
    data = make(root)
    names, pieces = data.row_names("s01"), data._windows("s01").piece
    seen = {}
    for split in ("train", "val", "test"):
        for row in data.splits["s01"][split]:
            recording, start = names[row].split("@")
            first = round(float(start[:-1]) * 50)
            for sample in range(first, first + 128):
                assert seen.setdefault((recording, sample), split) == split
    assert len(set(pieces.tolist())) == 12  # 960 samples a recording: 11 windows, then 2
    published_windows, _ = published(root, "train")
    here = windows_of(data, "s01")
    distance = (here[:, None] - published_windows[None]).abs().amax((2, 3)).amin(1)
    assert distance.max() < 1e-4  # the windows of the pieces are published ones


def test_gravity_is_in_the_total_acceleration(root):
    data = make(root, signals=Signals(channels="vertical"))
    assert data.channel_names[4:] == [
        "vertical(total_acc_x,total_acc_y,total_acc_z)", "horizontal(total_acc_x,total_acc_y,total_acc_z)",
    ]  # fmt: skip
    assert data.gravity == 2


def test_the_outer_and_the_inner_archive(tmp_path, monkeypatch, root):
    shutil.copytree(root, tmp_path / "a" / "UCI HAR Dataset")
    inner = shutil.make_archive(str(tmp_path / "UCI HAR Dataset"), "zip", tmp_path / "a")
    (tmp_path / "b").mkdir()
    shutil.move(inner, tmp_path / "b")
    (tmp_path / "mirror").mkdir()
    shutil.make_archive(str(tmp_path / "mirror" / module._OUTER.name.removesuffix(".zip")), "zip", tmp_path / "b")
    monkeypatch.setattr(module, "_OUTER", module.Published(module._OUTER.name, ""))  # the real one has a sum
    monkeypatch.setenv("TLKIT_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("TLKIT_DATA", str(tmp_path / "data"))
    data = UCIHAR(["s01"], batch_size=4)
    data.setup()
    assert len(data._windows("s01").y) > 50
    assert (tmp_path / "data" / "uci-har" / "UCI HAR Dataset" / "train" / "y_train.txt").is_file()


def test_damaged_files(tmp_path):
    uci_har(tmp_path, windows=4)
    path = tmp_path / "test" / "y_test.txt"
    whole = path.read_text()
    path.write_text(whole.replace("3\n", "7\n", 1))
    with pytest.raises(DataError, match=r"y_test\.txt, line 9: labels are 1 to 6, got 7"):
        make(tmp_path)
    path.write_text(whole + "1\n")
    with pytest.raises(DataError, match=r"must all have as many lines, got \[24, 25\]"):
        make(tmp_path)
    path.write_text("walking\n")
    with pytest.raises(DataError, match=r"y_test.txt must hold lines of 1 numbers"):
        make(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"y_test.txt is missing. It is UCI's data set 240"):
        make(tmp_path)
