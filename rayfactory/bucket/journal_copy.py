"""The journal of a pool in object storage: objects that hold pieces of it, put together where a run goes on.

Layout::

    journal/000007-000000004711-000000005280.jsonl    bytes 4,711 to 5,280 of the journal, brought by hold 7

A piece is never written anew with other content, so a request that arrives late does no harm. What two pieces of a hold
have of the same bytes is the same: larger ones take the place of many small ones, which are removed then. The first
byte that a hold brought is where it went on with what the holds before it had left: what those brought from there on,
before they noticed that they had been taken over, counts no more. A hold that begins with byte 0 has brought all that
was there before it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rayfactory.bucket.hold import NAME as HOLD
from rayfactory.bucket.store import Store
from rayfactory.errors import RunDirError

FOLDER = "journal"
_PIECE = re.compile(rf"{FOLDER}/(\d{{6,}})-(\d{{12,}})-(\d{{12,}})\.jsonl")

PIECES = 64
"""So many pieces become one, and so many of those again: a long run would end with hundreds of thousands."""

CHECKED_EVERY_S = 10.0
"""Whoever brings pieces looks so often whether the hold is still the last one."""

_LOOKS = 10
_POLL_S = 0.1
_CHUNK = 2**20


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


@dataclass(frozen=True, slots=True, order=True)
class Piece:
    """A piece: bytes `start` to `end` of the journal."""

    hold: int
    start: int
    end: int

    @property
    def name(self) -> str:
        """That of its object."""
        return f"{FOLDER}/{self.hold:06d}-{self.start:012d}-{self.end:012d}.jsonl"


class JournalCopy:
    """Brings a journal to object storage, piece by piece. For one thread at a time.

    Args:
        mirror: where to.
        path: of the journal.

    Attributes:
        end: so many bytes are in object storage.
    """

    def __init__(self, mirror: Mirror, path: Path) -> None:
        self.end = mirror.start
        self._mirror = mirror
        self._path = path
        # Pieces that have not become one yet; each level has those of the one before it, put together.
        self._levels: list[list[Piece]] = []
        self._store: Store | None = None
        self._checked_at = 0.0

    def push(self, size: int) -> None:
        """Have the first `size` bytes of the journal in object storage when this returns.

        Raises:
            RunDirError: they cannot be brought there, or another process has the pool.
            OSError: the journal cannot be read.
        """
        if size <= self.end:
            return
        # Its keys may have come to this process only after it began.
        self._store = self._store or Store(self._mirror.url)
        self._check(self._store)
        self._write(self._store, 0, Piece(self._mirror.hold, self.end, size))
        self.end = size

    def _check(self, store: Store) -> None:
        if time.monotonic() - self._checked_at < CHECKED_EVERY_S:
            return
        try:
            number = int(json.loads(store.read(HOLD) or b"")["number"])
        except (ValueError, KeyError, TypeError):
            number = 0
        if number != self._mirror.hold:
            raise RunDirError(
                f"run_dir {store.url!r} has been taken over by another process; no model is asked for more. End one of "
                "the two"
            )
        self._checked_at = time.monotonic()

    def _write(self, store: Store, level: int, piece: Piece) -> None:
        store.write(piece.name, _bytes(self._path, piece.start, piece.end))
        if level == len(self._levels):
            self._levels.append([])
        self._levels[level].append(piece)
        if len(self._levels[level]) == PIECES:
            parts, self._levels[level] = self._levels[level], []
            self._write(store, level + 1, Piece(piece.hold, parts[0].start, parts[-1].end))
            store.remove(part.name for part in parts)


@contextmanager
def alone(path: Path, patience_s: float) -> Iterator[None]:
    """Have no other process of this machine write a journal meanwhile.

    A run that was killed may have left one that does, for as long as Ray takes to end it.

    Raises:
        RunDirError: one does so for longer than that.
    """
    if not path.exists():
        yield
        return
    until = time.monotonic() + patience_s
    with path.open("rb") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise RunDirError(
                        f"the journal {str(path)!r} is still written by another process, which a run that was killed "
                        "may have left behind: give the same command again in a minute, or end that process"
                    ) from None
                time.sleep(_POLL_S)
        yield


def pull(store: Store, path: Path, scratch: Path) -> tuple[int, list[Piece]]:
    """Make a journal begin with all that the storage has of it; return how many bytes that is, and its pieces.

    What the journal has beyond stays where it follows: replies that had arrived and had not been brought away. Where
    another machine has gone on meanwhile, it is set aside in a file beside the journal.

    Args:
        store: of the pool.
        path: of the journal.
        scratch: a folder for what is under way, on the same disk.

    Raises:
        RunDirError: bytes are missing, or the storage cannot be read.
        OSError: the files cannot be written.
    """
    fetched: set[Piece] = set()
    for _ in range(_LOOKS):
        pieces = _that_count(store)
        for piece in pieces:
            if piece not in fetched and not store.fetch(piece.name, scratch / Path(piece.name).name):
                break  # a larger one has taken its place since
            fetched.add(piece)
        else:
            break
    else:
        raise RunDirError(f"{store.url}/{FOLDER} loses pieces while it is read; give the same command again")
    whole = scratch / "journal"
    size = _put_together(store, pieces, whole, scratch)
    if not size:
        return 0, pieces
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        whole.replace(path)
    elif path.stat().st_size < size or _sha256(path, size) != _sha256(whole, size):
        _set_aside(path, _same(path, whole))
        whole.replace(path)
    return size, pieces


def set_aside(path: Path) -> None:
    """Set a whole journal aside, which is another run's."""
    if path.exists():
        _set_aside(path, 0)
        path.unlink()


def merge(store: Store, path: Path, mirror: Mirror, pieces: Sequence[Piece]) -> None:
    """Bring all that the storage has of a journal as one piece of the hold that begins, where there are many.

    Args:
        store: of the pool.
        path: of the journal, which begins with what the storage has.
        mirror: of the hold that begins.
        pieces: what the storage had.
    """
    if len(pieces) >= PIECES:
        store.write(Piece(mirror.hold, 0, mirror.start).name, _bytes(path, 0, mirror.start))
        store.remove(piece.name for piece in pieces)


def _that_count(store: Store) -> list[Piece]:
    """Return the pieces of the storage in the order in which they are put together, without those that are outdated."""
    found = sorted(Piece(*map(int, m.groups())) for m in map(_PIECE.fullmatch, store.listed(FOLDER)) if m)
    first = max((piece.hold for piece in found if piece.start == 0), default=0)
    return [piece for piece in found if piece.hold >= first]


def _put_together(store: Store, pieces: Sequence[Piece], whole: Path, scratch: Path) -> int:
    """Write the pieces into one file; return its size."""
    size, hold = 0, 0
    with whole.open("wb") as file:
        for piece in pieces:
            if piece.start > size:
                raise RunDirError(f"what comes before {store.url}/{piece.name} is missing; restore it from a backup")
            if piece.hold != hold:
                # They are in order, so this is where the hold began.
                hold, size = piece.hold, piece.start
                file.truncate(size)
            file.seek(piece.start)
            with (scratch / Path(piece.name).name).open("rb") as content:
                shutil.copyfileobj(content, file)
            size = max(size, piece.end)
    return size


def _set_aside(path: Path, start: int) -> None:
    with path.open("rb") as file:
        file.seek(start)
        rest = file.read()
    if rest:
        path.with_name(f"left-{time.time_ns()}.jsonl").write_bytes(rest)


def _bytes(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


def _sha256(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (chunk := file.read(min(size, _CHUNK))):
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
