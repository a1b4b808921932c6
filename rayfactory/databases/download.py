"""`task=download`: fetch what a benchmark publishes, so that it can be taken up again, and unpack it safely."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import logging
import shutil
import stat
import tarfile
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from rayfactory.config import BenchmarkConfig, Config, DownloadConfig
from rayfactory.databases.benchmark import open_benchmark
from rayfactory.databases.disk import check_room
from rayfactory.errors import BenchmarkError
from rayfactory.files import sha256_of
from rayfactory.shown import shown, shown_url

logger = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and the bytes there will be, None where the server does not tell."""

CHUNK_BYTES = 2**18
TIMEOUT_S = 60.0
MAX_ATTEMPTS = 6
"""Attempts in a row that bring nothing; one that brings anything starts the count anew."""

RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


def run(config: Config) -> None:
    """Fetch and unpack a benchmark, showing progress on standard error. What is there already is left alone.

    Raises:
        BenchmarkError: the benchmark publishes nothing that can be fetched, or fetching failed.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True, markup=False)
    data_dir = Path(config.data_dir)
    benchmark = config.benchmark
    if _is_there(benchmark, data_dir):
        console.print(
            shown(f"benchmark {benchmark.name} is there already: {_count(benchmark, data_dir)}"), highlight=False
        )
        return
    bars = Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    with bars:

        def follow(file_name: str) -> Progress:
            task = bars.add_task(shown(file_name), total=None)
            return lambda done, total: bars.update(task, completed=done, total=total)

        download(benchmark, data_dir, follow)
    console.print(shown(f"benchmark {benchmark.name} is ready: {_count(benchmark, data_dir)}"), highlight=False)


def download(benchmark: BenchmarkConfig, data_dir: Path, follow: Callable[[str], Progress]) -> Path:
    """Fetch and unpack the files of a benchmark; return the folder that they are in.

    Args:
        benchmark: names the files; those that are unpacked already are not fetched again.
        data_dir: they go to a folder of the benchmark's name in it, or to `benchmark.root` where that is set.
        follow: gives, for a file's name, what is told of its progress.

    Raises:
        BenchmarkError: there is nothing to fetch, no room, or a file cannot be fetched or unpacked.
    """
    by_hand = f" {benchmark.manual}" if benchmark.manual else ""
    if not benchmark.downloads:
        raise BenchmarkError(f"benchmark {benchmark.name!r} has nothing to download.{by_hand}")
    folder = _folder(benchmark, data_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            for item in benchmark.downloads:
                name = file_name(item)
                unpacked = _unpacked_folder(folder, item)
                if unpacked.is_dir():
                    continue
                check_room(folder, round(item.disk_gb * 1e9))
                archive = folder / name
                fetch(item.url, archive, sha256=item.sha256, progress=follow(name))
                unpack(archive, unpacked)
                archive.unlink()
    except BenchmarkError as error:
        raise BenchmarkError(f"{error}.{by_hand}" if by_hand not in str(error) else str(error)) from error
    except OSError as error:
        raise BenchmarkError(f"{str(folder)!r} cannot be written ({error}); set data_dir to another folder") from error
    return folder


def file_name(item: DownloadConfig) -> str:
    """Return the name under which a file is kept."""
    name = item.file_name or PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(item.url).path)).name
    if not name or name in (".", "..") or "/" in name:
        raise BenchmarkError(f"the address {shown_url(item.url)!r} ends in no file name; set file_name beside it")
    return name


def fetch(
    url: str,
    target: Path,
    *,
    sha256: str = "",
    progress: Progress = lambda _done, _total: None,
    pause_s: float = 1.0,
) -> None:
    """Fetch one file, or the rest of it where an attempt broke off and the file is still the same.

    Args:
        url: http or https.
        target: appears only when the file is whole.
        sha256: where given, what the whole file must have.
        progress: told about every chunk.
        pause_s: waiting time after a failure, doubled with each in a row.

    Raises:
        BenchmarkError: the server refuses, breaks off too often, or the checksum differs.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise BenchmarkError(f"{shown_url(url)!r} is no address that starts with http:// or https://")
    part = target.with_name(target.name + ".part")
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _fetch_rest(url, part, progress)
            break
        except urllib.error.HTTPError as error:
            failure: Exception = error
            if error.code not in RETRY_STATUS:
                raise BenchmarkError(
                    f"{shown_url(url)} cannot be fetched: the server says {error.code} {error.reason}"
                ) from error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            failure = error
        gained = part.exists() and part.stat().st_size > before
        failures = 1 if gained else failures + 1
        if failures >= MAX_ATTEMPTS:
            raise BenchmarkError(
                f"{shown_url(url)} cannot be fetched ({failure}); the same command goes on where it broke off"
            ) from failure
        logger.warning("%s broke off (%s); it is taken up again", shown_url(url), failure)
        time.sleep(pause_s * 2 ** (failures - 1))
    if sha256 and (found := sha256_of(part)) != sha256.lower():
        _discard(part)
        raise BenchmarkError(
            f"{shown_url(url)} gave a file with the SHA-256 checksum {found}, not the published {sha256.lower()}; it "
            "was removed"
        )
    part.replace(target)
    _validator_path(part).unlink(missing_ok=True)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar file, and the zip files in it, into a folder that appears only when all of it is there.

    Raises:
        BenchmarkError: it is no archive, holds a path that leads out of the folder, or there is no room.
    """
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=folder.parent) as making:
        made = Path(making) / folder.name
        made.mkdir()
        try:
            _unpack(archive, made)
            # BIRD ships its databases as an archive within the archive.
            for inner in sorted(made.rglob("*.zip")):
                _unpack(inner, inner.parent)
                inner.unlink()
        # A RuntimeError is zipfile's for archives that are encrypted or packed in a way it does not know.
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, RuntimeError) as error:
            raise BenchmarkError(
                f"{str(archive)!r} cannot be unpacked ({error}); remove it and fetch it again"
            ) from error
        made.replace(folder)


def _unpack(archive: Path, folder: Path) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            check_room(folder, sum(member.file_size for member in opened.infolist()))
            for member in opened.infolist():
                _unpack_member(opened, member, folder)
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as opened_tar:
            # The filter refuses absolute paths, paths that lead out, links that do, and devices.
            opened_tar.extractall(folder, filter="data")
    else:
        with archive.open("rb") as file:
            head = file.read(512).lstrip().lower()
        what = "a web page" if head.startswith((b"<!doctype", b"<html")) else "no zip or tar file"
        raise BenchmarkError(f"{str(archive)!r} is {what}: the address has changed, or asks for a confirmation")


def _unpack_member(opened: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]):
        raise BenchmarkError(f"{opened.filename!r} holds a path that leads out of its folder: {member.filename!r}")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise BenchmarkError(f"{opened.filename!r} holds a link where only files are expected: {member.filename!r}")
    if "__MACOSX" in path.parts or path.name.startswith("._") or path.name == ".DS_Store":
        return
    target = folder.joinpath(*path.parts)
    if member.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(member) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink, CHUNK_BYTES)


def _fetch_rest(url: str, part: Path, progress: Progress) -> None:
    """Fetch what is missing of a file in one request.

    Raises:
        urllib.error.URLError, http.client.HTTPException, OSError: the connection failed; what came is kept.
    """
    validator = _read_validator(part, url)
    start = part.stat().st_size if part.exists() and validator else 0
    request = urllib.request.Request(url, headers={"User-Agent": "rayfactory"})  # noqa: S310 - fetch checked the scheme
    if start:
        # If-Range: the rest, if the file is still the same, or else all of it.
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", validator)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # Nothing is left after `start`: either all is there, or the file became shorter.
        if error.headers.get("Content-Range", "").endswith(f"/{start}"):
            progress(start, start)
            return
        _discard(part)
        raise http.client.IncompleteRead(b"") from error
    with response:
        if response.status == 206:
            expected = f"bytes {start}-"
            if not response.headers.get("Content-Range", "").startswith(expected):
                _discard(part)
                raise http.client.HTTPException(f"the server sent another range than {expected}")
        else:
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length is not None and length.isdigit() else None
        if total is not None:
            check_room(part.parent, total - start)
        _write_validator(part, url, response.headers.get("ETag"), response.headers.get("Last-Modified"))
        done = start
        with part.open("ab" if start else "wb") as sink:
            while chunk := response.read(CHUNK_BYTES):
                sink.write(chunk)
                done += len(chunk)
                progress(done, total)
        if total is not None and done < total:
            raise http.client.IncompleteRead(b"", total - done)


def _validator_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _write_validator(part: Path, url: str, etag: str | None, modified: str | None) -> None:
    # A weak tag (W/...) does not promise the same bytes.
    validator = etag if etag and not etag.startswith("W/") else modified
    _validator_path(part).write_text(
        json.dumps({"url_sha256": _url_sha256(url), "validator": validator or ""}), encoding="utf-8"
    )


def _read_validator(part: Path, url: str) -> str:
    """Return what identifies the server's file that the part is of; empty where that is unknown."""
    try:
        noted = json.loads(_validator_path(part).read_text(encoding="utf-8"))
        return str(noted["validator"]) if noted["url_sha256"] == _url_sha256(url) else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _url_sha256(url: str) -> str:
    # An address may hold a key, which is nothing for a file.
    return hashlib.sha256(url.encode()).hexdigest()


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _validator_path(part).unlink(missing_ok=True)


def _is_there(benchmark: BenchmarkConfig, data_dir: Path) -> bool:
    """Whether a benchmark can be used as it is, and no fetching of it was broken off."""
    unpacked = [_unpacked_folder(_folder(benchmark, data_dir), item).is_dir() for item in benchmark.downloads]
    if any(unpacked) and not all(unpacked):
        return False
    try:
        open_benchmark(benchmark, data_dir)
    except BenchmarkError:
        # Of a benchmark with nothing to fetch the message says what is wrong.
        if not benchmark.downloads:
            raise
        return False
    return True


def _count(benchmark: BenchmarkConfig, data_dir: Path) -> str:
    num_databases = len(open_benchmark(benchmark, data_dir).databases)
    return f"{num_databases} database{'' if num_databases == 1 else 's'}"


def _folder(benchmark: BenchmarkConfig, data_dir: Path) -> Path:
    return Path(benchmark.root).expanduser() if benchmark.root else data_dir / benchmark.name


def _unpacked_folder(folder: Path, item: DownloadConfig) -> Path:
    return folder / file_name(item).split(".")[0]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes from fetching into the same folder."""
    lock = folder / ".lock"
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BenchmarkError(f"another process is fetching into {str(folder)!r}; wait for it to end") from error
        yield
    lock.unlink(missing_ok=True)
