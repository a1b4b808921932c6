"""What a query is built of, as far as its tree tells: constructs, columns, joins, skeleton."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from multiprocessing import get_context

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.scope import Scope, traverse_scope

from rayfactory import sql

ColumnName = tuple[str, str]
"""A base table and one of its columns, both in lower case."""

Columns = Mapping[str, frozenset[str]]
"""The columns of each table of a database, all in lower case; empty where they are not known."""

CONSTRUCTS = (
    "inner join",
    "left join",
    "right join",
    "full join",
    "cross join",
    "self join",
    "where",
    "group by",
    "grouping sets",
    "having",
    "order by",
    "limit",
    "distinct",
    "aggregate",
    "count distinct",
    "window",
    "qualify",
    "cte",
    "recursive cte",
    "subquery in FROM",
    "scalar subquery",
    "exists",
    "in subquery",
    "correlated subquery",
    "union",
    "intersect",
    "except",
    "case",
    "between",
    "like",
    "in list",
    "is null",
    "or",
    "not",
    "arithmetic",
    "cast",
    "date function",
    "text function",
)
"""What is looked for in each query; a corpus without one of them has never shown it to who learns from it."""

ROWS_AT_ONCE = 250
"""Queries that a process takes apart at a time."""

_DATE_FUNCTIONS = (
    exp.DateAdd, exp.DateSub, exp.DateDiff, exp.DateTrunc, exp.TimestampTrunc, exp.Extract, exp.Year, exp.Month,
    exp.Day, exp.Quarter, exp.Date, exp.CurrentTimestamp, exp.Interval, exp.TimestampAdd, exp.TimestampSub,
    exp.StrToDate, exp.TimeToStr, exp.TsOrDsToDate, exp.CurrentDate,
)  # fmt: skip
_DATE_NAMES = frozenset({"date", "datetime", "julianday", "strftime", "unixepoch", "date_part", "age", "now"})
"""Functions that sqlglot has no class for in each dialect."""
_TEXT_FUNCTIONS = (
    exp.Upper, exp.Lower, exp.Substring, exp.Length, exp.Trim, exp.Concat, exp.DPipe, exp.Replace, exp.StrPosition,
    exp.Left, exp.Right, exp.Initcap,
)  # fmt: skip
_ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.IntDiv)


@dataclass(frozen=True, slots=True)
class Structure:
    """What one query is built of.

    Attributes:
        constructs: of `CONSTRUCTS`, those that it has.
        columns: of base tables that it reads.
        joins: pairs of columns of base tables that it equates, each in ascending order.
        skeleton: 16 hex digits that stand for the query without names and constants.
        tokens: of its text, lower-cased.
        formatted: its text over several lines.
    """

    constructs: frozenset[str]
    columns: frozenset[ColumnName]
    joins: frozenset[tuple[ColumnName, ColumnName]]
    skeleton: str
    tokens: tuple[str, ...]
    formatted: str


def structures_of(
    queries: Sequence[tuple[str, str, str]], columns: Mapping[str, Columns]
) -> Iterator[Structure | None]:
    """Yield the structure of each query, in order; None for what does not parse.

    Args:
        queries: text, dialect and database of each.
        columns: of the tables of each database, as far as they are known.
    """
    take_apart = partial(_structures, columns=columns)
    batches = [queries[start : start + ROWS_AT_ONCE] for start in range(0, len(queries), ROWS_AT_ONCE)]
    if len(batches) < 2:
        yield from take_apart(queries)  # a process takes longer to start
        return
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as processes:
        for found in processes.map(take_apart, batches):
            yield from found


def _structures(queries: Sequence[tuple[str, str, str]], columns: Mapping[str, Columns]) -> list[Structure | None]:
    return [structure_of(query, dialect, columns.get(database, {})) for query, dialect, database in queries]


def structure_of(query: str, dialect: str, columns: Columns) -> Structure | None:
    """Return what a query is built of; None where it does not parse."""
    try:
        tree = sql.parse(query, dialect)
        tokens = tuple(token.text.lower() for token in sqlglot.tokenize(query, dialect=dialect))
        skeleton = sql.skeleton(tree, dialect)
        formatted = tree.sql(dialect=dialect, pretty=True)
    except Exception:  # noqa: BLE001 - whatever sqlglot trips over is a fault of the text
        return None
    scopes = _scopes(tree)
    used = _Columns(scopes, columns)
    return Structure(
        frozenset(_constructs(tree, scopes)) | ({"correlated subquery"} if used.is_correlated else set()),
        frozenset(used.all()),
        frozenset(used.joins()),
        digest(skeleton),
        tokens,
        formatted,
    )


def digest(text: str) -> str:
    """Return 16 hex digits that stand for a text."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _scopes(tree: exp.Expr) -> list[Scope]:
    try:
        return list(traverse_scope(tree))
    except (SqlglotError, RecursionError, ValueError, KeyError, AttributeError):
        return []  # what sqlglot finds odd still runs in some databases


# -- constructs ---------------------------------------------------------------


def _constructs(tree: exp.Expr, scopes: Sequence[Scope]) -> Iterator[str]:
    for node in tree.walk():
        yield from _constructs_at(node)
    for scope in scopes:
        tables = [source.name.lower() for source in scope.sources.values() if isinstance(source, exp.Table)]
        if len(set(tables)) < len(tables):
            yield "self join"


def _constructs_at(node: exp.Expr) -> Iterator[str]:
    match node:
        case exp.Join():
            yield _kind_of_join(node)
        case exp.Group():
            yield "group by"
        case exp.Count() if isinstance(node.this, exp.Distinct):
            yield from ("aggregate", "count distinct")
        case exp.AggFunc():
            around = node.parent
            while isinstance(around, (exp.Filter, exp.IgnoreNulls, exp.RespectNulls, exp.WithinGroup)):
                around = around.parent
            if not isinstance(around, exp.Window):
                yield "aggregate"
        case exp.Where() if isinstance(node.parent, exp.Query):
            yield "where"
        case exp.Order() if isinstance(node.parent, exp.Query):
            yield "order by"
        case exp.Anonymous() if node.name.lower() in _DATE_NAMES:
            yield "date function"
        case exp.With():
            yield "recursive cte" if node.recursive else "cte"
        case exp.Exists():
            yield "exists"
        case exp.In():
            yield "in subquery" if node.args.get("query") is not None else "in list"
        case exp.Subquery():
            yield from _kind_of_subquery(node)
        case exp.Distinct() if isinstance(node.parent, exp.Select):
            yield "distinct"
        case exp.Is() if isinstance(node.expression, exp.Null) or (
            isinstance(node.expression, exp.Not) and isinstance(node.expression.this, exp.Null)
        ):
            yield "is null"
        case exp.Cast() | exp.TryCast():
            yield "cast"
    for kind, name in _SIMPLE:
        if isinstance(node, kind):
            yield name


_SIMPLE: tuple[tuple[type | tuple[type, ...], str], ...] = (
    ((exp.GroupingSets, exp.Cube, exp.Rollup), "grouping sets"),
    (exp.Having, "having"),
    ((exp.Limit, exp.Fetch), "limit"),
    (exp.Window, "window"),
    (exp.Qualify, "qualify"),
    (exp.Union, "union"),
    (exp.Intersect, "intersect"),
    (exp.Except, "except"),
    (exp.Case, "case"),
    (exp.Between, "between"),
    ((exp.Like, exp.ILike), "like"),
    (exp.Or, "or"),
    (exp.Not, "not"),
    (_ARITHMETIC, "arithmetic"),
    (_DATE_FUNCTIONS, "date function"),
    (_TEXT_FUNCTIONS, "text function"),
)


def _kind_of_join(join: exp.Join) -> str:
    if join.side in ("LEFT", "RIGHT", "FULL"):
        return f"{join.side.lower()} join"
    select = join.parent
    where = select.args.get("where") if isinstance(select, exp.Select) else None
    # Tables that a comma separates are joined by what WHERE says.
    if join.args.get("on") is None and not join.args.get("using") and join.method != "NATURAL" and where is None:
        return "cross join"
    return "cross join" if join.kind == "CROSS" else "inner join"


_SETS_OF_ROWS = (exp.In, exp.Exists, exp.Any, exp.All, exp.SetOperation, exp.CTE)
"""What a query stands in that may give several rows; anywhere else it has to give one value."""


def _kind_of_subquery(subquery: exp.Subquery) -> Iterator[str]:
    if not isinstance(subquery.this, exp.Query):
        return
    parent = subquery.parent
    if isinstance(parent, (exp.From, exp.Join, exp.Lateral)):
        yield "subquery in FROM"
    elif parent is not None and not isinstance(parent, _SETS_OF_ROWS):
        yield "scalar subquery"


def _gives(source: object, name: str) -> bool:
    """Return whether a query in FROM or WITH has a column of that name, as far as can be told."""
    if not isinstance(source, Scope) or not isinstance(source.expression, exp.Query):
        return False
    names = [each.lower() for each in source.expression.named_selects]
    return name in names or "*" in names


# -- columns and joins --------------------------------------------------------


class _Columns:
    """The columns of base tables that the scopes of a query read.

    Attributes:
        is_correlated: whether a query inside reads a column of one around it.
    """

    def __init__(self, scopes: Sequence[Scope], known: Columns) -> None:
        self.is_correlated = False
        self._known = known
        self._of: dict[int, ColumnName] = {}
        self._equalities: list[tuple[exp.Expr, exp.Expr]] = []
        for scope in scopes:
            self._read(scope)

    def all(self) -> Iterator[ColumnName]:
        """Yield each column as often as it is read."""
        yield from self._of.values()

    def joins(self) -> Iterator[tuple[ColumnName, ColumnName]]:
        """Yield the pairs of columns of two sources that are equated."""
        for left, right in self._equalities:
            a, b = self._of.get(id(left)), self._of.get(id(right))
            if a is None or b is None:
                continue
            aliases = [side.text("table").lower() for side in (left, right)]
            # Where the tables are not named, two columns of one table are taken for one row's.
            if (aliases[0] != aliases[1]) if any(aliases) else (a[0] != b[0]):
                yield (a, b) if a <= b else (b, a)

    def _read(self, scope: Scope) -> None:
        for column in scope.columns:
            found = self._column(scope, column)
            if found is not None:
                # What a query inside reads is among the columns of those around it too.
                self._of.setdefault(id(column), found)
        for equality in scope.find_all(exp.EQ):
            left, right = equality.this, equality.expression
            if isinstance(left, exp.Column) and isinstance(right, exp.Column):
                self._equalities.append((left, right))
        for join in scope.find_all(exp.Join):
            self._equalities += self._using(scope, join)

    def _using(self, scope: Scope, join: exp.Join) -> Iterator[tuple[exp.Expr, exp.Expr]]:
        """Yield, for what USING names, a column of the table joined and one of another table that has it."""
        own = join.alias_or_name.lower()
        for name in join.args.get("using") or ():
            pair = []
            for alias in (own, *(other for other in scope.sources if other.lower() != own)):
                column = exp.column(name.name, table=alias)
                found = self._column(scope, column)
                if found is not None:
                    self._of[id(column)] = found
                    pair.append(column)
                if len(pair) == 2:
                    yield pair[0], pair[1]
                    break

    def _column(self, scope: Scope, column: exp.Column) -> ColumnName | None:
        """Return the table and column that a name stands for; None where it is not one of a base table."""
        name, qualifier = column.name.lower(), column.table.lower()
        inner: Scope | None = scope
        while inner is not None:
            candidates = [
                source for alias, source in inner.sources.items() if not qualifier or alias.lower() == qualifier
            ]
            is_outer = inner is not scope
            self.is_correlated |= is_outer and bool(qualifier) and bool(candidates)
            tables = [source.name.lower() for source in candidates if isinstance(source, exp.Table)]
            for table in tables:
                columns = self._known.get(table)
                if columns is not None and name in columns:
                    self.is_correlated |= is_outer
                    return table, name
            if tables and not self._known and (qualifier or len(candidates) == 1):
                return tables[0], name
            if (qualifier and candidates) or any(_gives(source, name) for source in candidates):
                return None
            # What stands in FROM, or in WITH, sees nothing of the query around it.
            inner = None if inner.is_cte or inner.is_derived_table else inner.parent
        return None
