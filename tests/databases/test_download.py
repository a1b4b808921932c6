"""Fetching over HTTP from a real server that breaks off, forgets and changes its mind."""

from __future__ import annotations

import hashlib
import io
import sqlite3
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rayfactory.config import BenchmarkConfig, Config, DownloadConfig
from rayfactory.databases import download
from rayfactory.databases.benchmark import open_benchmark
from rayfactory.databases.disk import check_room
from rayfactory.errors import BenchmarkError

CONTENT = bytes(range(256)) * 8_000


@dataclass
class Server:
    """What a local server serves and how it fails.

    Attributes:
        break_after: bytes after which each of the next responses breaks off.
        status: statuses that the next responses have instead of sending anything.
        requests: the Range header of each request, empty where there was none.
    """

    content: bytes = CONTENT
    etag: str = '"one"'
    modified: str = ""
    ranges: bool = True
    tell_length: bool = True
    break_after: list[int] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    state: Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        state = self.state
        wanted = self.headers.get("Range", "")
        state.requests.append(wanted)
        if state.status:
            self.send_error(state.status.pop(0))
            return
        start = 0
        validator = state.etag or state.modified
        if wanted and state.ranges and self.headers.get("If-Range") == validator:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(state.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(state.content)}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
        else:
            self.send_response(200)
        if state.etag:
            self.send_header("ETag", state.etag)
        if state.modified:
            self.send_header("Last-Modified", state.modified)
        rest = state.content[start:]
        if state.tell_length:
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if state.break_after:
            rest = rest[: state.break_after.pop(0)]
        self.wfile.write(rest)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()
    handler = type("OwnHandler", (Handler,), {"state": state})
    http_server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{http_server.server_port}/files/data.zip"
    yield state
    http_server.shutdown()
    thread.join()
    http_server.server_close()


def fetch(server: Server, target: Path, **settings: str) -> list[tuple[int, int | None]]:
    """Fetch the server's file, and return what was told of the progress."""
    told: list[tuple[int, int | None]] = []
    download.fetch(
        server.url, target, progress=lambda done, total: told.append((done, total)), pause_s=0.001, **settings
    )
    return told


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_file_is_fetched_whole_and_progress_is_told(server: Server, tmp_path: Path):
    """The file has the server's bytes, nothing else is left, and the last word on progress is all of it."""
    told = fetch(server, tmp_path / "data.zip", sha256=hashlib.sha256(CONTENT).hexdigest().upper())
    assert (tmp_path / "data.zip").read_bytes() == CONTENT
    assert names(tmp_path) == ["data.zip"]
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert told == sorted(told)
    assert len(told) > 1


def test_what_broke_off_is_taken_up_where_it_ended(server: Server, tmp_path: Path):
    """Each further request asks only for the rest, and the file is whole in the end."""
    server.break_after = [300_000, 0, 500_000]
    fetch(server, tmp_path / "data.zip")
    assert (tmp_path / "data.zip").read_bytes() == CONTENT
    assert server.requests == ["", "bytes=300000-", "bytes=300000-", "bytes=800000-"]


def test_a_later_process_goes_on_where_an_earlier_one_gave_up(server: Server, tmp_path: Path):
    """After too many failures what came is kept, the message says so, and the next call asks for the rest."""
    server.break_after = [1_000] + [0] * 20
    with pytest.raises(BenchmarkError, match="goes on where it broke off"):
        fetch(server, tmp_path / "data.zip")
    assert not (tmp_path / "data.zip").exists()
    server.break_after = []
    server.requests.clear()
    fetch(server, tmp_path / "data.zip")
    assert server.requests == ["bytes=1000-"]
    assert (tmp_path / "data.zip").read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_fetched_anew(server: Server, tmp_path: Path):
    """No file is ever made of the parts of two."""
    server.break_after = [1_000] + [0] * 20
    with pytest.raises(BenchmarkError):
        fetch(server, tmp_path / "data.zip")
    server.break_after = []
    server.content, server.etag = CONTENT[::-1], '"two"'
    fetch(server, tmp_path / "data.zip")
    assert (tmp_path / "data.zip").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("fault", ["no ranges", "no validator", "weak validator"])
def test_a_server_that_cannot_resume_starts_from_the_beginning(server: Server, tmp_path: Path, fault: str):
    """Without ranges, or without a strong validator, the whole file is sent again and nothing is doubled."""
    server.break_after = [1_000]
    server.ranges = fault != "no ranges"
    server.etag = {"no ranges": '"one"', "no validator": "", "weak validator": 'W/"one"'}[fault]
    fetch(server, tmp_path / "data.zip")
    assert (tmp_path / "data.zip").read_bytes() == CONTENT
    assert server.requests[1] == ("bytes=1000-" if fault == "no ranges" else "")


def test_the_date_of_a_file_stands_in_for_its_tag(server: Server, tmp_path: Path):
    """A server that tells only when the file was changed can resume as well."""
    server.etag, server.modified = "", "Wed, 21 Oct 2015 07:28:00 GMT"
    server.break_after = [1_000]
    fetch(server, tmp_path / "data.zip")
    assert server.requests == ["", "bytes=1000-"]
    assert (tmp_path / "data.zip").read_bytes() == CONTENT


def test_a_part_that_is_whole_needs_no_more(server: Server, tmp_path: Path):
    """A process that died between the last byte and the renaming left nothing to fetch."""
    server.break_after = [len(CONTENT) - 1] + [0] * 20
    with pytest.raises(BenchmarkError):
        fetch(server, tmp_path / "data.zip")
    with (tmp_path / "data.zip.part").open("ab") as part:
        part.write(CONTENT[-1:])
    server.break_after = []
    fetch(server, tmp_path / "data.zip")
    assert (tmp_path / "data.zip").read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_thrown_away(server: Server, tmp_path: Path):
    """A damaged part does not end up in the file."""
    server.break_after = [1_000] + [0] * 20
    with pytest.raises(BenchmarkError):
        fetch(server, tmp_path / "data.zip")
    (tmp_path / "data.zip.part").write_bytes(b"x" * (len(CONTENT) + 10))
    server.break_after = []
    fetch(server, tmp_path / "data.zip")
    assert (tmp_path / "data.zip").read_bytes() == CONTENT


def test_a_server_that_is_busy_is_asked_again(server: Server, tmp_path: Path):
    """503 and 429 pass; 404 does not, and the message names the address and the status."""
    server.status = [503, 429]
    fetch(server, tmp_path / "data.zip")
    assert (tmp_path / "data.zip").read_bytes() == CONTENT
    server.status = [404]
    with pytest.raises(BenchmarkError, match=r"/files/data\.zip cannot be fetched: the server says 404"):
        fetch(server, tmp_path / "other.zip")


def test_a_server_that_does_not_tell_the_length_is_believed(server: Server, tmp_path: Path):
    """The end of the connection is then the end of the file."""
    server.tell_length = False
    told = fetch(server, tmp_path / "data.zip")
    assert (tmp_path / "data.zip").read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), None)


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path):
    """The message has both checksums, and the file is gone."""
    with pytest.raises(BenchmarkError, match=f"{hashlib.sha256(CONTENT).hexdigest()}, not the published {'0' * 64}"):
        fetch(server, tmp_path / "data.zip", sha256="0" * 64)
    assert names(tmp_path) == []


def test_an_address_that_nobody_answers_and_one_that_is_none(tmp_path: Path):
    """Both end with a message that has the address."""
    with pytest.raises(BenchmarkError, match=r"http://127\.0\.0\.1:9/x cannot be fetched"):
        download.fetch("http://127.0.0.1:9/x", tmp_path / "x", pause_s=0.001)
    with pytest.raises(BenchmarkError, match="file:///etc/passwd"):
        download.fetch("file:///etc/passwd", tmp_path / "x")


def test_a_full_disk_is_noticed_before_fetching(tmp_path: Path):
    """The message says how much there is and how much is needed."""
    with pytest.raises(BenchmarkError, match=r"GB, and 1000000000\.0 GB are needed"):
        check_room(tmp_path, 10**18)


def zipped(members: dict[str, bytes], mode: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        zipped({"../evil": b"x"}),
        zipped({"/tmp/evil": b"x"}),
        zipped({"a/../../evil": b"x"}),
        zipped({"..\\evil": b"x"}),
        zipped({"C:\\evil": b"x"}),
        zipped({"link": b"/etc"}, mode=0o120777),
        tarred({"../evil": b"x"}),
        zipped({"inner.zip": zipped({"../../evil": b"x"})}),
        b"<!DOCTYPE html><html>too many downloads</html>",
        b"no archive at all",
        zipped({"a": b"x" * 1_000})[:-30],
        b"",
    ],
    # What is packed has the time of packing in it, which no name of a test may have.
    ids=["above", "root", "over", "backslash", "drive", "link", "tar", "inner", "page", "text", "torn", "empty"],
)
def test_an_archive_that_is_none_or_wants_out_is_refused(tmp_path: Path, data: bytes):
    """Nothing is unpacked anywhere, and the message names the archive."""
    folder = tmp_path / "deep" / "down"
    folder.mkdir(parents=True)
    (folder / "a.zip").write_bytes(data)
    with pytest.raises(BenchmarkError, match=r"\.zip|evil"):
        download.unpack(folder / "a.zip", folder / "a")
    assert names(tmp_path) == ["deep", "deep/down", "deep/down/a.zip"]


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_is_unpacked_with_the_archives_in_it(tmp_path: Path, pack):
    """Zip files within are unpacked beside where they lie, and what a Mac adds is left out."""
    inner = zipped({"dev_databases/x/x.sqlite": b"db", "__MACOSX/._x": b"", "dev_databases/.DS_Store": b""})
    (tmp_path / "dev.zip").write_bytes(pack({"dev/dev.json": b"[]", "dev/dev_databases.zip": inner}))
    download.unpack(tmp_path / "dev.zip", tmp_path / "dev")
    files = [name for name in names(tmp_path / "dev") if (tmp_path / "dev" / name).is_file()]
    assert files == ["dev/dev.json", "dev/dev_databases/x/x.sqlite"]


def database(tmp_path: Path) -> bytes:
    path = tmp_path / "made.sqlite"
    with sqlite3.connect(path) as lite:
        lite.executescript("CREATE TABLE pet (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO pet VALUES (1, 'Rex');")
    lite.close()
    data = path.read_bytes()
    path.unlink()
    return data


def config(server: Server, tmp_path: Path, **benchmark: object) -> Config:
    settings = BenchmarkConfig(
        name="bird",
        downloads=[DownloadConfig(url=server.url), DownloadConfig(url=server.url, file_name="more.zip")],
        manual="By hand: ask a friend",
    )
    for name, value in benchmark.items():
        setattr(settings, name, value)
    return Config(benchmark=settings, data_dir=str(tmp_path / "data"))


def test_the_task_makes_a_benchmark_usable_and_can_be_repeated(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Before it the message names the task; after it the databases are there; a second time nothing is fetched."""
    server.content = zipped({"dev_databases/pets/pets.sqlite": database(tmp_path)})
    settings = config(server, tmp_path)
    data_dir = Path(settings.data_dir)
    with pytest.raises(BenchmarkError, match=r"(?s)\+benchmark=bird task=download.*By hand: ask a friend"):
        open_benchmark(settings.benchmark, data_dir)
    download.run(settings)
    assert [found.name for found in open_benchmark(settings.benchmark, data_dir).databases] == ["pets"]
    assert not list((data_dir / "bird").glob("*.zip*"))
    num_requests = len(server.requests)
    download.run(settings)
    assert len(server.requests) == num_requests == 2
    captured = capsys.readouterr()
    assert "is ready: 1 database" in captured.err
    assert "there already" in captured.err
    assert captured.out == ""


def test_the_task_goes_on_after_the_file_that_is_there(server: Server, tmp_path: Path):
    """Where the first of two files is unpacked and the second failed, only the second is fetched again."""
    server.content = zipped({"dev_databases/pets/pets.sqlite": database(tmp_path)})
    server.status = []
    settings = config(server, tmp_path)
    settings.benchmark.downloads[1].sha256 = "0" * 64
    with pytest.raises(BenchmarkError, match="checksum"):
        download.run(settings)
    settings.benchmark.downloads[1].sha256 = hashlib.sha256(server.content).hexdigest()
    server.requests.clear()
    download.run(settings)
    assert len(server.requests) == 1


def test_a_benchmark_that_publishes_nothing_says_so(tmp_path: Path):
    """Your own databases are not to be had from anywhere."""
    settings = Config(benchmark=BenchmarkConfig(name="custom"), data_dir=str(tmp_path))
    with pytest.raises(BenchmarkError, match=r"benchmark\.root"):
        download.run(settings)
