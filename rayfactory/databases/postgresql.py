"""PostgreSQL: a connection in which nothing can be written."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import psycopg
from psycopg import errors

from rayfactory.config import ExecutionConfig
from rayfactory.databases.catalogue import Catalogue, ColumnStructure, Keys, put_together
from rayfactory.databases.engine import Database, check_size
from rayfactory.databases.schema import ForeignKey
from rayfactory.databases.server import (
    CONNECT_TIMEOUT_S,
    READING_TIMEOUT_S,
    Cursor,
    ServerConnection,
    ServerError,
    UnreachableError,
    split_schema,
)
from rayfactory.errors import DatabaseError

logger = logging.getLogger(__name__)

_IDLE_S = 60
"""How long the server keeps a transaction of ours in which nothing happens: this process may have been stopped."""

_ATTRIBUTES = {
    "rolsuper": "do anything (it is a superuser)",
    "rolcreaterole": "make users",
    "rolcreatedb": "make databases",
    "rolreplication": "read the write-ahead log (REPLICATION)",
}
_DANGEROUS_ROLES = ("pg_write_all_data", "pg_write_server_files", "pg_execute_server_program", "pg_read_server_files")


class PostgreSQLConnection(ServerConnection):
    """One connection. Statements run as cursors: PostgreSQL opens those over a SELECT only, and one at a time."""

    dialect: ClassVar[str] = "postgres"

    def __init__(self, database: Database, timeout_s: float) -> None:
        address, self.schema = split_schema(database.path)
        try:
            self._connection: psycopg.Connection[tuple[object, ...]] = psycopg.connect(
                address,
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT_S,
                application_name="rayfactory",
                client_encoding="utf8",
                password=database.secret or None,
            )
        except psycopg.OperationalError as error:
            raise _refused(database, error) from error
        except psycopg.Error as error:  # an option in the address that there is not
            raise DatabaseError(f"database {database.name!r} ({database.path}): {_line(error)}") from error
        number = self._connection.info.server_version
        self.version = f"PostgreSQL {number // 10_000}.{number % 100}"
        settings = {
            "search_path": self.schema,
            "timezone": "UTC",
            "datestyle": "ISO",
            "standard_conforming_strings": "on",
            "default_transaction_read_only": "on",
            "idle_in_transaction_session_timeout": f"{_IDLE_S}s",
            # The whole result is wanted, not its first rows.
            "cursor_tuple_fraction": "1",
            # One process for each connection, as its users expect; and sums of floats in one order.
            "max_parallel_workers_per_gather": "0",
            # Compiling takes longer than most of the statements.
            "jit": "off",
        }
        if number >= 140_000:  # a client that is gone is noticed while a statement runs
            settings["client_connection_check_interval"] = "5s"
        own = "; ".join(f"SET LOCAL {name} = {_text(value)}" for name, value in settings.items())
        # In each transaction anew: a pool of connections in between may give every one of them another session.
        self._limit = f"SET LOCAL statement_timeout = {round(timeout_s * 1_000)}"
        self._begin = f"BEGIN READ ONLY; {own}; {self._limit}"
        if number >= 140_000 and self._connection.info.parameter_status("is_superuser") == "on":
            self._begin += "; SET LOCAL ROLE pg_read_all_data"
        reading = f"SET statement_timeout = '{READING_TIMEOUT_S}s'"
        self._connection.execute(f"{own.replace('SET LOCAL', 'SET')}; {reading}")

    def execute(self, sql: str) -> Cursor:
        """Run a statement of our own."""
        try:
            return self._connection.execute(sql)
        except psycopg.Error as error:
            raise self._failure(error) from error

    def read(
        self, sql: str, keep_rows: int, limits: ExecutionConfig
    ) -> tuple[tuple[str, ...], list[tuple[object, ...]], int]:
        """Run somebody else's statement; rows that are not kept are counted where they are and never sent."""
        connection = self._connection
        cursor = connection.cursor()
        try:
            cursor.execute(self._begin)
            # In the extended protocol, which `binary` asks for, a text is one statement or an error.
            cursor.execute(f"DECLARE rayfactory NO SCROLL CURSOR FOR {sql}", binary=True)
            cursor.execute(f"FETCH {max(1, keep_rows)} FROM rayfactory")
            columns = tuple(column.name for column in cursor.description or ())
            row_count = cursor.rowcount
            # What is only counted need not be anything that Python has: a day in the year 12000, say.
            rows = cursor.fetchall() if keep_rows else []
            if row_count == max(1, keep_rows):
                most = min(limits.max_rows, limits.max_cells // max(1, len(columns)))
                # The first row may have changed the limit.
                cursor.execute(f"{self._limit}; MOVE {max(0, most - row_count) + 1} IN rayfactory")
                cursor.nextset()
                row_count += cursor.rowcount
        except psycopg.Error as error:
            raise self._failure(error) from error
        finally:
            self._leave()
        check_size(row_count, len(columns), limits)
        return columns, rows, row_count

    def rights(self) -> list[str]:
        """Return in words what the user could do beside reading."""
        names = ", ".join(_ATTRIBUTES)
        ((*flags, is_owner),) = self.execute(
            f"SELECT {names}, pg_has_role(datdba, 'USAGE') FROM pg_roles, pg_database "
            "WHERE rolname = current_user AND datname = current_database()"
        ).fetchall()
        found = [words for words, held in zip(_ATTRIBUTES.values(), flags, strict=True) if held]
        if flags[0]:
            return found
        found += ["change the database (it owns it)"] if is_owner else []
        roles = ", ".join(map(_text, _DANGEROUS_ROLES))
        for (role,) in self.execute(
            f"SELECT rolname FROM pg_roles WHERE rolname IN ({roles}) AND pg_has_role(oid, 'MEMBER') ORDER BY 1"
        ).fetchall():
            found.append(f"act as {role}")
        writable = self.execute(
            "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            f"WHERE n.nspname = {_text(self.schema)} AND c.relkind IN ('r', 'p', 'f', 'v') "
            "AND has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE') ORDER BY 1"
        ).fetchall()
        if writable:
            found.append(f"write to {writable[0][0]!r}" + (f" and {len(writable) - 1} more" if writable[1:] else ""))
        ((may_create,),) = self.execute(
            f"SELECT coalesce(bool_or(has_schema_privilege(oid, 'CREATE')), false) FROM pg_namespace "
            f"WHERE nspname = {_text(self.schema)}"
        ).fetchall()
        return [*found, f"make tables in the schema {self.schema!r}"] if may_create else found

    def catalogue(self) -> Catalogue:
        """Return the tables of the schema that the user may read, partitions counted to their table."""
        columns: dict[str, list[ColumnStructure]] = {}
        for table, column, declared_type, nullable, comment in self._of_tables(
            "a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull, col_description(c.oid, a.attnum)",
            "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped",
            "a.attnum",
        ):
            columns.setdefault(table, []).append(ColumnStructure(column, declared_type, nullable, comment or ""))
        primary_keys: dict[str, tuple[str, ...]] = {}
        unique_keys: dict[str, list[tuple[str, ...]]] = {}
        names = "ARRAY(SELECT a.attname::text FROM unnest({0}) WITH ORDINALITY AS k(number, place)"
        names += " JOIN pg_attribute a ON a.attrelid = {1} AND a.attnum = k.number ORDER BY place)"
        # Of an index with expressions some columns have the number 0; one with a condition promises nothing.
        for table, is_primary, key in self._of_tables(
            "i.indisprimary, " + names.format("(i.indkey::int2[])[0:i.indnkeyatts - 1]", "c.oid"),
            "JOIN pg_index i ON i.indrelid = c.oid AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL",
            "NOT i.indisprimary, i.indexrelid",
        ):
            if is_primary:
                primary_keys[table] = tuple(key)
            else:
                unique_keys.setdefault(table, []).append(tuple(key))
        foreign_keys = [
            ForeignKey(table, tuple(own), referenced, tuple(other))
            for table, referenced, own, other in self._of_tables(
                f"r.relname, {names.format('k.conkey', 'c.oid')}, {names.format('k.confkey', 'r.oid')}",
                "JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype = 'f' JOIN pg_class r ON r.oid = k.confrelid "
                "AND r.relnamespace = c.relnamespace",
                "k.oid",
            )
        ]
        comments = self._of_tables("obj_description(c.oid, 'pg_class')", "", "c.oid")
        definitions = dict(self._of_tables("pg_get_viewdef(c.oid)", "", "c.oid", kinds="'v', 'm'"))
        self._tell_what_is_left_out()
        return put_together(comments, columns, Keys(primary_keys, unique_keys, foreign_keys), definitions, "postgres")

    def estimated_rows(self, table: str) -> int:
        """Return what the last ANALYZE found; of a partitioned table, the sum over its partitions."""
        ((rows,),) = self.execute(
            "WITH RECURSIVE parts AS (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            f"WHERE n.nspname = {_text(self.schema)} AND c.relname = {_text(table)} "
            "UNION ALL SELECT i.inhrelid FROM pg_inherits i JOIN parts p ON i.inhparent = p.oid) "
            "SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint FROM parts JOIN pg_class c USING (oid) "
            "WHERE c.relkind <> 'p'"
        ).fetchall()
        return int(str(rows))

    def _of_tables(self, selected: str, joins: str, order: str, kinds: str = "'r', 'p'") -> Sequence[tuple[Any, ...]]:
        """Return the name of each table that may be read, with what else is selected of it."""
        return self.execute(
            f"SELECT c.relname, {selected} FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace {joins} "
            f"WHERE n.nspname = {_text(self.schema)} AND c.relkind IN ({kinds}) AND NOT c.relispartition "
            f"AND has_table_privilege(c.oid, 'SELECT') ORDER BY c.oid, {order}"
        ).fetchall()

    def _tell_what_is_left_out(self) -> None:
        unreadable = self.execute(
            "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            f"WHERE n.nspname = {_text(self.schema)} AND c.relkind IN ('r', 'p') AND NOT c.relispartition "
            "AND NOT has_table_privilege(c.oid, 'SELECT') ORDER BY 1"
        ).fetchall()
        if unreadable:
            names = ", ".join(repr(name) for (name,) in unreadable[:5])
            logger.warning(
                "%d tables of the schema %r may not be read by this user and are left out: %s",
                len(unreadable),
                self.schema,
                names,
            )
        elsewhere = self.execute(
            "SELECT DISTINCT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            f"WHERE n.nspname NOT IN ({_text(self.schema)}, 'pg_catalog', 'information_schema') "
            "AND n.nspname NOT LIKE 'pg\\_%' AND c.relkind IN ('r', 'p') "
            "AND has_table_privilege(c.oid, 'SELECT') ORDER BY 1"
        ).fetchall()
        if elsewhere:
            logger.warning(
                "only tables of the schema %r are used; those of %s are left out: benchmark.url=...?schema=NAME",
                self.schema,
                ", ".join(repr(schema) for (schema,) in elsewhere[:5]),
            )

    def remedy(self) -> str:
        """Return statements that make a user who can only read."""
        schema = '"' + self.schema.replace('"', '""') + '"'
        return (
            "  CREATE ROLE rayfactory LOGIN PASSWORD '...' NOSUPERUSER;\n"
            f"  GRANT USAGE ON SCHEMA {schema} TO rayfactory;\n"
            f"  GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO rayfactory;"
        )

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return not self._connection.closed

    def interrupt(self) -> None:
        """Ask the server to cancel what is running."""
        self._connection.cancel_safe(timeout=CONNECT_TIMEOUT_S)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _leave(self) -> None:
        """Take back all that the statement may have done: its transaction, and locks that outlast one."""
        try:
            self._connection.execute("ROLLBACK; SELECT pg_advisory_unlock_all()")
        except psycopg.Error:
            self._connection.close()

    def _failure(self, error: psycopg.Error) -> ServerError:
        if self._connection.closed or self._connection.broken or isinstance(error, errors.AdminShutdown):
            return ServerError("crashed", f"the server ended the connection while it ran ({_line(error)})")
        if isinstance(error, errors.QueryCanceled):
            return ServerError("timeout", _line(error))
        reason = "memory" if isinstance(error, (errors.OutOfMemory, errors.DiskFull)) else "error"
        return ServerError(reason, _line(error))


def _refused(database: Database, error: psycopg.OperationalError) -> Exception:
    """Return what a failed connection means: nobody there, or somebody who does not let us in."""
    message = _line(error)
    where = f"database {database.name!r} ({database.path})"
    if "password" in message or "authentication" in message or "pg_hba" in message:
        return DatabaseError(
            f"{where}: the server does not let this user in ({message}); put the password into the environment "
            "variable RAYFACTORY_DATABASE_PASSWORD"
        )
    if "does not exist" in message:
        return DatabaseError(f"{where}: {message}; check benchmark.url")
    return UnreachableError(message)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _line(error: psycopg.Error) -> str:
    """Return what went wrong in one line, without the statement, which PostgreSQL repeats."""
    message = error.diag.message_primary or str(error)
    return " ".join(message.split())[:300] or type(error).__name__
