"""A folder of a machine that keeps databases which come from another: up to a bound, for all its processes.

Layout::

    lock                    held while somebody looks for room
    <key>/                  a database with what lies beside it, whole
    <key>.partial/          one that is fetched or removed, or was when its process ended; `size`: its bytes
    <key>.lock              shared by the processes that may have it open or fetch it; held alone to remove it
    <key>.fetching          held to fetch it

A key is 64 hexadecimal digits. What has another name is not the cache's, and stays.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from rayfactory.errors import DatabaseError

_HELD = 64
"""Databases that a process keeps from being removed, those that it asked for last: more than it has open at a time."""

_SIZE = "size"
_ENTRY = re.compile(r"[0-9a-f]{64}(\.partial)?")
_REMEDY = "set cluster.database_cache to a folder of your own on the nodes"


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
            about = folder.lstat()
        except OSError as error:
            raise DatabaseError(f"{folder} cannot be used for databases ({error}); {_REMEDY}") from error
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
            raise DatabaseError(
                f"{folder} is not this user's alone: others could read, or exchange, databases; {_REMEDY}"
            )

    def get(self, key: str, sizes: Mapping[str, int], fetch: Callable[[Path], None]) -> Path:
        """Return the folder of a database, after fetching it where it is not there.

        It stays while this process has asked for few others since. (Where there is no room otherwise, it may be removed
        while it is open, which whoever has it open does not notice.)

        Args:
            key: stands for its content and its name.
            sizes: bytes of each of its files.
            fetch: puts them into a folder that is there and empty.

        Raises:
            DatabaseError: there is no room for it.
            OSError: it cannot be written.
        """
        entry = self.folder / key
        if key not in self._held or not _is_whole(entry, sizes):
            self._let_go(key)
            self._held[key] = self._locked_and_there(entry, sizes, fetch)
            while len(self._held) > _HELD:
                self._let_go(next(iter(self._held)))
        self._held.move_to_end(key)
        os.utime(entry)
        return entry

    def close(self) -> None:
        """Let go of all of them."""
        for key in list(self._held):
            self._let_go(key)

    def _let_go(self, key: str) -> None:
        if key in self._held:
            self._held.pop(key).close()

    def _locked_and_there(self, entry: Path, sizes: Mapping[str, int], fetch: Callable[[Path], None]) -> IO[bytes]:
        """Return the lock of an entry that is there, shared."""
        lock = _beside(entry, "lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)  # from here on nobody removes it
            if not _is_whole(entry, sizes):
                # Another lock: who waits to have it alone must not wait for those who only keep the entry.
                with _beside(entry, "fetching").open("ab") as alone:
                    fcntl.flock(alone, fcntl.LOCK_EX)
                    if not _is_whole(entry, sizes):
                        self._fetch(entry, sum(sizes.values()), fetch)
        except BaseException:
            lock.close()
            raise
        return lock

    def _fetch(self, entry: Path, num_bytes: int, fetch: Callable[[Path], None]) -> None:
        partial = _beside(entry, "partial")
        with (self.folder / "lock").open("ab") as looking:
            fcntl.flock(looking, fcntl.LOCK_EX)
            for left in (partial, entry):  # the latter where something has taken files out of it
                shutil.rmtree(left, ignore_errors=True)
            if not self._makes_room(num_bytes):
                self.close()  # rather without what this process itself has kept
                if not self._makes_room(num_bytes):
                    free_bytes = shutil.disk_usage(self.folder).free
                    raise DatabaseError(
                        f"{num_bytes / 1e9:.3g} GB more do not fit into {self.folder}: it may have "
                        f"{self._max_bytes / 1e9:.3g} GB, and {free_bytes / 1e9:.3g} are free on the disk; set "
                        "cluster.database_cache_gb larger, or cluster.database_cache to a larger disk"
                    )
            partial.mkdir()
            (partial / _SIZE).write_text(str(num_bytes), encoding="ascii")
        try:
            files = partial / "files"
            files.mkdir()
            fetch(files)
            files.rename(entry)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _makes_room(self, num_bytes: int) -> bool:
        """Remove what was not asked for longest, until so many bytes have room; return whether they have."""
        entries = [path for path in self.folder.iterdir() if _ENTRY.fullmatch(path.name)]
        sizes = {path: _num_bytes(path) for path in sorted(entries, key=_last_used)}
        for path in [*sizes, None]:
            fits = sum(sizes.values()) + num_bytes <= self._max_bytes
            if fits and shutil.disk_usage(self.folder).free >= num_bytes:
                return True
            if path is None:
                break
            with _beside(path.with_suffix(""), "lock").open("ab") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue  # somebody may have it open, or fetches it
                partial = _beside(path.with_suffix(""), "partial")
                if path != partial:
                    shutil.rmtree(partial, ignore_errors=True)
                    path.rename(partial)  # what is half removed is not to be taken for a database
                shutil.rmtree(partial)
                del sizes[path]
        return False


def _beside(entry: Path, what: str) -> Path:
    return entry.with_name(f"{entry.name}.{what}")


def _is_whole(entry: Path, sizes: Mapping[str, int]) -> bool:
    """Return whether an entry has its files, and nothing else."""
    try:
        return {path.name: path.stat().st_size for path in entry.iterdir()} == sizes
    except OSError:
        return False


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
