from __future__ import annotations

import numpy as np
import pytest

from tests.data.recording_files import SIX, hhar, windows_of
from tlkit.data import HHAR, Windowing
from tlkit.errors import DataError

SMALL = Windowing(length=64, longest=3.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hhar")
    hhar(folder)
    return folder


def make(root, sources=("nexus4",), targets=("s3",), windows=SMALL, **arguments):
    data = HHAR(list(sources), list(targets), root=str(root), windows=windows, batch_size=4, **arguments)
    data.setup()
    return data


def test_samples_are_put_in_the_order_of_time(root):
    data = make(root)
    values = windows_of(data, "nexus4")[0]
    rows = [line.split(",") for line in (root / "Phones_accelerometer.csv").read_text().splitlines()[1:]]
    mine = sorted((row for row in rows if row[6] == "a" and row[8] == "nexus4_1"), key=lambda row: int(row[1]))
    seconds = (np.array([int(row[1]) for row in mine]) - int(mine[0][1])) / 1000
    for channel in range(3):
        expected = np.interp(np.arange(64) / 50, seconds, [float(row[3 + channel]) for row in mine])
        np.testing.assert_allclose(values[channel], expected, atol=1e-3)
    assert set(data._windows("s3").y.tolist()) == set(range(6))  # and null is none of them
    assert data.spec().classes == SIX


def test_domains(root):
    data = make(root, ["a/s3"], ["b/nexus4"])
    assert [*data.domains] == ["nexus4", "s3", "a", "b", "a/s3", "b/nexus4"]
    assert {name.split("@")[0] for name in data.row_names("a/s3")} == {
        "Phones_accelerometer.csv:a/s3_1", "Phones_accelerometer.csv:a/s3_2",
    }  # fmt: skip
    both = make(root, ["nexus4"], ["gear"], devices="both")
    assert {name.split("@")[0] for name in both.row_names("gear")} == {
        "Watch_accelerometer.csv:a/gear_1", "Watch_accelerometer.csv:b/gear_1",
    }  # fmt: skip
    with pytest.raises(DataError, match=r"unknown domain 'gear'.*Allowed: a, b, nexus4, s3"):
        make(root, ["nexus4"], ["gear"])
    with pytest.raises(DataError, match="devices must be 'phones', 'watches' or 'both', got 'phone'"):
        make(root, devices="phone")


def test_pieces_are_not_divided(root):
    data = make(root)
    piece = data._windows("nexus4").piece
    of = [set(piece[data.splits["nexus4"][split]]) for split in ("train", "val", "test")]
    assert not of[0] & of[1]
    assert not (of[0] | of[1]) & of[2]
    assert all(of)


def test_damaged_files(tmp_path, root):
    text = (root / "Phones_accelerometer.csv").read_text().splitlines()[:50]
    path = tmp_path / "Phones_accelerometer.csv"
    for change, message in (
        (
            lambda lines: [lines[0].replace("gt", "label"), *lines[1:]],
            "lacks the columns gt; get it again. It is UCI's",
        ),
        (
            lambda lines: [*lines[:4], "0,1,1,0,0,0,a,nexus4,nexus4_1,swim", *lines[4:]],
            "line 5, column 'gt'.* got 'swim'",
        ),
        (lambda lines: [*lines, "0,1,1,zero,0,0,a,nexus4,nexus4_1,sit"], "cannot read .*zero"),
        (lambda lines: lines[:1], "is empty: it has no rows"),
    ):
        path.write_text("\n".join(change(text)) + "\n")
        with pytest.raises(DataError, match=message):
            make(tmp_path)
