"""The journal of a pool in object storage: objects that hold pieces of it, put together where a run goes on.

Layout::

    journal/000007-000000004711.jsonl    what hold 7 wrote of the journal from byte 4,711 on

The pieces of one hold lie beside or on top of each other, and what two of them have of the same bytes is the same. The
first byte that a hold wrote is where it went on with what the holds before it had left: what those wrote from there on,
before they noticed that they had been taken over, counts no more.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

from rayfactory.bucket.store import Listed, Store
from rayfactory.errors import RunDirError

FOLDER = "journal"
_PIECE = re.compile(rf"{FOLDER}/(\d{{6,}})-(\d{{12,}})\.jsonl")

PIECES = 64
"""So many pieces become one: a long run would end with hundreds of thousands."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where a journal's copy is kept.

    Attributes:
        url: of the run directory in object storage.
        hold: number of the hold that it is written under.
        start: byte from which on the storage may not have it.
    """

    url: str
    hold: int
    start: int


class JournalCopy:
    """Brings a journal to object storage, piece by piece. For one thread at a time.

    Args:
        mirror: where to.
        path: of the journal.
    """

    def __init__(self, mirror: Mirror, path: Path) -> None:
        self._mirror = mirror
        self._path = path
        self._end = mirror.start
        self._starts: list[int] = []
        self._store: Store | None = None

    def push(self, size: int) -> None:
        """Have the first `size` bytes of the journal in object storage when this returns.

        Raises:
            RunDirError: they cannot be brought there.
        """
        if size <= self._end:
            return
        # Its keys may have come to this process only after it began.
        self._store = self._store or Store(self._mirror.url)
        self._store.write(piece_name(self._mirror.hold, self._end), _bytes(self._path, self._end, size))
        self._starts.append(self._end)
        self._end = size
        if len(self._starts) == PIECES:
            first, *others = self._starts
            self._store.write(piece_name(self._mirror.hold, first), _bytes(self._path, first, size))
            self._store.remove(piece_name(self._mirror.hold, start) for start in others)
            self._starts = []


def piece_name(hold: int, start: int) -> str:
    return f"{FOLDER}/{hold:06d}-{start:012d}.jsonl"


def is_piece(name: str) -> bool:
    return _PIECE.fullmatch(name) is not None


def pull(store: Store, listed: Mapping[str, Listed], path: Path) -> int | None:
    """Make a journal begin with all that the storage has of it; return how many bytes that is.

    What the journal has beyond stays where it follows: replies that had arrived and had not been brought away. Where
    another machine has gone on meanwhile, it is set aside in a file beside the journal.

    Args:
        store: of the pool.
        listed: what is in it.
        path: of the journal.

    Returns:
        None where a piece has gone since `listed` was made.

    Raises:
        RunDirError: bytes are missing, or the storage cannot be read.
    """
    pieces = sorted((int(m[1]), int(m[2]), m[0]) for m in map(_PIECE.fullmatch, listed) if m)
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix="pulled-") as folder:
        whole, piece = Path(folder) / "whole", Path(folder) / "piece"
        with whole.open("w+b") as file:
            for _, of_hold in groupby(pieces, lambda each: each[0]):
                of_it = list(of_hold)
                if file.truncate(min(of_it[0][1], _size(file.fileno()))) < of_it[0][1]:
                    raise _gap(store, of_it[0][2])
                for _, start, name in of_it:
                    if start > _size(file.fileno()):
                        raise _gap(store, name)
                    if not store.fetch(name, piece):
                        return None
                    file.seek(start)
                    file.write(piece.read_bytes())
                    file.flush()
            size = _size(file.fileno())
        if not path.exists():
            whole.replace(path)
        elif path.stat().st_size < size or _sha256(path, size) != _sha256(whole, size):
            same = _same(path, whole)
            with path.open("rb") as file:
                file.seek(same)
                rest = file.read()
            if rest:
                path.with_name(f"left-{time.time_ns()}.jsonl").write_bytes(rest)
            whole.replace(path)
    return size


def merge(store: Store, listed: Mapping[str, Listed], path: Path, mirror: Mirror) -> None:
    """Write all that the storage has of a journal as one piece of the hold that begins, where there are many."""
    names = [name for name in listed if is_piece(name)]
    if len(names) >= PIECES:
        store.write(piece_name(mirror.hold, 0), _bytes(path, 0, mirror.start))
        store.remove(names)


def _gap(store: Store, name: str) -> RunDirError:
    return RunDirError(f"what comes before {store.url}/{name} is missing; restore it from a backup")


def _size(fd: int) -> int:
    return os.fstat(fd).st_size


def _bytes(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


def _sha256(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (chunk := file.read(min(size, 2**20))):
            digest.update(chunk)
            size -= len(chunk)
    return digest.hexdigest()


def _same(one: Path, other: Path) -> int:
    """Return how many bytes, of whole lines, two files begin with alike."""
    same = 0
    with one.open("rb") as first, other.open("rb") as second:
        for left, right in zip(first, second, strict=False):
            if left != right or not left.endswith(b"\n"):
                break
            same += len(left)
    return same
