"""A folder of a machine that keeps databases which come from another: by content, up to a bound, for all its processes.

Layout::

    lock                    held while somebody looks for room
    <digest>/               a database with what lies beside it, whole
    <digest>.partial/       one that is being fetched, or was when its process ended; `size`: bytes that it will take
    <digest>.lock           shared by the processes that may have it open or fetch it; held alone to remove it
    <digest>.fetching       held to fetch it
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO

from rayfactory.errors import DatabaseError

_HELD = 64
"""Databases that a process keeps from being removed, those that it asked for last: more than it has open at a time."""

_SIZE = "size"


class NodeCache:
    """A cache of databases. For one thread at a time.

    Args:
        folder: created where it does not exist, for its owner alone.
        max_bytes: that it may hold.

    Raises:
        DatabaseError: the folder cannot be used.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._held: OrderedDict[str, IO[bytes]] = OrderedDict()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            about = folder.stat()
        except OSError as error:
            raise DatabaseError(f"{folder} cannot be used for databases ({error}); {_REMEDY}") from error
        if about.st_uid != os.getuid() or about.st_mode & 0o022:
            raise DatabaseError(f"{folder} can be written by others, who could put other databases there; {_REMEDY}")

    def get(self, digest: str, num_bytes: int, fetch: Callable[[Path], None]) -> Path:
        """Return the folder of a database, after fetching it where it is not there.

        It stays while this process has asked for few others since.

        Args:
            digest: of its content.
            num_bytes: that it takes.
            fetch: puts its files into a folder that is there and empty.

        Raises:
            DatabaseError: there is no room for it.
            OSError: it cannot be written.
        """
        entry = self.folder / digest
        if digest not in self._held:
            self._held[digest] = self._locked_and_there(entry, num_bytes, fetch)
            while len(self._held) > _HELD:
                self._held.popitem(last=False)[1].close()
        self._held.move_to_end(digest)
        os.utime(entry)
        return entry

    def close(self) -> None:
        """Let go of all of them."""
        while self._held:
            self._held.popitem()[1].close()

    def _locked_and_there(self, entry: Path, num_bytes: int, fetch: Callable[[Path], None]) -> IO[bytes]:
        """Return the lock of an entry that is there, shared."""
        lock = _beside(entry, "lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)  # from here on nobody removes it
            if not entry.is_dir():
                # Another lock: who waits to have it alone must not wait for those who only keep the entry.
                with _beside(entry, "fetching").open("ab") as alone:
                    fcntl.flock(alone, fcntl.LOCK_EX)
                    if not entry.is_dir():
                        self._fetch(entry, num_bytes, fetch)
        except BaseException:
            lock.close()
            raise
        return lock

    def _fetch(self, entry: Path, num_bytes: int, fetch: Callable[[Path], None]) -> None:
        partial = _beside(entry, "partial")
        with (self.folder / "lock").open("ab") as looking:
            fcntl.flock(looking, fcntl.LOCK_EX)
            shutil.rmtree(partial, ignore_errors=True)
            self._make_room(num_bytes)
            partial.mkdir()
            (partial / _SIZE).write_text(str(num_bytes), encoding="ascii")
        try:
            files = partial / "files"
            files.mkdir()
            fetch(files)
            files.rename(entry)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _make_room(self, num_bytes: int) -> None:
        """Remove what was not asked for longest, until so many bytes have room."""
        sizes = {path: _num_bytes(path) for path in sorted(self.folder.iterdir(), key=_last_used) if path.is_dir()}
        for path in list(sizes):
            if sum(sizes.values()) + num_bytes <= self._max_bytes:
                return
            with _beside(path.with_suffix(""), "lock").open("ab") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue  # somebody may have it open, or fetches it
                shutil.rmtree(path)
                del sizes[path]
        if sum(sizes.values()) + num_bytes > self._max_bytes:
            raise DatabaseError(
                f"{num_bytes / 1e9:.3g} GB more do not fit into {self.folder}, where {sum(sizes.values()) / 1e9:.3g} "
                f"of {self._max_bytes / 1e9:.3g} GB are in use; set cluster.database_cache_gb larger"
            )


_REMEDY = "set cluster.database_cache to a folder of your own on the nodes"


def _beside(entry: Path, what: str) -> Path:
    return entry.with_name(f"{entry.name}.{what}")


def _last_used(path: Path) -> float:
    """Return when an entry was asked for last: that is the time of its folder."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0  # it goes at this moment


def _num_bytes(path: Path) -> int:
    """Return the bytes of an entry, or those that one will have which is being fetched."""
    try:
        if path.suffix == ".partial":
            return int((path / _SIZE).read_text(encoding="ascii"))
        return sum(file.stat().st_size for file in path.iterdir())
    except (OSError, ValueError):
        return 0  # it goes at this moment
