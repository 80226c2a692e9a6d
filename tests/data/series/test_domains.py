from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from tests.data.recording_files import series_table, windows_of
from tlkit.data import DomainDataModule, HoldOut, SeriesColumns, SeriesDomains, Signals, Windowing
from tlkit.data.series import domains as series
from tlkit.data.series.files import SeriesTable
from tlkit.errors import DataError

SMALL = Windowing(rate=10, length=8, stride=4)
ACC = SeriesColumns(["x", "y"], time="t")


def write(path, labels, rate=10.0, start=0.0, values=None):
    """Write one recording, a sample a label; the first channel counts up."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.arange(len(labels)) if values is None else values
    lines = [f"{start + row / rate},{values[row]},{-row},{label}" for row, label in enumerate(labels)]
    path.write_text("\n".join(["t,x,y,label", *lines]) + "\n")


@pytest.fixture
def folder(tmp_path):
    """Two devices, three recordings each of 4 s at 10 Hz; labels change after 20 samples."""
    for device in ("phone", "watch"):
        for number in range(1, 4):
            write(tmp_path / device / f"s{number}_walk.csv", ["walk"] * 20 + ["rest"] * 20)
    return tmp_path


def make(root, columns=ACC, sources=("phone",), targets=("watch",), windows=SMALL, **arguments):
    data = SeriesDomains(str(root), columns, list(sources), list(targets), windows=windows, batch_size=2, **arguments)
    data.setup()
    return data


def refused(root, *args, **kwargs):
    with pytest.raises(DataError) as caught:
        make(root, *args, **kwargs)
    return str(caught.value)


def test_windows_labels_and_names_of_a_folder(folder):
    data = make(folder)
    assert data.classes == ["rest", "walk"]
    assert list(data.domains) == ["phone", "watch"]
    names = data.row_names("phone")
    assert names[:2] == ["phone/s1_walk.csv@0.00s", "phone/s1_walk.csv@0.40s"]
    everything = {}
    for split in ("train", "val", "test"):
        for position, row in enumerate(data.splits["phone"][split]):
            everything[names[row]] = data.dataset("phone", split)[position]
    assert len(everything) == 3 * 9
    for name, (x, y) in everything.items():
        start = round(float(name.split("@")[1][:-1]) * 10)
        assert x.tolist() == [list(range(start, start + 8)), list(range(-start, -start - 8, -1))]
        assert y == (start <= 16)  # at 16 the window is half walk, half rest: the label met first
    assert data.spec().class_counts[1] > 0


def test_a_model_knows_the_channels_of_its_windows(folder):
    columns = SeriesColumns(["y", "x"], time="t")
    old, new = make(folder).spec(), make(folder, columns).spec()
    assert old.input_names == ("x", "y")
    assert "they are in another order, column 0 was 'x' and is 'y'" in old.difference(new)


def test_no_two_splits_share_a_recording(folder):
    data = make(folder)
    for domain in ("phone", "watch"):
        names = data.row_names(domain)
        of = {split: {names[row].split("@")[0] for row in rows} for split, rows in data.splits[domain].items()}
        assert not of["train"] & of["test"]
        assert not of["val"] & of["test"]
        assert domain == "watch" or not of["train"] & of["val"]


def test_persons_are_kept_apart_and_name_domains(tmp_path):
    files = series_table(tmp_path)
    columns = SeriesColumns(**files["columns"])
    data = SeriesDomains(
        str(tmp_path), columns, ["hip"], ["wrist"], split_by="person", batch_size=4, windows=Windowing(length=32)
    )
    data.setup()
    names = data.row_names("hip")
    assert names[0] == "all.csv:hip:p1:0@0.00s"
    of = [{names[row].split(":")[2] for row in data.splits["hip"][split]} for split in ("train", "val", "test")]
    assert [len(each) for each in of] == [1, 1, 1]
    assert set.union(*of) == {"p1", "p2", "p3"}
    assert [*data.domains] == ["hip", "wrist", "p1", "p2", "p3"]
    pair = SeriesDomains(str(tmp_path), columns, ["p1-p2/hip"], ["p3/hip", "p3/wrist"], batch_size=4)
    pair.setup()
    assert {name.split(":")[1] + name.split(":")[2] for name in pair.row_names("p1-p2/hip")} == {"hipp1", "hipp2"}


def test_domains_that_share_recordings_are_refused(tmp_path):
    columns = SeriesColumns(**series_table(tmp_path)["columns"])
    text = refused(tmp_path, columns, ["p1-p2"], ["wrist"])
    assert "domains 'p1-p2' and 'wrist' of this run overlap in 6 recordings, all.csv:wrist:p1:0 among them" in text
    assert "targets: domain 'p1/wrst': unknown device 'wrst': did you mean 'wrist'" in refused(
        tmp_path, columns, ["hip"], ["p1/wrst"]
    )
    assert "targets: unknown domain 'wrst': did you mean 'wrist'" in refused(tmp_path, columns, ["hip"], ["wrst"])


def test_time_divides_every_recording(folder):
    data = make(folder, split_by="time", hold_out=HoldOut(test_fraction=0.5))
    names = data.row_names("watch")
    for split, wanted in (("train", [0.0, 0.4, 0.8, 1.2]), ("test", [2.0, 2.4, 2.8, 3.2])):
        starts = sorted(float(names[row].split("@")[1][:-1]) for row in data.splits["watch"][split])
        assert starts == sorted(wanted * 3)


def test_samples_of_equal_and_irregular_time_become_a_grid(tmp_path):
    for device in ("phone", "watch"):
        for number in range(3):
            path = tmp_path / device / f"{number}.csv"
            path.parent.mkdir(exist_ok=True)
            path.write_text("t,x,y,label\n0,0,0,a\n0.1,1,0,a\n0.1,3,0,a\n0.3,6,0,b\n2,6,0,b\n")
    data = make(tmp_path, windows=Windowing(rate=10, length=4, stride=1, longest_gap=2))
    x, y = data.dataset("phone", "test")[0]
    torch.testing.assert_close(x[0], torch.tensor([0.0, 2, 4, 6]))
    assert y == 0


def test_time_stamps_that_are_coarser_than_the_samples_are_refused(tmp_path):
    """As recorders write them that know the second alone: means over it would leave nothing of a movement."""
    for device in ("phone", "watch"):
        for number in range(3):
            path = tmp_path / device / f"{number}.csv"
            path.parent.mkdir(exist_ok=True)
            rows = [f"2024-05-31T12:00:{row // 50:02d},{row % 5},0,{'ab'[number % 2]}" for row in range(500)]
            path.write_text("\n".join(["t,x,y,label", *rows]) + "\n")
    dates = replace(ACC, unit="date")
    text = refused(tmp_path, dates, windows=Windowing(rate=50, length=64, stride=32))
    assert "0.csv: its 500 samples have 10 different time stamps, 1 s apart, and windows.rate asks for 50" in text
    assert len(make(tmp_path, dates, windows=Windowing(rate=1, length=4, stride=2)).row_names("phone")) == 12
    (tmp_path / "phone" / "0.csv").write_text("\n".join(["t,x,y,label", *["2024-05-31T12:00:00,1,0,a"] * 500]) + "\n")
    assert "0.csv: all its 500 samples have the same time stamp" in refused(tmp_path, dates)


def test_dates_of_parquet_are_dates(tmp_path):
    pytest.importorskip("pyarrow")
    for device in ("phone", "watch"):
        (tmp_path / device).mkdir()
        for number in range(3):
            times = pd.date_range("2024-05-31", periods=40, freq="100ms")
            frame = pd.DataFrame({"t": times, "x": range(40), "y": 0, "label": ["a", "b"] * 20})
            frame.to_parquet(tmp_path / device / f"{number}.parquet")
    data = make(tmp_path, replace(ACC, unit="date"))
    torch.testing.assert_close(data.dataset("phone", "test")[0][0][0], torch.arange(8.0))


def test_a_gap_is_not_filled(tmp_path):
    for device in ("phone", "watch"):
        for number in range(3):
            write(tmp_path / device / f"{number}.csv", ["a"] * 20)
            with (tmp_path / device / f"{number}.csv").open("a") as file:
                file.writelines(f"{9 + row / 10},{row},0,b\n" for row in range(12))
    data = make(tmp_path)
    starts = [name.split("@")[1] for name in data.row_names("phone")[:6]]
    assert starts == ["0.00s", "0.40s", "0.80s", "1.20s", "9.00s", "9.40s"]


def test_labels_to_ignore_break_a_recording(folder):
    for path in folder.glob("*/*.csv"):
        write(path, ["walk"] * 18 + ["null"] * 2 + ["rest"] * 20)
    data = make(folder, SeriesColumns(["x", "y"], time="t", ignore=["null"]))
    assert data.classes == ["rest", "walk"]
    assert [name.split("@")[1] for name in data.row_names("phone")[:4]] == ["0.00s", "0.40s", "0.80s", "2.00s"]


def test_pieces_of_a_long_recording_are_divided_as_recordings(folder):
    data = make(folder, windows=Windowing(rate=10, length=8, stride=4, longest=1.0))
    names = data.row_names("phone")
    assert [name.split("@")[1] for name in names[:4]] == ["0.00s", "1.00s", "2.00s", "3.00s"]  # 10 samples, one window
    assert sorted(row for split in ("train", "val", "test") for row in data.splits["phone"][split]) == list(range(12))


def test_standardisation(folder):
    for number, path in enumerate(sorted(folder.glob("*/*.csv"))):
        write(path, ["walk"] * 20 + ["rest"] * 20, values=5 + 3 * number + np.sin(np.arange(40)) * (1 + number))
    by_recording = make(folder, signals=Signals(standardize="recording"))
    rows = windows_of(by_recording, "phone")
    torch.testing.assert_close(rows[:9], rows[9:18], rtol=1e-4, atol=1e-4)  # an offset and a scale are gone
    assert abs(float(rows[0:9:2, 0].mean())) < 0.05
    raw, by_domain = (make(folder, signals=Signals(standardize=kind)) for kind in ("none", "domain"))
    for domain in ("phone", "watch"):
        x = windows_of(raw, domain)
        known = np.setdiff1d(np.arange(len(x)), raw.splits[domain]["test"])
        mean, deviation = x[known].mean((0, 2), keepdim=True), x[known].std((0, 2), correction=0, keepdim=True)
        torch.testing.assert_close(windows_of(by_domain, domain), (x - mean) / deviation, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("split_by", ["recording", "time"])
def test_a_domain_without_labels_that_is_only_predicted_is_standardised_by_all_its_windows(folder, split_by):
    for number, path in enumerate(sorted(folder.glob("watch/*.csv"))):
        write(path, [""] * 40, values=5 + 3 * number + np.sin(np.arange(40)))
    arguments = {"targets": [], "also_test": ["watch"], "split_by": split_by}
    raw, by_domain = (make(folder, signals=Signals(standardize=kind), **arguments) for kind in ("none", "domain"))
    x = windows_of(raw, "watch")
    expected = (x - x.mean((0, 2), keepdim=True)) / x.std((0, 2), correction=0, keepdim=True)
    torch.testing.assert_close(windows_of(by_domain, "watch"), expected, rtol=1e-4, atol=1e-4)


def test_one_recording_without_labels_is_a_target_standardised_by_all_its_windows(folder):
    for number in (2, 3):
        (folder / "watch" / f"s{number}_walk.csv").unlink()
    write(folder / "watch" / "s1_walk.csv", [""] * 40, values=5 + np.sin(np.arange(40)))
    raw, by_domain = (make(folder, signals=Signals(standardize=kind)) for kind in ("none", "domain"))
    x = windows_of(raw, "watch")
    assert raw.splits["watch"]["train"].tolist() == raw.splits["watch"]["test"].tolist() == list(range(len(x)))
    expected = (x - x.mean((0, 2), keepdim=True)) / x.std((0, 2), correction=0, keepdim=True)
    torch.testing.assert_close(windows_of(by_domain, "watch"), expected, rtol=1e-4, atol=1e-4)


def test_the_test_half_does_not_reach_the_standardised_training_half(folder):
    plain = make(folder, split_by="time", signals=Signals(standardize="recording"))
    for path in folder.glob("*/*.csv"):
        write(path, ["walk"] * 20 + ["rest"] * 20, values=[*range(32), *([1000] * 8)])
    again = make(folder, split_by="time", signals=Signals(standardize="recording"))
    for split, same in (("train", True), ("test", False)):
        one, two = (windows_of(data, "watch")[data.splits["watch"][split]] for data in (plain, again))
        assert torch.equal(one, two) == same


def test_without_time_stamps_samples_follow_each_other(folder):
    data = make(folder, SeriesColumns(["x", "y"]), windows=Windowing(rate=5, length=8, stride=4))
    assert data.row_names("phone")[1] == "phone/s1_walk.csv@0.80s"


def test_what_a_path_says(folder):
    for path in list(folder.glob("*/*.csv")):
        text = path.read_text().replace("label", "unused")
        (path.parent / path.name.replace("walk", "run")).write_text(text)
        path.write_text(text)
    data = make(folder, SeriesColumns(["x", "y"], time="t", path=r"(?P<person>s\d)_(?P<label>[a-z]+)"))
    assert data.classes == ["run", "walk"]
    assert [*data.domains] == ["phone", "watch", "s1", "s2", "s3"]


def test_short_recordings(folder):
    write(folder / "phone" / "s4_walk.csv", ["walk"] * 7)
    text = refused(folder)
    assert "phone/s4_walk.csv gives no window: its longest stretch without a gap is 7 samples at 10 Hz, 0.70 s" in text
    assert "a window has 8, 0.80 s" in text
    data = make(folder, windows=Windowing(rate=10, length=8, stride=4, short="leave_out"))
    assert data.left_out == {"phone": ["phone/s4_walk.csv"]}
    assert len(data.row_names("phone")) == 27
    assert "domain 'phone' has no recording as long as a window of 50 samples" in refused(
        folder, windows=Windowing(rate=10, length=50, short="leave_out")
    )


def test_time_that_goes_backwards_names_the_line(folder):
    path = folder / "phone" / "s1_walk.csv"
    lines = path.read_text().splitlines()
    lines[5], lines[6] = lines[6], lines[5]
    path.write_text("\n".join(lines) + "\n")
    assert f"{path}, line 7: the time stamp goes backwards, by 0.1 s" in refused(folder)


def test_empty_recordings_missing_columns_and_classes(folder):
    path = folder / "watch" / "s2_walk.csv"
    whole = path.read_text()
    path.write_text("t,x,y,label\n")
    assert f"{path} is empty" in refused(folder)
    path.write_text(whole)
    assert f"{folder / 'phone' / 's1_walk.csv'} has no column 'z'" in refused(
        folder, SeriesColumns(["x", "z"], time="t")
    )
    for file in (folder / "watch").iterdir():
        write(file, ["walk"] * 40)
    assert "'watch' lacks rest" in refused(folder)


def test_what_cannot_be_asked_of_this_data(folder, tmp_path):
    assert "no triads are named among x, y" in refused(folder, signals=Signals(channels="magnitude"))
    assert "no triads are named" in refused(folder, signals=Signals(rotate=True))
    only_turning = SeriesColumns(["x", "y", "z"], gyroscopes=[["x", "y", "z"]])
    table = pd.DataFrame({"x": [0.0] * 40, "y": 1.0, "z": 2.0, "label": "rest"})
    for domain in ("phone", "watch"):
        (tmp_path / "turning" / domain).mkdir(parents=True)
        table.to_csv(tmp_path / "turning" / domain / "a.csv", index=False)
    said = refused(tmp_path / "turning", only_turning, signals=Signals(channels="vertical"))
    assert "takes the direction of gravity from an accelerometer, and only gyroscopes are named" in said
    assert "split_by: person needs to know whose" in refused(folder, split_by="person")
    assert "split_by must be" in refused(folder, split_by="user")
    assert "leave windows.longest out" in refused(
        folder, split_by="time", windows=Windowing(rate=10, length=8, longest=9)
    )
    alone = tmp_path / "phone"
    assert "nothing tells the recordings of" in refused(alone)


def test_random_turns_are_for_training_alone(tmp_path):
    columns = SeriesColumns(**series_table(tmp_path)["columns"])
    windows = Windowing(length=32, stride=16)
    data = make(tmp_path, columns, ["hip"], ["wrist"], windows, signals=Signals(rotate=True))
    plain = make(tmp_path, columns, ["hip"], ["wrist"], windows)
    batch = next(iter(data.train_dataloader())).source
    rows = data.splits["hip"]["train"][batch.index]
    raw = windows_of(plain, "hip")[rows]
    assert not torch.allclose(batch.x, raw, atol=0.1)
    torch.testing.assert_close(batch.x.norm(dim=1), raw.norm(dim=1))
    for one, two in zip(data.test_dataloader(), plain.test_dataloader(), strict=True):
        assert torch.equal(next(iter(one)).x, next(iter(two)).x)
    assert torch.equal(next(iter(data.reference_loader())).x, next(iter(plain.reference_loader())).x)


def test_tables_are_let_go_once_the_windows_are_made(folder):
    data = make(folder)
    assert not data._tables
    assert data.domain_classes("watch") == ["rest", "walk"]  # without reading again
    data.setup("test")
    assert not data._tables


def test_tables_that_are_too_large_to_keep_are_read_again(folder, monkeypatch):
    wanted = make(folder)
    read = []
    monkeypatch.setattr(series, "_KEPT", 700)  # two tables of 40 samples of 2 channels, 320 bytes each
    monkeypatch.setattr(series, "SeriesTable", lambda path, *rest: read.append(path) or SeriesTable(path, *rest))
    data = make(folder)
    files = sorted(folder.glob("*/*.csv"))
    assert sorted(set(read)) == files
    assert len(read) == 2 * len(files)  # once for the classes, once for the windows
    for domain in ("phone", "watch"):
        assert torch.equal(windows_of(data, domain), windows_of(wanted, domain))


def test_the_recipe_of_the_documentation(tmp_path, monkeypatch):
    """As the command line reads it: its options are dataclasses."""
    page = (Path(__file__).parents[3] / "docs" / "sensors.md").read_text()
    recipe = yaml.safe_load(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1])
    header = re.search(r"```csv\n(t,.*)\n", page)[1]
    random = np.random.default_rng(0)
    for domain in ("pocket", "wrist"):
        for person in ("anna", "ben", "cleo"):
            signals = [",".join(f"{value:.3f}" for value in row) for row in random.random((500, 6))]
            rows = [f"{row / 48:.3f},{signals[row]},{'walk' if row < 250 else 'rest'}" for row in range(500)]
            (tmp_path / "mine" / domain).mkdir(parents=True, exist_ok=True)
            (tmp_path / "mine" / domain / f"{person}_1.csv").write_text("\n".join([header, *rows]) + "\n")
    monkeypatch.chdir(tmp_path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(DomainDataModule, "data")
    recipe["data"]["class_path"] = "tlkit.data.SeriesDomains"
    recipe["data"]["init_args"]["batch_size"] = 4
    data = parser.instantiate(parser.parse_object({"data": recipe["data"]})).data
    data.setup()
    assert next(iter(data.train_dataloader())).target.x.shape == (4, 8, 128)
    assert data.spec().classes == ("rest", "walk")
    assert [*data.domains] == ["pocket", "wrist", "anna", "ben", "cleo"]


def test_time_divides_a_recording_at_one_moment_whatever_its_gaps(tmp_path):
    for device in ("phone", "watch"):
        lines = []
        for row in range(80):
            second = row / 10 + (5 if row >= 20 else 0) + (5 if row >= 40 else 0)
            lines.append(f"{second},{row},0,{'walk' if row % 40 < 20 else 'rest'}")
        (tmp_path / device).mkdir()
        for name in ("first", "second"):
            (tmp_path / device / f"{name}.csv").write_text("\n".join(["t,x,y,label", *lines]) + "\n")
    data = make(tmp_path, split_by="time", hold_out=HoldOut(test_fraction=0.25))
    rows = data.splits["watch"]
    x = windows_of(data, "watch")[:, 0]  # the first channel counts the samples
    assert x[rows["train"]].max() < 60 <= x[rows["test"]].min()
    assert len(rows["test"]) == 2 * 4


def test_pieces_that_may_be_tested_do_not_reach_the_standardised_others(folder):
    windows = Windowing(rate=10, length=8, stride=4, longest=2.0)
    plain = make(folder, windows=windows, signals=Signals(standardize="recording"))
    tested = {plain.row_names("watch")[row] for row in plain.splits["watch"]["test"]}
    for path in folder.glob("watch/*.csv"):
        values = np.arange(40)
        for half in (0, 1):
            if f"watch/{path.name}@{2.0 * half:.2f}s" in tested:
                values[20 * half : 20 * half + 20] += 1000 * np.arange(20) ** 2
        write(path, ["walk"] * 20 + ["rest"] * 20, values=values)
    again = make(folder, windows=windows, signals=Signals(standardize="recording"))
    for split, same in (("train", True), ("test", False)):
        one, two = (windows_of(data, "watch")[data.splits["watch"][split]] for data in (plain, again))
        assert torch.equal(one, two) == same
