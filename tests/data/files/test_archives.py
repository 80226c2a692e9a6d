import bz2
import gzip
import io
import os
import stat
import tarfile
import zipfile

import pytest

from tlkit.data.files.archives import unpack
from tlkit.errors import DataError

FILES = {"set/one/x.txt": b"x" * 100_000, "set/two.txt": b"y"}
FORMS = ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"]


def write(path, files, links=()):
    """An archive of ``files``, {name: content}, and ``links``, [(name, goal)]."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
            for name, content in files.items():
                bundle.writestr(name, content)
            for name, goal in links:
                member = zipfile.ZipInfo(name)
                member.external_attr = (stat.S_IFLNK | 0o777) << 16
                bundle.writestr(member, goal)
        return path
    with tarfile.open(path, f"w:{path.suffix[1:] if path.suffix != '.tar' else ''}") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name, goal in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, goal
            tar.addfile(member)
    return path


def content_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_unpacked(tmp_path, form):
    archive = write(tmp_path / f"set.{form}", FILES)
    assert unpack(archive, tmp_path / "out") == tmp_path / "out"
    assert content_of(tmp_path / "out") == FILES
    assert archive.is_file()


@pytest.mark.parametrize(("name", "pack"), [("a.csv.gz", gzip.compress), ("a.csv.bz2", bz2.compress)])
def test_a_single_file_is_unpacked_beside_its_archive(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(b"1,2"))
    unpack(tmp_path / name, tmp_path)
    assert (tmp_path / "a.csv").read_bytes() == b"1,2"


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
@pytest.mark.parametrize("name", ["../out.txt", "set/../../out.txt", "/tmp/out.txt", "..\\out.txt", "C:\\out.txt"])
def test_a_member_outside_the_folder_is_refused_and_nothing_is_left(tmp_path, form, name):
    archive = write(tmp_path / f"set.{form}", {**FILES, name: b"evil"})
    with pytest.raises(DataError, match=r"has a member outside its folder, .*: nothing was unpacked"):
        unpack(archive, tmp_path / "in" / "out")
    assert content_of(tmp_path / "in") == {}
    assert os.listdir(tmp_path / "in" / "out") == []
    assert sorted(os.listdir(tmp_path)) == ["in", archive.name]


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_links_are_refused(tmp_path, form):
    archive = write(tmp_path / f"set.{form}", {"set/link/x.txt": b"through the link"}, [("set/link", "/etc")])
    with pytest.raises(DataError, match="the member 'set/link' is a link or a device"):
        unpack(archive, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("form", FORMS)
def test_half_an_archive_leaves_nothing(tmp_path, form):
    random = {"set/noise": os.urandom(200_000), **FILES}
    archive = write(tmp_path / f"set.{form}", random)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"cannot unpack {archive}|{archive} is no zip"):
        unpack(archive, tmp_path / "out")
    assert content_of(tmp_path / "out") == {}


def test_a_damaged_member_is_found(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as bundle:
        bundle.writestr("a.txt", "a" * 1000)
    content = bytearray((tmp_path / "set.zip").read_bytes())
    content[500] ^= 1
    (tmp_path / "set.zip").write_bytes(content)
    with pytest.raises(DataError, match="Bad CRC-32"):
        unpack(tmp_path / "set.zip", tmp_path / "out")
    assert content_of(tmp_path / "out") == {}


def test_what_is_no_archive(tmp_path):
    (tmp_path / "set.zip").write_bytes(b"<html><body>login")
    with pytest.raises(
        DataError, match=r"set.zip is no zip, tar, gz or bz2 file, it begins with b'<html>.*get it again"
    ):
        unpack(tmp_path / "set.zip", tmp_path / "out")
    (tmp_path / "set.gz").write_bytes(b"<html><body>login")
    with pytest.raises(DataError, match=r"cannot unpack .*Not a gzipped file"):
        unpack(tmp_path / "set.gz", tmp_path / "out")
    with pytest.raises(DataError, match="no archive"):
        unpack(tmp_path / "nothing.zip", tmp_path / "out")


def test_the_marker_says_that_it_is_done(tmp_path):
    archive = write(tmp_path / "set.zip", FILES)
    unpack(archive, tmp_path, "set/two.txt")
    (tmp_path / "set" / "one" / "x.txt").write_text("mine")
    unpack(archive, tmp_path, "set/two.txt")
    assert (tmp_path / "set" / "one" / "x.txt").read_text() == "mine"


def test_folders_are_merged_and_files_replaced(tmp_path):
    (tmp_path / "set" / "one").mkdir(parents=True)
    (tmp_path / "set" / "one" / "mine.txt").write_text("mine")
    (tmp_path / "set" / "two.txt").write_text("old")
    unpack(write(tmp_path / "set.tar", FILES), tmp_path)
    (tmp_path / "set.tar").unlink()
    assert content_of(tmp_path) == {**FILES, "set/one/mine.txt": b"mine"}
    (tmp_path / "clash").mkdir()
    with pytest.raises(DataError, match="clash is in the way"):
        unpack(write(tmp_path / "set.zip", {"clash": b"a file"}), tmp_path)


def test_a_disk_that_is_too_small_is_told_before(tmp_path, monkeypatch):
    archive = write(tmp_path / "set.zip", FILES)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10_000})())
    with pytest.raises(DataError, match=r"unpacks to 0.00 GB, but .*out has 0.00 GB free"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("form", ["bomb.zip", "bomb.tar.gz", "bomb.gz", "bomb.bz2"])
def test_a_bomb_is_not_unpacked(tmp_path, form, monkeypatch):
    monkeypatch.setattr("tlkit.data.files.compressed._HARMLESS", 1 << 20)
    path, content = tmp_path / form, b"x" * (8 << 20)
    if form in ("bomb.gz", "bomb.bz2"):
        path.write_bytes({"bomb.gz": gzip.compress, "bomb.bz2": bz2.compress}[form](content))
    else:
        write(path, {"content": content})
    with pytest.raises(DataError, match=r"and unpacks to \d+ or more: it is damaged, or made to fill the memory"):
        unpack(path, tmp_path / "folder")
    assert content_of(tmp_path / "folder") == {}
