import numpy as np
import pytest

from tlkit.data.series.recording import Series, check_series, class_numbers
from tlkit.errors import DataError


def series(values, times=None):
    values = np.asarray(values, float)
    return Series(values, np.zeros(len(values), int), times, lambda row: f"walk.csv, line {row + 2}")


def message(series):
    with pytest.raises(DataError) as caught:
        check_series("walk.csv", series, ["x", "y"])
    return str(caught.value)


def test_what_cannot_be_used():
    assert "walk.csv is empty" in message(series(np.empty((0, 2))))
    assert message(series([[0, 0], [0, np.nan]])).startswith("walk.csv, line 3: channel 'y' is nan, expected a number")
    assert "line 2: channel 'x' is inf" in message(series([[np.inf, 0]]))
    text = message(series(np.zeros((4, 2)), np.array([0, 2.0, 1.5, 1.0])))
    assert text.startswith("walk.csv, line 4: the time stamp goes backwards, by 0.5 s, at 2 places of the recording")


def test_equal_time_stamps_can_be_used():
    check_series("walk.csv", series(np.zeros((3, 2)), np.array([0, 1.0, 1.0])), ["x", "y"])
    check_series("walk.csv", series(np.zeros((3, 2))), ["x", "y"])


def test_class_numbers():
    labels = np.array(["rest", "walk", "null", "walk"], object)
    place = "line {}".format
    assert class_numbers(labels, ["walk", "rest"], "act", place, ignore=["null"]).tolist() == [1, 0, -1, 0]
    with pytest.raises(DataError, match="line 2, column 'act': unknown label 'null'"):
        class_numbers(labels, ["walk", "rest"], "act", place)
    with pytest.raises(DataError, match="line 1, column 'act': unknown label 'walk': did you mean 'walks'"):
        class_numbers(labels, ["walks", "rest"], "act", place, ignore=["null"])
