from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.data.recording_files import windows_of, wisdm
from tlkit.data import WISDM, Windowing
from tlkit.data.sets import wisdm as module
from tlkit.errors import DataError

FILE = "WISDM_ar_v1.1_raw.txt"


def make(root, sources=("s01",), targets=("s02",), **arguments):
    data = WISDM(list(sources), list(targets), root=str(root), batch_size=4, **arguments)
    data.setup()
    return data


def test_broken_entries_are_left_out_and_counted(tmp_path):
    wisdm(tmp_path)
    data = make(tmp_path)
    assert data.broken == 3  # no time stamp; five fields; a field that is empty
    assert make(tmp_path / "WISDM_ar_v1.1").broken == 3
    assert len(data.recordings) == 12
    counts = np.bincount(data._windows("s01").y, minlength=6)
    assert counts.tolist() == [13] * 6  # of 1000 samples: 9 windows in 32 s, 4 in what is left


def test_entries_one_by_one(tmp_path):
    whole = "".join(f"7,Walking,{10**9 + row * 50_000_000},{row},0.5,-1.5e1;\n" for row in range(150))
    for odd, good in (
        ("7,Walking,9000000000,1,2,3;7,Walking,9000000001,1,2,3;\n", 2),
        ("7,Walking,9000000000,1,2,3,;\n\n", 1),
        (" 7, Walking, 9000000000, 1, 2, 3\n", 1),
        ("7,Walking,9000000000,1,2;\n", 0),
        ("7,Walking,9000000000,1,2,;\n", 0),
        ("7,Walking,0,0,0,0;\n", 0),
        ("7,Walking,9000000000,1,2,3,4;\n", 0),
        (";\n;;\n", None),
    ):
        (tmp_path / FILE).write_text(whole + odd)
        data = WISDM(["s07"], root=str(tmp_path))
        total = sum(len(recording.read().values) for recording in data.recordings)
        assert total == 150 + (good or 0), odd
        assert data.broken == (1 if good == 0 else 0), odd
    x = data.recordings[0].read()
    assert x.values[3].tolist() == [3, 0.5, -15]
    np.testing.assert_allclose(np.diff(x.times), 0.05)


def test_recordings_end_where_person_activity_or_time_breaks(tmp_path):
    second = 10**9
    parts = [
        (1, "Walking", 5 * second), (1, "Walking", 50 * second), (1, "Walking", second),  # a jump, and back
        (1, "Jogging", 3 * second), (2, "Jogging", 5 * second),
    ]  # fmt: skip
    lines = [
        f"{person},{activity},{start + row * second // 20},0,0,0;\n"
        for person, activity, start in parts
        for row in range(30)
    ]
    lines += ["2,Jogging,6450000000,0,0,0;\n"] * 30  # the time stamp stands still
    (tmp_path / FILE).write_text("".join(lines))
    recordings = WISDM(["s01"], root=str(tmp_path)).recordings
    assert [(each.person, len(each.read().values)) for each in recordings] == [
        ("s01", 30), ("s01", 30), ("s01", 30), ("s01", 30), ("s02", 60),
    ]  # fmt: skip


def test_another_rate_is_resampled(tmp_path):
    wisdm(tmp_path)
    data = make(tmp_path, windows=Windowing(rate=10, length=64, stride=32, short="leave_out"))
    assert windows_of(data, "s01").shape[0] == 6 * ((500 - 64) // 32 + 1)


def test_what_is_not_the_file(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(module, "_ARCHIVE", replace(module._ARCHIVE, url="file:///nowhere/wisdm.tar.gz"))
    with pytest.raises(DataError, match=r"not there\).*https://www\.cis\.fordham\.edu/wisdm/dataset\.php"):
        make(tmp_path / "empty")
    (tmp_path / FILE).write_text("user,activity\n")
    with pytest.raises(DataError, match="holds no entry user,activity,timestamp,x,y,z"):
        make(tmp_path)
    (tmp_path / FILE).write_text("1,Flying,5,0,0,0;\n")
    with pytest.raises(DataError, match=r"activities are Walking, .*, got Flying"):
        make(tmp_path)
    (tmp_path / FILE).write_bytes(b"1,Walking,5,\xff,0,0;\n")
    with pytest.raises(DataError, match="cannot read"):
        make(tmp_path)
