from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tlkit.data.series.files import SeriesColumns, SeriesTable, path_parts, series_files
from tlkit.errors import DataError

XY = ["x", "y"]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_files_are_found_in_the_order_of_their_numbers(tmp_path):
    for name in (
        "b/2.csv",
        "a/10.csv",
        "a/9.csv.gz",
        "a/3.npz",
        "a/4.parquet",
        ".git/1.csv",
        "a/.5.csv",
        "a/readme.md",
    ):
        write(tmp_path / name, "x")
    folder, files = series_files(str(tmp_path))
    assert [path.relative_to(folder).as_posix() for path in files] == [
        "a/3.npz", "a/4.parquet", "a/9.csv.gz", "a/10.csv", "b/2.csv",
    ]  # fmt: skip
    folder, files = series_files(str(tmp_path / "b/2.csv"))
    assert (folder, files) == (tmp_path / "b", [tmp_path / "b/2.csv"])


def test_a_relative_root_is_looked_for_in_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TLKIT_DATA", str(tmp_path))
    write(tmp_path / "mine" / "1.csv", "x")
    assert series_files("mine")[1] == [tmp_path / "mine" / "1.csv"]
    with pytest.raises(DataError, match="root: there is no file or folder other or"):
        series_files("other")


def test_a_folder_without_tables(tmp_path):
    with pytest.raises(DataError, match=r"holds no tables; they are files that end in \.csv"):
        series_files(str(tmp_path))


def test_what_the_path_says():
    assert path_parts("one.csv", SeriesColumns(XY)) == {}
    assert path_parts("watch/deep/one.csv", SeriesColumns(XY)) == {"domain": "watch"}
    assert path_parts("watch/one.csv", SeriesColumns(XY, domain="place")) == {}
    columns = SeriesColumns(XY, path=r"(?P<person>s\d+)_(?P<recording>\d+)_(?P<domain>sp|sw)")
    assert path_parts("DATA/s03_10_sw.csv", columns) == {"domain": "sw", "person": "s03", "recording": "10"}
    with pytest.raises(DataError, match=r"does not match 'DATA/readme\.csv': move the file away"):
        path_parts("DATA/readme.csv", columns)


def test_columns_that_contradict_each_other():
    for arguments, message in (
        ({"channels": []}, "names at least one signal"),
        ({"channels": ["x", "x"]}, "each once"),
        ({"channels": XY, "unit": "m"}, "columns.unit must be one of 's', 'ms'"),
        ({"channels": ["x", "y", "z"], "triads": [["x", "y", "zz"]]}, "unknown channel 'zz': did you mean 'z'"),
        ({"channels": XY, "triads": [["x", "y", "x"]]}, "a triad is three channels"),
        ({"channels": ["x", "y", "z"], "gyroscopes": [["x", "y", "zz"]]}, "columns.gyroscopes: unknown channel 'zz'"),
        (
            {"channels": ["x", "y", "z"], "triads": [["x", "y", "z"]], "gyroscopes": [["x", "y", "z"]]},
            "columns.gyroscopes: 'x' is an axis of two sensors",
        ),
        ({"channels": XY, "path": "("}, "is no regular expression"),
        ({"channels": XY, "path": "s[0-9]+"}, "has no named group such as"),
        ({"channels": XY, "path": "(?P<persn>s)"}, "unknown group 'persn': did you mean 'person'"),
        ({"channels": XY, "path": "(?P<person>s)", "person": "who"}, "both say what the person is"),
    ):
        with pytest.raises(DataError, match=message):
            SeriesColumns(**arguments)


def test_a_table_is_divided_by_its_columns(tmp_path):
    path = write(tmp_path / "a.csv", "x,y,label,who,take\n1,2,3,p1,1\n3,4,4,p2,1\n5,6,3,p1,2\n7,8,3,p1,1\n")
    table = SeriesTable(path, SeriesColumns(XY, person="who", recording="take"))
    assert table.labels.tolist() == ["3", "4", "3", "3"]
    found = [(said, rows.tolist()) for said, rows in table.recordings()]
    assert found == [
        ({"person": "p1", "recording": "1"}, [0, 3]),
        ({"person": "p2", "recording": "1"}, [1]),
        ({"person": "p1", "recording": "2"}, [2]),
    ]
    assert table.values.dtype == np.float32
    assert SeriesTable(path, SeriesColumns(XY)).recordings() == [({}, None)]
    assert SeriesTable(path, SeriesColumns(XY, label="nowhere", path="(?P<label>a)"), "walk").labels[2] == "walk"


def test_units_of_time(tmp_path):
    start = 1657533977813123456
    path = write(
        tmp_path / "a.csv",
        "x,y,label,s,ms,ns,when\n"
        f"1,2,a,0.5,{start // 10**6},{start},2022-07-11T10:06:17.5\n"
        f"1,2,a,0.75,{start // 10**6 + 250},{start + 250000001},2022-07-11T10:06:17.750\n",
    )
    for column, unit, seconds in (
        ("s", "s", 0.25),
        ("ms", "ms", 0.25),
        ("ns", "ns", 0.250000001),
        ("when", "date", 0.25),
    ):
        times = SeriesTable(path, SeriesColumns(XY, time=column, unit=unit)).seconds(slice(None))
        np.testing.assert_allclose(times, [0, seconds], rtol=0, atol=1e-12)
    assert SeriesTable(path, SeriesColumns(XY)).seconds(slice(None)) is None


def test_every_form_of_file_gives_the_same(tmp_path):
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"acc_0": random.random(50), "acc_1": random.random(50), "t": np.arange(50) / 20})
    frame["label"], frame["who"] = np.where(np.arange(50) < 20, "walk", "rest"), "p7"
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True, double_precision=15)
    np.savez(
        tmp_path / "a.npz",
        acc=frame[["acc_0", "acc_1"]].to_numpy(),
        t=frame["t"].to_numpy(),
        label=frame["label"].to_numpy(str),
        who="p7",
        unused=np.zeros((2, 2, 2, 2))[0, 0],
    )
    columns = SeriesColumns(["acc_0", "acc_1"], time="t", person="who")
    tables = [SeriesTable(tmp_path / f"a.{ending}", columns) for ending in ("csv", "parquet", "jsonl", "npz")]
    for table in tables[1:]:
        np.testing.assert_allclose(table.values, tables[0].values, rtol=1e-6)
        assert table.labels.tolist() == tables[0].labels.tolist()
        np.testing.assert_allclose(table.seconds(slice(None)), tables[0].seconds(slice(None)))
        assert [said for said, _ in table.recordings()] == [{"person": "p7"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,z,label\n1,2,a\n", r"a.csv has no column 'y'.*Its columns: x, z, label"),
        ("x,y,label\n", "a.csv is empty: it has no rows"),
        ("", "a.csv is empty: it has no columns and no rows; get it again, or remove it"),
        ("x,y,label\n1,2,a\n1,,a\n", r"a.csv, line 3, column 'y': expected a number, got nothing"),
        ("x,y,label\n1,2,a\n1,NaN,a\n", r"line 3, column 'y'"),
        ("x,y,label\n1,2,a\nwalk,2,a\n", r"line 3, column 'x': expected a number, got the text 'walk'"),
        ("x,y,label\n1,inf,a\n", r"line 2, column 'y': expected a number"),
        ("x,y,label\n1,2,1.5\n", r"line 2, column 'label': expected a label"),
        ("x,y,label\n1,2,\n\n1,2,1.5\n", r"line 4, column 'label': expected a label"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        SeriesTable(write(tmp_path / "a.csv", text), SeriesColumns(XY))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": "y"}, "columns.channels and columns.label both name 'y': the network would see it"),
        ({"person": "x"}, "columns.channels and columns.person both name 'x'"),
        ({"time": "y"}, "columns.channels and columns.time both name 'y'"),
        ({"person": "place", "domain": "place"}, "columns.domain and columns.person name the same column 'place'"),
        ({"time": "label"}, "columns.label and columns.time name the same column 'label'"),
    ],
)
def test_a_column_says_one_thing(columns, message):
    with pytest.raises(DataError, match=message):
        SeriesColumns(XY, **columns)


def test_a_channel_called_label_where_the_path_says_the_label():
    SeriesColumns(["x", "label"], path=r"(?P<label>[a-z]+)_")


def test_another_unit_than_that_of_the_time_stamps(tmp_path):
    path = write(tmp_path / "a.csv", "x,y,label,t,when\n1,2,a,0.5,2022-07-11T10:06:17\n1,2,a,1.0,2022-07-11T10:06:18\n")
    with pytest.raises(
        DataError, match=r"column 't': columns.unit is 'date', and .* numbers such as 0.5: set columns.un"
    ):
        SeriesTable(path, SeriesColumns(XY, time="t", unit="date"))
    message = r"column 'when': columns.unit is 's', and .* dates such as '2022-07-11.*: set columns.unit to 'date'"
    with pytest.raises(DataError, match=message):
        SeriesTable(path, SeriesColumns(XY, time="when"))
    frame = pd.read_csv(path, parse_dates=["when"])
    frame.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        SeriesTable(tmp_path / "a.parquet", SeriesColumns(XY, time="when"))


def test_bad_dates(tmp_path):
    path = write(tmp_path / "a.csv", "x,y,label,t\n1,2,a,2022-07-11T10:06:17\n1,2,a,11 July\n")
    with pytest.raises(DataError, match=r"a.csv, line 3, column 't': expected a date such as .* got '11 July'"):
        SeriesTable(path, SeriesColumns(XY, time="t", unit="date"))


def arrays(path, **changes):
    content = {"x": np.arange(4.0), "y": np.arange(4), "label": np.array(["a", "b", "a", "a"])} | changes
    np.savez(path, **{name: array for name, array in content.items() if array is not None})
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": None}, r"a.npz has no array 'y'.*Its columns: x, label"),
        ({"y": np.arange(3)}, r"the arrays must have one length, got \{'x': 4, 'y': 3, 'label': 4\}"),
        ({"y": np.zeros((4, 2, 2))}, r"array 'y' has the shape \(4, 2, 2\)"),
        ({"y": np.array([0, np.nan, np.nan, 1])}, r"a.npz, row 2, array 'y': expected a number, got .*nan.* \(2 of 4"),
        ({"y": np.array(["1", "2", "3", "4"])}, r"row 1, array 'y': expected a number, got '1'"),
        ({"label": np.array([1, 0.5, 1, 1])}, r"row 2, array 'label': expected a label"),
        ({"label": np.array([np.nan, 1, 0.5, 1])}, r"row 3, array 'label': expected a label"),
        ({"label": np.array([{}, {}, {}, {}])}, "cannot read .*a.npz: .*not of objects"),
    ],
)
def test_bad_arrays(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        SeriesTable(arrays(tmp_path / "a.npz", **changes), SeriesColumns(XY))


def test_labels_may_be_missing(tmp_path):
    assert SeriesTable(write(tmp_path / "a.csv", "x,y,label\n1,2,\n1,2,a\n"), SeriesColumns(XY)).labels.tolist() == [
        "",
        "a",
    ]
    assert SeriesTable(write(tmp_path / "b.csv", "x,y\n1,2\n"), SeriesColumns(XY)).labels.tolist() == [""]
    archive = arrays(tmp_path / "a.npz", label=np.array(["a", " ", "", "b"]))
    assert SeriesTable(archive, SeriesColumns(XY)).labels.tolist() == ["a", "", "", "b"]
    without = SeriesTable(arrays(tmp_path / "b.npz", label=None), SeriesColumns(XY))
    assert without.labels.tolist() == [""] * 4
    with pytest.raises(DataError, match=r"b\.npz has no array 'label'"):
        without.need_label_column()


def test_a_file_that_is_no_archive(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*a\.npz"):
        SeriesTable(write(tmp_path / "a.npz", "x,y\n"), SeriesColumns(XY))
    with pytest.raises(DataError, match=r"a\.npz is empty: it holds no arrays; get it again"):
        SeriesTable(write(tmp_path / "a.npz", ""), SeriesColumns(XY))
    cut_off = write(tmp_path / "b.npz", "PK\x03\x04 and no more")
    with pytest.raises(DataError, match=r"cannot read .*b\.npz"):
        SeriesTable(cut_off, SeriesColumns(XY))


def test_rows_of_arrays_are_counted_from_one(tmp_path):
    assert SeriesTable(arrays(tmp_path / "a.npz"), SeriesColumns(XY)).place(0).endswith("a.npz, row 1")
