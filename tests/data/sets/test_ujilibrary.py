import hashlib
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch

import tlkit.data.sets.ujilibrary
from tests.data.scan_files import ujilibrary
from tlkit.data import UJILibrary
from tlkit.data.files.fetch import Published
from tlkit.errors import DataError


def opened(root, sources=("month-01",), targets=("month-02",), second_phone=False, **arguments):
    files = ujilibrary(root, second_phone)
    return UJILibrary(list(sources), list(targets), **{"batch_size": 4, **files, **arguments})


def files_of(data, domain, split):
    names = data.row_names(domain)
    return sorted({names[row].split(",")[0] for row in data.splits[domain][split]})


def test_the_protocol_is_that_of_the_docstring(tmp_path):
    data = opened(tmp_path)
    data.setup()
    surveys = [f"01/trn0{number}rss.csv" for number in (1, 2, 3)]
    assert sorted({*files_of(data, "month-01", "train"), *files_of(data, "month-01", "val")}) == surveys
    assert files_of(data, "month-02", "train") == ["02/trn01rss.csv", "02/tst01rss.csv", "02/tst02rss.csv"]
    tests = [f"tst0{number}rss.csv" for number in (3, 4, 5)]
    for domain, month in (("month-01", "01"), ("month-02", "02")):
        assert files_of(data, domain, "test") == [f"{month}/{name}" for name in tests]
    assert len(data.splits["month-02"]["test"]) == 3 * 72


def test_an_oracle_has_the_labels_of_what_an_adapted_run_sees_without(tmp_path):
    data = opened(tmp_path, ["month-02"], [], learn_from="survey_and_campaigns")
    data.setup()
    adapted = UJILibrary(["month-01"], ["month-02"], root=str(tmp_path), batch_size=4)
    adapted.setup()
    rows = np.union1d(data.splits["month-02"]["train"], data.splits["month-02"]["val"])
    assert np.array_equal(rows, adapted.splits["month-02"]["train"])


def test_rows_hold_what_the_files_say_and_a_series_is_not_divided(tmp_path):
    data = opened(tmp_path, representation="positive")
    data.setup()
    root = tmp_path / "db" / "02"
    signals = pd.read_csv(root / "tst03rss.csv", header=None).to_numpy()
    position = pd.read_csv(root / "tst03crd.csv", header=None).to_numpy()
    x, y = (torch.stack(each) for each in zip(*data.dataset("month-02", "test"), strict=True))
    assert x[:72].numpy() == pytest.approx(np.where(signals == 100, 0, (signals + 105) / 105), abs=1e-6)
    assert y[:72].numpy() == pytest.approx(position[:, :2], abs=1e-5)
    assert data.row_names("month-02")[data.splits["month-02"]["test"][0]] == "02/tst03rss.csv, line 1"
    series = data.scans("month-01").groups
    train, val = (set(series[data.splits["month-01"][split]]) for split in ("train", "val"))
    assert not train & val
    assert len(np.unique(series)) == 8 * 12  # eight sets of six scans at twelve places


def test_rows_of_floor_0_are_left_out(tmp_path):
    ujilibrary(tmp_path)
    path = tmp_path / "db" / "01" / "trn02crd.csv"
    position = pd.read_csv(path, header=None)
    position.loc[:5, 2] = 0
    position.to_csv(path, index=False, header=False)
    scans = UJILibrary(["month-01"], root=str(tmp_path)).scans("month-01")
    assert len(scans.names) == len(scans.rssi) == len(scans.position) == len(scans.groups) == 8 * 72 - 6
    assert "01/trn02rss.csv, line 6" not in scans.names
    assert "01/trn02rss.csv, line 7" in scans.names
    assert set(scans.labels["floor"]) == {"3", "5"}


def test_the_second_phone_of_month_25_is_a_domain_of_its_own(tmp_path):
    data = opened(tmp_path, ["month-25"], ["month-25/galaxy-a5"], second_phone=True)
    data.setup()
    first, second = "month-25", "month-25/galaxy-a5"
    assert files_of(data, first, "test") == [f"25/tst{number:02d}rss.csv" for number in (3, 4, 5)]
    assert files_of(data, second, "test") == [f"25/tst{number:02d}rss.csv" for number in (8, 9, 10)]
    assert files_of(data, second, "train") == ["25/trn02rss.csv", "25/tst06rss.csv", "25/tst07rss.csv"]
    assert not set(data.row_names(first)) & set(data.row_names(second))


def test_floors_are_classes(tmp_path):
    data = opened(tmp_path, label="floor")
    data.setup()
    assert data.classes == ("3", "5")
    labels = [int(y) for _, y in data.dataset("month-02", "test")]
    floor = pd.read_csv(tmp_path / "db" / "02" / "tst03crd.csv", header=None)[2]
    assert [data.classes[label] for label in labels[:72]] == floor.astype(int).astype(str).tolist()
    with pytest.raises(DataError, match="the library is one building, got 'building'"):
        UJILibrary(["month-01"], label="building")


def test_broken_files_are_named(tmp_path):
    ujilibrary(tmp_path)

    def month_1():
        UJILibrary(["month-01"], root=str(tmp_path)).setup()

    folder = tmp_path / "db" / "01"
    whole = (folder / "trn01rss.csv").read_text()
    lines = whole.splitlines()
    for content, message in (
        (whole.replace(lines[4], lines[4] + ",-50"), "trn01rss.csv must hold the same number of numbers in every line"),
        (whole.replace(lines[4], "," + lines[4].partition(",")[2]), "trn01rss.csv, line 5: value 1 is missing"),
        (whole.replace(lines[4], "30," + lines[4].partition(",")[2]), "line 5, access point 1: 30 is neither a signal"),
        ("\n".join(line.rpartition(",")[0] for line in lines), "the rss files have 8 and 9 access points"),
        ("\n".join(lines[:-1]), "has 71 scans, its crd and ids files have 72 and 72 lines"),
    ):
        (folder / "trn01rss.csv").write_text(content)
        with pytest.raises(DataError, match=message):
            month_1()
    (folder / "trn01rss.csv").write_text(whole)
    (folder / "trn01ids.csv").unlink()
    with pytest.raises(DataError, match=r"trn01ids.csv is missing: every set has the files rss, crd and ids"):
        month_1()
    with pytest.raises(DataError, match=r"month-07: there is no folder .*07, as it is no domain of this run"):
        UJILibrary(["month-01"], root=str(tmp_path)).scans("month-07")
    with pytest.raises(DataError, match="unknown domain 'moth-01': did you mean 'month-01'"):
        UJILibrary(["moth-01"], root=str(tmp_path)).setup()
    with pytest.raises(DataError, match="unknown learn_from 'surveys': did you mean 'survey'"):
        UJILibrary(["month-01"], learn_from="surveys")


def mirror(tmp_path, monkeypatch, inside="", months=(1, 2)):
    """Put an archive of some months on a mirror, as if it were the published one."""
    (tmp_path / "mirror").mkdir()
    ujilibrary(tmp_path / "made", months=months)
    archive = tmp_path / "mirror" / "UJI_LIB_DB_v2.2.zip"
    with zipfile.ZipFile(archive, "w") as bundle:
        for file in sorted((tmp_path / "made" / "db").rglob("*.csv")):
            bundle.write(file, f"{inside}{file.relative_to(tmp_path / 'made')}")
    sum_ = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(tlkit.data.sets.ujilibrary, "_ARCHIVE", Published(archive.name, "", sha256=sum_))
    monkeypatch.setenv("TLKIT_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("TLKIT_DATA", str(tmp_path / "data"))


@pytest.mark.parametrize("inside", ["", "UJI_LIB_DB_v2.2/"])
def test_it_is_fetched_from_a_mirror_whatever_folder_the_archive_has(tmp_path, monkeypatch, inside):
    mirror(tmp_path, monkeypatch, inside)
    assert len(UJILibrary(["month-01"]).scans("month-02").names) == 6 * 72
    assert (tmp_path / "data" / "UJI_LIB_DB_v2" / inside / "db" / "01" / "trn01rss.csv").is_file()


@pytest.mark.parametrize("inside", ["", "UJI_LIB_DB_v2.2/"])
def test_a_month_that_is_missing_is_fetched_and_the_others_stay_as_they_are(tmp_path, monkeypatch, inside):
    mirror(tmp_path, monkeypatch, inside, months=(1, 2, 3))
    root = tmp_path / "data" / "UJI_LIB_DB_v2"
    ujilibrary(root)
    mine = root / "db" / "01" / "trn01rss.csv"
    mine.write_text(mine.read_text().replace("100", "-104"))
    before = mine.read_text()
    assert len(UJILibrary(["month-01"], ["month-02"]).scans("month-02").names) == 6 * 72
    assert not (root / "UJI_LIB_DB_v2.2.zip").exists()  # nothing was missing
    data = UJILibrary(["month-02"], ["month-03"], batch_size=4)
    data.setup()
    assert len(data.row_names("month-03")) == 6 * 72
    assert mine.read_text() == before
    with pytest.raises(
        DataError, match=r"lacks a month of 01, 09; it has 01, 02, 03, and UJI_LIB_DB_v2.2.zip does not"
    ):
        UJILibrary(["month-01"], ["month-09"]).setup()
    monkeypatch.delenv("TLKIT_MIRROR")
    (root / "UJI_LIB_DB_v2.2.zip").unlink()
    with pytest.raises(DataError, match=r"lacks a month of 01, 09; it has 01, 02, 03. UJI_LIB_DB_v2.2.zip is not in "):
        UJILibrary(["month-01"], ["month-09"]).setup()


def test_the_real_files(tlkit_data):
    data = UJILibrary(["month-01"], ["month-11"], root=str(tlkit_data / "UJI_LIB_DB_v2"))
    data.setup()
    rows = {split: len(part) for split, part in data.splits["month-01"].items()}
    assert rows["train"] + rows["val"] == 15 * 576 - 6
    assert {split: len(data.splits["month-11"][split]) for split in ("train", "test")} == {
        "train": 3 * 576,
        "test": 576 + 816 + 576,
    }
    x, y = data.dataset("month-11", "test")[0]
    assert (len(x), len(y)) == (620, 2)
    assert len(data.spec().points) == 24  # both floors lie over each other
    assert data.spec().scale == pytest.approx((3.58, 4.1), abs=0.1)
