"""Every attempt at a completion and every reply, on disk before anything rests on it.

One file of JSON lines, only ever appended to. An attempt is written down before it leaves (`sent`); what came of it
follows (`done` with the reply, or `failed`). A process may die at any instruction: a line that it was writing is set
aside when the journal is opened again, and an attempt without an end may have been paid for.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from rayfactory.bucket.journal_copy import JournalCopy, Mirror
from rayfactory.config import Slot
from rayfactory.errors import RunDirError
from rayfactory.files import sync_directory
from rayfactory.models.completion import CallKey, Completion
from rayfactory.models.ledger import WorstCase

FILE_NAME = "completions.jsonl"
TORN_NAME = "torn.bin"
"""Where half-written lines are kept."""

PATIENCE_S = 15.0
"""Ray takes some seconds to notice that a driver is gone, and to end its actors."""

_POLL_S = 0.05
_AWAY_S = 1.0
"""A record is in the journal's copy after at most so long, though nobody waits for it."""


@dataclass(frozen=True, slots=True)
class Sent:
    """An attempt is about to leave.

    Attributes:
        attempt: its number, unlike every other in the journal.
        request: `Prompt.sha256` of what is asked.
        model: what requests name the model by.
        batch: the batch that it leaves in, as `BatchSent` names it; empty: it leaves by itself.
    """

    attempt: int
    key: CallKey
    request: str
    model: str
    worst: WorstCase
    batch: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """A reply is there. `counted`: it said what it took; otherwise the worst case stands."""

    attempt: int
    key: CallKey
    request: str
    model: str
    completion: Completion
    counted: bool = True


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt brought no reply. `lost`: it may have been paid for all the same."""

    attempt: int
    lost: bool
    why: str


@dataclass(frozen=True, slots=True)
class BatchSent:
    """A batch is about to be made, or (with `endpoint_id`) is made; its attempts stand before.

    Attributes:
        batch: what this program calls it: unlike every other, anywhere.
        model: what requests name the model by.
        at: Unix time, in seconds.
        endpoint_id: what the endpoint calls it; empty as long as that is not known.
    """

    batch: str
    slot: Slot
    model: str
    at: float
    endpoint_id: str = ""


Record = Sent | Done | Failed | BatchSent


class Journal:
    """The journal of one run, open for this object alone.

    The run directory's lock is not enough: whoever holds it may be killed, and its gateway live a little longer.

    Args:
        directory: created where it does not exist.
        replay: called with every record that is there, in order.
        patience_s: seconds that another process has to let go of it.
        mirror: where its copy is kept in object storage; what is synced is there. None: it has no copy.

    Raises:
        RunDirError: it cannot be read or written, holds a damaged line before its end, or is somebody else's.
    """

    def __init__(
        self,
        directory: Path,
        replay: Callable[[Record], None],
        patience_s: float = PATIENCE_S,
        mirror: Mirror | None = None,
    ) -> None:
        self.path = directory / FILE_NAME
        self._copy = JournalCopy(mirror, self.path) if mirror is not None else None
        self._timer: asyncio.TimerHandle | None = None
        self._by_itself: asyncio.Task[None] | None = None
        self._next_attempt = 0
        self._offsets: dict[int, dict[bytes, int]] = {}
        self._size = 0
        self._broken: RunDirError | None = None
        self._running_sync: asyncio.Task[None] | None = None
        self._next_sync: asyncio.Task[None] | None = None
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                self._lock(patience_s)
                self._load(replay)
                sync_directory(directory)
            except BaseException:
                os.close(self._fd)
                raise
        except OSError as error:
            raise self._unwritable(error) from None

    def new_attempt(self) -> int:
        """Return a number for an attempt, never given before."""
        self._next_attempt += 1
        return self._next_attempt - 1

    def find(self, key: CallKey, request: str) -> Completion | None:
        """Return the reply to a request, if it is here."""
        offset = self._offsets.get(_round(key), {}).get(_digest(key, request))
        if offset is None:
            return None
        try:
            line = _line_at(self._fd, offset)
        except OSError as error:
            raise self._unwritable(error) from None
        record = _decode(line)
        assert isinstance(record, Done)
        return record.completion

    def forget_before(self, number: int) -> None:
        """Find no replies any more that rounds before one asked for: they are in the pool. All stay in the file."""
        for old in [known for known in self._offsets if 0 <= known < number]:
            del self._offsets[old]

    def append(self, record: Record) -> None:
        """Hand a record to the operating system: the end of this process cannot harm it any more.

        Raises:
            RunDirError: it cannot be written; from then on nothing can.
        """
        if self._broken is not None:
            raise self._broken
        offset, line = self._size, _encode(record)
        try:
            written = 0
            while written < len(line):
                written += os.write(self._fd, line[written:])
        except OSError as error:
            raise self._break(error) from None
        self._size += len(line)
        self._index(record, offset)
        if self._copy is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_AWAY_S, self._bring_away)

    async def sync(self) -> None:
        """Wait until all that was appended so far is on disk. Whoever waits at the same time shares one fsync.

        Raises:
            RunDirError: the disk failed; from then on nothing can be written.
        """
        if self._next_sync is None:
            self._next_sync = asyncio.create_task(self._sync_after(self._running_sync))
        await asyncio.shield(self._next_sync)

    async def settle(self) -> None:
        """Wait until all that is here is in object storage too, where the journal has a copy there.

        Raises:
            RunDirError: as `sync`.
        """
        if self._copy is not None and self._copy.end < self._size:
            await self.sync()

    async def close(self) -> None:
        """Sync and close."""
        if self._timer is not None:
            self._timer.cancel()
        try:
            if self._broken is None:
                await self.sync()
        finally:
            os.close(self._fd)

    async def _sync_after(self, running: asyncio.Task[None] | None) -> None:
        if running is not None:
            await asyncio.wait([running])
        self._running_sync, self._next_sync = self._next_sync, None
        if self._broken is not None:
            raise self._broken
        size = self._size
        try:
            await asyncio.to_thread(os.fsync, self._fd)
            if self._copy is not None:
                await asyncio.to_thread(self._copy.push, size)
        except OSError as error:
            raise self._break(error) from None
        except RunDirError as error:
            self._broken = error
            raise

    def _bring_away(self) -> None:
        """Sync what nobody waits for: that a request has left is known elsewhere before long."""
        self._timer = None
        self._by_itself = asyncio.create_task(self.sync())
        self._by_itself.add_done_callback(lambda task: task.cancelled() or task.exception())  # `append` raises it

    def _index(self, record: Record, offset: int) -> None:
        if not isinstance(record, BatchSent):
            self._next_attempt = max(self._next_attempt, record.attempt + 1)
        if isinstance(record, Done):
            of_round = self._offsets.setdefault(_round(record.key), {})
            of_round.setdefault(_digest(record.key, record.request), offset)

    def _lock(self, patience_s: float) -> None:
        until = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise RunDirError(
                        f"the journal {str(self.path)!r} is still written by another process, which a run that was "
                        "killed may have left behind: give the same command again in a minute, or end that process "
                        f"(fuser {str(self.path)!r} names it)"
                    ) from None
                time.sleep(_POLL_S)
            else:
                return

    def _load(self, replay: Callable[[Record], None]) -> None:
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                record = _decode(line)
                if record is None:
                    rest = file.readlines()
                    if any(_decode(later) is not None for later in rest):
                        raise RunDirError(
                            f"line {number} of {str(self.path)!r} is damaged: put the file back from a copy, or delete "
                            "that line (a reply in it is then paid for again)"
                        )
                    # What the last process did not finish writing, or the disk did not get.
                    self._set_aside(b"".join([line, *rest]))
                    return
                self._index(record, self._size)
                self._size += len(line)
                replay(record)

    def _set_aside(self, torn: bytes) -> None:
        aside = os.open(self.path.with_name(TORN_NAME), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(aside, torn + b"\n")
            os.fsync(aside)
        finally:
            os.close(aside)
        os.ftruncate(self._fd, self._size)
        os.fsync(self._fd)

    def _break(self, error: OSError) -> RunDirError:
        self._broken = self._unwritable(error)
        return self._broken

    def _unwritable(self, error: OSError) -> RunDirError:
        return RunDirError(
            f"the journal {str(self.path)!r} cannot be written ({error.strerror}), so no model is asked for more; "
            "make room or give permission, then give the same command again: it goes on with the replies so far"
        )


def _round(key: CallKey) -> int:
    """Return the round that a call belongs to; -1 for what is asked before there is one."""
    return -1 if key.agent == "check" else key.round


def _digest(key: CallKey, request: str) -> bytes:
    return blake2b(repr((key, request)).encode(), digest_size=16).digest()


def _line_at(fd: int, offset: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        part = os.pread(fd, 8192, offset + len(line))
        if not part:
            raise OSError(0, "it is shorter than it was")
        line += part[: part.find(b"\n") + 1 or len(part)]
    return line


def _encode(record: Record) -> bytes:
    match record:
        case Sent(attempt, key, request, model, worst, batch):
            value: dict[str, Any] = {
                "sent": attempt, "key": astuple(key), "request": request, "model": model, "worst": astuple(worst),
            }  # fmt: skip
            if batch:
                value["in_batch"] = batch
        case Done(attempt, key, request, model, completion, counted):
            value = {
                "done": attempt, "key": astuple(key), "request": request, "model": model, "counted": counted,
                "completion": asdict(completion),
            }  # fmt: skip
        case Failed(attempt, lost, why):
            value = {"failed": attempt, "lost": lost, "why": why}
        case BatchSent():
            value = asdict(record)
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


def _decode(line: bytes) -> Record | None:
    """Read a line; None if it is not one of ours, whole and with its end."""
    if not line.endswith(b"\n"):
        return None
    try:
        match json.loads(line):
            case {
                "sent": int(attempt), "key": key, "request": str(request), "model": str(model), "worst": worst, **rest
            }:  # fmt: skip
                return Sent(attempt, CallKey(*key), request, model, WorstCase(*worst), str(rest.get("in_batch", "")))
            case {
                "done": int(attempt), "key": key, "request": str(request), "model": str(model),
                "counted": bool(counted), "completion": completion,
            }:  # fmt: skip
                return Done(attempt, CallKey(*key), request, model, Completion(**completion), counted)
            case {"failed": int(attempt), "lost": bool(lost), "why": str(why)}:
                return Failed(attempt, lost, why)
            case {
                "batch": str(batch), "slot": "strong" | "local" as slot, "model": str(model), "at": float(at),
                "endpoint_id": str(endpoint_id),
            }:  # fmt: skip
                return BatchSent(batch, slot, model, at, endpoint_id)
    except (ValueError, TypeError):
        pass
    return None
