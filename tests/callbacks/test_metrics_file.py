"""metrics.csv: what is in it, that nothing is lost, and what a resume drops."""

import csv

import pytest

from tlkit.callbacks import MetricsFile


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_columns_are_step_epoch_and_keys_in_order_of_appearance(tmp_path):
    metrics = MetricsFile(tmp_path)
    metrics.log_metrics({"train/loss": 0.1 + 0.2, "epoch": 0}, step=9)
    metrics.log_metrics({"val/a,b/accuracy": 0.5, "epoch": 0}, step=9)  # a comma in a domain's name
    metrics.log_metrics({"train/loss": 0.25, "epoch": 1}, step=19)
    assert list(rows(tmp_path / "metrics.csv")[0]) == ["step", "epoch", "train/loss", "val/a,b/accuracy"]
    assert [list(row.values()) for row in rows(tmp_path / "metrics.csv")] == [
        ["9", "0", "0.30000000000000004", ""],  # every digit: the file is the truth for other loggers
        ["9", "0", "", "0.5"],
        ["19", "1", "0.25", ""],
    ]


def test_an_existing_file_is_continued_and_keeps_its_columns(tmp_path):
    MetricsFile(tmp_path).log_metrics({"epoch": 0, "b": 1.0}, step=0)
    second = MetricsFile(tmp_path)
    second.log_metrics({"epoch": 0, "a": 2.0}, step=1)
    assert [list(row.values()) for row in rows(second.path)] == [["0", "0", "1.0", ""], ["1", "0", "", "2.0"]]


def test_resume_drops_the_rows_that_will_be_written_again_and_says_so(tmp_path, caplog):
    metrics = MetricsFile(tmp_path)
    for step in (9, 19, 29, 39):
        metrics.log_metrics({"epoch": 0, "train/loss": float(step)}, step=step)
    resumed = MetricsFile(tmp_path)
    with caplog.at_level("INFO"):
        resumed.resume(20)  # 20 steps were done: rows 0 to 19 stay
    assert [row["step"] for row in rows(resumed.path)] == ["9", "19"]
    assert "2 of 4 rows are of steps after the checkpoint (step 20) or of a test" in caplog.text
    resumed.log_metrics({"epoch": 0, "train/loss": 29.0}, step=29)
    assert [row["step"] for row in rows(resumed.path)] == ["9", "19", "29"]


def test_resume_writes_the_row_that_the_process_died_before(tmp_path):
    metrics = MetricsFile(tmp_path)
    metrics.log_metrics({"epoch": 0, "train/loss": 9.0}, step=9)
    last = {"epoch": 0, "train/loss": 19.0}
    for _ in range(2):  # resumed twice, it is written once
        MetricsFile(tmp_path).resume(20, last)
        assert [(row["step"], row["train/loss"]) for row in rows(metrics.path)] == [("9", "9.0"), ("19", "19.0")]


def test_rows_of_a_test_are_of_the_trained_step_and_of_no_epoch(tmp_path):
    metrics = MetricsFile(tmp_path)
    metrics.tested_after = 20
    metrics.log_metrics({"epoch": 1, "test/b/accuracy": 0.5}, step=19)
    assert rows(metrics.path) == [{"step": "20", "epoch": "", "test/b/accuracy": "0.5"}]


def test_resume_with_nothing_to_drop_leaves_the_file_alone(tmp_path, caplog):
    MetricsFile(tmp_path).resume(5)  # no file at all
    assert not (tmp_path / "metrics.csv").exists()
    metrics = MetricsFile(tmp_path)
    metrics.log_metrics({"epoch": 0, "a": 1.0}, step=4)
    before = metrics.path.stat()
    metrics.resume(5)
    assert metrics.path.stat().st_ino == before.st_ino
    assert "dropped" not in caplog.text


def test_a_row_cut_off_by_a_kill_is_dropped_and_the_others_stay(tmp_path, caplog):
    MetricsFile(tmp_path).log_metrics({"epoch": 0, "a": 0.5, "b": 0.25}, step=9)
    path = tmp_path / "metrics.csv"
    with path.open("a") as file:
        file.write("19,0,0.7")
    again = MetricsFile(tmp_path)
    with caplog.at_level("INFO"):
        again.log_metrics({"epoch": 0, "a": 0.75, "b": 0.125}, step=19)
    assert [list(row.values()) for row in rows(path)] == [["9", "0", "0.5", "0.25"], ["19", "0", "0.75", "0.125"]]
    assert "cut off" in caplog.text


def test_a_kill_while_a_column_is_added_leaves_the_old_file_whole(tmp_path, monkeypatch):
    metrics = MetricsFile(tmp_path)
    metrics.log_metrics({"epoch": 0, "a": 1.0}, step=0)
    before = metrics.path.read_bytes()

    def killed(*_):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("tlkit.callbacks.metrics_file.os.replace", killed)
        with pytest.raises(SystemExit):
            metrics.log_metrics({"epoch": 0, "b": 2.0}, step=1)
    assert metrics.path.read_bytes() == before
    again = MetricsFile(tmp_path)
    again.log_metrics({"epoch": 0, "b": 2.0}, step=1)
    assert [list(row.values()) for row in rows(again.path)] == [["0", "0", "1.0", ""], ["1", "0", "", "2.0"]]
    assert [each.name for each in tmp_path.iterdir()] == ["metrics.csv"]


def test_it_names_the_run(tmp_path):
    metrics = MetricsFile(tmp_path / "digits" / "run-1")
    assert (metrics.name, metrics.version, metrics.save_dir) == ("digits", "run-1", str(tmp_path / "digits" / "run-1"))
    assert not (tmp_path / "digits").exists()  # nothing is made before the first row
