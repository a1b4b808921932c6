"""What the rows of a table hold, from a bounded and repeatable sample of them."""

from __future__ import annotations

import itertools
import math
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import TYPE_CHECKING

import duckdb

from rayfactory.config import ProfileConfig
from rayfactory.databases.catalogue import TableStructure, quote
from rayfactory.databases.engine import Connection
from rayfactory.databases.schema import ColumnProfile, Kind, Value

if TYPE_CHECKING:
    from rayfactory.databases.server import ServerConnection

MAX_SAMPLED_CELLS = 4_000_000
"""Rows times columns of one sample, which bounds memory for wide tables."""

MAX_ROWS_READ = 5_000_000
"""A larger table on a server is not read whole for its sample, nor counted where the server has an estimate."""

NUM_BLOCKS = 1_000
"""A table of SQLite that is not read whole is read in this many short runs of rows."""

MAX_TEXT_CHARS = 80
"""Longer text is no constant that anybody would write in a query."""

_KEPT_CHARS = 4 * MAX_TEXT_CHARS
_GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it, modulo 1, are spread evenly and never periodic."""

NUM_COMMON_VALUES = 20
NUM_EXAMPLES = 5

_ORDERED: frozenset[Kind] = frozenset({"integer", "real", "date", "timestamp", "time"})

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_TIMESTAMP = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?")
_TIME = re.compile(r"\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?")

_DUCKDB_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"), "integer"),
    **dict.fromkeys(("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"), "integer"),
    **dict.fromkeys(("FLOAT", "DOUBLE", "DECIMAL"), "real"),
    **dict.fromkeys(("VARCHAR", "ENUM"), "text"),
    "DATE": "date",
    **dict.fromkeys(("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"), "timestamp"),
    "TIME": "time",
    "BOOLEAN": "boolean",
}
"""DuckDB types that authors can write constants of; all others (nested, binary, time zones, UUID) are ``other``."""

_POSTGRES_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("smallint", "integer", "bigint"), "integer"),
    **dict.fromkeys(("real", "double precision", "numeric"), "real"),
    **dict.fromkeys(("text", "character varying", "character", "citext", "name"), "text"),
    "date": "date",
    "timestamp without time zone": "timestamp",
    "time without time zone": "time",
    "boolean": "boolean",
}
"""The same of PostgreSQL. A type of the user's own (an enumeration, a domain) is ``other``."""

_MYSQL_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("tinyint", "smallint", "mediumint", "int", "bigint", "year"), "integer"),
    **dict.fromkeys(("float", "double", "decimal"), "real"),
    **dict.fromkeys(("char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum"), "text"),
    "date": "date",
    **dict.fromkeys(("datetime", "timestamp"), "timestamp"),
    "time": "time",
}
"""The same of MySQL and MariaDB; ``tinyint(1)``, which both call BOOLEAN, is a number like the others."""


@dataclass(frozen=True, slots=True)
class TableContent:
    """The content of one table.

    Attributes:
        num_rows: exact.
        kinds, profiles: one for each column, in the table's order.
    """

    num_rows: int
    kinds: tuple[Kind, ...]
    profiles: tuple[ColumnProfile, ...]


def profile_table(connection: Connection, table: TableStructure, settings: ProfileConfig) -> TableContent:
    """Count a table's rows, sample them and describe each column."""
    rows_in_table = num_rows(connection, table.name)
    max_rows = max(1, min(settings.max_rows, MAX_SAMPLED_CELLS // len(table.columns)))
    if isinstance(connection, sqlite3.Connection):
        rows = _sample_sqlite(connection, table, rows_in_table, max_rows)
        values = _columns(rows, len(table.columns))
        kinds = [sqlite_kind(column.declared_type, own) for column, own in zip(table.columns, values, strict=True)]
        values = [_as_kind(own, kind) for own, kind in zip(values, kinds, strict=True)]
    else:
        kind_of = (
            duckdb_kind if isinstance(connection, duckdb.DuckDBPyConnection) else _SERVER_KINDS[connection.dialect]
        )
        kinds = [kind_of(column.declared_type) for column in table.columns]
        if isinstance(connection, duckdb.DuckDBPyConnection):
            rows = _sample_duckdb(connection, table, kinds, rows_in_table, max_rows)
        else:
            rows = _sample_server(connection, table, kinds, rows_in_table, max_rows)
        values = _columns(rows, len(table.columns))
    profiles = [profile_column(own, kind) for own, kind in zip(values, kinds, strict=True)]
    return TableContent(rows_in_table, tuple(kinds), tuple(profiles))


def num_rows(connection: Connection, table: str) -> int:
    """Return the number of rows; of a large table on a server, about as many as it is known to have."""
    if not isinstance(connection, (sqlite3.Connection, duckdb.DuckDBPyConnection)):
        estimate = connection.estimated_rows(table)
        if estimate > MAX_ROWS_READ:
            return estimate
    (rows,) = connection.execute(f"SELECT count(*) FROM {quote(table)}").fetchall()[0]
    return int(rows)


def profile_column(values: Sequence[object], kind: Kind) -> ColumnProfile:
    """Describe the sampled values of one column; None stands for null.

    A float that is no number or infinite counts as null: no constant of SQL equals it.
    """
    present = [value for value in values if value is not None and not _is_not_finite(value)]
    num_sampled = len(values)
    if not num_sampled:
        return ColumnProfile(0, 0.0, 0)
    null_fraction = 1 - len(present) / num_sampled
    counts: Counter[object] = Counter(present)
    if kind == "other" or not present:
        return ColumnProfile(num_sampled, null_fraction, len(counts))
    usable: list[tuple[Value, int]] = [
        (value, count) for value, count in counts.items() if isinstance(value, (int, float, str)) and is_constant(value)
    ]
    # Values of one column are of one type, or of int and float: they compare.
    usable.sort(key=lambda pair: (-pair[1], pair[0]))
    common = tuple((value, count / num_sampled) for value, count in usable[:NUM_COMMON_VALUES])
    minimum: Value | None = None
    maximum: Value | None = None
    quantiles: tuple[Value, ...] = ()
    if kind in _ORDERED:
        ordered: list[Value] = sorted(value for value in present if isinstance(value, (int, float, str)))
        minimum, maximum = ordered[0], ordered[-1]
        quantiles = tuple(ordered[round(tenth * (len(ordered) - 1) / 10)] for tenth in range(1, 10))
    return ColumnProfile(
        num_sampled=num_sampled,
        null_fraction=null_fraction,
        num_distinct=len(counts),
        minimum=minimum,
        maximum=maximum,
        quantiles=quantiles,
        common_values=common,
        examples=_examples(usable),
    )


def is_constant(value: Value) -> bool:
    """Whether an author may write the value into a query: short, printable text that is not blank, or any number."""
    if not isinstance(value, str):
        return True
    return 0 < len(value) <= MAX_TEXT_CHARS and value.isprintable() and not value.isspace() and "\ufffd" not in value


def sqlite_kind(declared_type: str, values: Sequence[object]) -> Kind:
    """Return what an SQLite column holds: its values decide, its declared type only where there are none.

    An SQLite column may hold anything under any type. A mixture of text and numbers is text.
    """
    present = [value for value in values if value is not None]
    if not present:
        return _declared_sqlite_kind(declared_type)
    types = {type(value) for value in present}
    if bytes in types:
        return "other"
    if types == {int}:
        is_boolean = declared_type.upper().startswith("BOOL") and set(present) <= {0, 1}
        return "boolean" if is_boolean else "integer"
    if types <= {int, float}:
        return "real"
    if types == {str}:
        return _text_kind({str(value) for value in present})
    return "text"


def duckdb_kind(declared_type: str) -> Kind:
    """Return what a DuckDB column holds, from its type."""
    if declared_type.endswith("]"):
        return "other"
    return _DUCKDB_KINDS.get(declared_type.partition("(")[0], "other")


def postgres_kind(declared_type: str) -> Kind:
    """Return what a PostgreSQL column holds, from its type as ``format_type`` writes it."""
    if declared_type.endswith("]"):
        return "other"
    # The number of digits stands in the middle of some: timestamp(3) without time zone.
    return _POSTGRES_KINDS.get(re.sub(r"\([^)]*\)", "", declared_type), "other")


def mysql_kind(declared_type: str) -> Kind:
    """Return what a column of MySQL or MariaDB holds, from its type with size and attributes: ``int(10) unsigned``."""
    return _MYSQL_KINDS.get(re.split(r"[( ]", declared_type.lower(), maxsplit=1)[0], "other")


_SERVER_KINDS = {"postgres": postgres_kind, "mysql": mysql_kind}


def _declared_sqlite_kind(declared_type: str) -> Kind:
    """Return the kind that a declared type promises; the order of the tests is SQLite's own, dates aside."""
    upper = declared_type.upper()
    if "DATETIME" in upper or "TIMESTAMP" in upper:
        return "timestamp"
    if "DATE" in upper:
        return "date"
    if "BOOL" in upper:
        return "boolean"
    if "INT" in upper:
        return "integer"
    if any(word in upper for word in ("CHAR", "CLOB", "TEXT")):
        return "text"
    if "BLOB" in upper:
        return "other"
    if any(word in upper for word in ("REAL", "FLOA", "DOUB", "NUM", "DEC")):
        return "real"
    return "time" if "TIME" in upper else "text"


def _text_kind(distinct: set[str]) -> Kind:
    if all(_is_iso(text, _DATE, date) for text in distinct):
        return "date"
    if all(_is_iso(text, _TIMESTAMP, datetime) or _is_iso(text, _DATE, date) for text in distinct):
        return "timestamp"
    if all(_is_iso(text, _TIME, time) for text in distinct):
        return "time"
    return "text"


def _is_iso(text: str, pattern: re.Pattern[str], parser: type[date | time]) -> bool:
    if not pattern.fullmatch(text):
        return False
    try:
        parser.fromisoformat(text)
    except ValueError:
        return False
    return True


def _as_kind(values: list[object], kind: Kind) -> list[object]:
    """Return the values as the column's kind has them."""
    if kind == "boolean":
        return [None if value is None else bool(value) for value in values]
    if kind == "text" and any(isinstance(value, (int, float)) for value in values):
        # Whether a number equals its text depends on the column's affinity: of a mixture only the text is a safe
        # constant. The rest still counts as distinct values.
        return [value if value is None or isinstance(value, str) else (value,) for value in values]
    return values


def _examples(usable: list[tuple[Value, int]]) -> tuple[Value, ...]:
    """Return a few values that stand for all: the frequent ones, or where all are rare, some across their range."""
    if len(usable) <= NUM_EXAMPLES or usable[NUM_EXAMPLES - 1][1] > 1:
        return tuple(value for value, _ in usable[:NUM_EXAMPLES])
    ordered: list[Value] = sorted(value for value, _ in usable)
    last = len(ordered) - 1
    return tuple(ordered[round(step * last / (NUM_EXAMPLES - 1))] for step in range(NUM_EXAMPLES))


def _columns(rows: Iterable[Sequence[object]], num_columns: int) -> list[list[object]]:
    columns: list[list[object]] = [[] for _ in range(num_columns)]
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    return columns


def _is_not_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _sample_sqlite(
    connection: sqlite3.Connection, table: TableStructure, num_rows: int, max_rows: int
) -> Iterable[Sequence[object]]:
    # Of long text the beginning is enough, of a blob that it is one.
    names = [quote(column.name) for column in table.columns]
    selected = ", ".join(
        f"CASE typeof({name}) WHEN 'text' THEN substr({name}, 1, {_KEPT_CHARS}) WHEN 'blob' THEN x'' ELSE {name} END"
        for name in names
    )
    source = f"SELECT {selected} FROM {quote(table.name)}"
    if num_rows <= max_rows:
        return connection.execute(source)
    rowid = next((name for name in ("rowid", "_rowid_", "oid") if table.find(name) is None), None)
    if table.has_rowid and rowid is not None:
        low, high = connection.execute(f"SELECT min({rowid}), max({rowid}) FROM {quote(table.name)}").fetchone()
        block = f"{source} WHERE {rowid} BETWEEN ? AND ? ORDER BY {rowid} LIMIT ?"
        rows = [row for bounds in _blocks(low, high, max_rows) for row in connection.execute(block, bounds)]
        if 2 * len(rows) >= max_rows:
            return rows
    # No way to jump into the middle, or large gaps between the row ids: walk.
    positions = itertools.count()
    connection.create_function("rayfactory_sampled", 0, lambda: _is_sampled(next(positions), max_rows / num_rows))
    return connection.execute(f"{source} WHERE rayfactory_sampled()")


def _blocks(low: int, high: int, max_rows: int) -> Iterable[tuple[int, int, int]]:
    """Yield (first row id, last row id, rows) of short runs of rows, one in each of as many equal stretches.

    Where in its stretch a run begins varies: evenly spaced runs over a calendar would all fall into the same month.
    """
    num_blocks = min(NUM_BLOCKS, max_rows)
    block_rows = -(-max_rows // num_blocks)
    for block in range(num_blocks):
        first = low + (high - low + 1) * block // num_blocks
        last = low + (high - low + 1) * (block + 1) // num_blocks - 1
        slack = max(0, last - first + 1 - block_rows)
        yield first + int(slack * (block * _GOLDEN % 1)), last, block_rows


def _is_sampled(position: int, share: float) -> bool:
    return position * _GOLDEN % 1 < share


def _sample_duckdb(
    connection: duckdb.DuckDBPyConnection, table: TableStructure, kinds: Sequence[Kind], num_rows: int, max_rows: int
) -> Iterable[Sequence[object]]:
    source = f"SELECT {_selected(table, kinds, 'duckdb')} FROM {quote(table.name)}"
    if num_rows > max_rows:
        # Columns are read in one fast pass; the hash of the position draws the same rows every time.
        share = round(max_rows / num_rows * 2**32)
        source += f" QUALIFY hash(row_number() OVER ()) >> 32 < {share}"
    return _stream(connection, source)


def _sample_server(
    connection: ServerConnection, table: TableStructure, kinds: Sequence[Kind], num_rows: int, max_rows: int
) -> Iterable[Sequence[object]]:
    source = f"SELECT {_selected(table, kinds, connection.dialect)} FROM {quote(table.name)}"
    if num_rows > max_rows:
        share = max_rows / num_rows
        if connection.dialect == "postgres":
            # Whole pages of a large table, single rows of one that is soon read; the same ones every time.
            method = "SYSTEM" if num_rows > MAX_ROWS_READ else "BERNOULLI"
            source += f" TABLESAMPLE {method} ({100 * share:.6f}) REPEATABLE (0)"
        else:
            source += f" WHERE rand(0) < {share:.8f}"
    return connection.execute(source)


def _stream(connection: duckdb.DuckDBPyConnection, sql: str) -> Iterable[Sequence[object]]:
    cursor = connection.execute(sql)
    while rows := cursor.fetchmany(2_048):
        yield from rows


_NO_CONTENT = "CASE WHEN {name} IS NULL THEN NULL ELSE 0 END"

_EXPRESSIONS: dict[str, dict[Kind, str]] = {
    "duckdb": {
        "other": _NO_CONTENT,
        "real": "CAST({name} AS DOUBLE)",
        "text": "substr(CAST({name} AS VARCHAR), 1, {kept})",
        "date": "CASE WHEN isfinite({name}) THEN CAST({name} AS VARCHAR) END",
        "time": "CAST({name} AS VARCHAR)",
    },
    "postgres": {
        "other": _NO_CONTENT,
        "real": "CAST({name} AS DOUBLE PRECISION)",
        # Of the type character the blanks at its end are no part of the value.
        "text": "substr(CAST({name} AS TEXT), 1, {kept})",
        # Years before the first or after 9999 are no date to Python, and none that anybody would ask about.
        "date": "CASE WHEN {name} BETWEEN '0001-01-01' AND '9999-12-31' THEN CAST({name} AS TEXT) END",
        "time": "CAST({name} AS TEXT)",
    },
    "mysql": {
        "other": _NO_CONTENT,
        "real": "({name} + 0e0)",
        "text": "substr({name}, 1, {kept})",
        # There may be a day 0 of a month 0.
        "date": "CASE WHEN dayofmonth({name}) > 0 AND month({name}) > 0 THEN CAST({name} AS CHAR) END",
        "time": "CAST({name} AS CHAR)",
    },
}
"""How a column of each kind is read for its profile; of other kinds, as it is. Timestamps are read as dates are."""


def _selected(table: TableStructure, kinds: Sequence[Kind], dialect: str) -> str:
    """Return the SELECT list that reads a table's columns for their profiles."""
    expressions = _EXPRESSIONS[dialect]
    return ", ".join(
        expressions.get("date" if kind == "timestamp" else kind, "{name}").format(
            name=quote(column.name),
            kept=_KEPT_CHARS,
        )
        for column, kind in zip(table.columns, kinds, strict=True)
    )
