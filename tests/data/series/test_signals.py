from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from tlkit.data.series.signals import Signals, channel_names, rotations, scaling, stretched, to_channels
from tlkit.errors import DataError

TRIADS = [(0, 1, 2), (3, 4, 5)]


def worn(random, samples=200):
    """Acceleration with gravity, rotation, and a channel of its own."""
    values = random.standard_normal((samples, 7))
    values[:, :3] += [2, -3, 9]
    return values


def turned(values, rotation):
    out = values.copy()
    for triad in TRIADS:
        out[:, triad] = rotation.apply(values[:, triad])
    return out


@pytest.mark.parametrize("channels", ["magnitude", "vertical"])
def test_these_channels_do_not_depend_on_how_the_sensor_is_worn(channels):
    random = np.random.default_rng(0)
    values = worn(random)
    plain = to_channels(values, TRIADS, channels)
    for rotation in Rotation.random(20, random_state=0):
        np.testing.assert_allclose(to_channels(turned(values, rotation), TRIADS, channels), plain, atol=1e-10)
    assert plain.shape[1] == len(channel_names(list("abcdefg"), TRIADS, channels))
    np.testing.assert_array_equal(plain[:, 0], values[:, 6])  # what belongs to no triad stays, in front


def test_raw_channels_do():
    values = worn(np.random.default_rng(0))
    assert to_channels(values, TRIADS, "raw") is values
    both = to_channels(values, TRIADS, "raw+magnitude")
    np.testing.assert_array_equal(both[:, :7], values)
    np.testing.assert_allclose(both[:, 7], np.sqrt((values[:, :3] ** 2).sum(1)))
    assert channel_names(list("abcdefg"), TRIADS, "raw+magnitude")[-2:] == ["|a,b,c|", "|d,e,f|"]


def test_vertical_and_horizontal_by_hand():
    still = np.array([[0.0, 0, 9.8, 3, 4, 1]] * 5)
    got = to_channels(still, TRIADS, "vertical", around=3)
    np.testing.assert_allclose(got, [[9.8, 0, 1, 5]] * 5)  # rotation: 1 about the vertical, |(3, 4)| across
    second = to_channels(
        still, TRIADS, "vertical", gravity=1, around=3
    )  # as if the second triad were the accelerometer
    down = np.array([3, 4, 1]) / np.sqrt(26)
    np.testing.assert_allclose(second[:, 0], 9.8 * down[2])
    assert not np.isnan(to_channels(np.zeros((4, 6)), TRIADS, "vertical")).any()


def test_gravity_is_the_mean_of_the_samples_around():
    values = np.random.default_rng(0).standard_normal((30, 6))
    got = to_channels(values, TRIADS, "vertical", around=7)
    for row in (0, 2, 15, 29):
        mean = values[max(row - 3, 0) : row + 4, :3].mean(0)
        np.testing.assert_allclose(got[row, 0], values[row, :3] @ mean / np.linalg.norm(mean))


def test_scaling():
    values = np.array([[1.0, 5, 0.1], [3, 5, 0.1]], np.float32)
    mean, deviation = scaling(values)
    np.testing.assert_allclose(mean, [2, 5, 0.1], rtol=1e-6)
    assert deviation.tolist() == [1, 1, 1]  # the first by chance, the others since they are constant


def test_rotations_are_those_of_scipy_and_uniform():
    draws = torch.rand(4000, 3, dtype=torch.float64)
    matrices = rotations(draws)
    identity = torch.eye(3, dtype=torch.float64).expand_as(matrices)
    torch.testing.assert_close(matrices @ matrices.mT, identity)
    torch.testing.assert_close(torch.linalg.det(matrices), torch.ones(4000, dtype=torch.float64))
    u, v, w = draws[0].tolist()
    quaternion = [
        (1 - u) ** 0.5 * np.sin(2 * np.pi * v), (1 - u) ** 0.5 * np.cos(2 * np.pi * v),
        u**0.5 * np.sin(2 * np.pi * w), u**0.5 * np.cos(2 * np.pi * w),
    ]  # fmt: skip
    np.testing.assert_allclose(matrices[0], Rotation.from_quat(quaternion).as_matrix(), atol=1e-12)
    # Uniform: a turned vector is nowhere more often, and the trace's mean is 0 (1/3 for angles drawn evenly).
    assert matrices[:, :, 0].mean(0).abs().max() < 0.04
    assert abs(matrices.diagonal(dim1=1, dim2=2).sum(1).mean()) < 0.06


def test_stretching_is_interpolation_around_the_middle():
    x = torch.randn(5, 2, 33, dtype=torch.float64)
    factors = torch.tensor([1.0, 0.5, 1.5, 0.9, 1.1], dtype=torch.float64)
    got = stretched(x, factors)
    torch.testing.assert_close(got[0], x[0])
    for window, factor in enumerate(factors):
        place = np.clip(16 + factor.item() * (np.arange(33) - 16), 0, 32)
        for channel in range(2):
            expected = np.interp(place, np.arange(33), x[window, channel])
            np.testing.assert_allclose(got[window, channel], expected, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": "norm"}, "signals.channels must be one of 'raw', 'magnitude'"),
        ({"standardize": "window"}, "signals.standardize must be one of 'none', 'recording', 'domain', got 'window'"),
        ({"scale": 1.0}, r"signals.scale must be in \[0, 1\), got 1.0"),
        ({"stretch": -0.1}, r"signals.stretch must be in \[0, 1\)"),
        ({"mirror": "w"}, "signals.mirror must be an axis, 'x', 'y' or 'z', or null, got 'w'"),
        ({"channels": "vertical", "mirror": "x"}, "signals.mirror changes nothing where channels is 'vertical'"),
        ({"channels": "magnitude", "rotate": True}, "signals.rotate changes nothing where channels is 'magnitude'"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(DataError, match=message):
        Signals(**arguments)
