"""The Execution Tool: parse one candidate, decide whether it may run, run it, and say what came of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace

from rayfactory import sql
from rayfactory.config import ExecutionConfig
from rayfactory.databases.engine import Database, Engine, connect
from rayfactory.databases.sandbox import MAX_OPEN_DATABASES, Sandbox
from rayfactory.databases.schema import Schema
from rayfactory.databases.server import DEFAULT_SCHEMA, split_schema
from rayfactory.errors import StatementError
from rayfactory.records import Execution
from rayfactory.tools.trees import flatten
from rayfactory.tools.words import sort_tokens

MAX_DETAIL_CHARACTERS = 300
"""Database messages are cut to this; some repeat the whole statement."""


def examine(text: str, dialect: str) -> Execution:
    """Parse one candidate and decide whether it may run, without running it.

    Returns:
        An `Execution` whose reason is None where it may run, ``parse`` or ``refused`` otherwise.
    """
    try:
        tree = sql.parse(text, dialect)
    except StatementError as error:
        return Execution(error.reason, _one_line(str(error)), text=" ".join(text.lower().split()))
    try:
        normalised = sql.normalise(tree, dialect)
        examined = Execution(
            None,
            "",
            text=normalised,
            canonical=sql.canonical(tree, dialect),
            words=sort_tokens(normalised),
            tree=flatten(tree),
            tables=sql.base_tables(tree),
            features=sql.features(tree, text, dialect),
        )
    except Exception as error:  # noqa: BLE001 - whatever sqlglot trips over is a fault of the text, never of the run
        detail = f"{type(error).__name__}: {error}"
        return Execution("parse", _one_line(detail), text=" ".join(text.lower().split()))
    try:
        sql.check_safe(tree, dialect)
        sql.check_text(text, dialect)
    except StatementError as error:
        return replace(examined, reason=error.reason, detail=_one_line(str(error)))
    return examined


class ExecutionTool:
    """Runs candidates on the databases of a run, one at a time, in a process of its own.

    Args:
        databases: of the run, by name.
        schemas: of the run, by database name.
        limits: bounds on one statement.
    """

    def __init__(
        self, databases: Mapping[str, Database], schemas: Mapping[str, Schema], limits: ExecutionConfig
    ) -> None:
        self._sandbox = Sandbox(databases, limits)
        # Elsewhere a table that is named with its schema is one of another schema, which may have the same names.
        self._unqualified = {
            name
            for name, database in databases.items()
            if database.dialect == "postgres" and split_schema(database.path)[1] != DEFAULT_SCHEMA
        }
        self._schemas = schemas
        self._names: tuple[str, dict[str, tuple[str, ...]]] = "", {}

    def run(self, database: str, text: str, examined: Execution) -> Execution:
        """Run one candidate that `examine` lets pass, and complete what it found.

        Raises:
            DatabaseError: the database cannot be opened any more.
        """
        if examined.reason is not None:
            return examined
        names = self._names_of(database)
        unknown = [name for name in examined.tables if name.casefold() not in names]
        if unknown:
            return replace(examined, reason="error", detail=f"no such table: {unknown[0]}")
        if database in self._unqualified and sql.schemas_named(sql.parse(text, "postgres")):
            return replace(examined, reason="refused", detail="tables of this database are named without their schema")
        tables = tuple(sorted({base for name in examined.tables for base in names[name.casefold()]}))
        try:
            result = self._sandbox.run(database, text)
        except StatementError as error:
            return replace(examined, tables=tables, reason=error.reason, detail=_one_line(str(error)))
        return replace(examined, tables=tables, row_count=result.row_count, execution_ms=round(result.elapsed_ms, 3))

    def _names_of(self, database: str) -> dict[str, tuple[str, ...]]:
        """Return the base tables behind the name of each table and view; those of one database are kept."""
        if self._names[0] != database:
            schema = self._schemas[database]
            names: dict[str, tuple[str, ...]] = {table.name.casefold(): (table.name,) for table in schema.tables}
            names |= {view.name.casefold(): view.base_tables for view in schema.views}
            self._names = database, names
        return self._names[1]

    def close(self) -> None:
        """End the process that statements run in."""
        self._sandbox.close()


class Connections:
    """Engines in this process by database name, for statements of our own; at most `MAX_OPEN_DATABASES` are open."""

    def __init__(self, databases: Mapping[str, Database], limits: ExecutionConfig) -> None:
        self._databases = databases
        self._limits = limits
        self._open: OrderedDict[str, Engine] = OrderedDict()

    def get(self, database: str) -> Engine:
        """Return the engine of a database, opening it where it is not open.

        Raises:
            DatabaseError: it cannot be opened.
        """
        if database in self._open:
            self._open.move_to_end(database)
        else:
            if len(self._open) >= MAX_OPEN_DATABASES:
                self._open.popitem(last=False)[1].close()
            self._open[database] = connect(self._databases[database].here(), self._limits)
        return self._open[database]

    def close(self) -> None:
        """Close every engine."""
        while self._open:
            self._open.popitem()[1].close()


def _one_line(message: str) -> str:
    return " ".join(message.split())[:MAX_DETAIL_CHARACTERS]
