"""How what the rules write is spelled in each dialect.

The rules write in two ways: SQLite's for SQLite, DuckDB's for all others. sqlglot says it in the dialect of a server,
but for what it leaves as it is or says otherwise than people would.
"""

from __future__ import annotations

import sqlglot
from sqlglot import exp

WRITTEN_DIRECTLY = ("duckdb", "sqlite")


def written_in(dialect: str) -> str:
    """Return the dialect that parts of a query are written in before they are spelled in `dialect`."""
    return dialect if dialect in WRITTEN_DIRECTLY else "duckdb"


def spelled(sql: str, dialect: str) -> str:
    """Return a query or an expression, written in `written_in(dialect)`, as it stands in `dialect`."""
    if dialect in WRITTEN_DIRECTLY:
        return sql
    return spell(sqlglot.parse_one(sql, dialect=written_in(dialect)), dialect, copy=False)


def spell(tree: exp.Expr, dialect: str, *, copy: bool = True) -> str:
    """Return the text of a tree whose parts were parsed in `dialect` or in `written_in(dialect)`.

    Args:
        copy: False where the tree may be changed by it.
    """
    if dialect in WRITTEN_DIRECTLY:
        return tree.sql(dialect=dialect)
    root = exp.Paren(this=tree.copy() if copy else tree)  # a parent for every node, so that replacing the root works
    for node in reversed(list(root.walk(bfs=True))):
        if dialect == "postgres":
            _for_postgres(node)
        elif dialect == "mysql":
            _for_mysql(node)
    # What has no name of its own in the dialect is an error of whoever wrote it, which running it tells.
    return str(root.this.sql(dialect=dialect, unsupported_level=sqlglot.ErrorLevel.IGNORE))


def _for_postgres(node: exp.Expr) -> None:
    if isinstance(node, exp.Div) and node.args.get("typed") is False:
        node.set("typed", True)
        # Two whole numbers would be divided as such.
        if not any("." in part.name for part in node.this.find_all(exp.Literal) if not part.is_string):
            node.set("this", _as_decimal(node.this))
    elif isinstance(node, exp.Round) and node.args.get("decimals") is not None:
        # There is no rounding of floats to so many digits.
        if not isinstance(node.this, (exp.Avg, exp.Cast)):
            node.set("this", _as_decimal(node.this))
    elif isinstance(node, exp.DayOfWeek):
        node.replace(exp.Extract(this=exp.Var(this="DOW"), expression=node.this))
    elif isinstance(node, exp.Identifier) and node.name != node.name.lower():
        node.set("quoted", True)  # else it is read in lower case


def _as_decimal(node: exp.Expr) -> exp.Expr:
    inner = node.this if isinstance(node, exp.Paren) else node
    return exp.cast(inner.copy(), exp.DataType.Type.DECIMAL)


def _for_mysql(node: exp.Expr) -> None:
    if isinstance(node, exp.Ordered):
        node.set("nulls_first", not node.args.get("desc"))  # as it is unasked; there are no words for it
    elif isinstance(node, exp.Filter) and isinstance(node.this, exp.AggFunc):
        function, condition = node.this, node.expression.this
        part = function.this
        counted = exp.Literal.number(1) if isinstance(part, exp.Star) else part.copy()
        chosen = (
            exp.Distinct(expressions=[_where(condition, own.copy()) for own in counted.expressions])
            if isinstance(counted, exp.Distinct)
            else _where(condition, counted)
        )
        function = function.copy()
        function.set("this", chosen)
        node.replace(function)


def _where(condition: exp.Expr, value: exp.Expr) -> exp.Expr:
    """Return a value where a condition holds, and null elsewhere."""
    return exp.Case(ifs=[exp.If(this=condition.copy(), true=value)])
