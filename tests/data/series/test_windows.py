from __future__ import annotations

import numpy as np
import pytest
import torch

from tlkit.data.series.window_rows import Windows
from tlkit.data.series.windows import Windowing, majority, merge_equal, resample, starts, stretches
from tlkit.errors import DataError


def irregular(random, samples=400):
    times = np.cumsum(random.uniform(0.002, 0.03, samples))
    return times, random.standard_normal((samples, 3)), random.integers(0, 4, samples)


def test_resampling_is_numpys_interpolation_of_every_channel():
    times, values, labels = irregular(np.random.default_rng(0))
    got, _ = resample(times, values, labels, rate=50)
    grid = np.arange(times[0], times[-1], 0.02)
    assert len(got) == len(grid)
    for channel in range(3):
        np.testing.assert_allclose(got[:, channel], np.interp(grid, times, values[:, channel]), atol=1e-12)


def test_resampling_by_hand():
    # 1/4 of the way from 0 to 8 is 2; at 0.5 s the line from (0.4, 8) to (0.8, 4) is at 7
    values, labels = resample(np.array([0.0, 0.4, 0.8]), np.array([[0.0], [8], [4]]), np.array([0, 1, 2]), rate=10)
    np.testing.assert_allclose(values.ravel(), [0, 2, 4, 6, 8, 7, 6, 5, 4], atol=1e-12)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2]  # at 0.2 and 0.6 s both are as near: the earlier


@pytest.mark.parametrize("rate", [3, 20, 50, 99.7])
def test_a_recording_that_has_the_rate_already_is_left_as_it_is(rate):
    times, values = 1.7e9 + np.arange(500) / rate, np.random.default_rng(0).standard_normal((500, 2))
    got, labels = resample(times - times[0], values, np.arange(500), rate)
    assert labels.tolist() == list(range(500))
    np.testing.assert_allclose(got, values, atol=1e-4)  # float64 has 2e-7 s left at 1.7e9 s


def test_a_single_sample_stays():
    values, labels = resample(np.array([3.0]), np.array([[5.0]]), np.array([1]), rate=50)
    assert values.tolist() == [[5.0]]
    assert labels.tolist() == [1]


def test_equal_time_stamps_become_their_mean():
    times, values, labels = merge_equal(
        np.array([0.0, 1, 1, 1, 2]), np.array([[1.0], [2], [3], [7], [9]]), np.array([0, 2, 1, 1, 0])
    )
    assert times.tolist() == [0, 1, 2]
    assert values.ravel().tolist() == [1, 4, 9]
    assert labels.tolist() == [0, 2, 0]
    again = merge_equal(times, values, labels)
    assert all(one is other for one, other in zip(again, (times, values, labels), strict=True))


def test_stretches_end_at_gaps_and_at_samples_that_are_not_used():
    times = np.array([0, 0.5, 1.0, 2.5, 3.0, 3.5, 4.0])
    keep = np.array([True, True, True, True, False, True, True])
    assert stretches(times, keep, 1.0) == [slice(0, 3), slice(3, 4), slice(5, 7)]
    assert stretches(None, keep, 1.0) == [slice(0, 4), slice(5, 7)]
    assert stretches(times, ~np.ones(7, bool), 1.0) == []


def test_windows_are_the_slices_that_a_loop_would_take():
    values = np.random.default_rng(0).standard_normal((103, 4))
    for length, stride in ((10, 3), (103, 1), (2, 50)):
        expected = [values[s : s + length].T for s in range(0, len(values) - length + 1, stride)]
        windows = Windows(values, starts(len(values), length, stride), length)
        np.testing.assert_array_equal(windows.read(torch.arange(len(windows))), np.stack(expected))
        assert len(windows) == len(expected)
    assert len(starts(103, 104, 1)) == 0


def test_the_majority_is_that_of_a_loop():
    labels = np.random.default_rng(0).integers(0, 3, 300)
    for length, stride in ((4, 1), (9, 5)):
        expected = []
        for s in range(0, len(labels) - length + 1, stride):
            window = labels[s : s + length].tolist()
            expected.append(max(sorted(set(window), key=window.index), key=window.count))  # first met of those tied
        assert majority(labels, 3, length, stride).tolist() == expected


def test_a_tie_goes_to_the_label_met_first():
    assert majority(np.array([2, 0, 0, 2]), 3, 4, 1).tolist() == [2]
    assert majority(np.array([1, 1, 0, 0]), 3, 4, 1).tolist() == [1]
    assert majority(np.array([0, 1]), 2, 3, 1).tolist() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 1}, "windows.length is a number of samples from 2 up, got 1"),
        ({"stride": 0}, "windows.stride is a number of samples from 1 up"),
        ({"rate": 0}, "windows.rate must be above 0"),
        ({"longest_gap": float("nan")}, "windows.longest_gap must be above 0"),
        ({"longest": 2.0}, "shorter than a window of 128 samples at 50 Hz, 2.56 s"),
        ({"short": "drop"}, "windows.short must be 'refuse' or 'leave_out'"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(DataError, match=message):
        Windowing(**arguments)
