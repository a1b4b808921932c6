"""What single nodes of a query's tree are: their names, their insides, whether they aggregate."""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

from rayfactory.models.variation.naming import identifier


def normalise(tree: exp.Expr) -> exp.Expr:
    """Return the tree itself with names quoted where they must be, so that equal expressions are equal trees.

    The positions that the parser notes down go: they make copies six times slower.
    """
    for node in tree.walk():
        node._meta = None  # noqa: SLF001  `meta.clear()` would leave a dictionary for each node
        if isinstance(node, exp.Identifier):
            node.set("quoted", identifier(node.name).args["quoted"])
    return tree


def own_nodes(node: exp.Expr) -> Iterator[exp.Expr]:
    """Yield the nodes below and including `node`, without the insides of nested queries (yielded themselves)."""
    waiting = [node]
    while waiting:
        current = waiting.pop()
        yield current
        if current is node or not isinstance(current, (exp.Select, exp.SetOperation)):
            waiting.extend(reversed(list(current.iter_expressions())))


def is_aggregated(select: exp.Select) -> bool:
    """Whether a SELECT has groups or aggregates rather than rows."""
    if select.args.get("group"):
        return True
    parts = [*select.expressions, select.args.get("having")]
    return any(has_aggregate(part) for part in parts if part is not None)


def has_aggregate(node: exp.Expr) -> bool:
    """Whether the expression itself, nested queries aside, aggregates rows."""
    return any(isinstance(part, exp.AggFunc) and not is_window_function(part) for part in own_nodes(node))


def is_window_function(function: exp.Expr) -> bool:
    """Whether the function stands before OVER."""
    node = function
    while isinstance(node.parent, (exp.Filter, exp.IgnoreNulls, exp.RespectNulls, exp.WithinGroup)):
        node = node.parent
    return isinstance(node.parent, exp.Window) and node.parent.this is node


def output_name(part: exp.Expr) -> str:
    """Return the name under which an output can be referred to; empty where it has none."""
    if part.alias:
        return str(part.alias)
    return part.name if isinstance(part, exp.Column) else ""


def table_name(item: exp.Expr) -> str:
    """Return the name that a FROM item is called by."""
    return str(item.alias_or_name)


def from_items(select: exp.Select) -> Iterator[tuple[exp.Expr, bool]]:
    """Yield the FROM items of a SELECT with whether an outer join may leave them missing."""
    first = select.args.get("from_")
    if first is None:
        return
    joins = select.args.get("joins") or []
    yield first.this, any(join.side in ("RIGHT", "FULL") for join in joins)
    for position, join in enumerate(joins):
        missing = join.side in ("LEFT", "FULL")
        yield join.this, missing or any(later.side in ("RIGHT", "FULL") for later in joins[position + 1 :])


def is_shadowed(column: exp.Column, top: exp.Expr, alias: str) -> bool:
    """Whether a SELECT between the column and `top` (which is not looked at) has a source of that name of its own."""
    folded, node = alias.casefold(), None if column is top else column.parent
    while node is not None and node is not top:
        if isinstance(node, exp.Select) and any(table_name(item).casefold() == folded for item, _ in from_items(node)):
            return True
        node = node.parent
    return False
