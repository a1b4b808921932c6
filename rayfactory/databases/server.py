"""A database server as one read-only connection, and an engine over it.

What PostgreSQL and MySQL have in common stands here; `postgresql.py` and `mysql.py` speak with them. A server is
somebody else's, and often in use: every statement runs in a read-only transaction of its own that is rolled back, under
the server's own time limit, so that it ends even where this process does not live to stop it.
"""

from __future__ import annotations

import logging
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from rayfactory.config import ExecutionConfig
from rayfactory.databases.engine import Database, Engine, Result, Watchdog
from rayfactory.errors import BenchmarkError, DatabaseError, StatementError
from rayfactory.shown import shown_url

if TYPE_CHECKING:
    from rayfactory.databases.catalogue import Catalogue

logger = logging.getLogger(__name__)

DIALECTS = {"postgresql": "postgres", "postgres": "postgres", "mysql": "mysql", "mariadb": "mysql"}
"""The dialect that each scheme of an address stands for."""

DEFAULT_SCHEMA = "public"
"""The schema of PostgreSQL that is read where the address names none."""

READING_TIMEOUT_S = 600
"""Limit of a statement of our own: what is counted and sampled once."""

CONNECT_TIMEOUT_S = 10

PATIENCE_S = 60.0
"""How long a server that does not answer is tried again: it may be starting."""


class ServerError(Exception):
    """The server refused or ended a statement.

    Attributes:
        reason: as in `StatementError`: ``error``, ``timeout`` or ``memory``; ``crashed`` where the connection is lost.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class UnreachableError(Exception):
    """Nobody answers at the address now. Somebody may a little later."""


class Cursor(Protocol):
    """The rows of one statement, as far as they are read here."""

    def fetchall(self) -> Sequence[tuple[Any, ...]]: ...

    def fetchmany(self, size: int) -> Sequence[tuple[Any, ...]]: ...

    def __iter__(self) -> Iterator[tuple[Any, ...]]: ...


class ServerConnection(ABC):
    """One connection, in which nothing can be written.

    Attributes:
        version: name and release of the server, such as ``PostgreSQL 15.18``.
    """

    dialect: ClassVar[str]
    version: str

    @abstractmethod
    def __init__(self, database: Database, timeout_s: float) -> None:
        """Connect.

        Args:
            timeout_s: limit of a statement that is not ours.

        Raises:
            UnreachableError: nobody answers.
            DatabaseError: the server lets nobody in with this user, password and database.
        """

    @abstractmethod
    def execute(self, sql: str) -> Cursor:
        """Run a statement of our own, in which names stand in double quotes.

        Raises:
            ServerError: it did not run.
        """

    @abstractmethod
    def read(
        self, sql: str, keep_rows: int, limits: ExecutionConfig
    ) -> tuple[tuple[str, ...], list[tuple[object, ...]], int]:
        """Run somebody else's statement in a transaction of its own; return columns, the first rows, and their number.

        Raises:
            ServerError: it did not run.
            StatementError: it returned too many rows.
        """

    @abstractmethod
    def catalogue(self) -> Catalogue:
        """Return the tables that the user may read, with their keys and comments.

        Raises:
            ServerError: a statement did not run.
        """

    @abstractmethod
    def estimated_rows(self, table: str) -> int:
        """Return about how many rows the server believes a table to have; 0 where it does not know."""

    @abstractmethod
    def rights(self) -> list[str]:
        """Return in words what the user could do beside reading, if nothing here prevented it."""

    @abstractmethod
    def remedy(self) -> str:
        """Return statements that make a user who can only read."""

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether it can be used."""

    @abstractmethod
    def interrupt(self) -> None:
        """Stop what is running, from another thread."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection. Closing twice does nothing."""


class ServerEngine(Engine):
    """Runs statements on a server, for one thread at a time. A connection that is lost is opened again when needed."""

    def __init__(self, database: Database, limits: ExecutionConfig) -> None:
        self.dialect = database.dialect
        self._database = database
        self._limits = limits
        self._server: ServerConnection | None = None
        self._open()

    def run(self, sql: str, *, keep_rows: int = 0) -> Result:
        """Run one statement to its end, and count its rows.

        Raises:
            StatementError: it did not run; reason as in `engine.Engine.run`, and ``crashed`` where the server ended
                the connection.
            DatabaseError: the server does not answer any more.
        """
        if re.search("[\0\ud800-\udfff]", sql):
            # The one would end the text where it stands; of the others there is no UTF-8.
            raise StatementError("error", "it holds a character that no text of a database has")
        if self._server is None:
            self._open()
        assert self._server is not None
        started = time.perf_counter()
        self._watchdog.arm(self._limits.timeout_s)
        failure: ServerError | None = None
        try:
            columns, rows, row_count = self._server.read(sql, keep_rows, self._limits)
        except ServerError as error:
            failure = error
        finally:
            interrupted = self._watchdog.disarm()
            if not self._server.is_open:
                self.close()
        elapsed_s = time.perf_counter() - started
        # MariaDB answers some statements that it stopped, such as BENCHMARK, as if they had ended.
        interrupted = interrupted or elapsed_s >= self._limits.timeout_s
        if interrupted or (failure is not None and failure.reason == "timeout"):
            raise StatementError("timeout", f"ran longer than {self._limits.timeout_s:g} s") from failure
        if failure is not None:
            raise StatementError(failure.reason, str(failure)) from failure
        return Result(columns, tuple(rows), row_count, elapsed_s * 1_000)

    @property
    def is_open(self) -> bool:
        """Whether the connection is there."""
        return self._server is not None

    def close(self) -> None:
        """Close the connection. Closing twice does nothing."""
        if self._server is not None:
            self._watchdog.close()
            self._server.close()
            self._server = None

    def _open(self) -> None:
        self._server = open_server(self._database, self._limits.timeout_s)
        self._watchdog = Watchdog(self._server.interrupt)


def is_server(dialect: str) -> bool:
    """Return whether databases of a dialect are reached at an address, and are no files."""
    return dialect in DIALECTS.values()


def open_server(database: Database, timeout_s: float) -> ServerConnection:
    """Open a connection, trying again for a while where nobody answers.

    Args:
        timeout_s: limit of one statement, which the server keeps too.

    Raises:
        DatabaseError: the server does not answer, or lets nobody in with this user, password and database.
    """
    connection_type = _connection_type(database.dialect)
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        try:
            return connection_type(database, timeout_s)
        except UnreachableError as error:
            if time.monotonic() >= give_up_at:
                raise DatabaseError(
                    f"database {database.name!r} ({database.path}): nobody answers ({error}); check benchmark.url, and "
                    "that the server runs and can be reached from here"
                ) from error
            time.sleep(1)
        except ServerError as error:
            raise DatabaseError(
                f"database {database.name!r} ({database.path}): the connection cannot be made safe ({error}); is it "
                "the kind of server that the address says?"
            ) from error


def _connection_type(dialect: str) -> type[ServerConnection]:
    try:
        if dialect == "postgres":
            from rayfactory.databases.postgresql import PostgreSQLConnection

            return PostgreSQLConnection
        from rayfactory.databases.mysql import MySQLConnection
    except ImportError as error:
        raise DatabaseError(
            f"the package {error.name!r}, which speaks with this kind of server, is not installed; "
            "install it with: pip install 'rayfactory[servers]'"
        ) from error
    return MySQLConnection


def warn_of_rights(database: Database, connection: ServerConnection) -> None:
    """Tell, once a run, where the user could do more than read."""
    if rights := connection.rights():
        logger.warning(
            "database %r (%s): its user could %s. Every statement runs in a read-only transaction that is rolled back, "
            "but a user who can only read is the better protection:\n%s",
            database.name,
            database.path,
            ", ".join(rights),
            connection.remedy(),
        )


# -- addresses ----------------------------------------------------------------


def database_at(url: str, password: str) -> Database:
    """Return the database that an address names.

    Args:
        url: ``postgresql://user@host:port/database`` or ``mysql://...``, without a password.
        password: of the user; empty: the server asks for none, or the client library knows it.

    Raises:
        BenchmarkError: it is no such address.
    """
    parts = urlsplit(url)
    dialect = DIALECTS.get(parts.scheme.lower())
    name = unquote(parts.path.strip("/"))
    try:
        port = parts.port
    except ValueError:
        port = 0
    if dialect is None or not parts.hostname or port == 0 or not name or "/" in name:
        raise BenchmarkError(
            f"benchmark.url={shown_url(url)!r} is no address of a database; write postgresql://USER@HOST:PORT/DATABASE "
            "or mysql://USER@HOST:PORT/DATABASE, and put the password into the environment variable "
            "RAYFACTORY_DATABASE_PASSWORD (benchmark.password_env names another)"
        )
    return Database(name, dialect, urlunsplit(parts._replace(path="/" + quote(name))), password)


def split_schema(url: str) -> tuple[str, str]:
    """Return an address without its ``?schema=NAME``, which is no option of PostgreSQL's, and that name."""
    parts = urlsplit(url)
    options: list[tuple[str, Any]] = parse_qsl(parts.query)
    schema = next((value for name, value in options if name == "schema"), DEFAULT_SCHEMA)
    rest = urlencode([(name, value) for name, value in options if name != "schema"])
    return urlunsplit(parts._replace(scheme="postgresql", query=rest)), schema
