import shutil

import pytest

from tlkit.data.files.fetch import Published
from tlkit.data.sets.uci import uci_folder
from tlkit.errors import DataError

OUTER, INNER = Published("outer.zip", ""), Published("Set.zip", "", by_hand="It is UCI's data set 0")


def pack(folder, name):
    return shutil.make_archive(str(folder.parent / name), "zip", folder)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror with an archive that holds an archive that holds Set/data.txt."""
    (tmp_path / "inner" / "Set").mkdir(parents=True)
    (tmp_path / "inner" / "Set" / "data.txt").write_text("here")
    (tmp_path / "outer").mkdir()
    shutil.move(pack(tmp_path / "inner", "Set"), tmp_path / "outer" / "Set.zip")
    (tmp_path / "mirror").mkdir()
    shutil.move(pack(tmp_path / "outer", "outer"), tmp_path / "mirror" / "outer.zip")
    monkeypatch.setenv("TLKIT_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("TLKIT_DATA", str(tmp_path / "data"))
    return tmp_path


def test_both_archives_are_unpacked(mirror):
    assert (uci_folder(None, "set", "data.txt", OUTER, INNER) / "data.txt").read_text() == "here"
    (mirror / "mirror" / "outer.zip").unlink()
    assert uci_folder(None, "set", "data.txt", OUTER, INNER) == mirror / "data" / "set" / "Set"


def test_a_folder_of_the_users_own(mirror):
    own = mirror / "inner"
    assert uci_folder(str(own), "set", "data.txt", OUTER, INNER) == own / "Set"
    assert uci_folder(str(own / "Set"), "set", "data.txt", OUTER, INNER) == own / "Set"


def test_an_archive_without_the_file(mirror):
    with pytest.raises(DataError, match=r"lacks other.txt, and Set.zip does not hold it: get it again. It is UCI's"):
        uci_folder(None, "set", "other.txt", OUTER, INNER)
