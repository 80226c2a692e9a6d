from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from tlkit.data.rows import DomainRows, Draw, SideRows
from tlkit.data.series.signals import Signals
from tlkit.data.series.window_rows import WindowRows, Windows

TRIADS = [(0, 1, 2), (3, 4, 5)]


def dense(x):
    """Windows that have nothing in common."""
    return Windows(x.transpose(1, 2).flatten(0, 1).numpy(), x.shape[2] * np.arange(len(x)), x.shape[2])


def overlapping(dtype=np.float32):
    """200 windows of 16 samples of 3 channels, the values, and each window by itself."""
    random = np.random.default_rng(0)
    values = (random.standard_normal((5000, 3)) * [1, 10, 0] + [5, -3, 7]).astype(dtype)
    begin = np.sort(random.integers(0, 5000 - 16, 200))
    return values, begin, torch.from_numpy(np.stack([values[start : start + 16].T for start in begin]))


def test_windows_are_slices_also_of_what_lies_on_disk(tmp_path):
    values, begin, wanted = overlapping()
    values.tofile(tmp_path / "values")
    rows = torch.tensor([7, 0, 199, 7])
    for source in (values, np.memmap(tmp_path / "values", np.float32, "c", shape=values.shape)):
        windows = Windows(source, begin, 16)
        assert torch.equal(windows.read(rows), wanted[rows])
        assert windows.read(rows).is_contiguous()
        assert (len(windows), windows.channels) == (200, 3)


def test_what_is_read_is_a_copy():
    values, begin, wanted = overlapping()
    windows = Windows(values, begin, 16)
    windows.read(torch.arange(200)).zero_()
    assert torch.equal(windows.read(torch.arange(200)), wanted)


def test_standardised_windows_are_those_of_all_at_once(monkeypatch):
    monkeypatch.setattr("tlkit.data.series.window_rows._AT_ONCE", 37)
    values, begin, wanted = overlapping()
    windows, known = Windows(values, begin, 16), np.arange(0, 150)
    windows.standardize(known)
    part = wanted[known].double()
    mean, deviation = part.mean((0, 2), keepdim=True)[0], part.std((0, 2), correction=0, keepdim=True)[0]
    assert deviation[2] < 1e-9
    deviation[2] = 1  # a constant channel becomes 0
    torch.testing.assert_close(
        windows.read(torch.arange(200)).double(), (wanted - mean) / deviation, rtol=1e-5, atol=1e-6
    )


def rows_of(signals, x, triads=TRIADS, size=40):
    data = WindowRows(dense(x), torch.arange(size) % 2, signals, triads)
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
    data = WindowRows(dense(x), torch.zeros(2), Signals(mirror="y"), TRIADS, gyroscopes=[1])
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
    data = WindowRows(dense(torch.randn(3, 7, 16)), torch.arange(3), Signals(rotate=True, scale=0.1), TRIADS)
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
