"""A process of its own for statements that somebody else wrote: what one of them does to it, it does to that alone.

The process is started when it is first needed and used for one statement after the other. One that crashes it, or does
not give way when its time is over, costs the process; the next statement gets a new one.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rayfactory.config import ExecutionConfig
from rayfactory.databases.engine import FILE_DIALECTS, Database
from rayfactory.databases.sandboxed import await_message
from rayfactory.errors import DatabaseError, StatementError

MAX_OPEN_DATABASES = 16
"""Databases that are open in one process; the one that was used longest ago is closed for a new one."""

_GRACE_S = 1.0
"""Time beyond its own in which a statement has to give way before its process is ended."""

_OPEN_TIMEOUT_S = 120.0

_MAX_ANSWER_BYTES = 2**20

_CHILD = "rayfactory.databases.sandboxed"

_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "SYSTEMROOT")
"""What the process knows of the environment: keys and tokens are none of its business."""

_OF_SERVERS = ("HOME", "PGPASSFILE", "PGSSLROOTCERT", "PGSSLMODE", "PGSSLCERT", "PGSSLKEY")
"""Where a client library finds certificates and passwords; for runs that have a database on a server."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What came of one statement.

    Attributes:
        row_count: all rows.
        elapsed_ms: from handing it to the database to having counted its last row.
        difference: from the rows that were kept, where it was compared with some; see `results.difference`.
    """

    row_count: int
    elapsed_ms: float
    difference: str = ""


class Sandbox:
    """Runs statements in a process of its own. For one thread at a time.

    Args:
        databases: by name.
        limits: bounds on one statement.
    """

    def __init__(self, databases: Mapping[str, Database], limits: ExecutionConfig) -> None:
        self._databases = databases
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._open: OrderedDict[str, None] = OrderedDict()

    @property
    def pid(self) -> int | None:
        """The process; None where there is none."""
        return self._process.pid if self._process is not None else None

    def run(self, database: str, sql: str) -> Counted:
        """Run one statement to its end, and count its rows.

        Raises:
            StatementError: it did not run; reasons as in `engine.Engine.run`, and ``crashed``.
            DatabaseError: the database cannot be opened, or no process can be started.
        """
        return self._run(database, ["run", database, sql])

    def keep(self, database: str, sql: str) -> Counted:
        """As `run`, and keep its rows, for `compare`: those of the statement that was kept last."""
        return self._run(database, ["keep", database, sql])

    def compare(self, database: str, sql: str, rule: str) -> Counted:
        """As `run`, and compare its rows with those that are kept.

        Args:
            rule: one of `results.RULES`.
        """
        return self._run(database, ["compare", database, sql, rule])

    def _run(self, database: str, message: list[str]) -> Counted:
        self._opened(database)
        found = self._ask(message, self._limits.timeout_s + _GRACE_S)
        if found is None:
            self.close()
            raise StatementError("timeout", f"ran longer than {self._limits.timeout_s:g} s, and could not be stopped")
        if isinstance(found, int):
            raise StatementError("crashed", f"the database's process ended while it ran ({_ending(found)})")
        if "closed" in found:
            # The connection to a server is gone. To wait for it is no part of the next statement's time.
            del self._open[database]
        if "reason" in found:
            raise StatementError(str(found["reason"]), str(found["message"]))
        return Counted(int(found["row_count"]), float(found["elapsed_ms"]), str(found.get("difference", "")))

    def close(self) -> None:
        """End the process. Closing twice does nothing."""
        if self._process is not None:
            self._process.kill()
            self._ended()

    def _opened(self, database: str) -> None:
        if self._process is not None and self._process.poll() is not None:
            self._ended()
        if self._process is None:
            self._start()
        if database in self._open:
            self._open.move_to_end(database)
            return
        if len(self._open) >= MAX_OPEN_DATABASES:
            self._tell(["close", self._open.popitem(last=False)[0]])
        wanted = self._databases[database].here()
        found = self._ask(["open", database, wanted.dialect, wanted.path, wanted.secret], _OPEN_TIMEOUT_S)
        if isinstance(found, dict) and "unavailable" not in found:
            self._open[database] = None
            return
        if isinstance(found, dict):
            raise DatabaseError(str(found["unavailable"]))
        self.close()
        what = f"took longer than {_OPEN_TIMEOUT_S:g} s" if found is None else f"ended its process ({_ending(found)})"
        raise DatabaseError(f"database {database!r} ({wanted.path}): opening it {what}; give a whole copy of the file")

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        on_servers = any(database.dialect not in FILE_DIALECTS for database in self._databases.values())
        kept = _KEPT_VARIABLES + (_OF_SERVERS if on_servers else ())
        variables = {name: os.environ[name] for name in kept if name in os.environ}
        variables["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    # Not from the folder that it starts in, which may hold anything.
                    [sys.executable, "-P", "-m", _CHILD, str(theirs.fileno()), json.dumps(asdict(self._limits))],
                    env=variables,
                    cwd="/",
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            except OSError as error:
                ours.close()
                raise DatabaseError(f"no process can be started for statements ({error})") from error
        self._connection = Connection(ours.detach())

    def _tell(self, message: list[str]) -> None:
        assert self._connection is not None
        self._connection.send_bytes(json.dumps(message).encode())

    def _ask(self, message: list[str], timeout_s: float) -> dict[str, Any] | int | None:
        """Return the answer; the exit code where the process has ended; None where it is not there in time."""
        assert self._connection is not None
        try:
            self._tell(message)
            if not await_message(self._connection, timeout_s):
                return None
            # JSON, and no more than so much: the process is not trusted to send what Python would unpickle.
            answer: dict[str, Any] = json.loads(self._connection.recv_bytes(_MAX_ANSWER_BYTES))
        except (OSError, EOFError, ValueError):
            return self._ended()
        return answer

    def _ended(self) -> int:
        """Let go of a process that has ended or is about to; return its exit code."""
        process, connection = self._process, self._connection
        assert process is not None
        assert connection is not None
        self._process = self._connection = None
        self._open.clear()
        connection.close()
        try:
            return process.wait(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
