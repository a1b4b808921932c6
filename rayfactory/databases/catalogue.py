"""The structure of a database as its own catalogue has it: tables, columns, keys and views, without content."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import duckdb

from rayfactory.databases.engine import Connection
from rayfactory.databases.schema import ForeignKey, View

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ColumnStructure:
    """One column as it is declared."""

    name: str
    declared_type: str
    nullable: bool
    description: str = ""


@dataclass(frozen=True, slots=True)
class TableStructure:
    """One base table as it is declared.

    Attributes:
        unique_keys: column names of each unique constraint or index, the primary key aside.
        has_rowid: whether rows can be read by position; False for SQLite's WITHOUT ROWID.
    """

    name: str
    columns: tuple[ColumnStructure, ...]
    primary_key: tuple[str, ...]
    unique_keys: tuple[tuple[str, ...], ...] = ()
    has_rowid: bool = True
    description: str = ""

    def find(self, column: str) -> str | None:
        """Return the column's name as the table spells it, or None where it has none such (case-insensitive)."""
        folded = column.casefold()
        return next((own.name for own in self.columns if own.name.casefold() == folded), None)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """One database as it is declared."""

    tables: tuple[TableStructure, ...]
    foreign_keys: tuple[ForeignKey, ...]
    views: tuple[View, ...]

    def find(self, table: str) -> TableStructure | None:
        """Return the base table of that name (case-insensitive), or None."""
        folded = table.casefold()
        return next((own for own in self.tables if own.name.casefold() == folded), None)


def read_catalogue(connection: Connection) -> Catalogue:
    """Return what a database declares."""
    if isinstance(connection, sqlite3.Connection):
        return _read_sqlite(connection)
    return _read_duckdb(connection) if isinstance(connection, duckdb.DuckDBPyConnection) else connection.catalogue()


def quote(name: str) -> str:
    """Return a name as every raw connection accepts it in a statement."""
    return '"' + name.replace('"', '""') + '"'


def resolve_foreign_keys(
    tables: Iterable[TableStructure], foreign_keys: Iterable[ForeignKey]
) -> tuple[ForeignKey, ...]:
    """Return the foreign keys in the tables' own spelling, each once.

    Benchmarks declare keys that lead nowhere: to a table or a column that does not exist, or to the column itself.
    Those are left out.
    """
    by_name = {table.name.casefold(): table for table in tables}
    resolved: dict[tuple[str, frozenset[tuple[str, str]], str], ForeignKey] = {}
    for key in foreign_keys:
        table, referenced = by_name.get(key.table.casefold()), by_name.get(key.referenced_table.casefold())
        if table is None or referenced is None:
            continue
        # SQLite lets the referenced columns be left out where they are the primary key.
        referenced_names = key.referenced_columns or referenced.primary_key
        columns = [table.find(name) for name in key.columns]
        referenced_columns = [referenced.find(name) for name in referenced_names]
        if not columns or len(columns) != len(referenced_columns) or None in columns or None in referenced_columns:
            continue
        if table is referenced and columns == referenced_columns:
            continue
        own = tuple(name for name in columns if name is not None)
        other = tuple(name for name in referenced_columns if name is not None)
        identity = (table.name, frozenset(zip(own, other, strict=True)), referenced.name)
        resolved.setdefault(identity, ForeignKey(table.name, own, referenced.name, other, key.source))
    return tuple(resolved.values())


def _read_sqlite(connection: sqlite3.Connection) -> Catalogue:
    tables: list[TableStructure] = []
    foreign_keys: list[ForeignKey] = []
    # In the order of their creation, which PRAGMA table_list does not keep.
    created = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid").fetchall()
    # Tables of the kinds `virtual` and `shadow` belong to an extension such as full-text search.
    plain = {
        name: bool(without_rowid)
        for schema, name, kind, _, without_rowid, _ in connection.execute("PRAGMA table_list").fetchall()
        if schema == "main" and kind == "table" and not name.lower().startswith("sqlite_")
    }
    for (name,) in created:
        if name not in plain:
            continue
        tables.append(_read_sqlite_table(connection, name, has_rowid=not plain[name]))
        foreign_keys.extend(_read_sqlite_foreign_keys(connection, name))
    definitions = {
        str(name): str(sql)
        for name, sql in connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'view' ORDER BY rowid")
    }
    names = [table.name for table in tables]
    return Catalogue(tuple(tables), resolve_foreign_keys(tables, foreign_keys), _views(definitions, names, "sqlite"))


def _read_sqlite_table(connection: sqlite3.Connection, name: str, *, has_rowid: bool) -> TableStructure:
    columns: list[ColumnStructure] = []
    key_positions: dict[str, int] = {}
    # table_xinfo, other than table_info, tells of generated columns.
    for _, column, declared_type, not_null, _, key_position, _ in connection.execute(
        f"PRAGMA table_xinfo({quote(name)})"
    ).fetchall():
        columns.append(ColumnStructure(column, declared_type, not not_null))
        if key_position:
            key_positions[column] = key_position
    unique_keys: list[tuple[str, ...]] = []
    for _, index, unique, origin, partial in connection.execute(f"PRAGMA index_list({quote(name)})").fetchall():
        if unique and not partial and origin != "pk":
            members = connection.execute(f"PRAGMA index_info({quote(index)})").fetchall()
            if all(member is not None for _, _, member in members):  # None: an expression
                unique_keys.append(tuple(member for _, _, member in members))
    primary_key = tuple(sorted(key_positions, key=key_positions.__getitem__))
    return TableStructure(name, tuple(columns), primary_key, tuple(unique_keys), has_rowid)


def _read_sqlite_foreign_keys(connection: sqlite3.Connection, table: str) -> list[ForeignKey]:
    members: dict[int, list[tuple[str, str, str | None]]] = {}
    for row in connection.execute(f"PRAGMA foreign_key_list({quote(table)})").fetchall():
        members.setdefault(row[0], []).append((row[2], row[3], row[4]))
    # SQLite lists the last declared first.
    return [
        ForeignKey(
            table=table,
            columns=tuple(column for _, column, _ in key),
            referenced_table=key[0][0],
            referenced_columns=tuple(referenced for _, _, referenced in key if referenced is not None),
        )
        for _, key in sorted(members.items(), reverse=True)
    ]


def _read_duckdb(connection: duckdb.DuckDBPyConnection) -> Catalogue:
    of_main = "database_name = current_database() AND schema_name = 'main'"
    columns: dict[str, list[ColumnStructure]] = {}
    for table, column, declared_type, nullable, comment in connection.execute(
        "SELECT table_name, column_name, data_type, is_nullable, comment FROM duckdb_columns() "
        f"WHERE {of_main} AND NOT internal ORDER BY table_oid, column_index"
    ).fetchall():
        columns.setdefault(table, []).append(ColumnStructure(column, declared_type, nullable, comment or ""))
    primary_keys: dict[str, tuple[str, ...]] = {}
    unique_keys: dict[str, list[tuple[str, ...]]] = {}
    foreign_keys: list[ForeignKey] = []
    for table, kind, names, referenced, referenced_names in connection.execute(
        "SELECT table_name, constraint_type, constraint_column_names, referenced_table, referenced_column_names "
        f"FROM duckdb_constraints() WHERE {of_main} ORDER BY table_oid, constraint_index"
    ).fetchall():
        if kind == "PRIMARY KEY":
            primary_keys[table] = tuple(names)
        elif kind == "UNIQUE":
            unique_keys.setdefault(table, []).append(tuple(names))
        elif kind == "FOREIGN KEY":
            foreign_keys.append(ForeignKey(table, tuple(names), referenced, tuple(referenced_names)))
    comments = connection.execute(
        f"SELECT table_name, comment FROM duckdb_tables() WHERE {of_main} AND NOT internal AND NOT temporary "
        "ORDER BY table_oid"
    ).fetchall()
    elsewhere = connection.execute(
        "SELECT DISTINCT schema_name FROM duckdb_tables() WHERE database_name = current_database() AND NOT internal "
        "AND NOT temporary AND schema_name <> 'main' ORDER BY schema_name"
    ).fetchall()
    if elsewhere:
        logger.warning(
            "only tables of the schema 'main' are used; those of %s are left out",
            ", ".join(repr(s) for (s,) in elsewhere),
        )
    definitions: dict[str, str] = dict(
        connection.execute(
            f"SELECT view_name, sql FROM duckdb_views() WHERE {of_main} AND NOT internal ORDER BY view_oid"
        ).fetchall()
    )
    return put_together(comments, columns, Keys(primary_keys, unique_keys, foreign_keys), definitions, "duckdb")


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys that the tables of a database declare, by table name.

    Attributes:
        foreign: as they are declared, wherever they lead.
    """

    primary: Mapping[str, tuple[str, ...]]
    unique: Mapping[str, Sequence[tuple[str, ...]]]
    foreign: Sequence[ForeignKey]


def put_together(
    comments: Iterable[tuple[str, str | None]],
    columns: Mapping[str, Sequence[ColumnStructure]],
    keys: Keys,
    definitions: Mapping[str, str],
    dialect: str,
) -> Catalogue:
    """Return a catalogue out of what was read of it.

    Args:
        comments: (table name, what the database says of it), in the database's order; a table without columns is left
            out.
        columns: by table name, in order.
        definitions: the query of each view.
    """
    tables = tuple(
        TableStructure(
            name=name,
            columns=tuple(columns[name]),
            primary_key=keys.primary.get(name, ()),
            unique_keys=tuple(keys.unique.get(name, ())),
            description=comment or "",
        )
        for name, comment in comments
        if name in columns
    )
    names = [table.name for table in tables]
    return Catalogue(tables, resolve_foreign_keys(tables, keys.foreign), _views(definitions, names, dialect))


def _views(definitions: Mapping[str, str], table_names: list[str], dialect: str) -> tuple[View, ...]:
    """Return the views with the base tables that they read, through other views where need be."""
    reads = {name.casefold(): _names_read(sql, dialect) for name, sql in definitions.items()}
    spelling = {name.casefold(): name for name in table_names}
    views: list[View] = []
    for view in definitions:
        waiting, seen = [view.casefold()], set[str]()
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting.extend(reads.get(name, ()))
        views.append(View(view, tuple(sorted(spelling[name] for name in seen if name in spelling))))
    return tuple(views)


def _names_read(sql: str, dialect: str) -> set[str]:
    """Return the names of tables and views that a view's definition reads, folded; empty where it does not parse."""
    import sqlglot  # half a second, for the few databases that have views
    from sqlglot import exp

    try:
        tree = sqlglot.parse_one(sql, dialect=dialect)
    except sqlglot.errors.SqlglotError:
        logger.warning("a view's definition does not parse, its base tables stay unknown: %r", sql[:200])
        return set()
    if isinstance(tree, exp.Create) and tree.expression is not None:
        tree = tree.expression
    common_tables = {cte.alias.casefold() for cte in tree.find_all(exp.CTE)}
    return {table.name.casefold() for table in tree.find_all(exp.Table)} - common_tables
