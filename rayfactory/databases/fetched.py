"""Databases in object storage, as files on this machine.

They are kept below ``data_dir/fetched``, a folder for each address, and are fetched again only where the storage has
another version. A file comes into its place when it is whole, so who has the one before it open keeps that.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import threading
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from rayfactory.bucket.store import Listed, Store
from rayfactory.databases.disk import check_room
from rayfactory.errors import BenchmarkError, RunDirError
from rayfactory.files import replace_file

FETCHED = "fetched"
DATABASE_ENDINGS = frozenset({".sqlite", ".sqlite3", ".db", ".duckdb", ".ddb"})
_AT_ONCE = 8
_NOTED_EVERY_S = 5.0


def fetched(url: str, data_dir: Path, databases: Collection[str] = ()) -> Path:
    """Return a folder, or a file, with what is at an address in object storage, showing how it comes.

    Args:
        url: of a folder with databases, or of a database.
        data_dir: what it is kept below.
        databases: names of those that are wanted; empty: all. Files that are no databases come in any case.

    Raises:
        BenchmarkError: it cannot be read, there is nothing, or there is no room for it.
    """
    url, name = url.rstrip("/"), ""
    if PurePosixPath(url).suffix in DATABASE_ENDINGS:
        url, _, name = url.rpartition("/")
    place = data_dir / FETCHED / hashlib.sha256(url.encode()).hexdigest()[:16]
    try:
        store = Store(url, "benchmark.root")
        listed = store.listed()
        for key in listed:
            if ".." in PurePosixPath(key).parts:
                raise BenchmarkError(f"{url!r} has an object called {key!r}, which no file may be; remove it")
        wanted = {key: each for key, each in listed.items() if _is_wanted(PurePosixPath(key), name, databases)}
        if not wanted:
            raise BenchmarkError(
                f"there is nothing at benchmark.root={f'{url}/{name}'.rstrip('/')!r}; correct it, or put what is "
                "missing there"
            )
        (place / "files").mkdir(parents=True, exist_ok=True)
        with (place / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _remove_others(place, listed)
            _fetch(store, place, wanted)
    except RunDirError as error:
        raise BenchmarkError(str(error)) from error
    except OSError as error:
        raise BenchmarkError(
            f"what is at {url!r} cannot be kept in {str(place)!r} ({error}); set data_dir to a folder with room"
        ) from error
    return place / "files" / name


def _is_wanted(key: PurePosixPath, name: str, databases: Collection[str]) -> bool:
    """Return whether an object is to be fetched, as `fetched` has it; `name`: of the one database that is wanted."""
    # What a database has written ahead has a name that begins with its own.
    database = key.with_name(key.name.removesuffix("-wal").removesuffix(".wal"))
    if name:
        return str(database) == name
    is_database = database.suffix in DATABASE_ENDINGS
    return not databases or not is_database or database.stem in databases or key.parent.name in databases


def _remove_others(place: Path, listed: Collection[str]) -> None:
    """Remove what is in the storage no more: it would be found as a database of the benchmark."""
    for path in (place / "files").rglob("*"):
        if path.is_file() and path.relative_to(place / "files").as_posix() not in listed:
            path.unlink()


def _fetch(store: Store, place: Path, wanted: Mapping[str, Listed]) -> None:
    """Have the files here in the versions that are listed."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    files, known = place / "files", _known(place)
    missing = {
        key: each for key, each in wanted.items() if known.get(key) != each.tag or not _has_size(files / key, each.size)
    }
    if not missing:
        return
    num_bytes = sum(each.size for each in missing.values())
    check_room(place, num_bytes)
    noting, noted_at = threading.Lock(), time.monotonic()
    console = Console(stderr=True, markup=False)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=console, transient=True) as bars, ThreadPoolExecutor(_AT_ONCE) as pool:
        bar = bars.add_task(f"{len(missing):,} files of {store.url}", total=num_bytes)

        def fetch(key: str) -> None:
            nonlocal noted_at
            target = files / key
            partial = target.with_name(f"{target.name}.partial")
            target.parent.mkdir(parents=True, exist_ok=True)
            if not store.fetch(key, partial):
                raise BenchmarkError(f"{store.url}/{key} has gone while it was read; give the same command again")
            partial.replace(target)
            bars.advance(bar, missing[key].size)
            with noting:
                known[key] = missing[key].tag
                if time.monotonic() - noted_at > _NOTED_EVERY_S:
                    noted_at = time.monotonic()
                    _note(place, known)

        try:
            list(pool.map(fetch, missing))
        finally:
            with noting:
                _note(place, known)


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _known(place: Path) -> dict[str, str]:
    """Return the versions of the files that are here."""
    try:
        return dict(json.loads((place / "known").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _note(place: Path, known: Mapping[str, str]) -> None:
    replace_file(place / "known", json.dumps(known).encode())
