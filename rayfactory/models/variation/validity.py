"""Whether a rewritten query still holds together: its groups, and what its nested queries say of the query around."""

from __future__ import annotations

from collections.abc import Collection

from sqlglot import exp

from rayfactory.models.variation.nodes import (
    from_items,
    is_aggregated,
    is_shadowed,
    is_window_function,
    own_nodes,
    table_name,
)


def is_about_itself(select: exp.Select, aliases: Collection[str]) -> bool:
    """Whether every condition of a nested query is about one of its own sources, and none about the query around alone.

    Args:
        aliases: folded, of its own sources.
    """
    where = select.args.get("where")
    waiting = [] if where is None else [where.this]
    while waiting:
        condition = waiting.pop()
        if isinstance(condition, exp.And):
            waiting += [condition.this, condition.expression]
            continue
        named = {node.table.casefold() for node in own_nodes(condition) if isinstance(node, exp.Column)}
        if named and named.isdisjoint(aliases):
            return False
    return True


def settle_grouping(select: exp.Select, dialect: str) -> bool:
    """Return whether every column that an aggregated SELECT shows is grouped or aggregated.

    SQLite takes any other column from some row of the group: there such a column becomes a key.

    Args:
        select: resolved, so that every column names its source.
    """
    if not is_aggregated(select):
        return select.args.get("having") is None
    group = select.args.get("group")
    keys = [] if group is None else [key for key in group.find_all(exp.Expr) if key is not group]
    aliases = {part.alias.casefold(): part.this for part in select.expressions if isinstance(part, exp.Alias)}
    keys += [
        aliases[key.name.casefold()]
        for key in list(keys)
        if isinstance(key, exp.Column) and not key.table and key.name.casefold() in aliases
    ]
    if group is not None and group.args.get("all"):
        return True
    own = {table_name(item).casefold() for item, _ in from_items(select)}
    for part in [*select.expressions, select.args.get("having"), select.args.get("order"), select.args.get("qualify")]:
        if part is not None and not _is_grouped(part, keys, own):
            if dialect != "sqlite" or group is None or part.find(exp.Select) is not None:
                return False
            for node in list(own_nodes(part)):
                is_bare = isinstance(node, exp.Column) and node.find_ancestor(exp.AggFunc, exp.Select) is select
                if is_bare and not _is_grouped(node, keys, own):
                    keys.append(node.copy())
                    group.append("expressions", node.copy())
    return True


def _is_grouped(node: exp.Expr, keys: list[exp.Expr], own: set[str]) -> bool:
    if isinstance(node, exp.AggFunc) and not is_window_function(node):
        return True
    if any(node == key for key in keys):
        return True
    if isinstance(node, (exp.Select, exp.SetOperation)):
        return all(
            column.table.casefold() not in own or any(column == key for key in keys)
            for column in node.find_all(exp.Column)
            if node.parent is None or not is_shadowed(column, node.parent, column.table)
        )
    if isinstance(node, exp.Column):
        return not node.table or node.table.casefold() not in own
    return all(_is_grouped(child, keys, own) for child in node.iter_expressions())
