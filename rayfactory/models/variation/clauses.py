"""The clauses of one SELECT: its joins, the conditions that AND combines, the keys of its groups."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from rayfactory.models.variation.nodes import is_shadowed, table_name


def joins_of(select: exp.Select) -> list[exp.Join]:
    """Return the JOINs of a SELECT."""
    return list(select.args.get("joins") or [])


def conjuncts(select: exp.Select, clause: str = "where") -> list[exp.Expr]:
    """Return the conditions that AND combines in WHERE or HAVING."""
    where = select.args.get(clause)
    return [] if where is None else operands(where.this)


def operands(node: exp.Expr) -> list[exp.Expr]:
    """Return the conditions that AND combines."""
    if isinstance(node, exp.And):
        return [*operands(node.this), *operands(node.expression)]
    if isinstance(node, exp.Paren) and isinstance(node.this, exp.And):
        return operands(node.this)
    return [node]


def set_conjuncts(select: exp.Select, conditions: Sequence[exp.Expr], clause: str = "where") -> None:
    """Replace the conditions of WHERE or HAVING."""
    if not conditions:
        select.set(clause, None)
        return
    parts = [exp.paren(part.copy(), copy=False) if isinstance(part, exp.Or) else part.copy() for part in conditions]
    combined = exp.and_(*parts, copy=False) if len(parts) > 1 else parts[0]
    select.set(clause, exp.Where(this=combined) if clause == "where" else exp.Having(this=combined))


def add_conjunct(select: exp.Select, condition: exp.Expr, clause: str = "where") -> None:
    """Add one condition to WHERE or HAVING."""
    set_conjuncts(select, [*conjuncts(select, clause), *operands(condition)], clause)


def is_labelled(select: exp.Select) -> bool:
    """Whether an output is a constant that names what the rows are, as a branch of a UNION has it."""
    return any(isinstance(part.unalias(), exp.Literal) for part in select.expressions if part.alias)


def is_join_condition(condition: exp.Expr) -> bool:
    """Whether a condition equates columns of two sources."""
    return (
        isinstance(condition, exp.EQ)
        and isinstance(condition.this, exp.Column)
        and isinstance(condition.expression, exp.Column)
        and condition.this.table.casefold() != condition.expression.table.casefold()
    )


def reads_inside(select: exp.Select, table: str) -> bool:
    """Whether a query nested in a SELECT reads a table."""
    folded = table.casefold()
    return any(
        node.name.casefold() == folded and node.find_ancestor(exp.Select) is not select
        for node in select.find_all(exp.Table)
    )


def aliases_in(node: exp.Expr) -> set[str]:
    """Return the folded source names that the columns below a node name, nested queries included."""
    return {
        part.table.casefold()
        for part in node.find_all(exp.Column)
        if part.table and not is_shadowed(part, node, part.table)
    }


def uses_of(select: exp.Select, alias: str) -> list[exp.Column]:
    """Return the columns of a source that the SELECT names anywhere, nested queries included."""
    folded = alias.casefold()
    return [
        node
        for node in select.find_all(exp.Column)
        if node.table.casefold() == folded and not is_shadowed(node, select, folded)
    ]


def plain_keys(select: exp.Select) -> list[exp.Expr] | None:
    """Return the expressions of GROUP BY, none for no groups; None for ROLLUP, CUBE and GROUPING SETS."""
    group = select.args.get("group")
    if group is None:
        return []
    nested = (exp.Rollup, exp.Cube, exp.GroupingSets, exp.Tuple)
    if any(group.args.get(key) for key in ("rollup", "cube", "grouping_sets", "totals", "all")):
        return None
    return None if any(isinstance(key, nested) for key in group.expressions) else list(group.expressions)


def has_comma_joins(select: exp.Select) -> bool:
    """Whether FROM lists tables with commas, their conditions in WHERE."""
    return any(join.args.get("on") is None and not join.kind for join in joins_of(select))


def spell_out_joins(tree: exp.Expr) -> None:
    """Turn the tables that FROM lists with commas into JOINs, each with its conditions, where all are tied."""
    for select in tree.find_all(exp.Select):
        waiting = joins_of(select)
        if not waiting or any(join.args.get("on") or join.side or join.kind not in ("", "CROSS") for join in waiting):
            continue
        placed: list[exp.Join] = []
        present = {table_name(select.args["from_"].this).casefold()}
        rest = conjuncts(select)
        while waiting:
            for join in waiting:
                reach = {*present, table_name(join.this).casefold()}
                ties = [c for c in rest if is_join_condition(c) and aliases_in(c) <= reach]
                if ties:
                    break
            else:
                break
            waiting = [other for other in waiting if other is not join]
            rest = [condition for condition in rest if not any(condition is tie for tie in ties)]
            placed.append(exp.Join(this=join.this.copy(), on=exp.and_(*(tie.copy() for tie in ties), copy=False)))
            present = reach
        if not waiting:
            set_conjuncts(select, rest)
            select.set("joins", placed)
