from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.data.recording_files import FIVE, sp_sw_har, windows_of
from tlkit.data import SPSWHAR, Signals, Windowing
from tlkit.data.sets import sp_sw_har as module
from tlkit.errors import DataError

SMALL = Windowing(length=32, stride=16)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sp-sw-har")
    sp_sw_har(folder)
    return folder


def make(root, sources, targets=(), windows=SMALL, **arguments):
    data = SPSWHAR(sources, list(targets), root=str(root), windows=windows, batch_size=4, **arguments)
    data.setup()
    return data


def recordings(data, domain, split):
    names = data.row_names(domain)
    return {names[row].split("@")[0] for row in data.splits[domain][split]}


def test_recordings_8_and_up_are_the_test_split_in_every_role(root):
    data = make(root, ["phone"], ["watch"])
    for domain, device in (("phone", "sp"), ("watch", "sw")):
        assert recordings(data, domain, "test") == {f"s{p:02}_{r:02}_{device}.csv" for p in (1, 2) for r in (8, 9)}
        trained = recordings(data, domain, "train") | recordings(data, domain, "val")
        assert trained == {f"s{p:02}_{r:02}_{device}.csv" for p in (1, 2) for r in range(1, 8)}
    assert not recordings(data, "phone", "train") & recordings(data, "phone", "val")


def test_a_window_is_the_interpolated_file(root):
    data = make(root, ["s01/phone"], ["s02/watch"])
    x, y = data.dataset("s01/phone", "test")[3]
    name, start = data.row_names("s01/phone")[data.splits["s01/phone"]["test"][3]].split("@")
    table = np.genfromtxt(root / "DATA" / "s01" / name, delimiter=",", skip_header=1, dtype=None, encoding=None)
    seconds = np.array([row[6] for row in table]) / 1000
    grid = seconds[0] + float(start[:-1]) + np.arange(32) / 50
    for channel in range(6):
        values = np.array([row[channel] for row in table])
        np.testing.assert_allclose(x[channel], np.interp(grid, seconds, values), atol=1e-3)
    nearest = [table[np.abs(seconds - time).argmin()][7] for time in grid]
    assert FIVE[int(y)] == max(FIVE, key=nearest.count)


def test_domains(root):
    data = make(root, ["s01-s02/phone"], ["s02/watch"])
    assert [*data.domains] == ["phone", "watch", "s01", "s02", "s01-s02/phone", "s02/watch"]
    assert data.spec().classes == FIVE
    with pytest.raises(DataError, match="domains 'watch' and 's01/watch' of this run overlap in 9 recordings"):
        make(root, ["watch"], ["s01/watch"])
    with pytest.raises(DataError, match="the test split is a given one"):
        make(root, ["phone"], ["watch"], split_by="time")


def test_turned_phones_look_alike_by_their_magnitudes(root, tmp_path):
    """The property that the option is for, through the files: every device turned another way changes nothing."""
    plain = make(root, ["phone"], signals=Signals(channels="magnitude", standardize="recording"))
    for path in sorted((root / "DATA").glob("s*/*.csv")):
        head, *lines = path.read_text().splitlines()
        x, y, z, a, b, c, when, label = zip(*(line.split(",") for line in lines), strict=True)
        minus_x, minus_a = ([str(-float(value)) for value in axis] for axis in (x, a))
        turned = zip(y, minus_x, z, b, minus_a, c, when, label, strict=True)
        other = tmp_path / "DATA" / path.parent.name / path.name
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_text("\n".join([head, *(",".join(row) for row in turned)]) + "\n")
    again = make(tmp_path, ["phone"], signals=Signals(channels="magnitude", standardize="recording"))
    torch.testing.assert_close(windows_of(plain, "phone"), windows_of(again, "phone"), rtol=1e-4, atol=1e-4)


def test_a_person_with_too_few_recordings_to_be_tested(root, tmp_path):
    sp_sw_har(tmp_path)
    for number in (7, 8, 9):
        for device in ("sp", "sw"):
            (tmp_path / "DATA" / "s01" / f"s01_{number:02}_{device}.csv").unlink()
    for domain, others in (("s01/watch", "'s01-s07/watch'"), ("s01", "'s01-s07'")):
        with pytest.raises(DataError) as caught:
            make(tmp_path, ["s02/phone"], [domain])
        for part in (
            f"domain '{domain}' cannot be tested: recordings 8 and up",
            "the last of s01 is number 6",
            f"as {others}",
        ):
            assert part in str(caught.value)
    data = make(tmp_path, ["s01-s02/phone"])  # it is trained on with others
    assert recordings(data, "s01-s02/phone", "test") == {"s02_08_sp.csv", "s02_09_sp.csv"}
    assert any(name.startswith("s01") for name in recordings(data, "s01-s02/phone", "train"))
    with pytest.raises(DataError, match="unknown domain 's09'"):
        make(tmp_path, ["s09"])


def test_files_that_are_not_of_the_set(tmp_path):
    (tmp_path / "DATA").mkdir()
    with pytest.raises(DataError, match=r"holds no files s01/s01_01_sp\.csv and so on"):
        make(tmp_path, ["phone"])
    sp_sw_har(tmp_path / "other", persons=1, recordings=1)
    path = tmp_path / "other" / "DATA" / "s01" / "s01_01_sp.csv"
    path.write_text(path.read_text().replace("TURNING", "TURNIN", 1))
    with pytest.raises(
        DataError, match=r"s01_01_sp.csv, line 302, column 'label': unknown label 'TURNIN': did you mean"
    ):
        make(tmp_path / "other", ["phone"])
    path.rename(path.with_name("notes.csv"))
    with pytest.raises(DataError, match=r"notes.csv is not named as sXX_YY_sp.csv"):
        make(tmp_path / "other", ["phone"])


def test_nothing_there_and_nowhere_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TLKIT_DATA", str(tmp_path))
    monkeypatch.setattr(module, "_ARCHIVE", replace(module._ARCHIVE, url="file:///nowhere/set.zip"))
    with pytest.raises(DataError, match=r"not there\).*10.5281/zenodo.8398688"):
        SPSWHAR(["phone"]).setup()


def test_the_real_files(tlkit_data):
    """The counts are those of the 14 persons in the trial."""
    data = SPSWHAR(["s01-s07/phone"], ["s08-s14/phone"])
    data.setup()
    sizes = {domain: {split: len(rows) for split, rows in splits.items()} for domain, splits in data.splits.items()}
    assert sizes["s01-s07/phone"]["reference"] == 692
    assert sizes["s01-s07/phone"]["test"] == 252
    assert sizes["s08-s14/phone"]["train"] == 701
    counts = np.bincount(data._windows("s08-s14/phone").y, minlength=5)
    assert counts.tolist() == [14, 85, 668, 105, 113]
    x = windows_of(data, "s01-s07/phone")
    assert 9 < float(x[:, :3].norm(dim=1).mean()) < 11  # gravity, in m/s2
    assert not data.left_out
