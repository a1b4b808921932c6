"""What runs in the process of a sandbox: it opens databases and runs statements in them, as `sandbox` asks.

It is started with the number of a socket. What comes and goes there is JSON, one message after the other:

- ``["open", name, dialect, path]`` is answered with ``{}``, or ``{"unavailable": message}``;
- ``["close", name]`` is not answered;
- ``["run", name, sql]`` is answered with ``{"row_count": .., "elapsed_ms": ..}``, or ``{"reason": .., "message": ..}``;
- ``["keep", name, sql]`` likewise, and its rows are kept until the next one;
- ``["compare", name, sql, rule]`` likewise, with ``{"difference": ..}`` from the rows that are kept (`results`).

Before anything is opened the process gives up what it does not need, so that even a statement that gets past the
statement's and the connection's walls finds little that it could do.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from rayfactory.config import ExecutionConfig
from rayfactory.databases.engine import Database, Engine, Result, connect
from rayfactory.databases.results import difference
from rayfactory.errors import DatabaseError, StatementError

_MAX_FILE_BYTES = 2**20
"""Of a file that is written: enough for the index that SQLite keeps beside a write-ahead log."""

_MAX_OPEN_FILES = 256

_SPARE_BYTES = 512 * 2**20
"""Address space beside what a statement may use: threads' stacks, what the allocator keeps back."""

_LOOKING_S = 1e-4
"""Time for which an end of the socket looks for a message before it sleeps."""

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


def give_up_rights() -> None:
    """Let this process end with its parent, be the first to go when memory is short, and write and gain nothing."""
    with suppress(OSError, AttributeError):  # where the system has no such thing
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    for limit, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, _MAX_FILE_BYTES),
        (resource.RLIMIT_NOFILE, _MAX_OPEN_FILES),
    ):
        with suppress(ValueError, OSError):  # lower already
            resource.setrlimit(limit, (most, most))


def await_message(connection: Connection, timeout_s: float | None = None) -> bool:
    """Return whether there is something to read, after waiting for it; None: however long it takes.

    The two ends take turns, and most statements are short: so it looks a few times before it sleeps, since to be woken
    on another core takes longer than such a statement. (`Connection.poll` would take as long to prepare its wait.)
    """
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    until = time.perf_counter() + _LOOKING_S
    while time.perf_counter() < until:
        if poller.poll(0):
            return True
        os.sched_yield()  # to the other end, where both have one core
    return bool(poller.poll(None if timeout_s is None else timeout_s * 1e3))


@dataclass
class _Room:
    """The open databases of the process."""

    limits: ExecutionConfig
    engines: dict[str, Engine] = field(default_factory=dict)
    kept: Result | None = None

    def answer(self, message: list[str]) -> dict[str, object] | None:
        match message:
            case ["open", name, dialect, path, secret]:
                try:
                    self.engines[name] = connect(Database(name, dialect, path, secret), self.limits)
                except DatabaseError as error:
                    return {"unavailable": str(error)}
                self._bound_memory()
                return {}
            case ["close", name]:
                self.engines.pop(name).close()
                return None
            case [("run" | "keep" | "compare") as how, name, sql, *rule]:
                answer = self._run(how, name, sql, *rule)
                if not self.engines[name].is_open:
                    self.engines.pop(name)
                    answer["closed"] = True
                return answer
        raise ValueError(message)

    def _run(self, how: str, name: str, sql: str, rule: str = "") -> dict[str, object]:
        answer: dict[str, object] = {}
        try:
            if how == "keep":
                self.kept = None
            result = self.engines[name].run(sql, keep_rows=0 if how == "run" else self.limits.max_rows + 1)
            if how == "keep":
                self.kept = result
            elif how == "compare":
                if self.kept is None:
                    return {"reason": "crashed", "message": "the rows that it is compared with went with their process"}
                answer["difference"] = difference(rule, self.kept, result)
        except StatementError as error:
            return {"reason": error.reason, "message": str(error)}
        except MemoryError:
            return {"reason": "memory", "message": f"needs more than {self.limits.memory_mb} MB"}
        return answer | {"row_count": result.row_count, "elapsed_ms": result.elapsed_ms}

    def _bound_memory(self) -> None:
        """Bound the address space by what is in use now, and what one statement may use."""
        with suppress(OSError, ValueError):
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            most = pages * resource.getpagesize() + self.limits.memory_mb * 2**20 + _SPARE_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def main() -> None:
    """Answer until the other end of the socket is closed."""
    give_up_rights()
    # A Ctrl-C at the terminal is for the parent to answer.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    room = _Room(ExecutionConfig(**json.loads(sys.argv[2])))
    with suppress(EOFError, ConnectionError):
        while await_message(connection):
            answer = room.answer(json.loads(connection.recv_bytes()))
            if answer is not None:
                connection.send_bytes(json.dumps(answer).encode())


if __name__ == "__main__":
    main()
