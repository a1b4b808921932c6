"""What three classic measures compare SQL queries by: the columns in their clauses, without a schema.

- `aouiche`: one set, the columns of conditions and of GROUP BY; Jaccard.
- `aligon`: three sets, the columns of SELECT, of conditions and of GROUP BY; the mean of their Jaccard coefficients.
- `makiyama`: how often each column stands in each clause of the outermost query; cosine.

They are what other measures of queries are compared with, so where the papers leave something open it is as in
EttuBench, the code of the published comparison, whose BetaCV they come within 2 % of:

- A column is its name in upper case, with a table's name or alias as the query has it. Where it has none, and FROM
  names one table only, that table's name is added; not so in what Aligon's measure takes from SELECT, nor inside IN,
  IS, BETWEEN and CASE.
- A query inside a condition, or inside SELECT, counts with the columns of all its clauses but ORDER BY for the clause
  that it stands in. A query in FROM or WITH has clauses of its own, which Makiyama's measure does not look at.
  Tables of FROM are no terms of it either.
- A column without a table is the same as one of that name with any table, so equality is not transitive. The sets are
  in order of the names, and are looked through by halving: equal columns need not stand side by side, and not all
  are found. Finding all takes up to 11 % off a BetaCV of Aligon's measure.

That code passes over the second branch of EXCEPT and INTERSECT, joins in parentheses, BETWEEN, EXISTS inside of
others and the like, and counts ON for SELECT in Makiyama's measure. Here they are read as SQL has them.

Students write what no parser takes, and what they meant is compared all the same: `read` reads as far as there is a
statement, and WHEN outside of CASE is a column.

Letters for shapes: N queries, T terms.

Sources: Aouiche, Jouve and Darmont 2006; Aligon et al. 2014; Makiyama, Raddick and Santos 2015; compared by Kul et al.,
Similarity Metrics for SQL Query Clustering, 2018, without its regularisation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt
import sqlglot
from sqlglot import exp
from sqlglot.errors import ErrorLevel, SqlglotError

from rayfactory.errors import StatementError

Measure = Literal["aouiche", "aligon", "makiyama"]

Names = tuple[str, ...]
"""Columns in ascending order, without those that equal one before them."""

_UNQUALIFIED_INSIDE = (exp.In, exp.Is, exp.Between, exp.Case)
"""Conditions whose columns are left as they are written."""


@dataclass(frozen=True, slots=True)
class QueryFeatures:
    """The columns of one query.

    Attributes:
        projection: of SELECT, as written; ``*`` and ``T.*`` are columns too, other than in nested queries.
        selection: of WHERE, HAVING, ON and USING.
        group_by: of GROUP BY.
        terms: how often each column stands in each clause of the outermost query (of each branch of a set operation),
            as ``CLAUSE column``.
    """

    projection: Names
    selection: Names
    group_by: Names
    terms: Mapping[str, int]


def read(sql: str, dialect: str = "sqlite") -> QueryFeatures:
    """Return the features of one query, or of as much of a text as is a query.

    Args:
        sql: what follows a complete statement, for instance behind a parenthesis too many, is not looked at.
        dialect: sqlglot's name of it.

    Raises:
        StatementError: reason ``parse``: the text does not begin with a query.
    """
    try:
        query = _parse(sql, dialect)
        selects = list(_selects(query))
        parts = [_clauses(select, is_projection_qualified=False) for select in _blocks(query)]
        outermost = [_clauses(select) for select in selects]
    except RecursionError:
        raise StatementError("parse", "the statement is nested too deeply") from None
    return QueryFeatures(
        projection=_names(name for part in parts for name in part.select),
        selection=_names(name for part in parts for name in part.where),
        group_by=_names(name for part in parts for name in part.group_by),
        terms=Counter(term for part in outermost for term in part.terms()),
    )


def distances(queries: Sequence[QueryFeatures], measure: Measure) -> npt.NDArray[np.float64]:
    """Return float64[N, N], 1 less the similarity of each two queries: in [0, 1], symmetric, 0 on the diagonal.

    Two queries without anything to compare are at distance 1.
    """
    if measure == "makiyama":
        return _cosine_distances([query.terms for query in queries])
    if measure == "aligon":
        return _set_distances([(query.projection, query.selection, query.group_by) for query in queries])
    return _set_distances([(_names((*query.selection, *query.group_by)),) for query in queries])


# -- distances ----------------------------------------------------------------


def _set_distances(queries: Sequence[tuple[Names, ...]]) -> npt.NDArray[np.float64]:
    """Return 1 less the mean Jaccard coefficient of those sets of which two queries have any."""
    kinds = {sets: kind for kind, sets in enumerate(dict.fromkeys(queries))}
    of_kinds = np.zeros((len(kinds), len(kinds)))
    for (a, i), (b, j) in combinations(kinds.items(), 2):
        of_kinds[i, j] = of_kinds[j, i] = 1.0 - _mean_jaccard(a, b)
    for sets, i in kinds.items():
        of_kinds[i, i] = 0.0 if any(sets) else 1.0
    kind_of = np.array([kinds[sets] for sets in queries], dtype=np.intp)
    distances_NN: npt.NDArray[np.float64] = of_kinds[np.ix_(kind_of, kind_of)]
    np.fill_diagonal(distances_NN, 0.0)
    return distances_NN


def _mean_jaccard(a: tuple[Names, ...], b: tuple[Names, ...]) -> float:
    coefficients = [_jaccard(x, y) for x, y in zip(a, b, strict=True) if x or y]
    return sum(coefficients) / len(coefficients) if coefficients else 0.0


def _jaccard(a: Names, b: Names) -> float:
    # Several columns of one may equal a single one of the other: the mean of both directions is symmetric.
    num_common = (sum(_is_found(name, b) for name in a) + sum(_is_found(name, a) for name in b)) / 2
    return num_common / (len(a) + len(b) - num_common)


def _cosine_distances(queries: Sequence[Mapping[str, int]]) -> npt.NDArray[np.float64]:
    column_of = {term: i for i, term in enumerate(sorted({term for terms in queries for term in terms}))}
    counts_NT = np.zeros((len(queries), len(column_of)))
    for i, terms in enumerate(queries):
        for term, count in terms.items():
            counts_NT[i, column_of[term]] = count
    lengths = np.linalg.norm(counts_NT, axis=1, keepdims=True)
    units_NT = np.divide(counts_NT, lengths, out=np.zeros_like(counts_NT), where=lengths > 0)
    cosines_NN: npt.NDArray[np.float64] = units_NT @ units_NT.T
    distances_NN = np.clip(1.0 - (cosines_NN + cosines_NN.T) / 2, 0.0, 1.0)
    np.fill_diagonal(distances_NN, 0.0)
    return distances_NN


# -- sets of columns ----------------------------------------------------------


def _names(names: Iterable[str]) -> Names:
    found: list[str] = []
    for name in sorted(set(names)):
        if not _is_found(name, found):
            found.append(name)
    return tuple(found)


def _is_found(name: str, names: Sequence[str]) -> bool:
    """Return whether halving comes upon an equal column among `names`, which are in ascending order."""
    low, high = 0, len(names)
    while low < high:
        middle = (low + high) // 2
        if _is_same(name, names[middle]):
            return True
        if name < names[middle]:
            high = middle
        else:
            low = middle + 1
    return False


def _is_same(a: str, b: str) -> bool:
    if a == b:
        return True
    table_a, _, column_a = a.rpartition(".")
    table_b, _, column_b = b.rpartition(".")
    return column_a == column_b and not (table_a and table_b)


# -- parsing ------------------------------------------------------------------


def _parse(sql: str, dialect: str) -> exp.Expr:
    try:
        trees = sqlglot.parse(_with_when_quoted(sql, dialect), dialect=dialect, error_level=ErrorLevel.IGNORE)
    except SqlglotError as error:
        raise StatementError("parse", str(error).partition("\n")[0]) from None
    except RecursionError:
        raise
    except Exception as error:  # noqa: BLE001 - the parser trips over some texts, the more as it passes over errors
        raise StatementError("parse", f"{type(error).__name__}: {error}") from None
    if not trees or trees[0] is None or next(_selects(trees[0]), None) is None:
        raise StatementError("parse", f"no query at the beginning of {sql[:80]!r}")
    return trees[0]


def _with_when_quoted(sql: str, dialect: str) -> str:
    """Return the text with WHEN in double quotes, as a name, where no CASE is open."""
    parts: list[str] = []
    end = num_open = 0
    for token in sqlglot.tokenize(sql, dialect=dialect):
        if token.token_type == sqlglot.TokenType.CASE:
            num_open += 1
        elif token.token_type == sqlglot.TokenType.END:
            num_open = max(0, num_open - 1)
        elif token.token_type == sqlglot.TokenType.WHEN and not num_open:
            parts += (sql[end : token.start], exp.to_identifier(token.text, quoted=True).sql(dialect))
            end = token.end + 1
    return "".join((*parts, sql[end:]))


# -- clauses ------------------------------------------------------------------


@dataclass(slots=True)
class _Clauses:
    """The columns of one SELECT, each as often as it stands there."""

    select: list[str] = field(default_factory=list)
    where: list[str] = field(default_factory=list)
    group_by: list[str] = field(default_factory=list)
    order_by: list[str] = field(default_factory=list)

    def terms(self) -> Iterator[str]:
        for clause, names in (
            ("SELECT", self.select),
            ("WHERE", self.where),
            ("GROUP BY", self.group_by),
            ("ORDER BY", self.order_by),
        ):
            yield from (f"{clause} {name}" for name in names)


def _clauses(select: exp.Select, *, is_projection_qualified: bool = True) -> _Clauses:
    found = _Clauses()
    items = list(_from_items(select))
    tables = [source.name for source, _ in items if isinstance(source, exp.Table)]
    table = tables[0] if len(tables) == 1 else ""
    for item in select.expressions:
        # Of a text that is no query throughout, any part of the tree may be missing.
        expression = item.this if isinstance(item, exp.Alias) else item
        if isinstance(expression, exp.Star) or (
            isinstance(expression, exp.Column) and isinstance(expression.this, exp.Star)
        ):
            found.select.append(f"{expression.text('table')}.*".removeprefix(".").upper())
        else:
            found.select += _columns(expression, table if is_projection_qualified else "")
    for _, join in items:
        if join is not None:
            found.where += _columns(join.args.get("on"), table)
            found.where += (column.name.upper() for column in join.args.get("using") or ())
    for clause in ("where", "having"):
        found.where += _columns(select.args.get(clause), table)
    found.group_by += _columns(select.args.get("group"), table)
    found.order_by += _columns(select.args.get("order"), table)
    return found


def _columns(node: exp.Expr | None, table: str) -> Iterator[str]:
    """Yield the columns below a node, those of nested queries included."""
    if node is None:
        return
    if isinstance(node, exp.Column):
        if isinstance(node.this, exp.Identifier):
            yield ".".join(filter(None, (node.table or table, node.name))).upper()
    elif isinstance(node, exp.Query) and not isinstance(node, exp.Subquery):
        yield from _columns_of_nested(node)
    else:
        inside = "" if isinstance(node, _UNQUALIFIED_INSIDE) else table
        for child in node.iter_expressions():
            yield from _columns(child, inside)


def _columns_of_nested(query: exp.Expr) -> Iterator[str]:
    for select in _selects(query):
        for source, _ in _from_items(select):
            if isinstance(source, exp.Subquery):
                yield from _columns_of_nested(source)
        clauses = _clauses(select)
        yield from (name for name in clauses.select if not name.endswith("*"))
        yield from clauses.where
        yield from clauses.group_by


# -- the queries of a query ---------------------------------------------------


def _blocks(query: exp.Expr | None) -> Iterator[exp.Select]:
    """Yield the SELECTs that have clauses of their own: of WITH, of FROM, and the outermost."""
    if query is None:
        return
    clause = query.args.get("with_")
    for member in clause.expressions if clause is not None else ():
        yield from _blocks(member.this)
    for select in _selects(query):
        for source, _ in _from_items(select):
            if isinstance(source, exp.Subquery):
                yield from _blocks(source.this)
        yield select


def _selects(query: exp.Expr | None) -> Iterator[exp.Select]:
    """Yield the SELECT of a query, or those of the branches of a set operation."""
    if isinstance(query, exp.Select):
        yield query
    elif isinstance(query, exp.SetOperation):
        yield from _selects(query.this)
        yield from _selects(query.expression)
    elif isinstance(query, (exp.Subquery, exp.Paren)):
        yield from _selects(query.this)


def _from_items(select: exp.Select) -> Iterator[tuple[exp.Expr, exp.Expr | None]]:
    """Yield the tables and queries that FROM names, each with the join that brings it."""
    clause = select.args.get("from_")
    if clause is not None:
        yield from _unwrapped(clause.this, None)
    for join in select.args.get("joins") or ():
        yield from _unwrapped(join.this, join)


def _unwrapped(source: exp.Expr | None, join: exp.Expr | None) -> Iterator[tuple[exp.Expr, exp.Expr | None]]:
    """Yield a source, or those of a join in parentheses."""
    if source is None:
        return
    if isinstance(source, exp.Subquery) and isinstance(source.this, (exp.Table, exp.Subquery)):
        yield from _unwrapped(source.this, join)
    else:
        yield source, join
    for inner in source.args.get("joins") or ():
        yield from _unwrapped(inner.this, inner)
