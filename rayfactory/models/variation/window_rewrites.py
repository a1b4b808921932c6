"""Rewritings that add a window function: ranks, shares, running totals, the value before."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sqlglot import exp

from rayfactory.models.grammar.expressions import prefixed
from rayfactory.models.grammar.quantities import is_record_date, orders_time
from rayfactory.models.variation.blocks import Block, Context, block_of, key_columns, reference, root_select
from rayfactory.models.variation.clauses import plain_keys
from rayfactory.models.variation.head_rewrites import (
    Shown,
    adds_up,
    draw_order,
)
from rayfactory.models.variation.naming import identifier, new_name, plain_name
from rayfactory.models.variation.nodes import has_aggregate, is_aggregated, output_name
from rayfactory.models.variation.terms import dimensions, labels, measures, names_rows, projection


def add_window(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Add a window function: a rank, a share of the whole, a running total, the value before."""
    select = root_select(tree)
    if select is None or any(part.find(exp.Window) for part in select.expressions) or select.args.get("distinct"):
        return None
    taken = {output_name(part).casefold() for part in select.expressions}
    block = block_of(select, context.schema)
    shown = (
        _window_over_groups(select, block, rng)
        if is_aggregated(select)
        else _window_over_rows(select, block, context, rng)
    )
    if shown is None:
        return None
    name = new_name(shown.name, taken)
    select.append("expressions", exp.alias_(shown.expression, identifier(name), copy=False))
    if select.args.get("limit") is None and rng.random() < 0.5:
        draw_order(select, rng, limit_chance=0.3)
    return tree


def _ordered(*terms: tuple[exp.Expr, bool]) -> exp.Order:
    return exp.Order(expressions=[exp.Ordered(this=part.copy(), desc=desc, nulls_first=False) for part, desc in terms])


def window(function: exp.Expr, partition: Sequence[exp.Expr], order: exp.Order | None) -> exp.Window:
    """Return a function OVER a partition in an order."""
    over = exp.Window(this=function, partition_by=[part.copy() for part in partition], over="OVER")
    if order is not None:
        over.set("order", order)
    return over


def _window_over_groups(select: exp.Select, block: Block, rng: random.Random) -> Shown | None:
    keys = plain_keys(select)
    if not keys:
        return None
    values = [part for part in select.expressions if has_aggregate(part)]
    values = [part for part in values if not part.find(exp.GroupConcat, exp.ArrayAgg)]
    if not values:
        return None
    part = rng.choice(values)
    value, name = part.unalias(), output_name(part) or "value"
    if isinstance(value, exp.Round):
        value = value.this
    partition = [rng.choice(keys)] if len(keys) > 1 and rng.random() < 0.6 else []
    rest = [key for key in keys if key not in partition]
    # Before and after are said of times that follow each other: not of months that every year has.
    is_series = len(rest) == 1 and _follows(rest[0], block)
    choice = rng.random() if is_series else 0.6 * rng.random()
    if choice < 0.35:
        function = rng.choice([exp.Rank, exp.DenseRank])()
        return Shown(window(function, partition, _ordered((value, True))), f"{name}_rank")
    if choice < 0.5 and isinstance(value, exp.Avg):
        gap = exp.Sub(this=value.copy(), expression=window(exp.Avg(this=value.copy()), partition, None))
        return Shown(gap, f"{name}_above_avg")
    if choice < 0.6 and isinstance(value, (exp.Sum, exp.Count)) and not value.find(exp.Distinct):
        share = exp.Div(
            this=exp.Mul(this=exp.Literal.number("100.0"), expression=value.copy()),
            expression=exp.Nullif(
                this=window(exp.Sum(this=value.copy()), partition, None), expression=exp.Literal.number(0)
            ),
        )
        return Shown(exp.Round(this=share, decimals=exp.Literal.number(2)), f"{name}_share")
    if 0.6 <= choice < 0.8:
        function = exp.Lag(this=value.copy())
        return Shown(window(function, partition, _ordered(*((key, False) for key in rest))), f"previous_{name}")
    if choice >= 0.8 and isinstance(value, (exp.Sum, exp.Count)) and not value.find(exp.Distinct):
        running = window(exp.Sum(this=value.copy()), partition, _ordered(*((key, False) for key in rest)))
        return Shown(running, f"running_{name}")
    if choice < 0.57 or not isinstance(value, (exp.Avg, exp.Sum, exp.Count)):
        function = rng.choice([exp.Rank, exp.DenseRank])()
        return Shown(window(function, partition, _ordered((value, True))), f"{name}_rank")
    return Shown(window(exp.Max(this=value.copy()), partition, None), prefixed("highest", name))


def _follows(key: exp.Expr, block: Block) -> bool:
    """Whether the values of a group key follow each other in time, once each: dates, years, months of a year."""
    if isinstance(key, exp.Column):
        own = block.column_of(key)
        if own is None:
            return False
        source = block.sources[key.table.casefold()]
        return own.kind in ("date", "timestamp") or (
            own.kind == "integer" and own.role == "code" and orders_time(plain_name(source.table, own.name))
        )
    columns = [block.column_of(node) for node in key.find_all(exp.Column)]
    if isinstance(key, (exp.Case, exp.Coalesce, exp.Substring)) or not all(
        own is not None and own.role == "date" for own in columns
    ):
        return False
    if isinstance(key, (exp.Extract, exp.Year, exp.Month, exp.Quarter, exp.DayOfWeek, exp.Day)):
        return isinstance(key, exp.Year) or (isinstance(key, exp.Extract) and key.name.upper() == "YEAR")
    formats = [text.name for text in key.find_all(exp.Literal) if text.is_string and "%" in text.name]
    return all("%Y" in text for text in formats[:1])


def _shown_columns(select: exp.Select) -> list[exp.Expr]:
    return [part.unalias() for part in select.expressions]


def _window_over_rows(select: exp.Select, block: Block, context: Context, rng: random.Random) -> Shown | None:
    shown = {
        reference(part.unalias().table, part.unalias().name)
        for part in select.expressions
        if isinstance(part.unalias(), exp.Column)
    }
    quantities = measures(block, context.schema)
    if not quantities or not any(names_rows(block.column_of(part)) for part in _shown_columns(select)):
        return None
    visible = [term for term in quantities if term.text in shown]
    term = rng.choice(visible or quantities)
    groups = [other for other in dimensions(block, context.schema) if not other.is_band]
    seen = [other for other in groups if other.text in shown]
    # Where the rows are groups of one key already, each would be a part of its own.
    is_parted = bool(block.tables) or len(groups) > 1
    drawn = rng.choices(seen or groups, [other.weight for other in seen or groups]) if groups else []
    partition = drawn if groups and is_parted and rng.random() < 0.8 else []
    parts = [other.expression for other in partition]
    keys = key_columns(block)
    # Rows follow each other by a date of their own, not by that of another table's record.
    dates = [
        other
        for other in labels(block, context.schema, sorted(block.grain))
        if other.column is not None and other.column.role == "date" and not is_record_date(other.name)
    ]
    if not visible:
        taken = {output_name(part).casefold() for part in select.expressions}
        select.append("expressions", projection(term.expression, term.name, taken))
    suffix = f"_by_{partition[0].name}" if partition else ""
    choice = rng.random()
    if choice < 0.35:
        return Shown(window(exp.Rank(), parts, _ordered((term.expression, True))), f"{term.name}_rank{suffix}")
    if choice < 0.55:
        return Shown(window(exp.Avg(this=term.expression.copy()), parts, None), f"{prefixed('avg', term.name)}{suffix}")
    if choice < 0.7:
        gap = exp.Sub(this=term.expression.copy(), expression=window(exp.Avg(this=term.expression.copy()), parts, None))
        return Shown(gap, f"{term.name}_above_avg")
    if keys and dates:
        if dates[0].text not in shown:
            taken = {output_name(part).casefold() for part in select.expressions}
            select.append("expressions", projection(dates[0].expression, dates[0].name, taken))
        order = [(dates[0].expression, False), *((key, False) for key in keys)]
        if choice < 0.85:
            return Shown(window(exp.Lag(this=term.expression.copy()), parts, _ordered(*order)), f"previous_{term.name}")
        running = window(exp.Sum(this=term.expression.copy()), parts, _ordered(*order))
        if adds_up(term.name):
            return Shown(running, f"running_{term.name}")
    return Shown(window(exp.Max(this=term.expression.copy()), parts, None), f"{prefixed('max', term.name)}{suffix}")
