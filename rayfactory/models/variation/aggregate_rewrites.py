"""Rewritings of what a query computes: other aggregates, a category side by side, the average of all."""

from __future__ import annotations

import random
import re

from sqlglot import exp

from rayfactory.models.grammar.syntax import literal
from rayfactory.models.variation.blocks import (
    Context,
    block_of,
    conditioned_columns,
    names_in,
    parsed,
    references_in,
    root_select,
)
from rayfactory.models.variation.clauses import plain_keys
from rayfactory.models.variation.head_rewrites import (
    Shown,
    adds_up,
    aggregates,
    order_outputs,
    set_head,
)
from rayfactory.models.variation.naming import column, identifier, new_name, table_alias
from rayfactory.models.variation.nodes import has_aggregate, is_aggregated, output_name
from rayfactory.models.variation.terms import (
    dimensions,
    measures,
    pick,
    projection,
)

MAX_VALUE_LENGTH = 24
"""Characters of a value that a column can be named after."""


def pivot(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Count or add up a category's values side by side, with CASE or FILTER."""
    select = root_select(tree)
    if select is None or select.args.get("from_") is None:
        return None
    block = block_of(select, context.schema)
    grouped = plain_keys(select)
    if grouped is None:
        return None
    compared, _ = conditioned_columns(block)
    settled = compared.union(*(references_in(key) for key in grouped))
    terms = [
        term
        for term in dimensions(block, context.schema)
        if term.column is not None
        and term.column.role == "category"
        and not any(use in settled for use in term.uses)
        and len(term.column.profile.common_values) >= 2
    ]
    if not terms:
        return None
    term = rng.choices(terms, [term.weight for term in terms])[0]
    own = term.column
    assert own is not None
    quantities = [other for other in measures(block, context.schema) if adds_up(other.name)]
    if not is_aggregated(select) or (not grouped and rng.random() < 0.7):
        others = [
            other
            for other in dimensions(block, context.schema)
            if other.uses != term.uses and not other.is_band and not (other.is_period and term.is_period)
        ]
        keys = [Shown(other.expression, other.name) for other in pick(rng, others, rng.choice([1, 1, 2]))]
        set_head(select, keys, aggregates(block, context, rng, 1))
    taken = {output_name(part).casefold() for part in select.expressions}
    values = [value for value, _ in own.profile.common_values[:6] if len(str(value)) <= MAX_VALUE_LENGTH]
    if not values:
        return None
    chosen = rng.sample(values, min(len(values), rng.choice([1, 2, 2, 3])))
    quantity = rng.choice(quantities) if quantities and rng.random() < 0.65 else None
    use_filter = rng.random() < 0.35
    num_before = len(select.expressions)
    for value in chosen:
        test = exp.EQ(
            this=term.expression.copy(),
            expression=parsed(literal(value, own.kind, context.schema.dialect), context.schema.dialect),
        )
        measured = exp.Literal.number(1) if quantity is None else quantity.expression.copy()
        stem = "num" if quantity is None else quantity.name
        word = re.sub(r"\W+", "_", str(value)).strip("_").lower()[:24] or "blank"
        if use_filter:
            function = exp.Count(this=exp.Star(), big_int=True) if quantity is None else exp.Sum(this=measured)
            shown: exp.Expr = exp.Filter(this=function, expression=exp.Where(this=test))
        else:
            branch = exp.If(this=test, true=measured)
            shown = exp.Sum(this=exp.Case(ifs=[branch], default=exp.Literal.number(0)))
        if any(shown == part.unalias() for part in select.expressions):
            continue
        prefix = f"{term.name}_" if not word[:1].isalpha() or len(word) < 3 else ""
        name = new_name(f"{stem}_{prefix}{word}", taken)
        taken.add(name.casefold())
        select.append("expressions", exp.alias_(shown, identifier(name), copy=False))
    return tree if len(select.expressions) > num_before else None


def change_aggregate(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Put another aggregate, or one of another quantity, in the place of one."""
    select = root_select(tree)
    if select is None or not is_aggregated(select):
        return None
    ranked = [part for window in select.find_all(exp.Window) for part in window.find_all(exp.AggFunc)]
    places = [
        index
        for index, part in enumerate(select.expressions)
        if has_aggregate(part) and not part.find(exp.Window) and not any(node in ranked for node in part.walk())
    ]
    if not places:
        return None
    block = block_of(select, context.schema)
    index = rng.choice(places)
    old = select.expressions[index]
    found = aggregates(block, context, rng, 3)
    if not found:
        return None
    shown = rng.choice(found)
    grouped = {use for key in plain_keys(select) or [] for use in references_in(key)}
    if any(shown.expression == part.unalias() for part in select.expressions):
        return None
    if grouped.intersection(references_in(shown.expression)):
        return None
    taken = {output_name(part).casefold() for part in select.expressions if part is not old}
    new = exp.alias_(shown.expression.copy(), identifier(new_name(shown.name, taken)), copy=False)
    was_ordered = select.args.get("order")
    outputs = list(select.expressions)
    outputs[index] = new
    select.set("expressions", outputs)
    if was_ordered is not None:
        limit = select.args.get("limit")
        count = limit.expression if limit is not None else None
        size = int(count.name) if isinstance(count, exp.Literal) and count.is_int else None
        select.set("offset", None)
        order_outputs(select, [new], limit=size)
    return tree


def _figures(select: exp.Select) -> list[exp.Expr]:
    """Return what a SELECT shows, rounding aside."""
    parts = [part.unalias() for part in select.expressions]
    return [part.this if isinstance(part, exp.Round) else part for part in parts]


def show_overall_average(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Show beside each row's quantity, or its average in each group, the average over the whole table."""
    select = root_select(tree)
    if select is None or select.args.get("from_") is None or select.args.get("distinct") or select.find(exp.Window):
        return None
    block = block_of(select, context.schema)
    averaged = [part.this if isinstance(part, exp.Avg) else part for part in _figures(select)]
    terms = [
        term for term in measures(block, context.schema) if term.alias in block.tables and term.expression in averaged
    ]
    if not terms:
        return None
    term = rng.choice(terms)
    assert term.column is not None
    table = block.tables[term.alias]
    alias = table_alias(table.name, names_in(tree))
    inner = exp.Select(
        expressions=[exp.Avg(this=column(alias, term.column.name))],
        from_=exp.From(this=exp.Table(this=identifier(table.name), alias=exp.TableAlias(this=identifier(alias)))),
    )
    taken = {output_name(part).casefold() for part in select.expressions}
    shown = projection(exp.Subquery(this=inner), f"overall_avg_{term.name}", taken)
    select.append("expressions", shown)
    return tree
