import json

import numpy as np
import pytest
import torch

from tests.data.scan_files import NOT_HEARD, office, office_frame
from tlkit.data import FingerprintDomains, FingerprintTable
from tlkit.errors import DataError


def opened(root, sources=("old",), targets=("new",), **arguments):
    columns = {key: arguments.pop(key) for key in list(arguments) if key in FingerprintTable.__dataclass_fields__}
    files = office(root, **columns)
    return FingerprintDomains(sources=list(sources), targets=list(targets), batch_size=4, **files, **arguments)


def rewritten(root, change, name="office.csv", **arguments):
    """The data module on the office's table after ``change``."""
    frame = office_frame()
    frame = frame.astype(dict.fromkeys(frame.columns, object))
    change(frame)
    data = opened(root, **arguments)
    frame.to_csv(root / name, index=False)
    return data


def test_rows_hold_what_the_table_says(tmp_path):
    data = opened(tmp_path, representation="positive", weakest=-100.0)
    data.setup()
    frame = office_frame()
    frame = frame[frame.phone == "new"].reset_index(drop=True)
    for split in ("train", "test"):
        rows = data.splits["new"][split]
        x, y = (torch.stack(each) for each in zip(*data.dataset("new", split), strict=True))
        rssi = frame[[f"AP{i}" for i in range(6)]].to_numpy()[rows]
        assert x.tolist() == pytest.approx(np.where(rssi == NOT_HEARD, 0, (rssi + 100) / 100), abs=1e-6)
        assert y.tolist() == frame[["x_m", "y_m"]].to_numpy()[rows].tolist()
    assert data.row_names("new")[0] == "office.csv, line 62"
    assert data.access_points == [f"AP{i}" for i in range(6)]


def test_statistics_of_the_positions_are_those_of_the_labelled_training_rows(tmp_path):
    data = opened(tmp_path)
    data.setup()
    y = office_frame()[["x_m", "y_m"]].to_numpy()[data.splits["old"]["train"]]
    spec = data.spec()
    assert (spec.quantities, spec.classes) == (("x_m", "y_m"), ())
    assert spec.centre == pytest.approx(y.mean(axis=0))
    assert spec.scale == pytest.approx(y.std(axis=0))
    assert spec.points == tuple(sorted({tuple(row) for row in y.tolist()}))


def test_a_scan_series_is_never_divided(tmp_path):
    data = opened(tmp_path)
    data.setup()
    series = office_frame()["series"].to_numpy()[:60]
    for splits in data.splits.values():
        train, val, test = (set(series[splits[split]]) for split in ("train", "val", "test"))
        assert not (train | val) & test
        assert not train & val or train == val  # a target's validation rows are its training rows


def test_classes_are_sorted_as_numbers_and_named_as_in_the_table(tmp_path):
    data = opened(tmp_path, label="building_floor")
    assert data.classes == ["north/0", "north/1", "south/0", "south/1"]
    assert data.quantities == ()
    data.setup()
    names = [data.classes[int(y)] for _, y in data.dataset("old", "test")]
    frame = office_frame().iloc[data.splits["old"]["test"]]
    assert names == [f"{row.house}/{row.floor}" for row in frame.itertuples()]
    data = rewritten(
        tmp_path, lambda frame: frame.__setitem__("floor", np.arange(len(frame)) % 12 - 1.0), label="floor"
    )
    assert data.classes == [str(floor) for floor in range(-1, 11)]


def test_empty_cells_or_another_value_may_mark_what_was_not_heard(tmp_path):
    signals = [f"AP{i}" for i in range(6)]
    expected = torch.stack([x for x, _ in opened(tmp_path).dataset("old", "test")])
    for mark, missing in ((None, None), (-200, -200.0)):
        data = rewritten(
            tmp_path,
            lambda frame, mark=mark: frame.__setitem__(signals, frame[signals].replace(NOT_HEARD, mark)),
            missing=missing,
        )
        assert torch.equal(torch.stack([x for x, _ in data.dataset("old", "test")]), expected)


def test_a_list_of_columns_a_folder_of_data_and_json_lines(tmp_path, monkeypatch):
    monkeypatch.setenv("TLKIT_DATA", str(tmp_path))
    lines = [json.dumps(row) for row in json.loads(office_frame().to_json(orient="records"))]
    (tmp_path / "office.jsonl").write_text("\n".join(lines))
    table = FingerprintTable("office.jsonl", rssi=["AP3", "AP[01]"], x="x_m", y="y_m", domain="phone")
    data = FingerprintDomains(table, ["old"], batch_size=4)
    data.setup()
    assert data.access_points == ["AP3", "AP0", "AP1"]
    assert data.row_names("old")[0] == "office.jsonl, line 1"


def put(column, row, value):
    return lambda frame: frame.__setitem__(column, frame[column].mask(frame.index == row, value))


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (
            put("AP2", 3, 12),
            {},
            r"line 5, column 'AP2': 12 is no signal strength.*or are 100 \(table.missing\).*1 cells",
        ),
        (
            put("AP2", 3, -120),
            {},
            r"line 5, column 'AP2': -120 is no signal strength: they lie above -105 dBm \(weakest\)",
        ),
        (put("AP2", 3, None), {}, "line 5, column 'AP2': expected a number, got nothing"),
        (put("AP2", 3, "loud"), {}, "line 5, column 'AP2': expected a number, got the text 'loud'"),
        (put("AP2", 3, "loud"), {"missing": None, "weakest": -105.0}, "line 5, column 'AP2': expected a number"),
        (put("x_m", 7, None), {}, "line 9, column 'x_m': expected a number, got nothing"),
        (put("floor", 7, None), {"label": "floor"}, "line 9, column 'floor': expected a label"),
        (put("phone", 7, ""), {}, "line 9, column 'phone': expected a label"),
        (
            lambda frame: frame.__setitem__("floor", frame["floor"].mask(frame.phone == "new", 0)),
            {"label": "floor"},
            "the same classes, got old 2, new 1 classes: 'new' lacks 1",
        ),
        (
            lambda frame: frame.__setitem__(["x_m", "y_m"], frame[["x_m", "y_m"]] / 1e5 + 40),
            {},
            "office.csv, domain 'old': 'x_m' and 'y_m' look like degrees. This is a guess",
        ),
        (
            lambda frame: frame.update(frame.loc[frame.phone == "new", ["x_m", "y_m"]] / 1e5 + 52),
            {},
            "office.csv, domain 'new': 'x_m' and 'y_m' look like degrees. This is a guess",
        ),
        (
            lambda frame: [
                frame.__setitem__(f"AP{i}", frame[f"AP{i}"].mask(frame.phone == "new", 100)) for i in range(6)
            ],
            {},
            r"domain 'new': none of its 60 scans hears an access point \(office.csv, line 62, for one\): check",
        ),
        (
            lambda frame: [frame.__setitem__(f"AP{i}", [-100, -100, -60] * 40) for i in range(6)],
            {},
            r"no cell is 100.0.*67% of the cells are -100. This is a guess.*set table.missing to null",
        ),
        (
            lambda frame: [frame.__setitem__(f"AP{i}", [0, -80, -60] * 40) for i in range(6)],
            {},
            r"33% of the cells are 0 dBm.*This is a guess.*set table.missing to 0",
        ),
        (
            lambda frame: [frame.__setitem__(f"AP{i}", [0, -80, -60] * 40) for i in range(6)],
            {"missing": None},
            r"33% of the cells are 0 dBm.*set table.missing to 0",
        ),
    ],
)
def test_bad_cells_are_named(tmp_path, change, arguments, message):
    data = rewritten(tmp_path, change, **arguments)
    with pytest.raises(DataError, match=message):
        data.setup()


def test_a_row_of_another_width_is_named(tmp_path):
    data = opened(tmp_path)
    path = tmp_path / "office.csv"
    path.write_text(path.read_text() + "-40,-50\n")
    with pytest.raises(DataError, match=r"office.csv, line 122: expected 12 cells"):
        data.setup()
    path.write_text(path.read_text().rstrip("\n") + ",1,2,3,4,5,6,7,8,9,10,11\n")
    with pytest.raises(DataError, match="line 122: expected 12 cells as in the header, got 13"):
        FingerprintDomains(data.table, ["old"]).setup()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rssi": "WAP*"}, r"no column 'WAP\*'; write a name or a pattern.*AP5"),
        ({"rssi": "*"}, "takes in .* too, which is no signal strength"),
        ({"x": "x"}, "has no column 'x': did you mean 'x_m'"),
        ({"targets": ["newer"]}, "unknown domain 'newer': did you mean 'new'"),
        ({"label": "room"}, "unknown label 'room'.*building_floor"),
        ({"label": "floor", "floor": None}, "label is 'floor', but table.floor names no column"),
        ({"exponent": 2.0}, "representation is 'exponential': set representation: powed, or leave exponent away"),
        ({"representation": "powed", "exponent": 0.0}, "exponent is above 0 and finite, got 0.0"),
        ({"representation": "power"}, "unknown representation 'power': did you mean 'powed'"),
        ({"weakest": 3.0}, "weakest is a signal strength in dBm from -200 up to below 0, got 3"),
    ],
)
def test_arguments(tmp_path, arguments, message):
    with pytest.raises(DataError, match=message):
        opened(tmp_path, **arguments).setup()


def test_a_row_that_lacks_a_cell_is_not_read_shifted(tmp_path):
    frame = office_frame().replace(NOT_HEARD, np.nan)
    last = [name for name in frame if not name.startswith("AP")] + [f"AP{i}" for i in range(6)]
    data = opened(tmp_path, missing=None)
    path = tmp_path / "office.csv"
    frame[last].to_csv(path, index=False)
    lines = path.read_text().splitlines()
    lines[4] = ",".join(lines[4].split(",")[:-1])  # the cells after it would move by one, the last be not heard
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"office.csv, line 5: expected 12 cells as in the header, got 11; correct"):
        data.setup()


def test_scans_that_hear_nothing_of_what_a_source_hears_are_counted(tmp_path, caplog):
    def change(frame):
        frame["AP5"] = frame["AP5"].mask(frame.phone == "old", 100)
        lost = (frame.phone == "new") & (frame.index < 80)  # of the rows 60 to 119
        for number in range(5):
            frame[f"AP{number}"] = frame[f"AP{number}"].mask(lost, 100)
        frame.loc[lost, "AP5"], frame.loc[~lost, "AP0"] = -70, -60

    data = rewritten(tmp_path, change)
    with caplog.at_level("INFO"):
        data.setup()
    assert "domain 'new': 20 of 60 scans hear no access point that a source hears" in caplog.text


def test_a_coordinate_that_is_named_twice():
    with pytest.raises(DataError, match=r"table\.x and table\.y both name the column 'x_m'"):
        FingerprintTable("a.csv", x="x_m", y="x_m")
