"""What a query is made of, counted as table R of the pool reports it."""

from __future__ import annotations

from sqlglot import exp

from rayfactory.records import Features
from rayfactory.sql.statement import num_tokens

_CONDITION_CLAUSES = (exp.Where, exp.Having, exp.Qualify)
_AGGREGATES_BY_NAME = frozenset(
    {"total", "favg", "fsum", "sumkahan", "geomean", "product", "entropy", "mad", "kurtosis_pop", "sem", "histogram"}
)
"""Aggregate functions of SQLite and DuckDB that sqlglot has no class for."""
_GROUPING = (exp.Grouping, exp.GroupingId)
"""Functions of GROUP BY, which sqlglot has among the aggregates."""
_CONNECTORS = (exp.And, exp.Or, exp.Xor, exp.Not, exp.Paren)


def features(tree: exp.Expr, sql: str, dialect: str) -> Features:
    """Count the parts of one query.

    - num_joins: JOINs and further FROM items, in every scope.
    - num_predicates: atomic conditions in WHERE, HAVING, QUALIFY and CASE; BETWEEN and IN count one;
      equalities that join two columns of different tables do not count. A name in double quotes without its table,
      beside one with it, is taken for the text that it is in SQLite.
    - num_subqueries: nested SELECTs other than CTE bodies and set branches; a set operation that is
      nested counts one.
    - num_aggregates: aggregate functions, other than those that an OVER clause turns into window functions; GROUPING()
      is none.
    - num_windows: OVER clauses.
    - num_tokens: tokens of `sql` by sqlglot's tokenizer.
    - ast_nodes: nodes of sqlglot's tree, identifiers and literals included.
    """
    joins = predicates = subqueries = aggregates = windows = nodes = 0
    for node in tree.walk(bfs=False):
        nodes += 1
        if isinstance(node, exp.Join):
            joins += 1
        elif isinstance(node, _CONDITION_CLAUSES):
            predicates += num_atomic_conditions(node.this)
        elif isinstance(node, exp.Case):
            predicates += sum(_num_case_conditions(node, branch) for branch in node.args["ifs"])
        elif isinstance(node, exp.Window):
            windows += node.arg_key != "windows"  # WINDOW w AS (..) is a name for what OVER says
        elif (isinstance(node, exp.AggFunc) and not isinstance(node, _GROUPING)) or _is_aggregate_by_name(node):
            aggregates += not _is_window_function(node)
        elif isinstance(node, exp.Query) and not isinstance(node, exp.Subquery):
            subqueries += _is_nested(node)
    return Features(
        num_joins=joins,
        num_predicates=predicates,
        num_subqueries=subqueries,
        num_aggregates=aggregates,
        num_windows=windows,
        num_tokens=num_tokens(sql, dialect),
        ast_nodes=nodes,
    )


def num_atomic_conditions(condition: exp.Expr) -> int:
    """Count the conditions that AND, OR, XOR, NOT and parentheses combine, join equalities left out."""
    if isinstance(condition, _CONNECTORS):
        return sum(num_atomic_conditions(part) for part in condition.iter_expressions())
    return 0 if _joins_two_tables(condition) else 1


def _num_case_conditions(case: exp.Case, branch: exp.Expr) -> int:
    # CASE x WHEN 1: the comparison with x is the one condition of the branch.
    return 1 if case.this is not None else num_atomic_conditions(branch.this)


def _joins_two_tables(condition: exp.Expr) -> bool:
    if not isinstance(condition, exp.EQ):
        return False
    left, right = condition.this.unnest(), condition.expression.unnest()
    if not (isinstance(left, exp.Column) and isinstance(right, exp.Column)):
        return False
    if left.table or right.table:
        # What SQLite takes for a text where no column is called so: `t.city = "Oslo"`.
        if any(not column.table and column.this.quoted for column in (left, right)):
            return False
        return left.table.casefold() != right.table.casefold()
    # Without qualifiers: two tables unless there is only one to be of.
    select = condition.find_ancestor(exp.Select)
    return select is None or bool(select.args.get("joins"))


def _is_aggregate_by_name(node: exp.Expr) -> bool:
    return isinstance(node, exp.Anonymous) and node.name.casefold() in _AGGREGATES_BY_NAME


def _is_window_function(function: exp.Expr) -> bool:
    node: exp.Expr = function
    while isinstance(node.parent, (exp.Filter, exp.IgnoreNulls, exp.RespectNulls, exp.WithinGroup)) and (
        node.parent.this is node
    ):
        node = node.parent
    return isinstance(node.parent, exp.Window) and node.parent.this is node


def _is_nested(query: exp.Query) -> bool:
    node = query.parent
    while isinstance(node, (exp.Subquery, exp.Paren)):
        node = node.parent
    return node is not None and not isinstance(node, (exp.CTE, exp.SetOperation))
