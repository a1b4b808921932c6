"""One open database, read-only, and a bounded way to run one statement in it.

DuckDB, SQLite and the servers (`databases/server.py`) stand behind one door. What a statement may say is decided before
it comes here (`rayfactory.sql`); this module is the second wall: nothing is written, no file or network is reached, and
time, memory and rows are bounded.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote

import duckdb

from rayfactory.config import ExecutionConfig
from rayfactory.errors import DatabaseError, StatementError

if TYPE_CHECKING:
    from rayfactory.databases.server import ServerConnection

logger = logging.getLogger(__name__)

Connection: TypeAlias = "duckdb.DuckDBPyConnection | sqlite3.Connection | ServerConnection"
"""A raw connection of any kind; all have ``execute(sql).fetchall()`` and take names in double quotes."""

FILE_DIALECTS = ("duckdb", "sqlite")
"""Databases that are a file; the others are servers."""

FETCH_ROWS = 2_048
"""Rows taken from a result at a time: DuckDB's vector size."""

_SQLITE_HEADER = b"SQLite format 3\x00"
_SQLITE_MAX_VALUE_BYTES = 16 * 2**20
_SQLITE_MAX_PATTERN_BYTES = 1_000

_ALLOWED_ACTIONS = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
)


@dataclass(frozen=True, slots=True)
class Database:
    """Where one database is.

    Attributes:
        name: unique within a benchmark.
        dialect: ``duckdb``, ``sqlite``, ``postgres`` or ``mysql``; the last one is MariaDB's too.
        path: of its one file; of a server the address, without a password.
        secret: the password of a server's user; in no file and no message.
    """

    name: str
    dialect: str
    path: str
    secret: str = field(default="", repr=False)

    def here(self) -> Database:
        """Return the database as it is on this machine: itself, where nothing has to be brought.

        Raises:
            DatabaseError: it cannot be brought here.
        """
        return self


@dataclass(frozen=True, slots=True)
class Result:
    """What one statement returned.

    Attributes:
        rows: the first `keep_rows` rows.
        row_count: all rows.
        elapsed_ms: from handing the statement over to having counted its last row.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    row_count: int
    elapsed_ms: float


class Watchdog:
    """Interrupts what runs longer than its time. One thread serves all statements of a connection.

    The thread sleeps through statements that end in time: arming and disarming are two assignments under a
    lock, and only a thread that sleeps without a deadline is woken.
    """

    def __init__(self, interrupt: Callable[[], None]) -> None:
        self._interrupt = interrupt
        self._changed = threading.Condition()
        self._deadline: float | None = None
        self._asleep = False
        self._closed = False
        self._fired = False
        self._thread: threading.Thread | None = None

    def arm(self, timeout_s: float) -> None:
        """Start the clock of a statement."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="rayfactory-watchdog", daemon=True)
                self._thread.start()
            self._fired = False
            self._deadline = time.monotonic() + timeout_s
            if self._asleep:
                self._changed.notify()

    def disarm(self) -> bool:
        """Stop the clock, and return whether the statement was interrupted."""
        with self._changed:
            self._deadline = None
            return self._fired

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                if self._deadline is None:
                    self._asleep = True
                    self._changed.wait()
                    self._asleep = False
                    continue
                remaining_s = self._deadline - time.monotonic()
                if remaining_s > 0:
                    self._changed.wait(remaining_s)
                    continue
                # Under the lock, so that it cannot hit the next statement. Again until the statement gives way: an
                # interrupt that comes before the engine has begun would be lost.
                self._fired = True
                self._interrupt()
                self._deadline = time.monotonic() + 0.05


class Engine:
    """One open read-only connection, used by one thread at a time.

    Attributes:
        dialect: of the database.
    """

    def __init__(self, database: Database, limits: ExecutionConfig) -> None:
        self.dialect = database.dialect
        self._database = database
        self._limits = limits
        self._open()

    def run(self, sql: str, *, keep_rows: int = 0) -> Result:
        """Run one statement to its end, and count its rows.

        Raises:
            StatementError: it did not run; reason ``error``, ``timeout``, ``memory`` or ``too_many_rows``.
        """
        try:
            return self._run(sql, keep_rows)
        except StatementError:
            raise
        except (duckdb.OutOfMemoryException, MemoryError) as error:
            raise StatementError("memory", f"needs more than {self._limits.memory_mb} MB ({_line(error)})") from error
        except (duckdb.FatalException, duckdb.InternalException) as error:
            # DuckDB refuses every further statement after one of these.
            self._reopen()
            raise StatementError("error", _line(error)) from error
        except (duckdb.Error, sqlite3.Error, sqlite3.Warning, ValueError, OverflowError, TypeError) as error:
            # ValueError and TypeError: text that is no UTF-8, values that Python cannot hold.
            raise StatementError("error", _line(error)) from error

    @property
    def is_open(self) -> bool:
        """Whether the connection is there; one to a server may be lost."""
        return True

    def close(self) -> None:
        """Close the connection. Closing twice does nothing."""
        self._watchdog.close()
        self._connection.close()

    def _open(self) -> None:
        self._connection = _open_file(self._database, self._limits)
        if isinstance(self._connection, sqlite3.Connection):
            self._connection.set_authorizer(_authorize)
        self._watchdog = Watchdog(self._connection.interrupt)

    def _reopen(self) -> None:
        self.close()
        self._open()

    def _run(self, sql: str, keep_rows: int) -> Result:
        connection = self._connection
        fetch: Callable[[int], list[tuple[object, ...]]]
        columns: tuple[str, ...]
        cursor: sqlite3.Cursor | None = None
        started = time.perf_counter()
        self._watchdog.arm(self._limits.timeout_s)
        failure: Exception | None = None
        rows: list[tuple[object, ...]] = []
        row_count = 0
        try:
            if isinstance(connection, sqlite3.Connection):
                # Text that is only counted need not be decoded.
                connection.text_factory = decode if keep_rows else bytes
                cursor = connection.execute(sql)
                if cursor.description is None:
                    raise StatementError("error", "no statement that returns rows")
                columns = tuple(description[0] for description in cursor.description)
                fetch = cursor.fetchmany
            else:
                statements = connection.extract_statements(sql)
                if len(statements) != 1:
                    raise StatementError("error", f"{len(statements)} statements where one is expected")
                if statements[0].type != duckdb.StatementType.SELECT:
                    raise StatementError("error", f"a {statements[0].type.name} statement, where only SELECT may run")
                connection.execute(statements[0])
                columns = tuple(description[0] for description in connection.description or ())
                fetch = connection.fetchmany
            while chunk := fetch(FETCH_ROWS):
                row_count += len(chunk)
                if len(rows) < keep_rows:
                    rows.extend(chunk[: keep_rows - len(rows)])
                check_size(row_count, len(columns), self._limits)
        except Exception as error:  # noqa: BLE001  it is raised below, once the clock is stopped
            failure = error
        finally:
            interrupted = self._watchdog.disarm()
            if cursor is not None:
                cursor.close()
        if failure is not None:
            if interrupted and not isinstance(failure, StatementError):
                raise StatementError("timeout", f"ran longer than {self._limits.timeout_s:g} s") from failure
            raise failure
        elapsed_ms = (time.perf_counter() - started) * 1_000
        return Result(columns, tuple(rows), row_count, elapsed_ms)


def check_size(row_count: int, num_columns: int, limits: ExecutionConfig) -> None:
    """Return if a result of so many rows is within the limits.

    Raises:
        StatementError: reason ``too_many_rows``.
    """
    if row_count > limits.max_rows:
        raise StatementError("too_many_rows", f"more than {limits.max_rows} rows")
    if row_count * num_columns > limits.max_cells:
        raise StatementError("too_many_rows", f"more than {limits.max_cells} values in rows of {num_columns}")


def connect(database: Database, limits: ExecutionConfig) -> Engine:
    """Open a database for running statements.

    Raises:
        DatabaseError: the file is missing, is no database of its dialect, or is locked; the server does not answer.
    """
    if database.dialect in FILE_DIALECTS:
        return Engine(database, limits)
    from rayfactory.databases.server import ServerEngine

    return ServerEngine(database, limits)


def open_connection(database: Database, limits: ExecutionConfig) -> Connection:
    """Open a raw read-only connection, for reading a database's own catalogue and content.

    Raises:
        DatabaseError: the file is missing, is no database of its dialect, or is locked; the server does not answer.
    """
    if database.dialect in FILE_DIALECTS:
        return _open_file(database, limits)
    from rayfactory.databases.server import open_server

    return open_server(database, limits.timeout_s)


def _open_file(database: Database, limits: ExecutionConfig) -> duckdb.DuckDBPyConnection | sqlite3.Connection:
    path = Path(database.path)
    if not path.is_file():
        raise DatabaseError(f"database {database.name!r}: there is no file {str(path)!r}; check benchmark.root")
    if database.dialect == "sqlite":
        return _open_sqlite(database, path, limits)
    return _open_duckdb(database, path, limits)


def decode(text: bytes) -> str:
    """Return text of an SQLite database, which need not be UTF-8, with U+FFFD for what is not."""
    return text.decode("utf-8", "replace")


def _open_duckdb(database: Database, path: Path, limits: ExecutionConfig) -> duckdb.DuckDBPyConnection:
    settings: dict[str, str | bool | int | float | list[str]] = {
        "enable_external_access": False,
        "python_enable_replacements": False,
        "autoload_known_extensions": False,
        "autoinstall_known_extensions": False,
        "allow_community_extensions": False,
        # Two threads may return the rows of an unordered query in another order.
        "threads": 1,
        "memory_limit": f"{limits.memory_mb}MB",
        # Nothing spills to disk: what does not fit in memory is refused.
        "temp_directory": "",
        "max_temp_directory_size": "0KB",
    }
    try:
        connection = duckdb.connect(str(path), read_only=True, config=settings)
        (locked,) = connection.execute("SELECT current_setting('lock_configuration')").fetchall()[0]
        if not locked:  # else another connection of this process has done so
            connection.execute("SET GLOBAL TimeZone = 'UTC'")
            connection.execute("SET GLOBAL lock_configuration = true")
        return connection
    except duckdb.Error as error:
        raise DatabaseError(f"database {database.name!r} ({path}): {_duckdb_remedy(str(error))}") from error


def _duckdb_remedy(message: str) -> str:
    lowered = message.lower()
    if "conflicting lock" in lowered or "could not set lock" in lowered:
        return "another program has it open for writing; close that program, or give a copy of the file"
    if "different configuration" in lowered:
        return "this process has it open with other settings; close that connection first"
    if "encrypt" in lowered:
        return "the file is encrypted; give an unencrypted copy"
    if "newer version" in lowered or "storage version" in lowered:
        return (
            f"another version of DuckDB wrote it ({_line(message)}); import it again with DuckDB {duckdb.__version__}"
        )
    if "wal" in lowered:
        return f"its write-ahead log cannot be replayed ({_line(message)}); open it once with DuckDB and CHECKPOINT"
    return (
        f"DuckDB cannot open the file ({_line(message)}); it may be truncated or no DuckDB database: give a whole copy"
    )


def _open_sqlite(database: Database, path: Path, limits: ExecutionConfig) -> sqlite3.Connection:
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except OSError as error:
        raise DatabaseError(f"database {database.name!r} ({path}): cannot be read ({error.strerror})") from error
    if header and not header.startswith(_SQLITE_HEADER):
        raise DatabaseError(
            f"database {database.name!r} ({path}): the file is encrypted or is no SQLite database; give a plain copy"
        )
    # Opening a database in WAL mode writes beside it, even when only reading. Where no log is waiting there is
    # nothing to miss by calling the file immutable.
    uses_wal = header[18:20] == b"\x02\x02"
    wal = path.with_name(path.name + "-wal")
    immutable = uses_wal and not (wal.is_file() and wal.stat().st_size)
    uri = f"file:{quote(str(path.resolve()))}?mode=ro" + ("&immutable=1" if immutable else "")
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        connection.text_factory = decode
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _SQLITE_MAX_VALUE_BYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, _SQLITE_MAX_PATTERN_BYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        # Sorting and materialised subqueries count as memory rather than fill a disk. The limit is the process's: it
        # can only be lowered.
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"PRAGMA hard_heap_limit = {limits.memory_mb * 2**20}")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA query_only = ON")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
        _check_size(connection, path)
    except (sqlite3.Error, MemoryError, UnicodeDecodeError) as error:  # the last one over SQLite's own message
        if connection is not None:
            connection.close()
        raise DatabaseError(f"database {database.name!r} ({path}): {_sqlite_remedy(path, error)}") from error
    return connection


def _check_size(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a file that is shorter than its header says; SQLite would notice only on reaching the missing pages."""
    (num_pages,) = connection.execute("PRAGMA page_count").fetchone()
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    # With a write-ahead log the newest pages are there and not in the file.
    has_log = path.with_name(path.name + "-wal").is_file()
    if not has_log and path.stat().st_size < num_pages * page_bytes:
        raise sqlite3.DatabaseError(f"{path.stat().st_size} of {num_pages * page_bytes} bytes are there")


def _sqlite_remedy(path: Path, error: BaseException) -> str:
    message = _line(error)
    if path.with_name(path.name + "-wal").is_file():
        return (
            f"it has a write-ahead log that cannot be read from here ({message}); "
            "run PRAGMA wal_checkpoint(TRUNCATE) in it where it may be written, or give a copy"
        )
    if path.with_name(path.name + "-journal").is_file():
        return f"an interrupted write left a journal beside it ({message}); open it once where it may be written"
    if "locked" in message:
        return "another program is writing to it; close that program, or give a copy of the file"
    return f"SQLite cannot read the file ({message}); it may be truncated or damaged: give a whole copy"


def _authorize(action: int, _first: str | None, _second: str | None, _database: str | None, _source: str | None) -> int:
    return sqlite3.SQLITE_OK if action in _ALLOWED_ACTIONS else sqlite3.SQLITE_DENY


def _line(error: BaseException | str, max_chars: int = 300) -> str:
    """Return a message in one line."""
    return " ".join(str(error).split())[:max_chars] or type(error).__name__
