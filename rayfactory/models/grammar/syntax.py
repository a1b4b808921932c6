"""How names, constants and functions are written, and what there is in which dialect.

What is not for SQLite is written as DuckDB has it; `rayfactory.sql.spelling` says it in the dialect of a server.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from typing import Literal

from rayfactory.databases.schema import Kind, Value

HAS_QUALIFY = frozenset({"duckdb"})
HAS_GROUP_BY_ALL = frozenset({"duckdb"})
HAS_FULL_JOIN = frozenset({"duckdb", "postgres"})
HAS_SUBTOTALS = frozenset({"duckdb", "postgres"})
"""With ROLLUP, CUBE and GROUPING SETS."""
HAS_QUANTILES = frozenset({"duckdb", "postgres"})
HAS_STDDEV = frozenset({"duckdb", "postgres", "mysql"})
HAS_DATES = frozenset({"duckdb", "postgres", "mysql"})
"""With a type for them, where others keep them as text."""
HAS_BOOLEANS = frozenset({"duckdb", "postgres"})
"""With a type for them, where others have numbers."""
JOINS_NESTED = frozenset({"duckdb"})
"""Runs a query that looks back into the one around it as a join; others run it once a row."""

DatePart = Literal["year", "quarter", "month", "weekday", "day"]

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

KEYWORDS = frozenset(
    """
    abort action add after all alter always analyse analyze and anti any array as asc asof asymmetric at attach
    authorization autoincrement before begin between bigint binary bit boolean both by cascade case cast char
    character check coalesce collate collation column columns commit concurrently conflict constraint create cross
    current current_catalog current_date current_role current_schema current_time current_timestamp current_user
    database date datetime day dec decimal default deferrable deferred delete desc describe detach distinct div do
    double drop each else end escape except exclude exclusive exists explain extract fail false fetch fields filter
    final first float following for force foreign format freeze from full function generated glob global grant group
    grouping grouping_id groups having hour if ignore ilike immediate in index indexed initially inner inout insert
    instead int integer intersect interval into is isnull join json key kill lambda last lateral leading left like
    limit list lock map match materialized merge minute month names national natural nchar no none not nothing
    notnull null nullif nulls numeric of offset on only open option or order others out outer over overlaps overlay
    partition percent pivot placing plan position positional pragma preceding precision primary procedure qualify
    query raise range real recursive references regexp reindex release rename replace restrict returning right rlike
    rollback rollup row rows savepoint schema second select semi session_user set setof settings show similar
    smallint some straight_join struct substring summarize symmetric table tables tablesample temp temporary text
    then ties time timestamp to top trailing transaction treat trigger trim true truncate try_cast type unbounded
    uncache union unique unnest unpack unpivot update user using vacuum value values varchar variadic verbose view
    virtual when where window with within without year
    """.split()
)
"""Words that mean something to DuckDB, to SQLite or to the parser; a name that is one of them is quoted."""


def quote_name(name: str) -> str:
    """Return an identifier as it stands in a statement, quoted only where it has to be."""
    if _PLAIN.fullmatch(name) and name.lower() not in KEYWORDS:
        return name
    return '"' + name.replace('"', '""') + '"'


@lru_cache(maxsize=65_536)
def snake(name: str) -> str:
    """Return the words of a name in lower case, joined by underscores: ``SoldDate`` gives sold_date; may be empty."""
    return "_".join(word.lower() for word in _WORD.findall(name))


_COLUMN = re.compile(r'(?:(?:\w+|"[^"]+")\.)?(\w+)')
_SYSTEM = ("sqlite_", "duckdb_", "pg_", "pragma_")


def named(sql: str, name: str) -> str:
    """Return an item of a SELECT list under a name; a column that is called so already needs no alias."""
    column = _COLUMN.fullmatch(sql)
    return sql if column and column.group(1).lower() == name else f"{sql} AS {name}"


def fresh_name(wanted: str, taken: Collection[str]) -> str:
    """Return the name, or a numbered variant of it, that is no keyword, needs no quotes and is not taken."""
    base = snake(wanted)[:48].strip("_") if not _PLAIN.fullmatch(wanted) else wanted.lower()[:48]
    base = base or "value"
    if base[0].isdigit() or base.startswith(_SYSTEM):
        base = f"n_{base}"
    if base in KEYWORDS:
        base = f"{base}_value"
    name, number = base, 2
    while name in taken:
        name, number = f"{base}_{number}", number + 1
    return name


def literal(value: Value, kind: Kind, dialect: str) -> str:
    """Return a constant of a column of that kind as it stands in a statement."""
    if isinstance(value, bool):
        return ("TRUE" if value else "FALSE") if dialect in HAS_BOOLEANS else str(int(value))
    if isinstance(value, (int, float)):
        if kind == "boolean" and dialect in HAS_BOOLEANS:
            return "TRUE" if value else "FALSE"
        return number(value)
    text = "'" + value.replace("'", "''") + "'"
    if dialect in HAS_DATES and kind in ("date", "timestamp"):
        return f"{kind.upper()} {text}"
    return text


def number(value: float) -> str:
    """Return a number without an exponent, and without a fraction where it is whole."""
    if isinstance(value, int):
        return str(value)
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    text = f"{value:.6f}".rstrip("0").rstrip(".")
    # What is too small for six decimals keeps its exponent.
    return text if text not in ("0", "-0") else repr(value)


def date_part(part: DatePart, date: str, dialect: str) -> str:
    """Return an expression for a part of a date: a whole number."""
    if dialect in HAS_DATES:
        return {
            "year": f"EXTRACT(YEAR FROM {date})",
            "quarter": f"EXTRACT(QUARTER FROM {date})",
            "month": f"MONTH({date})",
            "weekday": f"DAYOFWEEK({date})",
            "day": f"EXTRACT(DAY FROM {date})",
        }[part]
    if part == "quarter":
        return f"(CAST(STRFTIME('%m', {date}) AS INTEGER) + 2) / 3"
    code = {"year": "%Y", "month": "%m", "weekday": "%w", "day": "%d"}[part]
    return f"CAST(STRFTIME('{code}', {date}) AS INTEGER)"


def date_period(period: DatePart, date: str, dialect: str) -> str:
    """Return an expression for the year, quarter, month or day that a date lies in; it sorts in time."""
    if dialect == "mysql":
        return {
            "year": f"EXTRACT(YEAR FROM {date})",
            "quarter": f"CONCAT_WS('-Q', YEAR({date}), QUARTER({date}))",
            "month": f"DATE_FORMAT({date}, '%Y-%m')",
        }.get(period, f"CAST({date} AS DATE)")
    if dialect in HAS_DATES:
        return f"DATE_TRUNC('{period}', {date})"
    if period == "year":
        return f"STRFTIME('%Y', {date})"
    if period == "quarter":
        return f"STRFTIME('%Y', {date}) || '-Q' || ((CAST(STRFTIME('%m', {date}) AS INTEGER) + 2) / 3)"
    return f"STRFTIME('%Y-%m', {date})" if period == "month" else f"DATE({date})"


def quotient(numerator: str, denominator: str, dialect: str) -> str:
    """Return a division that neither truncates nor fails at zero."""
    whole = f"{numerator} * 1.0" if dialect == "sqlite" else numerator
    return f"{whole} / NULLIF({denominator}, 0)"
