import errno
import fcntl
from pathlib import Path

import pytest

from tlkit.data.files.folders import data_folder, find_folder, locked
from tlkit.errors import DataError


def test_the_environment_names_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("TLKIT_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    monkeypatch.delenv("TLKIT_DATA")
    assert data_folder() == Path.home() / ".cache" / "tlkit"


def test_a_relative_root_is_looked_for_here_and_then_there(monkeypatch, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    (there / "PACS").mkdir(parents=True)
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("TLKIT_DATA", str(there))
    assert find_folder("PACS") == there / "PACS"
    (here / "PACS").mkdir()
    assert find_folder("PACS").resolve() == here / "PACS"
    assert find_folder(str(there / "PACS")) == there / "PACS"
    with pytest.raises(DataError, match=r"root: no folder Office31 or .*there/Office31\. Give the folder of the data"):
        find_folder("Office31")


def test_a_file_system_without_locks_is_told_in_words(monkeypatch, tmp_path):
    def flock(file, kind):
        raise OSError(errno.ENOSYS, "Function not implemented")

    with locked(tmp_path / "new" / "lock"):
        assert (tmp_path / "new" / "lock").is_file()
    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.raises(DataError, match=r"cannot write into .*new: .*not implemented; set TLKIT_DATA to a folder"),
        locked(tmp_path / "new" / "lock", "TLKIT_DATA"),
    ):
        pass
