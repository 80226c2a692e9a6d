from pathlib import Path

import numpy as np
import pytest

from tlkit.data.files import spool
from tlkit.data.files.spool import Spool, cache_folder
from tlkit.errors import DataError


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "_IN_MEMORY", 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def filled(dtype, columns, sizes):
    random = np.random.default_rng(0)
    parts = [random.normal(size=(size, *columns)) * 100 for size in sizes]
    made = Spool(dtype, columns)
    for part in parts:
        made.add(part)
    return made.array(), np.concatenate(parts).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
@pytest.mark.parametrize("columns", [(), (3,), (2, 5)])
@pytest.mark.parametrize("sizes", [(2,), (4, 0, 1), (100, 3, 500, 1), (5, 2000)])
def test_it_holds_what_was_added_in_memory_or_on_disk(small, dtype, columns, sizes):
    got, wanted = filled(dtype, columns, sizes)
    assert got.dtype == dtype
    assert np.array_equal(got, wanted)
    assert isinstance(got, np.memmap) == (wanted.nbytes > 1000)


def test_what_is_added_is_copied():
    made, rows = Spool(np.float32, (2,)), np.ones((3, 2), np.float32)
    made.add(rows)
    rows[:] = 7
    assert made.array().tolist() == [[1, 1]] * 3


def test_nothing_was_added():
    assert Spool(np.float32, (4,)).array().shape == (0, 4)


def test_the_file_has_no_name_that_could_be_left_behind(small):
    got, _ = filled(np.float32, (3,), (5000,))
    assert isinstance(got, np.memmap)
    assert not list(cache_folder().iterdir())


def test_a_cache_that_cannot_be_written_is_gone_round(small, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    got, wanted = filled(np.float32, (3,), (5000,))
    assert np.array_equal(got, wanted)


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs a system that says how much memory it has")
def test_what_is_larger_than_the_memory_is_mapped(small):
    with open("/proc/meminfo") as info:
        total = sum(int(line.split()[1]) for line in info if line.startswith(("MemTotal", "SwapTotal"))) * 1024
    made = Spool(np.float32, (2,))
    made.add(np.ones((1000, 2)))
    assert made._file is not None
    made._bytes = total + (1 << 30)
    made._file.truncate(made._bytes)  # a hole, which takes no room
    array = made.array()
    assert array.nbytes > total
    assert (array[0].tolist(), array[-1].tolist()) == ([1, 1], [0, 0])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_full_disk_ends_in_words(small, monkeypatch):
    monkeypatch.setattr(spool, "_unnamed_file", lambda: open("/dev/full", "r+b"))  # noqa: SIM115 - it is closed there
    made = Spool(np.float32, (2,))
    with pytest.raises(DataError, match=r"cannot be kept in .*: No space left on device. .* XDG_CACHE_HOME"):
        made.add(np.ones((10_000, 2)))
    made = Spool(np.float32, (2,))
    made.add(np.ones((200, 2)))  # which the buffer of the file takes
    with pytest.raises(DataError, match="No space left on device"):
        made.array()


def test_what_lies_on_disk_takes_no_memory_of_its_own(tmp_path, monkeypatch):
    def anonymous():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024

    try:
        anonymous()
    except (OSError, StopIteration):
        pytest.skip("the system does not say how much memory is the process's own")
    monkeypatch.setattr(spool, "_IN_MEMORY", 1 << 20)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made, part = Spool(np.float32, (256,)), np.ones((1024, 256), np.float32)
    before = anonymous()
    for _ in range(96):  # of 1 MiB each
        made.add(part)
    array = made.array()
    assert float(array[::512].sum(dtype=np.float64)) == 192 * 256
    assert array.nbytes == 96 << 20
    assert anonymous() - before < 16 << 20
