from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from tlkit.data.rows import DomainRows, Draw, SideRows
from tlkit.data.signals import AugmentedWindows, Signals, channel_names, rotations, scaling, stretched, to_channels
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


def rows_of(signals, x, triads=TRIADS, size=40):
    data = AugmentedWindows(x, torch.arange(size) % 2, signals, triads)
    return SideRows([DomainRows("a", 0, "train", data, 2)])


def test_a_window_is_turned_as_a_whole_and_all_sensors_alike():
    x = torch.randn(40, 7, 16)
    got = rows_of(Signals(rotate=True), x).__getitems__(Draw(list(range(40)), (0, 0))).x
    torch.testing.assert_close(got[:, 6], x[:, 6])
    assert not torch.allclose(got[:, :6], x[:, :6], atol=0.1)
    for triad in TRIADS:
        torch.testing.assert_close(got[:, triad].norm(dim=1), x[:, triad].norm(dim=1))
    # Angles between the sensors' vectors stay only if both are turned by the same rotation.
    torch.testing.assert_close((got[:, :3] * got[:, 3:6]).sum(1), (x[:, :3] * x[:, 3:6]).sum(1), rtol=1e-4, atol=1e-4)


def test_a_mirrored_window_is_what_the_mirrored_movement_would_have_given():
    # A body turns and is pushed; both are reflected along y, and what its sensors feel is derived anew.
    random = np.random.default_rng(0)
    mirror = np.diag([1.0, -1.0, 1.0])
    turning = random.standard_normal((64, 3)) * 0.1  # body frame, radians a step
    force = random.standard_normal((64, 3))  # what a resting frame would see

    def felt(turns, force):
        steps = [Rotation.identity()]
        for turn in turns:
            steps.append(steps[-1] * turn)
        gyro = [(before.inv() * after).as_rotvec() for before, after in pairwise(steps)]
        return np.concatenate(
            [np.stack([step.inv().apply(f) for step, f in zip(steps, force, strict=False)]), np.stack(gyro)], 1
        )

    real = [Rotation.from_rotvec(w) for w in turning]
    reflected = [Rotation.from_matrix(mirror @ turn.as_matrix() @ mirror) for turn in real]
    x = torch.from_numpy(np.stack([felt(real, force).T, felt(reflected, force @ mirror).T]))
    data = AugmentedWindows(x, torch.zeros(2), Signals(mirror="y"), TRIADS, gyroscopes=[1])
    rows = [data.seeded_batch(torch.tensor([0]), (0, n))[0][0] for n in range(40)]
    same = [torch.allclose(row, x[0]) for row in rows]
    assert 10 < sum(same) < 30
    for row, kept in zip(rows, same, strict=True):
        torch.testing.assert_close(row, x[0] if kept else x[1])


@pytest.mark.parametrize(
    "signals", [Signals(rotate=True), Signals(mirror="y"), Signals(scale=0.3), Signals(stretch=0.3)], ids=str
)
def test_augmentation_depends_on_the_key_and_the_row_alone(signals):
    rows = rows_of(signals, torch.randn(40, 7, 16))
    one = rows.__getitems__(Draw([3, 7, 20], (1, 0))).x
    torch.testing.assert_close(one, rows.__getitems__(Draw([20, 7, 3], (1, 0))).x.flip(0))
    torch.testing.assert_close(one[1:2], rows.__getitems__(Draw([7], (1, 0))).x)
    many = list(range(40))
    assert not torch.allclose(rows.__getitems__(Draw(many, (1, 0))).x, rows.__getitems__(Draw(many, (1, 1))).x)
    before = torch.get_rng_state()
    rows.__getitems__([0, 1])
    assert torch.equal(before, torch.get_rng_state())


def test_one_row_comes_in_the_shape_of_a_row():
    data = AugmentedWindows(torch.randn(3, 7, 16), torch.arange(3), Signals(rotate=True, scale=0.1), TRIADS)
    x, y = data[2]
    assert x.shape == (7, 16)
    assert y == 2
    assert len(data) == 3


def test_scale_is_one_factor_a_window():
    x = torch.randn(40, 7, 16)
    factors = rows_of(Signals(scale=0.2), x).__getitems__(Draw(list(range(40)), (0,))).x / x
    torch.testing.assert_close(factors, factors[:, :1, :1].expand_as(factors), rtol=1e-4, atol=1e-4)
    assert factors.min() >= 0.8
    assert factors.max() <= 1.2
    assert factors[:, 0, 0].std() > 0.05


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
