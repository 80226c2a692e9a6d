import re

import pandas as pd
import pytest
from PIL import Image

from tlkit.data import ImageTableDomains
from tlkit.data.images.table import ImageColumns
from tlkit.errors import DataError


@pytest.fixture
def table(tmp_path):
    """Two hospitals, two classes, 24 images each, four of each patient; grey level 5 * the number of the row."""
    (tmp_path / "scans").mkdir()
    rows = []
    for number in range(48):
        path = f"scans/{number:02d}.png"
        Image.new("RGB", (40, 30), (5 * number,) * 3).save(tmp_path / path)
        rows.append(
            {
                "path": path,
                "label": ["ill", "well"][number // 4 % 2],
                "domain": ["north", "south"][number // 24],
                "patient": f"p{number // 4}",
                "part": "test" if number // 4 % 6 in (2, 3) else "train",
                "site": number // 24 + 1,
            }
        )
    frame = pd.DataFrame(rows)
    frame.to_csv(tmp_path / "table.csv", index=False)
    return tmp_path / "table.csv", frame


def open_table(path, *args, **kwargs):
    data = ImageTableDomains(str(path), *args, **{"image_size": 16, "batch_size": 2, **kwargs})
    data.setup()
    return data


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_rows_are_those_of_the_table(table, ending):
    path, frame = table
    if ending == "parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(path.with_suffix(".parquet"))
    if ending == "jsonl":
        frame.to_json(path.with_suffix(".jsonl"), orient="records", lines=True)
    data = open_table(path.with_suffix(f".{ending}"), ["north"], ["south"])
    assert data.domains == ["north", "south"]
    assert data.spec().classes == ("ill", "well")
    for domain, start in (("north", 0), ("south", 24)):
        x, y = zip(*(data.dataset(domain, "test")[i] for i in range(5)), strict=True)
        rows = start + data.splits[domain]["test"]
        assert [round(float(image.mean()) * 255 / 5) for image in x] == rows.tolist()
        assert [int(label) for label in y] == [row // 4 % 2 for row in rows]
    place = "row 25" if ending == "parquet" else "line 26" if ending == "csv" else "line 25"
    assert data.row_names("south")[0] == f"{place}: scans/24.png"


def test_patients_stay_together_and_the_published_split_is_kept(table):
    path, frame = table
    data = open_table(path, ["north"], ["south"], columns=ImageColumns(group="patient", split="part"))
    for domain, start in (("north", 0), ("south", 24)):
        splits = data.splits[domain]
        assert splits["test"].tolist() == [*range(8, 16)]
        patients = [set(frame.patient[start + splits[name]]) for name in ("train", "test")]
        assert not patients[0] & patients[1]
    assert not set(frame.patient[data.splits["north"]["train"]]) & set(frame.patient[data.splits["north"]["val"]])


def test_a_published_validation_split(table):
    path, frame = table
    frame.loc[frame.index % 24 < 8, "part"] = "val"
    frame.to_csv(path, index=False)
    splits = open_table(path, ["north"], ["south"], columns=ImageColumns(group="patient", split="part")).splits
    assert {name: rows.tolist() for name, rows in splits["north"].items()} == {
        "train": [*range(16, 24)],
        "val": [*range(8)],
        "test": [*range(8, 16)],
        "reference": [*range(8), *range(16, 24)],
    }
    assert splits["south"]["train"].tolist() == splits["south"]["val"].tolist() == [*range(8), *range(16, 24)]


def test_columns_of_other_names_and_whole_numbers(table, tmp_path):
    frame = table[1].rename(columns={"path": "file", "label": "finding"}).drop(columns="domain")
    frame["finding"] = frame["finding"].map({"ill": 1, "well": 0})
    (tmp_path / "lists").mkdir()
    frame.to_csv(tmp_path / "lists" / "other.csv", index=False)
    columns = ImageColumns(path="file", label="finding", domain="site")
    data = open_table(tmp_path / "lists" / "other.csv", ["1"], ["2"], columns=columns, root=str(tmp_path))
    assert data.domains == ["1", "2"]
    assert data.spec().classes == ("0", "1")
    with pytest.raises(DataError, match=r"other.csv, line 2, column 'file': there is no file .*lists/scans/00.png"):
        open_table(tmp_path / "lists" / "other.csv", ["1"], ["2"], columns=columns)


def test_a_relative_table_is_found_among_the_data_sets(table, monkeypatch):
    monkeypatch.setenv("TLKIT_DATA", str(table[0].parent.parent))
    assert open_table(f"{table[0].parent.name}/table.csv", ["north"]).path == table[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": None}, "line 7, column 'label': expected a label"),
        ({"domain": ""}, "line 7, column 'domain': expected"),
        ({"path": " "}, "line 7, column 'path': expected text"),
        ({"path": "scans/05.jpg"}, r"line 7, column 'path': there is no file .*scans/05.jpg. Did you mean .*05.png"),
        ({"part": "dev"}, r"line 7, column 'part': the split is train, val or test, got 'dev'"),
    ],
)
def test_a_bad_cell_is_named(table, change, message):
    path, frame = table
    for column, value in change.items():
        frame.loc[5, column] = value
    frame.to_csv(path, index=False)
    with pytest.raises(DataError, match=f"{re.escape(str(path))}, {message}"):
        open_table(path, ["north"], ["south"], columns=ImageColumns(split="part"))


def test_a_file_that_is_listed_twice_is_there_once(table, caplog):
    path, frame = table
    pd.concat([frame, frame.iloc[:10].assign(path="./" + frame.path)]).to_csv(path, index=False)
    with caplog.at_level("INFO"):
        data = open_table(path, ["north"], ["south"])
    assert "10 of 58 rows repeat another one and are left out" in caplog.text
    assert len(data.row_names("north")) == 24
    for column, value in {"label": "well", "part": "val", "patient": "p9"}.items():
        pd.concat([frame, frame.iloc[:1].assign(**{column: value})]).to_csv(path, index=False)
        named = {"patient": "group", "part": "split"}.get(column, column)
        message = f"{path}, line 50: scans/00.png stands with the {named} '{value}', and with .* in line 2: correct one"
        with pytest.raises(DataError, match=message):
            open_table(path, ["north"], columns=ImageColumns(group="patient", split="part"))


def test_a_file_of_two_domains_is_not_trained_on_in_one_and_tested_on_in_the_other(table):
    path, frame = table
    pd.concat([frame, frame.iloc[:24].assign(domain="south")]).to_csv(path, index=False)
    data = open_table(path, ["north"], ["south"])
    files = {name: [each.split(": ")[1] for each in data.row_names(name)] for name in ("north", "south")}
    learned = {files["north"][row] for part in ("train", "val") for row in data.splits["north"][part]}
    tested = {files["south"][row] for row in data.splits["south"]["test"]}
    assert tested & set(files["north"])
    assert not learned & tested


def test_blanks_around_a_name_are_no_part_of_it_and_numbers_stand_in_order(table):
    path, frame = table
    frame.assign(label=[f"{row // 4 % 2 * 8 + 2} " for row in range(48)], domain=" " + frame.domain).to_csv(
        path, index=False
    )
    data = open_table(path, ["north"], ["south"])
    assert data.spec().classes == ("2", "10")
    assert data.domains == ["north", "south"]


def test_what_is_refused(table):
    path, frame = table
    with pytest.raises(DataError, match="unknown domain 'nord': did you mean 'north'"):
        open_table(path, ["nord"])
    with pytest.raises(DataError, match="has no column 'patients': did you mean 'patient'"):
        open_table(path, ["north"], columns=ImageColumns(group="patients"))
    with pytest.raises(DataError, match="two of them name the same column"):
        open_table(path, ["north"], columns=ImageColumns(group="label"))
    with pytest.raises(DataError, match="table: no folder"):
        open_table(path.parent / "nowhere" / "table.csv", ["north"])
    with pytest.raises(DataError, match=r"there is no file .*tabel.csv; did you mean table.csv"):
        open_table(path.parent / "tabel.csv", ["north"])
    (path.parent / "scans" / "03.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"03\.png is empty"):
        open_table(path, ["north"])
    frame[(frame.domain == "north") | (frame.label == "ill")].to_csv(path, index=False)
    (path.parent / "scans" / "03.png").write_bytes((path.parent / "scans" / "02.png").read_bytes())
    with pytest.raises(DataError, match="'south' lacks well"):
        open_table(path, ["north"], ["south"])


def test_a_published_split_that_divides_a_group_is_refused(table):
    path, frame = table
    frame = frame.copy()
    row = frame.index[frame.part == "test"][0]
    same = frame.index[(frame.patient == frame.patient[row]) & (frame.domain == frame.domain[row])]
    frame.loc[same, "part"] = "train"
    frame.loc[row, "part"] = "test"
    frame.to_csv(path, index=False)
    with pytest.raises(DataError, match=r"is in two splits, (test|train)"):
        open_table(path, ["north"], ["south"], columns=ImageColumns(group="patient", split="part"))


def test_a_domain_whose_published_split_has_no_test_rows_is_refused_in_words(table):
    path, frame = table
    frame.assign(part="train").to_csv(path, index=False)
    with pytest.raises(DataError, match="has no rows in its test split"):
        open_table(path, ["north"], ["south"], columns=ImageColumns(split="part"))
