"""Shards that are missing, cut off, changed or made to do harm, each told in words; and shards behind an address."""

import contextlib
import dataclasses
import errno
import functools
import io
import json
import os
import shutil
import struct
import sys
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from fsspec.core import url_to_fs

from tests.data.shard_sets import array_samples, pack, picture
from tlkit.data import ArrayShardDomains, ImageShardDomains, ShardSample, index_shards, write_domain
from tlkit.data.files.long_job import shown
from tlkit.data.shards.index import ShardIndex
from tlkit.data.shards.scan import index_of
from tlkit.errors import DataError


def npy(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def good(number=20):
    """Return the members of samples that are read as they are."""
    return [
        member
        for i in range(number)
        for member in ((f"{i:03d}.npy", npy(np.full((2, 3), i, np.float32))), (f"{i:03d}.cls", b"ab"[i % 2 :][:1]))
    ]


def refused(root, match, kind=ArrayShardDomains, **options):
    with pytest.raises(DataError, match=match) as caught:
        read_all(kind(str(root), ["d"], **{"batch_size": 4, **options}))
    return str(caught.value)


def read_all(data):
    data.setup()
    train = data.train_dataloader()
    # A pass drops the rows that fill no batch, up to three of fifteen; of eight passes not all drop the same one.
    passes = [batch for _ in range(8) for batch in train]
    return [*passes, *data.val_dataloader()[0], *data.test_dataloader()[0]]


def test_shards_of_other_programs_are_read_and_their_index_is_kept(tmp_path):
    more = [("x/021.seg.png", b"passed over"), ("README", b"too"), ("__index__.json", b"{}"), ("._000.npy", b"a Mac")]
    pack(tmp_path / "d" / "0.tar", [*good(), *more, ("x/021.npy", npy(np.zeros((2, 3), "f8"))), ("x/021.cls", b"a")])
    batches = read_all(ArrayShardDomains(str(tmp_path), ["d"], batch_size=4))
    values = torch.cat([getattr(batch, "source", batch).x[:, 0, 0] for batch in batches])
    assert set(values.tolist()) >= set(range(15))
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["0.tar"]
    cache = os.path.join(os.environ["XDG_CACHE_HOME"], "tlkit", "shards")
    kept = [path for path in os.listdir(cache) if path.endswith(".npz")]
    read_all(ArrayShardDomains(str(tmp_path), ["d"], batch_size=4))
    assert [path for path in os.listdir(cache) if path.endswith(".npz")] == kept
    for path in kept:
        with open(os.path.join(cache, path), "r+b") as file:
            file.write(b"damaged")
    assert len(read_all(ArrayShardDomains(str(tmp_path), ["d"], batch_size=4))) == len(batches)


def test_an_index_that_cannot_be_kept_is_made_in_every_run(tmp_path, monkeypatch, caplog):
    pack(tmp_path / "d" / "0.tar", good())
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level("INFO"):
        read_all(ArrayShardDomains(str(tmp_path), ["d"], batch_size=4))
    assert "npz cannot be written: Not a directory; the next run makes it again" in caplog.text


def test_what_is_being_written_is_no_domain(tmp_path):
    for name in ("d", ".writing-x1"):
        pack(tmp_path / name / "0.tar", good())
    assert ArrayShardDomains(str(tmp_path), ["d"]).domains == ["d"]


def test_the_index_is_the_same_bytes_and_says_where_samples_lie(tmp_path):
    for name in ("d", "e"):
        write_domain(tmp_path / name / "d", array_samples(0, 20, groups=4))
    first, again = ((tmp_path / name / "d" / "index.npz").read_bytes() for name in ("d", "e"))
    assert first == again
    shards = [next((tmp_path / name / "d").glob("*.tar")).read_bytes() for name in ("d", "e")]
    assert shards[0] == shards[1]
    index = ShardIndex.from_bytes(first, "it")
    with tarfile.open(next((tmp_path / "d" / "d").glob("*.tar"))) as tar:
        members = [member for member in tar if member.name.endswith(".npy")]
    assert index.offset.tolist() == [member.offset_data for member in members]
    assert index.groups == ("wearer-0-0", "wearer-0-1", "wearer-0-2", "wearer-0-3")
    assert len(first) < 20 * 30 + 4000


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ([("900.npy", npy(np.zeros((2, 3), "f4")))], r"0.tar, sample '900' has no label, and .* sample '000' has one"),
        ([("900.cls", b"a")], r"0.tar, sample '900' has no content: neither an image"),
        ([("900.npy", npy(np.zeros((3, 3), "f4"))), ("900.cls", b"a")], r"is an array \(3, 3\), and .* \(2, 3\)"),
        ([("900.png", picture(0)), ("900.cls", b"a")], r"'900' is an image, and .* is an array \(2, 3\)"),
        ([("900.npy", b""), ("900.cls", b"a")], r"sample '900': its npy is empty \(0 bytes\)"),
        ([("900.npy", npy(np.zeros((2, 3)))[:-9]), ("900.cls", b"a")], r"which are 48 bytes, and has 39"),
        ([("900.npy", b"no array at all"), ("900.cls", b"a")], r"'900': its npy is no array that numpy has written"),
        ([("900.npy", npy(np.array([[{}]], object)))], r"sample '900': its npy holds object, numbers are needed"),
        ([("900.npy", npy(np.zeros((2, 3)))), ("900.png", picture(0))], r"has two contents, npy and png"),
        ([("../900.npy", npy(np.zeros((2, 3))))], r"has a member outside its folder, '../900.npy': do not trust it"),
        ([("/etc/900.npy", npy(np.zeros((2, 3))))], r"has a member outside its folder, '/etc/900.npy'"),
        ([("900.npy", npy(np.zeros((2, 3)))), ("900.cls", b"\xff")], r"sample '900': its cls is no text"),
        ([("900.npy", npy(np.zeros((2, 3)))), ("900.json", b"{")], r"sample '900': its json cannot be read"),
        (
            [("900.npy", npy(np.zeros((2, 3)))), ("900.json", b'{"label": [1]}')],
            r"is a word or a whole number, got \[1\]",
        ),
        ([("900.npy", npy(np.zeros((2, 3)))), ("900.json", b'{"split": "dev"}')], r"train, val or test, got 'dev'"),
        (
            [("900.npy", npy(np.zeros((2, 3)))), ("900.cls", b"a"), ("900.json", b'{"label": "b"}')],
            r"has two labels, 'a' and 'b'",
        ),
        ([("900.npy", npy(np.zeros((2, 3)))), ("900.cls", b"a"), ("900.json", b'{"group": 1}')], r"has no group"),
        ([("900.json", b" " * ((1 << 20) + 1))], r"its json has 1048577 bytes, at most 1048576 are read"),
    ],
)
def test_a_bad_sample_is_named(tmp_path, members, match):
    pack(tmp_path / "d" / "0.tar", [*good(), *members])
    assert "0.tar" in refused(tmp_path, match)


def test_an_array_that_says_it_is_huge_takes_no_memory(tmp_path):
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    head += b" " * (118 - len(head) - 1) + b"\n"
    huge = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head
    pack(tmp_path / "d" / "0.tar", [*good(), ("900.npy", huge), ("900.cls", b"a")])
    refused(tmp_path, r"it is \(1000000, 1000000\) of float32, which are 4000000000000 bytes, and has 0")


def test_a_member_that_says_it_is_huge_takes_no_memory(tmp_path):
    pack(tmp_path / "d" / "0.tar", good())
    path = tmp_path / "d" / "0.tar"
    content = bytearray(path.read_bytes())
    head = tarfile.TarInfo("000.npy")
    head.size = 1 << 50
    content[:512] = head.tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(content)
    refused(tmp_path, r"member '000.npy' should have 1125899906842624 bytes, and \d+ are there")


def test_links_are_refused(tmp_path):
    pack(tmp_path / "d" / "0.tar", good())
    with tarfile.open(tmp_path / "d" / "1.tar", "w") as tar:
        link = tarfile.TarInfo("900.npy")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    refused(tmp_path, r"1.tar: the member '900.npy' is no plain file")


@pytest.mark.parametrize("left", [0, 300, 5000, 4096, -600])
def test_a_shard_that_is_cut_off(tmp_path, left):
    pack(tmp_path / "d" / "0.tar", good())
    content = (tmp_path / "d" / "0.tar").read_bytes()
    end = content.rstrip(b"\0")
    (tmp_path / "d" / "0.tar").write_bytes(content[:left] if left >= 0 else end[:left])
    refused(tmp_path, r"0.tar is (cut off|no tar file)")
    whole = tmp_path / "whole"
    write_domain(whole / "d", array_samples(0, 30))
    shard = next((whole / "d").glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:left])
    refused(whole, r"the index does not fit the shard .*d-000000.tar: it says \d+ bytes, and there are")


def test_a_compressed_shard(tmp_path):
    (tmp_path / "d").mkdir()
    with tarfile.open(tmp_path / "d" / "0.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("0.npy"))
    refused(tmp_path, r"no tar file, or is damaged: .* one that is compressed must be unpacked")


def test_a_missing_shard(tmp_path):
    write_domain(tmp_path / "d", array_samples(0, 30))
    shard = next((tmp_path / "d").glob("*.tar"))
    shard.rename(tmp_path / "away")
    pack(tmp_path / "d" / "other.tar", good())
    refused(tmp_path, r"the shard .*d-000000.tar is missing, its index lists it")
    (tmp_path / "d" / "other.tar").unlink()
    refused(tmp_path, r"sources: unknown domain 'd'.* Domains are read from the folders")
    with pytest.raises(DataError, match="root: no folder"):
        read_all(ArrayShardDomains(str(tmp_path / "nowhere"), ["d"]))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_shard_that_is_another_one(tmp_path, num_workers):
    """Of the same size, so that only what lies where the index says tells it."""
    write_domain(tmp_path / "d", array_samples(0, 30))
    shard = next((tmp_path / "d").glob("*.tar"))
    content = shard.read_bytes()
    shard.write_bytes(bytes(512) + content[:-512])
    match = (
        r"the index does not fit the shard .*d-000000.tar: there is no sample of \d+ bytes at byte \d+ \(d-000000.tar#"
    )
    refused(tmp_path, match, num_workers=num_workers)


def test_a_shard_that_goes_away_or_shrinks_while_it_is_read(tmp_path):
    write_domain(tmp_path / "d", array_samples(0, 30))
    data = ArrayShardDomains(str(tmp_path), ["d"], batch_size=4)
    data.setup()
    shard = next((tmp_path / "d").glob("*.tar"))
    os.truncate(shard, 4000)
    with pytest.raises(DataError, match=r"the index does not fit the shard|the shard .* is missing"):
        list(data.train_dataloader())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_damaged_image_is_named(tmp_path, num_workers):
    whole = picture(3, size=64)
    damaged = whole[:60] + bytes(len(whole) - 120) + whole[-60:]
    samples = [ShardSample(damaged if i == 7 else picture(i), i % 2, ending="png", name=f"n{i}") for i in range(30)]
    write_domain(tmp_path / "d", samples)
    match = r"cannot read the image .*d-000000.tar, member '00000007-n7.png': .*; write the shard again"
    refused(tmp_path, match, ImageShardDomains, image_size=16, num_workers=num_workers)


def test_an_image_that_is_cut_off_is_found_when_it_is_written(tmp_path):
    samples = [ShardSample(picture(0)[:200], 0, ending="png"), ShardSample(picture(1), 1, ending="png")]
    with pytest.raises(DataError, match=r"cannot read the image .*-000000.tar, sample '00000000'"):
        write_domain(tmp_path / "d", samples)
    assert list(tmp_path.iterdir()) == []


def test_the_other_kind_of_content(tmp_path):
    write_domain(tmp_path / "d", [ShardSample(picture(i), i % 2, ending="png") for i in range(30)])
    refused(tmp_path, r"d holds images, which ImageShardDomains reads, not ArrayShardDomains")


def test_a_label_that_a_domain_lacks(tmp_path):
    write_domain(tmp_path / "a", array_samples(0, 30))
    write_domain(tmp_path / "b", [ShardSample(sample.x, 0) for sample in array_samples(1, 30)])
    with pytest.raises(DataError, match="a 2, b 1 classes: 'b' lacks 1"):
        read_all(ArrayShardDomains(str(tmp_path), ["a"], ["b"]))
    with pytest.raises(DataError, match="unknown domain 'aa': did you mean 'a'"):
        read_all(ArrayShardDomains(str(tmp_path), ["aa"]))
    write_domain(tmp_path / "c", array_samples(0, 30, shape=(3, 9)))
    with pytest.raises(DataError, match=r"domain 'c' has arrays of shape \(3, 9\), domain 'a' of \(3, 8\)"):
        read_all(ArrayShardDomains(str(tmp_path), ["a"], ["c"]))


@pytest.mark.parametrize(
    ("option", "match"), [({"window": 0}, "window must be 1"), ({"cache_gb": 0}, "cache_gb must be")]
)
def test_what_cannot_be(tmp_path, option, match):
    refused(tmp_path, match, **option)


def changed(index, **columns):
    """Return an index with other columns, or another head."""
    values = {**vars(index), **columns}
    return ShardIndex(**values).to_bytes()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"shards": ("../../x.tar",)}, r"'../../x.tar' cannot be the name of a shard"),
        ({"shard_bytes": (9000,)}, "samples lie outside their shards"),
        ({"offset": np.arange(30)}, "samples lie outside their shards"),
        ({"offset": np.arange(29)}, "its columns do not fit each other"),
        ({"size": np.full(30, 2**32 - 1, np.uint32)}, "samples lie outside their shards"),
        ({"label": np.full(30, 2, np.int32)}, "its column label names what it does not list"),
        ({"label": np.zeros(30)}, "its column label is not one of int32"),
        ({"ends": np.array([31])}, "its columns do not fit each other"),
        ({"kind": "video"}, "its head is not one"),
        ({"shape": (-1,)}, r"is damaged"),
        ({"group": np.zeros(30, np.int32)}, "its column group names what it does not list"),
    ],
)
def test_an_index_that_cannot_be(tmp_path, change, match):
    write_domain(tmp_path / "d", array_samples(0, 30))
    path = tmp_path / "d" / "index.npz"
    path.write_bytes(changed(ShardIndex.from_bytes(path.read_bytes(), "it"), **change))
    refused(tmp_path, match)


def test_an_index_of_another_version_or_none_at_all(tmp_path):
    write_domain(tmp_path / "d", array_samples(0, 30))
    path = tmp_path / "d" / "index.npz"
    path.write_bytes(path.read_bytes()[:200])
    refused(tmp_path, rf"the index {path} is damaged: .*; delete it and make it again with tlkit.data.index_shards")
    with pytest.raises(DataError, match="exists and is not written over"):
        index_shards(tmp_path / "d")
    path.unlink()
    assert index_shards(tmp_path / "d") == path
    read_all(ArrayShardDomains(str(tmp_path), ["d"], batch_size=4))
    with pytest.raises(DataError, match="holds no shards"):
        index_shards(tmp_path)


def test_random_damage_ends_in_words(tmp_path):
    write_domain(tmp_path / "d", array_samples(0, 30))
    whole = {path: path.read_bytes() for path in (tmp_path / "d").iterdir()}
    random = np.random.default_rng(0)
    for number in range(60):
        for path, content in whole.items():
            path.write_bytes(content)
        path = list(whole)[number % 2]
        damaged = bytearray(whole[path])
        for place in random.integers(0, len(damaged), 20):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(DataError):  # and nothing else
            read_all(ArrayShardDomains(str(tmp_path), ["d"], batch_size=4))


def test_nothing_is_written_over_and_nothing_half_is_left(tmp_path):
    write_domain(tmp_path / "d", array_samples(0, 30))
    with pytest.raises(DataError, match="exists and is not written over"):
        write_domain(tmp_path / "d", array_samples(0, 30))

    def samples():
        yield from array_samples(0, 5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_domain(tmp_path / "e", samples())
    with pytest.raises(DataError, match=r"hold no samples|holds no shards"):
        write_domain(tmp_path / "e", [])
    with pytest.raises(DataError, match="sample 0 holds <U1, an array of numbers"):
        write_domain(tmp_path / "e", [ShardSample(["a"], 0)])
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


class Server:
    """A folder behind an address, that counts what is fetched."""

    def __init__(self, folder):
        self.fetched = []
        outer = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self):
                outer.fetched.append(self.path)
                super().do_GET()

            def log_message(self, *args):
                pass

        handler = functools.partial(Handler, directory=str(folder))
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Shards in five files behind an address, and a cache of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_domain(tmp_path / "shards" / "d", array_samples(0, 96), megabytes=0.04)
    assert len(list((tmp_path / "shards" / "d").glob("*.tar"))) == 5
    server = Server(tmp_path / "shards")
    yield server
    server.server.shutdown()
    server.server.server_close()


def bits(batches):
    return [getattr(batch, "source", batch).x for batch in batches]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_shards_behind_an_address_are_read_as_those_of_a_folder(served, tmp_path, num_workers):
    options = {"batch_size": 4, "window": 2, "num_workers": num_workers}
    there = bits(read_all(ArrayShardDomains(served.url, ["d"], **options)))
    here = bits(read_all(ArrayShardDomains(str(tmp_path / "shards"), ["d"], **options)))
    assert len(there) == len(here)
    assert all(map(torch.equal, there, here))
    assert sum(path.endswith(".tar") for path in served.fetched) == 5  # each once, whichever process asked first


def test_what_is_kept_keeps_to_its_size(served, tmp_path):
    size = 51200
    data = ArrayShardDomains(served.url, ["d"], batch_size=4, window=2, cache_gb=2.5 * size / 1e9)
    data.setup()
    kept = tmp_path / "cache" / "tlkit" / "shards"
    for _ in data.train_dataloader():
        assert sum(path.stat().st_size for path in kept.rglob("*.tar")) <= 2.5 * size
        held = [descriptor for descriptor, _ in data._readers["d"]._open.values()]
        assert sum(os.fstat(descriptor).st_nlink == 0 for descriptor in held) <= 2  # what is open takes room as well
    fetched = [path for path in served.fetched if path.endswith(".tar")]
    assert len(fetched) == 5  # the order of a pass asks for each once
    assert not list(kept.rglob("*.part"))
    with pytest.raises(DataError, match=r"cache_gb .* is less than the .* GB of the 4 shards a domain .*'d'"):
        ArrayShardDomains(served.url, ["d"], batch_size=4, window=4, cache_gb=2.5 * size / 1e9).setup()


def test_a_shard_that_was_written_anew_is_fetched_anew(served, tmp_path):
    def largest():
        return max(float(batch.max()) for batch in bits(read_all(ArrayShardDomains(served.url, ["d"], batch_size=4))))

    def change(by):
        samples = [dataclasses.replace(each, x=each.x + by) for each in array_samples(0, 96)]
        shutil.rmtree(tmp_path / "shards" / "d", ignore_errors=True)
        write_domain(tmp_path / "shards" / "d", samples, megabytes=0.04)
        for path in (tmp_path / "shards" / "d").iterdir():
            os.utime(path, (by, by))  # Last-Modified is in whole seconds

    change(0)
    assert largest() == 95
    change(1000)  # shards of the same names and sizes, and the same index
    assert largest() == 1095


def test_a_disk_that_is_full_while_a_shard_is_fetched(served, monkeypatch):
    def full(remote, local):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    data = ArrayShardDomains(served.url, ["d"], batch_size=4)
    data.setup()
    monkeypatch.setattr(url_to_fs(served.url)[0], "get_file", full)  # the one that is used: fsspec makes one for all
    with pytest.raises(DataError, match=r"d-0\d+.tar cannot be kept in .*: No space left on device; make room"):
        list(data.train_dataloader())


def test_an_address_that_is_wrong(served, tmp_path):
    index = tmp_path / "shards" / "d" / "index.npz"
    shard = next((tmp_path / "shards" / "d").glob("*.tar"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-700])
    data = ArrayShardDomains(served.url, ["d"], batch_size=4)
    data.setup()
    with pytest.raises(DataError, match=rf"the index does not fit the shard {served.url}/d/d-0.*: it says \d+ bytes"):
        list(data.train_dataloader())
    shard.unlink()
    with pytest.raises(DataError, match=rf"{served.url}/d/d-0.*tar cannot be read: it is not there"):
        list(data.train_dataloader())
    index.unlink()
    refused(served.url, r"/d has no index.npz, without which all its shards would have to be fetched")
    refused("nope://bucket/shards", r"root: nope://bucket/shards cannot be opened: .*[Pp]rotocol")
    refused("s3://bucket/shards", r"s3fs")


def test_json_holds_what_cls_does(tmp_path):
    members = []
    for i in range(30):
        more = {"label": i % 2, "group": i // 5, "caption": "a thing"}
        members += [(f"{i}.npy", npy(np.zeros(3))), (f"{i}.json", json.dumps(more).encode())]
    pack(tmp_path / "d" / "0.tar", members)
    index = index_of(tmp_path / "d")
    assert index.labels == ("0", "1")
    assert index.groups == ("0", "1", "2", "3", "4", "5")


def test_a_name_in_brackets_is_no_markup_of_the_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with shown("shards of [/night]", total=1) as advance:
        advance(1)
    assert "shards of [/night]" in capsys.readouterr().err
