"""MySQL and MariaDB: a connection in which nothing can be written."""

from __future__ import annotations

import re
import socket
import ssl
from contextlib import suppress
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote, urlsplit

import pymysql
from pymysql.constants import CR, ER
from pymysql.cursors import SSCursor

from rayfactory.config import ExecutionConfig
from rayfactory.databases.catalogue import Catalogue, ColumnStructure, Keys, put_together
from rayfactory.databases.engine import FETCH_ROWS, Database, check_size
from rayfactory.databases.schema import ForeignKey
from rayfactory.databases.server import (
    CONNECT_TIMEOUT_S,
    READING_TIMEOUT_S,
    Cursor,
    ServerConnection,
    ServerError,
    UnreachableError,
)
from rayfactory.errors import DatabaseError

DEFAULT_PORT = 3306

_IDLE_S = 60
"""How long the server waits for the next statement of a connection that is in a transaction."""

# Every statement is a query, in the dialect's own quotes; what a group shows has to be one of its keys or aggregated.
_MODES = "ONLY_FULL_GROUP_BY,STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION"

_QUERY = re.compile(r"(?:[\s(]|--\s[^\n]*\n|#[^\n]*\n|/\*(?!M?!)(?s:.*?)\*/)*+(?:select|with)\b", re.IGNORECASE)
"""How a query begins, after comments. There is no cursor over a SELECT alone, so what begins otherwise is not sent."""

_RESET_CONNECTION = 0x1F
"""What the protocol calls COM_RESET_CONNECTION: a new session over the same connection."""

_READING_RIGHTS = frozenset({"USAGE", "SELECT", "SHOW VIEW", "SHOW DATABASES", "PROCESS", "REPLICATION CLIENT"})

_TIMEOUTS = frozenset({ER.QUERY_INTERRUPTED, ER.QUERY_TIMEOUT, 1969, 3024, ER.LOCK_WAIT_TIMEOUT})
_MEMORY = frozenset({ER.OUTOFMEMORY, ER.OUT_OF_SORTMEMORY, ER.RECORD_FILE_FULL, 1021, 3170})
_LOST = frozenset({CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST, ER.SERVER_SHUTDOWN, 1927, 4031, 0})
_UNKNOWN = frozenset({ER.DBACCESS_DENIED_ERROR, ER.BAD_DB_ERROR, ER.ACCESS_DENIED_ERROR})


class MySQLConnection(ServerConnection):
    """One connection, whose rows are read as they come."""

    dialect: ClassVar[str] = "mysql"

    def __init__(self, database: Database, timeout_s: float) -> None:
        parts = urlsplit(database.path)
        options = dict(parse_qsl(parts.query))
        self._timeout_s = timeout_s
        try:
            self._connection: Any = pymysql.connect(
                host=parts.hostname,
                port=parts.port or DEFAULT_PORT,
                user=unquote(parts.username or "") or None,
                password=database.secret,
                database=unquote(parts.path.strip("/")),
                unix_socket=options.get("unix_socket"),
                charset="utf8mb4",
                connect_timeout=CONNECT_TIMEOUT_S,
                # Something that is no MySQL may wait for us to speak first.
                read_timeout=CONNECT_TIMEOUT_S,
                autocommit=True,
                local_infile=False,
                cursorclass=SSCursor,
                ssl=_tls(options),
                program_name="rayfactory",
            )
        except pymysql.MySQLError as error:
            raise _refused(database, error) from error
        self._connection._read_timeout = None  # noqa: SLF001  from here on the server keeps the time
        ((version, self._database),) = self._rows("SELECT version(), database()")
        self._is_maria = "mariadb" in str(version).lower()
        release = str(version).partition("-")[0]
        self.version = f"{'MariaDB' if self._is_maria else 'MySQL'} {release}"
        # Our own statements quote names as the other databases do; somebody else's are read in `read`.
        self._is_ours: bool | None = None
        self._is_hung_up = False
        self._speak(ours=True)

    def execute(self, sql: str) -> Cursor:
        """Run a statement of our own."""
        self._speak(ours=True)
        cursor = self._connection.cursor(pymysql.cursors.Cursor)
        self._send(cursor, sql)
        found: Cursor = cursor
        return found

    def read(
        self, sql: str, keep_rows: int, limits: ExecutionConfig
    ) -> tuple[tuple[str, ...], list[tuple[object, ...]], int]:
        """Run somebody else's statement, and count its rows as they come."""
        if not _QUERY.match(sql):
            raise ServerError("error", "no statement that returns rows")
        self._speak(ours=False)
        self._command("START TRANSACTION READ ONLY")
        cursor = self._connection.cursor()
        rows: list[tuple[object, ...]] = []
        row_count = 0
        try:
            self._send(cursor, sql)
            if cursor.description is None:
                raise ServerError("error", "no statement that returns rows")
            columns = tuple(str(column[0]) for column in cursor.description)
            while chunk := self._fetch(cursor):
                row_count += len(chunk)
                rows.extend(chunk[: max(0, keep_rows - len(rows))])
                check_size(row_count, len(columns), limits)
        except BaseException:
            if self._connection._result is not None and self._connection._result.unbuffered_active:  # noqa: SLF001
                # To close a cursor is to read it to its end. The server sees that nobody listens any more.
                self.close()
            raise
        finally:
            self._leave()
        return columns, rows, row_count

    def rights(self) -> list[str]:
        """Return in words what the user could do beside reading."""
        found: list[str] = []
        for (grant,) in self.execute("SHOW GRANTS").fetchall():
            granted = re.match(r"GRANT (.+?) ON (.+?) TO ", str(grant))
            if granted is None:
                continue
            rights = [right.strip() for right in re.sub(r"\([^)]*\)", "", granted[1]).split(",")]
            beyond = [right for right in rights if right.upper() not in _READING_RIGHTS]
            if beyond:
                found.append(f"{', '.join(beyond[:4])}{' and more' if beyond[4:] else ''} on {granted[2]}")
        return found

    def catalogue(self) -> Catalogue:
        """Return the tables of the database; the server shows only those that the user may read."""
        columns: dict[str, list[ColumnStructure]] = {}
        for table, column, declared_type, nullable, comment in self._information(
            "columns", "table_name, column_name, column_type, is_nullable, column_comment", "ordinal_position"
        ):
            columns.setdefault(table, []).append(
                ColumnStructure(column, _string(declared_type), nullable == "YES", comment or "")
            )
        keys: dict[tuple[str, str], list[str | None]] = {}
        for table, index, column in self._information(
            "statistics", "table_name, index_name, column_name", "index_name, seq_in_index", "AND non_unique = 0"
        ):
            keys.setdefault((table, index), []).append(column)
        foreign: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
        for table, name, column, referenced, referenced_column in self._information(
            "key_column_usage",
            "table_name, constraint_name, column_name, referenced_table_name, referenced_column_name",
            "constraint_name, ordinal_position",
            "AND referenced_table_name IS NOT NULL AND referenced_table_schema = table_schema",
        ):
            foreign.setdefault((table, name), []).append((column, referenced, referenced_column))
        primary_keys: dict[str, tuple[str, ...]] = {}
        unique_keys: dict[str, list[tuple[str, ...]]] = {}
        for (table, index), key in keys.items():
            names = tuple(column for column in key if column is not None)
            if index == "PRIMARY":
                primary_keys[table] = names
            elif len(names) == len(key):  # a part of an index that is an expression has no name
                unique_keys.setdefault(table, []).append(names)
        comments = self._information("tables", "table_name, table_comment", "", "AND table_type = 'BASE TABLE'")
        foreign_keys = [
            ForeignKey(table, tuple(c for c, _, _ in key), key[0][1], tuple(r for _, _, r in key))
            for (table, _), key in foreign.items()
        ]
        definitions = {
            name: _string(definition)
            for name, definition in self._information("views", "table_name, view_definition", "table_name")
        }
        return put_together(comments, columns, Keys(primary_keys, unique_keys, foreign_keys), definitions, "mysql")

    def estimated_rows(self, table: str) -> int:
        """Return what the storage engine believes, which may be off by half."""
        name = "'" + table.replace("\\", "\\\\").replace("'", "''") + "'"
        found = self._information("tables", "table_rows", "", f"AND table_name = {name}")
        return int(found[0][0] or 0) if found else 0

    def _information(self, table: str, selected: str, order: str, where: str = "") -> list[tuple[Any, ...]]:
        """Return what the information schema has on the tables of the database, by table."""
        found: list[tuple[Any, ...]] = list(
            self.execute(
                f"SELECT {selected} FROM information_schema.{table} WHERE table_schema = database() {where} "
                f"ORDER BY {', '.join(filter(None, ('table_name', order)))}"
            ).fetchall()
        )
        return found

    def remedy(self) -> str:
        """Return statements that make a user who can only read."""
        return f"  CREATE USER rayfactory IDENTIFIED BY '...';\n  GRANT SELECT ON `{self._database}`.* TO rayfactory;"

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return bool(self._connection.open) and not self._is_hung_up

    def interrupt(self) -> None:
        """Hang up; the server has the same time limit, and ends the statement itself."""
        self._is_hung_up = True  # even where the answer came just before
        with suppress(OSError, AttributeError):
            self._connection._sock.shutdown(socket.SHUT_RDWR)  # noqa: SLF001  PyMySQL has no call for another thread

    def close(self) -> None:
        """Close the connection."""
        result = self._connection._result  # noqa: SLF001
        if result is not None:
            result.unbuffered_active = False  # else whoever forgets it would read on
        self._connection._force_close()  # noqa: SLF001  the polite way waits for a statement that still runs

    def _speak(self, *, ours: bool) -> None:
        """Set how statements are read and what bounds them, where that changes."""
        if self._is_ours is ours:
            return
        timeout_s = READING_TIMEOUT_S if ours else self._timeout_s
        settings = {
            "sql_mode": f"'{_MODES}{',ANSI_QUOTES' if ours else ''}'",
            "time_zone": "'+00:00'",
            "lock_wait_timeout": 5,
            "innodb_lock_wait_timeout": 5,
        }
        if self._is_maria:
            settings |= {
                "tx_read_only": 1,
                "max_statement_time": timeout_s,
                "idle_readonly_transaction_timeout": _IDLE_S,
            }
        else:
            settings |= {"transaction_read_only": 1, "max_execution_time": round(timeout_s * 1_000)}
        self._command(
            "SET NAMES utf8mb4, " + ", ".join(f"SESSION {name} = {value}" for name, value in settings.items())
        )
        self._is_ours = ours

    def _leave(self) -> None:
        """Take back all that the statement may have done: its transaction, locks that outlast one, variables."""
        if self._connection.open:
            self._is_ours = None
            try:
                self._connection._execute_command(_RESET_CONNECTION, b"")  # noqa: SLF001  PyMySQL has no call for it
                self._connection._read_ok_packet()  # noqa: SLF001
            except (pymysql.MySQLError, OSError):
                self.close()

    def _rows(self, sql: str) -> Any:
        with self._connection.cursor(pymysql.cursors.Cursor) as cursor:
            cursor.execute(sql)
            return cursor.fetchall()

    def _command(self, sql: str) -> None:
        with self._connection.cursor(pymysql.cursors.Cursor) as cursor:
            self._send(cursor, sql)

    def _send(self, cursor: Any, sql: str) -> None:
        try:
            cursor.execute(sql)
        except (pymysql.MySQLError, OSError, ValueError, UnicodeError) as error:
            raise self._failure(error) from error

    def _fetch(self, cursor: Any) -> list[tuple[object, ...]]:
        try:
            found: list[tuple[object, ...]] = cursor.fetchmany(FETCH_ROWS)
        except (pymysql.MySQLError, OSError, ValueError, UnicodeError, AttributeError) as error:
            raise self._failure(error) from error
        return found

    def _failure(self, error: Exception) -> ServerError:
        code = error.args[0] if error.args and isinstance(error.args[0], int) else None
        if code in _LOST or isinstance(error, (OSError, AttributeError)) or not self._connection.open:
            return ServerError("crashed", f"the server ended the connection while it ran ({_line(error)})")
        if code in _TIMEOUTS:
            return ServerError("timeout", _line(error))
        return ServerError("memory" if code in _MEMORY else "error", _line(error))


def _tls(options: dict[str, str]) -> ssl.SSLContext | None:
    """Return how the connection is encrypted: as the address asks (``?ssl_ca=FILE``, ``?ssl=true``), or not at all."""
    if not options.get("ssl_ca") and options.get("ssl", "").lower() not in ("1", "true", "required"):
        return None
    return ssl.create_default_context(cafile=options.get("ssl_ca"))


def _refused(database: Database, error: pymysql.MySQLError) -> Exception:
    """Return what a failed connection means: nobody there, or somebody who does not let us in."""
    code = error.args[0] if error.args else None
    where = f"database {database.name!r} ({database.path})"
    if code in _UNKNOWN:
        return DatabaseError(
            f"{where}: the server does not let this user in ({_line(error)}); check benchmark.url, and put the "
            "password into the environment variable RAYFACTORY_DATABASE_PASSWORD"
        )
    if code in (CR.CR_CONNECTION_ERROR, CR.CR_CONN_HOST_ERROR, *_LOST, ER.CON_COUNT_ERROR):
        return UnreachableError(_line(error))
    return DatabaseError(f"{where}: {_line(error)}")


def _string(value: object) -> str:
    """Return what some releases give as bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")


def _line(error: BaseException) -> str:
    return " ".join(str(error.args[-1] if error.args else error).split())[:300] or type(error).__name__
