import gzip
import json

import numpy as np
import pandas as pd
import pytest

from tlkit.data.files.tables import check_column, read_table, row_places, table_columns
from tlkit.errors import DataError

ROWS = {"text": ["a, b", "line one\nline two", "None"], "label": ["x", "NA", "y"], "n": [1.5, 2.0, -3.0]}


def write(path, content):
    path.write_text(content, encoding="utf-8")
    return path


def table(path):
    """Write the same three rows in the format of the ending."""
    frame = pd.DataFrame(ROWS)
    if ".parquet" in path.name:
        frame.to_parquet(path)
    elif ".json" in path.name or ".ndjson" in path.name:
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if ".tsv" in path.name else ",")
    return path


def checked(path, columns, checks):
    frame = read_table(path, columns)
    for column, kind in checks:
        check_column(frame, path, column, kind)


def fails(path, columns=("text",), checks=()):
    with pytest.raises(DataError) as caught:
        checked(path, columns, checks)
    return str(caught.value).replace(str(path), "FILE")


@pytest.mark.parametrize(
    "ending", ["csv", "csv.gz", "tsv", "tsv.gz", "jsonl", "jsonl.gz", "json.gz", "ndjson", "parquet"]
)
def test_every_format_gives_the_same_rows(tmp_path, ending):
    path = table(tmp_path / f"t.{ending}")
    assert table_columns(path) == ["text", "label", "n"]
    frame = read_table(path, ["n", "label", "text", "n"])
    assert list(frame.columns) == ["n", "label", "text"]
    assert frame["text"].tolist() == ROWS["text"]
    assert frame["label"].tolist() == ROWS["label"]
    assert frame["n"].tolist() == ROWS["n"]
    assert frame["n"].dtype == np.float64
    for column, kind in (("text", "text"), ("label", "label"), ("n", "number")):
        check_column(frame, path, column, kind)


def test_rows_are_named_by_the_line_they_begin_in(tmp_path):
    path = write(tmp_path / "t.csv", 'text,n\n"a\nb",1\n\nc,2\n"d\n\ne",3\nf,4\n')
    assert len(read_table(path, ["text"])) == 4
    assert row_places(path, 4) == ["line 2", "line 5", "line 6", "line 9"]
    path = write(tmp_path / "blanks.csv", "text,n\na,1\n  \t\nb,2\n")
    assert len(read_table(path, ["n"])) == 2
    assert row_places(path, 2) == ["line 2", "line 4"]
    path = write(tmp_path / "t.jsonl", '{"text": "a"}\n\n{"text": "b"}\n')
    assert row_places(path, 2) == ["line 1", "line 3"]
    assert row_places(table(tmp_path / "t.parquet"), 2) == ["row 1", "row 2"]


def test_quotes_blank_lines_and_long_cells_are_no_fault_of_a_row(tmp_path):
    path = write(tmp_path / "t.csv", 'text,n\n"a, ""b""\n,c",1\n  \t\n3" pipe,2\n,\n' + "long" * 50_000 + ',"4"\n')
    frame = read_table(path, ["text", "n"])
    assert frame["n"].tolist()[:2] == [1, 2]
    assert frame["text"].tolist()[:2] == ['a, "b"\n,c', '3" pipe']
    assert len(frame) == 4
    path = write(tmp_path / "t.tsv", "text\tn\na\t1\n\t\n \n")
    assert len(read_table(path, ["n"])) == 2


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbftext\na\n")
    assert table_columns(path) == ["text"]
    assert read_table(path, ["text"])["text"].tolist() == ["a"]


def test_numbers_of_json_stay_what_they_are(tmp_path):
    path = write(tmp_path / "t.jsonl", '{"id": "007", "date": "2020-01-01"}\n{"id": "008", "date": "1"}\n')
    assert read_table(path, ["id", "date"]).values.tolist() == [["007", "2020-01-01"], ["008", "1"]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "txet,label\na,b\n", "FILE has no column 'text': did you mean 'txet'? Its columns: txet, label"),
        ("t.csv", "text;label\na;b\n", "FILE seems to have ';' between its cells: the header is 'text;label'. A .csv"),
        ("t.csv", "", "FILE is empty: it has no columns and no rows; get it again, or remove it"),
        ("t.csv", "\n\n", "FILE is empty"),
        ("t.tsv.gz", "", "FILE is empty"),
        ("t.parquet", "", "FILE is empty"),
        ("t.jsonl", " \n", "FILE is empty"),
        ("t.csv", "text,text\na,b\n", "FILE has 2 columns named 'text': rename"),
        ("t.csv", "text,n\na,1\nb, c,2\n", "FILE, line 3: expected 2 cells as in the header, got 3; correct the row"),
        ("t.csv", "text,n\na,1,2\nb,1,2\n", "FILE, line 2: expected 2 cells as in the header, got 3"),
        ("t.csv", "text,n,m\na,1,2\nb,2\n", "FILE, line 3: expected 3 cells as in the header, got 2"),
        ("t.csv", 'text,n\n"a\n,b",1\n\n"c"\n', "FILE, line 5: expected 2 cells as in the header, got 1; correct"),
        ("t.csv", 'text,n\n"a,1\nb,2\n', "FILE, line 2: expected 2 cells as in the header, got 1 up to line 3, where"),
        ("t.tsv", "text\tn\na,b\t1\nc,d\n", "FILE, line 3: expected 2 cells as in the header, got 1"),
        ("t.jsonl", '{"text": "a"}\n{"text"\n', "FILE, line 2: not JSON"),
        ("t.jsonl", '{"text": "a"}\n["b"]\n', "FILE, line 2: each line must hold one JSON object, got a list"),
        ("t.jsonl", "", "FILE is empty"),
        (
            "t.jsonl",
            '{"text": "a"}\n{"text": "wo\\ud83d", "n": 1}\n',
            "FILE, line 2, column 'text': half of a character",
        ),
        ("t.jsonl", '{"text": "a", "n": ["\\uDE00"]}\n', "FILE, line 1, column 'n': half of a character, '\\ude00'"),
        ("t.csv", "text,label\n\n", "FILE is empty: it has no rows"),
        ("t.csv.gz", "text\na\n", "cannot read the table FILE: Not a gzipped file"),
        ("t.parquet", "text", "cannot read the table FILE"),
        ("t.xlsx", "text", "FILE has another ending: a table is a file that ends in .csv"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, name, content, message):
    assert message in fails(write(tmp_path / name, content))


def test_a_whole_character_beyond_16_bits_is_read(tmp_path):
    frame = read_table(write(tmp_path / "t.jsonl", json.dumps({"text": "well 😀 done"}) + "\n"), ["text"])
    assert frame["text"].tolist() == ["well 😀 done"]


def test_a_parquet_file_without_rows(tmp_path):
    pd.DataFrame({"text": pd.Series([], dtype=str)}).to_parquet(tmp_path / "t.parquet")
    assert fails(tmp_path / "t.parquet") == "FILE is empty: it has no rows; get it again, or remove it"


def test_a_missing_file_and_a_folder(tmp_path):
    write(tmp_path / "reviews.csv", "text\na\n")
    assert "did you mean reviews.csv?" in fails(tmp_path / "review.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "FILE is a folder" in fails(tmp_path / "folder.csv")


def test_another_encoding_is_named_with_its_line(tmp_path):
    (tmp_path / "t.csv").write_bytes("text\na\ncafé\n".encode("latin-1"))
    assert "FILE, line 3: not UTF-8" in fails(tmp_path / "t.csv")
    with gzip.open(tmp_path / "t.jsonl.gz", "wb") as file:
        file.write('{"text": "é"}\n'.encode("latin-1"))
    assert "FILE, line 1: not UTF-8" in fails(tmp_path / "t.jsonl.gz")


@pytest.mark.parametrize(
    ("name", "cells", "kind", "message"),
    [
        ("t.csv", ["a", "", "b"], "text", "line 3, column 'c': expected text, got nothing"),
        ("t.csv", ["a", "  ", "b"], "text", "line 3, column 'c': expected text, got only blanks"),
        ("t.csv", ["1", "2", "3"], "text", "line 2, column 'c': expected text, got the number 1 (3 of 3 rows"),
        ("t.csv", ["1", "2.5", "3"], "label", "line 3, column 'c': expected a label (a word or a whole number), got"),
        ("t.csv", ["a", "NaN", "b"], "label", "line 3, column 'c': expected a label"),
        ("t.csv", ["1", "", "3"], "label", "line 3, column 'c': expected a label (a word or a whole number), got noth"),
        ("t.csv", ["1", "NaN", "3"], "number", "line 3, column 'c': expected a number, got nothing"),
        ("t.csv", ["1", "inf", "3"], "number", "line 3, column 'c': expected a number, got the number inf"),
        ("t.csv", ["1", "five", "3"], "number", "line 3, column 'c': expected a number, got the text 'five'; correct"),
        ("t.jsonl", ["a", 5, "b"], "text", "line 2, column 'c': expected text, got the number 5"),
        ("t.jsonl", ["a", ["b"], "b"], "text", "line 2, column 'c': expected text, got the list ['b']"),
        ("t.jsonl", [1, True, 3], "number", "line 2, column 'c': expected a number, got the truth value True"),
        ("t.jsonl", ["a", None, "b"], "text", "line 2, column 'c': expected text, got nothing"),
        ("t.parquet", ["a", None, "b"], "text", "row 2, column 'c': expected text, got nothing"),
    ],
)
def test_a_cell_of_another_kind_is_named(tmp_path, name, cells, kind, message):
    path = tmp_path / name
    if name.endswith("csv"):
        write(path, "c,d\n" + "".join(f"{cell},1\n" for cell in cells))
    elif name.endswith("jsonl"):
        write(path, "".join(json.dumps({"c": cell}) + "\n" for cell in cells))
    else:
        pd.DataFrame({"c": cells}).to_parquet(path)
    assert f"FILE, {message}" in fails(path, ["c"], [("c", kind)])


def test_whole_numbers_truth_values_and_words_are_labels(tmp_path):
    path = write(tmp_path / "t.csv", "a,b,c\n1,True,x\n2,False,y\n")
    frame = read_table(path, ["a", "b", "c"])
    for column in "abc":
        check_column(frame, path, column, "label")


def test_a_bomb_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("tlkit.data.files.compressed._HARMLESS", 1 << 20)
    (tmp_path / "bomb.csv.gz").write_bytes(gzip.compress(b"a,b\n" + b"1,1\n" * (1 << 21)))
    (tmp_path / "bomb.jsonl.gz").write_bytes(gzip.compress(b"{" + b" " * (1 << 23)))
    pd.DataFrame({"a": [1] * (1 << 21), "b": [1] * (1 << 21)}).to_parquet(tmp_path / "bomb.parquet")
    for name in ("bomb.csv.gz", "bomb.jsonl.gz", "bomb.parquet"):
        with pytest.raises(DataError, match="made to fill the memory"):
            read_table(tmp_path / name, ["a", "b"])


def test_a_whole_number_too_large_for_numpy_is_a_number_or_refused(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a\n1\n99999999999999999999999\n")
    check_column(read_table(path, ["a"]), path, "a", "number")
    path.write_text(f"a\n1\n{'9' * 400}\n")
    with pytest.raises(DataError, match=r"line 3, column 'a': expected a number"):
        check_column(read_table(path, ["a"]), path, "a", "number")
