"""Window functions in words."""

from __future__ import annotations

from sqlglot import exp

from rayfactory.downstream.realiser.aggregates import entity
from rayfactory.downstream.realiser.ordering import order_words
from rayfactory.downstream.realiser.sources import Scope
from rayfactory.downstream.realiser.telling import Phrase, Teller, hear, only, unsupported
from rayfactory.downstream.realiser.words import listed

_RANKS: dict[type[exp.Expr], str] = {
    exp.RowNumber: "row number",
    exp.Rank: "rank",
    exp.DenseRank: "rank without gaps",
    exp.PercentRank: "relative rank",
    exp.CumeDist: "cumulative share",
}
_PARTS = {"2": "half", "3": "tercile", "4": "quartile", "5": "quintile", "10": "decile", "100": "percentile"}


def window(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    """Return a window function in words.

    Raises:
        StatementError: reason ``unsupported``.
    """
    only(node, "this", "partition_by", "order", "spec", "over")
    function = node.this
    order, spec = node.args.get("order"), node.args.get("spec")
    if spec is not None:
        hear(tell, spec)
    groups = [entity(tell, part, scope) for part in node.args.get("partition_by") or ()]
    within = f" within each {listed(groups)}" if groups else ""
    by = order_words(tell, order.expressions, scope).replace(", then by", " and then") if order is not None else ""
    if type(function) in _RANKS:
        if spec is not None:
            raise unsupported(node)
        only(function)
        sorted_by = f" by {by}" if by else ""
        return Phrase(f"{_RANKS[type(function)]}{sorted_by}{within}", is_compound=bool(by))
    if isinstance(function, exp.Ntile):
        number = tell.value(function.this, scope).text
        part = _PARTS.get(number, f"number of the part when split into {number} equal parts")
        return Phrase(f"{part} by {by}{within}", is_compound=True)
    if isinstance(function, (exp.Lag, exp.Lead)):
        return _neighbour(tell, function, scope, by, within)
    if isinstance(function, (exp.FirstValue, exp.LastValue)):
        which = "first" if isinstance(function, exp.FirstValue) else "last"
        inner = tell.value(function.this, scope)
        # By itself a frame ends at the current row, and with it its last value.
        is_so_far = spec is None and which == "last" and by
        over = f", {_frame(spec)}," if spec is not None else ", so far," if is_so_far else ""
        return Phrase(f"{which} {inner.operand}{over} in order of {by}{within}", is_compound=True)
    inner = tell.value(function, scope)
    text = inner.operand
    if by and isinstance(function, exp.Sum) and not isinstance(function.this, exp.Distinct):
        # "running total", and not "running combined total amount".
        text = f"total of {tell.value(function.this, scope).the}"
    if spec is not None:
        if not by:
            raise unsupported(node)
        if _frame(spec) == "so far":
            return Phrase(f"running {text} in order of {by}{within}", names_head=inner.names_head, is_compound=True)
        return Phrase(
            f"{text} over {_frame(spec)} in order of {by}{within}", names_head=inner.names_head, is_compound=True
        )
    if by:
        return Phrase(
            f"running {text} (ties together) in order of {by}{within}", names_head=inner.names_head, is_compound=True
        )
    return Phrase(f"{text}{within or ' over all rows'}", names_head=inner.names_head)


def _neighbour(tell: Teller, function: exp.Expr, scope: Scope, by: str, within: str) -> Phrase:
    only(function, "this", "offset", "default")
    inner = tell.value(function.this, scope)
    which = "previous" if isinstance(function, exp.Lag) else "next"
    offset, default = function.args.get("offset"), function.args.get("default")
    if offset is not None:
        number = tell.value(offset, scope).text
        if number != "1":
            which = f"{number}{'th' if number not in {'2', '3'} else {'2': 'nd', '3': 'rd'}[number]} {which}"
    text = f"{which} {inner.operand} (in order of {by}{within}"
    if default is not None:
        text += f"; {tell.value(default, scope).the} where there is none"
    return Phrase(f"{text})")


def _frame(spec: exp.Expr) -> str:
    only(spec, "kind", "start", "start_side", "end", "end_side")
    if spec.args.get("kind") != "ROWS":
        raise unsupported(spec)
    start, end = (_bound(spec, side) for side in ("start", "end"))
    if start == "the first row" and end == "the current row":
        return "so far"
    if end == "the current row":
        return f"{start} up to the current row"
    return f"the rows from {start} to {end}"


def _bound(spec: exp.Expr, name: str) -> str:
    bound, side = spec.args.get(name), spec.args.get(f"{name}_side")
    if bound == "CURRENT ROW" or bound is None:
        return "the current row"
    if bound == "UNBOUNDED":
        return "the first row" if name == "start" else "the last row"
    number = bound.sql()
    return f"{number} row{'' if number == '1' else 's'} {'before' if side == 'PRECEDING' else 'after'} the current row"


def short_name(node: exp.Expr) -> str:
    """Return what a rank is called for short, or "" for what is none."""
    return _RANKS.get(type(node.this), "") if isinstance(node, exp.Window) else ""
