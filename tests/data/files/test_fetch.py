import hashlib
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import tlkit.data.files.fetch
from tlkit.data.files.fetch import Published, fetch, published_folder
from tlkit.errors import DataError

CONTENT = bytes(range(256)) * 4096  # 1 MB
SHA256, MD5 = hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest()


class Site(ThreadingHTTPServer):
    """A web site whose files and manners a test sets."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = {"/a.bin": CONTENT}
        self.asked = []  # (path, Range)
        self.ranges = True
        self.break_off = []  # bytes after which each of the next answers ends
        self.etag = '"1"'
        self.kind = "application/octet-stream"
        self.status = None

    def at(self, path):
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        site, wanted = self.server, self.headers.get("Range")
        site.asked.append((self.path, wanted))
        if site.status or self.path not in site.files:
            self.send_error(site.status or 404)
            return
        content, start = site.files[self.path], 0
        if wanted and site.ranges and self.headers.get("If-Range", site.etag) == site.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", site.kind)
        self.send_header("Content-Length", str(len(content) - start))
        if site.etag:
            self.send_header("ETag", site.etag)
        self.end_headers()
        end = start + site.break_off.pop(0) if site.break_off else len(content)
        self.wfile.write(content[start:end])

    def log_message(self, *args):
        pass


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(tlkit.data.files.fetch, "_WAIT", 0.0)
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


def published(site, **fields):
    return Published(**{"name": "a.bin", "url": site.at("/a.bin"), "sha256": SHA256, **fields})


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".tlkit-lock")


def test_a_file_is_downloaded_once(site, tmp_path):
    folder = tmp_path / "new" / "set"
    for _ in range(2):
        path = fetch(published(site, md5=MD5.upper()), folder)
        assert path == folder / "a.bin"
        assert path.read_bytes() == CONTENT
    assert site.asked == [("/a.bin", None)]
    assert visible(folder) == ["a.bin"]


def test_a_connection_that_breaks_off_is_taken_up_again(site, tmp_path):
    site.break_off = [300_000, 200_000]
    assert fetch(published(site), tmp_path).read_bytes() == CONTENT
    assert [wanted for _, wanted in site.asked] == [None, "bytes=300000-", "bytes=500000-"]
    assert visible(tmp_path) == ["a.bin"]


def test_a_later_run_goes_on_where_the_last_one_ended(site, tmp_path):
    site.break_off = [100_000] * 4
    with pytest.raises(DataError, match=r"broke off 4 times; run the command again to go on from .*a\.bin\.part"):
        fetch(published(site), tmp_path)
    assert (tmp_path / "a.bin.part").stat().st_size == 400_000
    site.asked.clear()
    assert fetch(published(site), tmp_path).read_bytes() == CONTENT
    assert site.asked == [("/a.bin", "bytes=400000-")]


@pytest.mark.parametrize("case", ["no ranges", "changed", "too long"])
def test_what_cannot_be_resumed_is_downloaded_from_the_start(site, tmp_path, case):
    part = tmp_path / "a.bin.part"
    part.write_bytes(CONTENT[:5000] if case != "too long" else CONTENT + b"more")
    (tmp_path / "a.bin.part-mark").write_text('"1"')
    if case == "no ranges":
        site.ranges = False
    if case == "changed":
        part.write_bytes(b"x" * 5000)
        site.etag = '"2"'
    assert fetch(published(site), tmp_path).read_bytes() == CONTENT
    assert site.asked[0][1].startswith("bytes=")


def test_without_a_sum_only_what_is_surely_the_same_file_is_resumed(site, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(b"x" * 5000)
    site.etag = ""
    assert fetch(published(site, sha256=None), tmp_path).read_bytes() == CONTENT
    assert site.asked == [("/a.bin", None)]


def test_a_wrong_sum_is_an_error_and_the_files_are_kept(site, tmp_path):
    for name in ("a.bin.wrong-sum", "a.bin.wrong-sum-2"):
        with pytest.raises(
            DataError, match=rf"a\.bin from http.* has the sha256 sum {SHA256}, published is 00.*{name}"
        ):
            fetch(published(site, sha256="00", by_hand="Ask the authors."), tmp_path)
        assert (tmp_path / name).read_bytes() == CONTENT
    (tmp_path / "a.bin").write_bytes(b"put here by the user")
    with pytest.raises(DataError, match=r"md5 sum .*a\.bin\.wrong-sum-3"):
        fetch(published(site, sha256=None, md5=MD5), tmp_path)
    assert (tmp_path / "a.bin.wrong-sum-3").read_bytes() == b"put here by the user"
    assert not (tmp_path / "a.bin").exists()


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (404, "", "HTTP 404 Not Found"),
        (403, "", "HTTP 403 Forbidden, it asks for a login"),
        (None, "text/html; charset=utf-8", "a web page instead of the file, perhaps a login"),
    ],
)
def test_a_site_that_does_not_give_the_file(site, tmp_path, status, kind, message):
    site.status, site.kind = status, kind or site.kind
    with pytest.raises(DataError) as caught:
        fetch(published(site, by_hand="Search for 'a.bin'."), tmp_path)
    text = str(caught.value)
    assert text.startswith(f"a.bin is not in {tmp_path}, and could not be fetched (http://127.0.0.1")
    assert message in text
    assert "Search for 'a.bin'. Put it into " in text
    assert "or set TLKIT_MIRROR" in text
    assert visible(tmp_path) == []


def test_a_site_that_is_gone(site, tmp_path):
    site.shutdown()
    site.server_close()
    with pytest.raises(DataError, match=r"could not be fetched \(http.*refused.*Put it into"):
        fetch(published(site), tmp_path)


def test_a_file_that_is_had_by_hand_alone(tmp_path):
    with pytest.raises(DataError, match=r"no address to download it from\)\. Sign the form at x\. Put it into"):
        fetch(Published("a.bin", "", by_hand="Sign the form at x"), tmp_path)


@pytest.mark.parametrize("form", ["folder", "file address", "http address"])
@pytest.mark.parametrize("inside", ["set/a.bin", "a.bin"])
def test_the_mirror_comes_before_the_site(site, tmp_path, monkeypatch, form, inside):
    mirror = tmp_path / "mirror folder"
    (mirror / inside).parent.mkdir(parents=True)
    (mirror / inside).write_bytes(CONTENT)
    site.files = {f"/mirror/{inside}": CONTENT, "/a.bin": b"the site's"}
    place = {"folder": str(mirror), "file address": mirror.as_uri(), "http address": site.at("/mirror/")}[form]
    monkeypatch.setenv("TLKIT_MIRROR", place)
    assert fetch(published(site), tmp_path / "set").read_bytes() == CONTENT
    assert "/a.bin" not in [path for path, _ in site.asked]


def test_a_mirror_without_the_file_is_passed_over(site, tmp_path, monkeypatch):
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv("TLKIT_MIRROR", str(tmp_path / "mirror"))
    assert fetch(published(site), tmp_path / "set").read_bytes() == CONTENT
    site.files = {}
    with pytest.raises(DataError, match=r"mirror/other/a\.bin: not there; .*mirror/a\.bin: not there; http.*404"):
        fetch(published(site), tmp_path / "other")


@pytest.mark.parametrize(
    ("mirror", "message"), [("/no/such/folder", "TLKIT_MIRROR: no folder"), ("s3://a/b", "TLKIT_MIRROR: s3://a/b is")]
)
def test_a_mirror_that_cannot_be_one(site, tmp_path, monkeypatch, mirror, message):
    monkeypatch.setenv("TLKIT_MIRROR", mirror)
    with pytest.raises(DataError, match=message):
        fetch(published(site), tmp_path)


def test_those_who_want_the_same_file_at_once_do_not_disturb_each_other(site, tmp_path):
    # Locks of two files opened apart keep threads from each other as they do processes.
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch(published(site), tmp_path), range(4)))
    assert {path.read_bytes() for path in paths} == {CONTENT}
    assert len(site.asked) == 1


def archive_on(site):
    with zipfile.ZipFile(site.folder / "set.zip", "w") as bundle:
        bundle.writestr("one/x.txt", "x")
        bundle.writestr("two.txt", "y")
    site.files["/set.zip"] = (site.folder / "set.zip").read_bytes()
    return Published("set.zip", site.at("/set.zip"), by_hand="Elsewhere")


def test_published_folder_fetches_and_unpacks_what_is_missing(site, tmp_path, monkeypatch):
    site.folder = tmp_path
    monkeypatch.setenv("TLKIT_DATA", str(tmp_path / "data"))
    file = archive_on(site)
    for _ in range(2):
        folder = published_folder(None, "set", ["one", "two.txt"], [file])
        assert folder == tmp_path / "data" / "set"
        assert (folder / "one" / "x.txt").read_text() == "x"
    assert len(site.asked) == 1
    assert visible(folder) == ["one", "set.zip", "two.txt"]


def test_published_folder_takes_the_root_given(site, tmp_path, monkeypatch):
    site.folder = tmp_path
    monkeypatch.setenv("TLKIT_DATA", str(tmp_path / "data"))
    (tmp_path / "mine").mkdir()
    file = archive_on(site)
    assert published_folder(str(tmp_path / "mine"), "set", ["one"], [file]) == tmp_path / "mine"
    assert (tmp_path / "mine" / "two.txt").is_file()
    with pytest.raises(DataError, match="root: no folder"):  # a slip of the pen does not start a download
        published_folder(str(tmp_path / "mien"), "set", ["one"], [file])
    with pytest.raises(DataError, match=r"mine lacks three: it holds one, set\.zip, two\.txt\. Give the folder"):
        published_folder(str(tmp_path / "mine"), "set", ["one", "three"], [file])
    with pytest.raises(DataError, match="other lacks one: it is not there"):
        published_folder(None, "other", ["one"], [])


def test_a_folder_that_cannot_be_written(site, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot write into .*file/set"):
        fetch(published(site), tmp_path / "file" / "set")


def test_progress_is_shown_on_a_terminal_alone(site, tmp_path, monkeypatch, capsys):
    fetch(published(site), tmp_path / "quiet")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    fetch(published(site), tmp_path / "shown")
    shown = capsys.readouterr().err
    assert "a.bin" in shown
    assert "1.0/1.0 MB" in shown
