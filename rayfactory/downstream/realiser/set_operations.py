"""UNION, INTERSECT and EXCEPT: two results that one is made of, and what is said of it."""

from __future__ import annotations

from sqlglot import exp

from rayfactory.downstream.realiser.ordering import ways
from rayfactory.downstream.realiser.queries import number
from rayfactory.downstream.realiser.sources import Output, Scope
from rayfactory.downstream.realiser.telling import Teller, hear, only, unsupported

_SETS: dict[tuple[type[exp.Expr], bool], str] = {
    (exp.Union, True): ", together with {}, without duplicates",
    (exp.Union, False): ", followed by {}",
    (exp.Intersect, True): ", keeping only those that are also among {}",
    (exp.Except, True): ", leaving out those that are among {}",
}


def united(node: exp.SetOperation, left: str, right: str) -> str:
    """Return two results that a set operation makes one of."""
    only(node, "this", "expression", "distinct", "order", "limit", "offset", "with_")
    how = _SETS.get((type(node), bool(node.args.get("distinct"))))
    if how is None:
        raise unsupported(node)
    is_nested = isinstance(node.expression.unnest(), exp.SetOperation)
    return left + how.format(f"({right})" if is_nested else right)


def order_of_set(tell: Teller, node: exp.SetOperation, outputs: dict[str, Output]) -> str:
    """Return what the result of a set operation is sorted by."""
    order = node.args.get("order")
    if order is None:
        return ""
    parts = []
    columns = list(outputs.values())
    for item in order.expressions:
        only(item, "this", "desc", "nulls_first")
        hear(tell, item)
        key = item.this
        if isinstance(key, exp.Literal) and key.name.isdigit() and 0 < int(key.name) <= len(columns):
            output = columns[int(key.name) - 1]
        elif isinstance(key, exp.Column) and key.name.casefold() in outputs:
            output = outputs[key.name.casefold()]
        else:
            raise unsupported(item)
        parts.append(" ".join(filter(None, (output.words, *ways(tell, item, output.kind)))))
    return ", then by ".join(parts)


def number_of_set(tell: Teller, node: exp.SetOperation, name: str) -> str:
    """Return LIMIT or OFFSET of a set operation."""
    return number(tell, node.args.get(name), Scope([], None))
