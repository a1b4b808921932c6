"""Aggregate functions in words."""

from __future__ import annotations

from dataclasses import replace

from sqlglot import exp

from rayfactory.downstream.realiser.kinds import kind_of
from rayfactory.downstream.realiser.ordering import order_words
from rayfactory.downstream.realiser.sources import (
    Scope,
    Source,
    is_in_primary,
    is_primary,
    referenced,
    together,
)
from rayfactory.downstream.realiser.telling import Clause, Phrase, Teller, hear, only, unsupported
from rayfactory.downstream.realiser.words import a, listed, plural

_ADJECTIVES: dict[type[exp.Expr], str] = {
    exp.Avg: "average",
    exp.Sum: "total",
    exp.Median: "median",
    exp.Stddev: "standard deviation of",
    exp.StddevSamp: "standard deviation of",
    exp.StddevPop: "population standard deviation of",
    exp.Variance: "variance of",
    exp.VariancePop: "population variance of",
    exp.Mode: "most frequent",
    exp.AnyValue: "any",
    exp.GroupConcat: "list of",
    exp.ArrayAgg: "list of",
}
AGGREGATES = (*_ADJECTIVES, exp.Count, exp.Min, exp.Max, exp.Grouping, exp.CountIf, exp.PercentileCont,
              exp.PercentileDisc)  # fmt: skip


def aggregate(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    """Return an aggregate function in words.

    Raises:
        StatementError: reason ``unsupported``.
    """
    if isinstance(node, exp.Filter):
        return _filtered(tell, node, scope)
    if isinstance(node, exp.WithinGroup):
        return _quantile(tell, node, scope)
    if isinstance(node, (exp.PercentileCont, exp.PercentileDisc)):
        only(node, "this", "expression")
        how = "interpolated " if isinstance(node, exp.PercentileCont) else ""
        return Phrase(f"{how}{tell.value(node.expression, scope).text} quantile of {tell.value(node.this, scope).the}")
    if isinstance(node, exp.Grouping):
        return Phrase(f"mark whether {tell.value(node.expressions[0], scope).the} is summed up", is_compound=True)
    counted = _counted(tell, node, scope) or _of_some(tell, node, scope)
    if counted is not None:
        return counted
    if isinstance(node, exp.Count):
        return _count(tell, node, scope)
    if isinstance(node, exp.CountIf):
        return _number_where(tell.clause(node.this, scope), scope)
    if isinstance(node, (exp.Min, exp.Max)):
        only(node, "this")
        return _of(tell, extreme(node, scope), node.this, scope)
    if isinstance(node, exp.GroupConcat):
        return _concatenated(tell, node, scope)
    only(node, "this")
    return _of(tell, _ADJECTIVES[type(node)], node.this, scope)


def _of_some(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase | None:
    """Return an aggregate of CASE WHEN .. THEN value END, in a sum with ELSE 0 too, as one of some of the rows."""
    branch = _branch(node.this) if isinstance(node, (exp.Sum, exp.Avg, exp.Min, exp.Max, exp.Count)) else None
    if branch is None:
        return None
    condition, value, default = branch
    is_zero = isinstance(node, exp.Sum) and isinstance(default, exp.Literal) and default.name == "0"
    if isinstance(value, exp.Literal) or not (is_zero or default is None):
        return None
    inner = aggregate(tell, type(node)(this=value.copy()), scope)
    clause = tell.clause(condition, scope)
    hear(tell, node)
    where_none = ", or 0 where there are none" if is_zero else ""
    return replace(inner, text=f"{inner.text} (counting only {rows(scope)} {clause.behind_noun}{where_none})")


def extreme(node: exp.Expr, scope: Scope) -> str:
    """Return what the smallest or largest of such values is called."""
    is_lowest = isinstance(node, exp.Min)
    kind = kind_of(node.this, scope)
    if kind in {"date", "timestamp", "time"}:
        return "earliest" if is_lowest else "latest"
    if kind == "text":
        return "alphabetically first" if is_lowest else "alphabetically last"
    return "lowest" if is_lowest else "highest"


def _of(tell: Teller, adjective: str, node: exp.Expr, scope: Scope) -> Phrase:
    if isinstance(node, exp.Distinct):
        if len(node.expressions) != 1:
            raise unsupported(node)
        inner = tell.value(node.expressions[0], scope)
        return Phrase(f"{adjective} of the different values of {inner.the}", names_head=inner.names_head)
    inner = tell.value(node, scope)
    text = inner.operand
    if adjective.endswith(" of") and inner.article and not inner.is_compound:
        text = f"the {text}"
    elif inner.article and f" {adjective} " in f" {text} ":
        is_combined = adjective == "total" and text.startswith("total ")
        text = f"combined {text}" if is_combined else f"{adjective} of the {text}"
        return Phrase(text, names_head=inner.names_head)
    elif isinstance(node, exp.Binary) and inner.is_compound:
        return Phrase(f"{adjective} of {inner.text}", names_head=inner.names_head, is_compound=True)
    return Phrase(f"{adjective} {text}", names_head=inner.names_head)


def _count(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    only(node, "this", "big_int")
    what = node.this
    if isinstance(what, (exp.Star, exp.Literal)):
        hear(tell, what)
        return Phrase(f"number of {rows(scope)}", names_head=True)
    if isinstance(what, exp.Distinct):
        only(what, "expressions")
        if len(what.expressions) != 1:
            raise unsupported(node)
        return _number_of_different(tell, what.expressions[0], scope)
    own = scope.own(what)
    if own is not None and own[0].table is not None:
        source, base = own[0], own[1].base
        key = referenced(tell.schema, base)
        anchor = source.anchor.table if source.anchor is not None else None
        # Not missing, except where there is no row of the source itself.
        is_there = (
            is_in_primary(tell.schema, base)
            or (own[1].column is not None and not own[1].column.nullable)
            or (key is not None and anchor is not None and key[0].referenced_table == anchor.name)
        )
        if is_there or key is not None:
            hear(tell, what)
            source.is_mentioned = True
        if is_there and source.is_optional:
            if scope.head is not None and _multiplying(scope) == [source]:
                return Phrase(f"number of {plural(source.said)}", names_head=True)
            return Phrase(f"number of {rows(scope)} with {a(source.said)}", names_head=True)
        if is_there and not scope.full:
            return Phrase(f"number of {rows(scope)}", names_head=True)
        if key is not None:
            owner = "" if source is scope.head else f"{source.said} "
            return Phrase(f"number of {rows(scope)} with {a(f'{owner}{key[1]}')}", names_head=True)
    inner = tell.value(what, scope)
    return Phrase(f"number of {rows(scope)} with a known {inner.operand}", names_head=True)


def entity(tell: Teller, key: exp.Expr, scope: Scope) -> str:
    """Return what a group is of: a key stands for what it leads to."""
    own = scope.own(key)
    if own is not None:
        found = referenced(tell.schema, own[1].base)
        if found is not None:
            hear(tell, key)
            own[0].is_mentioned = True
            return found[1] if own[0] is scope.head or own[0].table is None else f"{own[0].said} {found[1]}"
        if is_primary(tell.schema, own[1].base) and own[0].table is not None:
            hear(tell, key)
            own[0].is_mentioned = True
            return own[0].one
    return tell.value(key, scope).operand


def rows(scope: Scope) -> str:
    """Return what the rows of a SELECT are called."""
    multiplying = _multiplying(scope)
    if scope.head is None:
        return plural(together(scope)) if scope.sources and not multiplying else "rows"
    if multiplying:
        return f"combinations of {listed([a(source.said) for source in (scope.head, *multiplying)])}"
    return scope.head.many


def _multiplying(scope: Scope) -> list[Source]:
    """Return the sources of which an outer join may bring several for one row."""
    return [source for source, _ in scope.branches if source.child is None and source not in scope.without]


def _number_of_different(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    own = scope.own(node)
    if own is not None:
        if is_primary(tell.schema, own[1].base):
            hear(tell, node)
            own[0].is_mentioned = True
            return Phrase(f"number of different {plural(own[0].one)}", names_head=True)
        found = referenced(tell.schema, own[1].base)
        if found is not None:
            hear(tell, node)
            own[0].is_mentioned = True
            owner = "" if own[0] is scope.head or own[0].table is None else f" of the {plural(own[0].said)}"
            return Phrase(f"number of different {plural(found[1])}{owner}", names_head=True)
    inner = tell.value(node, scope)
    text = plural(inner.text) if not inner.is_compound and inner.article else f"values of {inner.the}"
    return Phrase(f"number of different {text}")


def _branch(node: exp.Expr) -> tuple[exp.Expr, exp.Expr, exp.Expr | None] | None:
    """Return condition, value and ELSE of a CASE with one branch, or of an IIF; ELSE NULL is none."""
    if isinstance(node, exp.If):
        condition, value, default = node.this, node.args["true"], node.args.get("false")
    elif isinstance(node, exp.Case) and node.this is None and len(node.args["ifs"]) == 1:
        branch = node.args["ifs"][0]
        condition, value, default = branch.this, branch.args["true"], node.args.get("default")
    else:
        return None
    return condition, value, None if isinstance(default, exp.Null) else default


def _counted(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase | None:
    """Return a sum of ones and zeros, or a count of what is there only under a condition, as the number it is."""
    condition: exp.Expr | None = None
    branch = _branch(node.this)
    if isinstance(node, exp.Sum) and isinstance(node.this, exp.Predicate):
        condition = node.this
    elif isinstance(node, exp.Sum) and branch is not None:
        test, result, default = branch
        is_count = result.sql() == "1" and isinstance(default, exp.Literal) and default.sql() == "0"
        condition = test if is_count else None
    elif isinstance(node, exp.Count) and branch is not None and branch[2] is None:
        test, result, _ = branch
        own = scope.own(result)
        is_there = own is not None and not own[0].is_optional and not scope.full
        is_key = own is not None and is_there and is_primary(tell.schema, own[1].base)
        # A comparison holds only of what is known.
        is_tested = isinstance(test, (exp.Binary, exp.Between, exp.In)) and test.this == result
        if isinstance(result, exp.Literal) or is_key or (is_tested and not isinstance(test, exp.Is)):
            condition = test
    if condition is None:
        return None
    clause = tell.clause(condition, scope)
    hear(tell, node)
    return _number_where(clause, scope)


def _number_where(clause: Clause, scope: Scope) -> Phrase:
    return Phrase(f"number of {rows(scope)} {clause.behind_noun}", names_head=True, is_compound=True)


def _filtered(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    only(node, "this", "expression")
    inner = tell.value(node.this, scope)
    clause = tell.clause(node.expression.this, scope)
    if inner.text == f"number of {rows(scope)}":
        return _number_where(clause, scope)
    return replace(inner, text=f"{inner.text} (counting only {rows(scope)} {clause.behind_noun})")


def _quantile(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    only(node, "this", "expression")
    function, order = node.this, node.expression
    if not isinstance(function, (exp.PercentileCont, exp.PercentileDisc)) or len(order.expressions) != 1:
        raise unsupported(node)
    ordered = order.expressions[0]
    inner = tell.value(ordered.this, scope)
    share = tell.value(function.this, scope).text
    how = "interpolated " if isinstance(function, exp.PercentileCont) else ""
    way = ", counted from the highest" if ordered.args.get("desc") else ""
    return Phrase(f"{how}{share} quantile of {inner.the}{way}")


def _concatenated(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    only(node, "this", "separator")
    what, order = node.this, None
    if isinstance(what, exp.Order):
        what, order = what.this, what
    is_different = isinstance(what, exp.Distinct)
    if is_different:
        what = what.expressions[0]
        if isinstance(what, exp.Order):
            what, order = what.this, what
    text = f"list of {'different ' if is_different else ''}{plural(tell.value(what, scope).operand)}"
    if order is not None:
        text += f", sorted by {order_words(tell, order.expressions, scope)}"
    separator = node.args.get("separator")
    if separator is not None:
        text += f", separated by {tell.value(separator, scope).text}"
    return Phrase(text, is_compound=order is not None)
