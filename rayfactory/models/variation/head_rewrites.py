"""Rewritings of what a query shows: its columns, groups, aggregates, window functions, order and limit."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sqlglot import exp

from rayfactory.models.grammar import expressions
from rayfactory.models.grammar.quantities import is_additive
from rayfactory.models.grammar.syntax import number
from rayfactory.models.variation.blocks import (
    Block,
    Context,
    block_of,
    conditioned_columns,
    parsed,
    references_in,
    root_select,
)
from rayfactory.models.variation.clauses import add_conjunct, conjuncts, plain_keys
from rayfactory.models.variation.conditions import sample_rows
from rayfactory.models.variation.naming import identifier, new_name
from rayfactory.models.variation.nodes import has_aggregate, is_aggregated, output_name
from rayfactory.models.variation.terms import (
    BANDS_ALONE,
    Term,
    dimensions,
    labels,
    measures,
    names_rows,
    pick,
    projection,
    vocabulary,
)

_DERIVED = re.compile(r"^(previous|running|best|highest|first|last|overall|stddev|p\d+|pct)_|_(above_avg|share|rank)$")
"""Names of figures that were made of others and do not add up."""

_HEAD = ("distinct", "group", "having", "qualify", "order", "limit", "offset", "windows")


@dataclass(frozen=True, slots=True)
class Shown:
    """One new output: an expression and the name it gets."""

    expression: exp.Expr
    name: str


def aggregates(
    block: Block, context: Context, rng: random.Random, count: int, keys: Sequence[Term] = ()
) -> list[Shown]:
    """Return up to `count` different aggregates that make sense over the block's rows, none of the group keys."""
    scope = vocabulary(block, context.schema)
    if scope is None:
        shown = [aggregate_of(term, rng) for term in pick(rng, measures(block, context.schema), count)]
        return [*shown, Shown(exp.Count(this=exp.Star(), big_int=True), "num_rows")][:count]
    grouped = {use for key in keys for use in key.uses}
    compared, pinned = conditioned_columns(block)
    found = [
        part
        for part in expressions.aggregates(scope)
        if not any(use in grouped or use in pinned for use in part.uses)
        # Of rows that a condition has picked, nobody counts those that it leaves.
        and not (("CASE" in part.sql or "FILTER" in part.sql) and part.uses[0] in compared)
    ]
    chosen: list[expressions.Expression] = []
    while found and len(chosen) < count:
        drawn = rng.choices(found, [part.weight for part in found])[0]
        chosen.append(drawn)
        found = [part for part in found if part.name != drawn.name and part.uses != drawn.uses]
    return [Shown(parsed(part.sql, context.schema.dialect), part.name) for part in chosen]


def adds_up(name: str) -> bool:
    """Whether the sum of a quantity of that name means something."""
    return is_additive(name) and not _DERIVED.search(name)


def aggregate_of(term: Term, rng: random.Random) -> Shown:
    """Return an aggregate of a quantity."""
    kinds: list[tuple[str, type[exp.AggFunc], float]] = [
        ("total", exp.Sum, 5.0 if adds_up(term.name) else 0.0),
        ("avg", exp.Avg, 3.0),
        ("max", exp.Max, 1.2),
        ("min", exp.Min, 0.8),
    ]
    prefix, function, _ = rng.choices(kinds, [weight for _, _, weight in kinds])[0]
    inner: exp.Expr = function(this=term.expression.copy())
    if function is exp.Avg and rng.random() < 0.5:
        inner = exp.Round(this=inner, decimals=exp.Literal.number(2))
    return Shown(inner, expressions.prefixed(prefix, stem_of(term.name)))


def stem_of(name: str) -> str:
    """Return the name of a quantity without that of the function that made it: ``total_tax`` gives tax."""
    return re.sub(r"^((total|avg|max|min|median|highest|lowest|overall)_)+", "", name)


def set_head(select: exp.Select, keys: Sequence[Shown], values: Sequence[Shown]) -> None:
    """Show group keys and aggregates, grouped by the keys, and nothing of what was shown before."""
    for clause in _HEAD:
        select.set(clause, None)
    taken: set[str] = set()
    outputs = [projection(part.expression, part.name, taken) for part in (*keys, *values)]
    select.set("expressions", outputs)
    if keys and any(has_aggregate(part.expression) for part in values):
        select.set("group", exp.Group(expressions=[part.expression.copy() for part in keys]))


def by_name(part: exp.Expr) -> exp.Expr:
    """Return how ORDER BY refers to an output."""
    return exp.Column(this=identifier(part.alias)) if part.alias else part.copy()


def order_outputs(select: exp.Select, first: Sequence[exp.Expr], *, limit: int | None, descending: bool = True) -> None:
    """Order by some outputs and then, under a limit, by all the others, so that the same rows come every time."""
    terms = [exp.Ordered(this=by_name(part), desc=descending, nulls_first=False) for part in first]
    if limit is not None:
        rest = [part for part in select.expressions if part not in first]
        group = select.args.get("group")
        if group is not None:  # the keys tell the groups apart
            rest = [part for part in rest if part.unalias() in group.expressions]
        rest = [part for part in rest if not isinstance(part.unalias(), exp.Literal)]
        terms += [exp.Ordered(this=by_name(part), desc=False, nulls_first=False) for part in rest]
        select.set("limit", exp.Limit(expression=exp.Literal.number(limit)))
    if terms:
        select.set("order", exp.Order(expressions=terms))


def draw_order(select: exp.Select, rng: random.Random, *, limit_chance: float = 0.4) -> None:
    """Give a SELECT an order by what it shows, and sometimes a limit."""
    select.set("order", None)
    select.set("limit", None)
    select.set("offset", None)
    if rng.random() < 0.3:
        return
    parts = [part for part in select.expressions if not isinstance(part.unalias(), exp.Literal)]
    quantities = [part for part in parts if has_aggregate(part) or part.find(exp.Window)]
    limit = rng.choice([5, 10, 10, 15, 20, 25, 50, 100]) if rng.random() < limit_chance else None
    if quantities and rng.random() < 0.7:
        first = rng.choice(quantities)
        # The first rank is the best one.
        is_rank = first.find(exp.Rank, exp.DenseRank, exp.RowNumber) is not None
        order_outputs(select, [first], limit=limit, descending=not is_rank and rng.random() < 0.85)
    elif parts:
        order_outputs(select, [parts[0]], limit=limit, descending=rng.random() < 0.3)


def regroup(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Group the same rows by other columns, with other aggregates."""
    select = root_select(tree)
    if select is None or select.args.get("from_") is None:
        return None
    block = block_of(select, context.schema)
    found = dimensions(block, context.schema)
    # What is summed up already is summed up further only by fewer keys.
    most = 3 if block.tables else len(found) - 1
    if most < 1:
        return None
    terms = pick(rng, found, min(most, rng.choice([1, 1, 2, 2, 3])))
    if terms and all(term.is_band for term in terms) and rng.random() < BANDS_ALONE:
        return None
    keys = [Shown(term.expression, term.name) for term in terms]
    values = aggregates(block, context, rng, rng.choice([1, 2, 2, 3]), terms)
    if not keys and rng.random() < 0.8:
        return None
    set_head(select, keys, values)
    if keys:
        draw_order(select, rng)
        if rng.random() < 0.2:
            _add_having(select, values, context, rng)
    return tree


def add_key(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Ask of each group what the query asks of all rows at once."""
    select = root_select(tree)
    if select is None or not is_aggregated(select) or select.args.get("group") or select.find(exp.Window):
        return None
    block = block_of(select, context.schema)
    measured = {use for part in select.expressions for use in references_in(part)}
    found = [term for term in dimensions(block, context.schema) if not measured.intersection(term.uses)]
    if not found or (not block.tables and len(found) < 2):
        return None  # of groups of one key already each would be a group of its own
    if all(term.is_band for term in found) and rng.random() < BANDS_ALONE:
        return None
    terms = pick(rng, found, rng.choice([1, 1, 2]) if block.tables else 1)
    taken = {output_name(part).casefold() for part in select.expressions}
    shown = [projection(term.expression, term.name, taken) for term in terms]
    select.set("expressions", [*shown, *select.expressions])
    select.set("group", exp.Group(expressions=[term.expression.copy() for term in terms]))
    draw_order(select, rng, limit_chance=0.2)
    return tree


def listed(block: Block, context: Context, rng: random.Random, count: int) -> list[Term]:
    """Return what to show of rows: something that tells which they are and what they hold, or attributes alone.

    None where neither is there, and now and then where there are attributes only.
    """
    found = labels(block, context.schema)
    first = pick(rng, [term for term in found if names_rows(term.column)], 1)
    if first and rng.random() < 0.85:
        rest = [term for term in found if term.name != first[0].name and not (term.is_period and first[0].is_period)]
        return [*first, *pick(rng, rest, count - 1)]
    if not first and rng.random() < 0.5:
        return []
    return pick(rng, [term for term in found if term.column is not None and term.column.role == "category"], count)


def tells_attributes(terms: Sequence[Term]) -> bool:
    """Whether rows are shown by attributes that many share, so that each combination is listed once."""
    return all(term.column is not None and term.column.role in ("category", "text", "code") for term in terms)


def show_rows(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """List rows of the same source, some columns of them."""
    select = root_select(tree)
    if select is None or select.args.get("from_") is None:
        return None
    block = block_of(select, context.schema)
    terms = listed(block, context, rng, rng.choice([2, 3, 3, 4, 5]))
    if not terms:
        return None
    for clause in _HEAD:
        select.set(clause, None)
    taken: set[str] = set()
    select.set("expressions", [projection(term.expression, term.name, taken) for term in terms])
    if not any(names_rows(term.column) for term in terms) or (tells_attributes(terms) and rng.random() < 0.5):
        select.set("distinct", exp.Distinct())
    draw_order(select, rng, limit_chance=0.5)
    return tree


def add_having(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Keep only groups of some size."""
    select = root_select(tree)
    if select is None or select.args.get("group") is None or select.args.get("having") is not None:
        return None
    values = [Shown(part.unalias(), output_name(part)) for part in select.expressions if has_aggregate(part)]
    return tree if _add_having(select, values, context, rng) else None


def _add_having(select: exp.Select, values: Sequence[Shown], context: Context, rng: random.Random) -> bool:
    """Keep the groups above or below a bound that lies between those of a sample of the rows."""
    keys = plain_keys(select)
    if not keys:
        return False
    block = block_of(select, context.schema)
    inner = [part.expression.this if isinstance(part.expression, exp.Round) else part.expression for part in values]
    simple = [
        part
        for part in inner
        if isinstance(part, (exp.Avg, exp.Max, exp.Min, exp.Sum)) and part.this.find(exp.Case) is None
    ]
    function = rng.choice(simple) if simple and rng.random() < 0.7 else None
    rows = sample_rows(block, [*keys, *([function.this] if function is not None else [])], context, SAMPLED_ROWS)
    groups: dict[str, list[float]] = {}
    for row in rows:
        value = row[-1] if function is not None else 1
        if isinstance(value, (int, float)):
            groups.setdefault(repr(row[: len(keys)]), []).append(value)
    if len(groups) < 3:
        return False
    if function is None:
        counts = sorted(len(members) for members in groups.values())
        # The sample shows a part of each group.
        bound: float = max(1, counts[len(counts) // 2] - 1)
        if counts[-1] <= bound:
            return False
        condition: exp.Expr = exp.GT(this=exp.Count(this=exp.Star(), big_int=True), expression=_bound(bound))
    else:
        reduced = sorted(_reduced(function, members) for members in groups.values())
        bound = _round(reduced[len(reduced) // 2 - 1])
        # Sums only grow beyond the sample: no upper bound on them.
        below = not isinstance(function, (exp.Sum, exp.Max)) and rng.random() < 0.3
        if not reduced[0] < bound < reduced[-1]:
            return False
        condition = (exp.LT if below else exp.GT)(this=function.copy(), expression=_bound(bound))
    add_conjunct(select, condition, "having")
    return True


SAMPLED_ROWS = 400
"""Rows from which a bound on groups is taken."""


def _reduced(function: exp.Expr, values: Sequence[float]) -> float:
    if isinstance(function, exp.Avg):
        return sum(values) / len(values)
    if isinstance(function, exp.Sum):
        return sum(values)
    return max(values) if isinstance(function, exp.Max) else min(values)


def _round(value: float) -> float:
    """Return a bound as somebody would write it: two significant digits."""
    return float(f"{value:.2g}")


def _bound(value: float) -> exp.Expr:
    return parsed(number(value), "duckdb")


def reorder(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Order by something else that is shown, with another limit or none."""
    del context
    select = root_select(tree)
    if select is None or len(select.expressions) < 2:
        return None
    draw_order(select, rng, limit_chance=0.55)
    return tree


def show_less(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Show fewer columns, one aggregate or a few labels, without order."""
    select = root_select(tree)
    if select is None or len(select.expressions) < 3:
        return None
    group = select.args.get("group")
    if group is not None:
        keys = [part for part in select.expressions if part.unalias() in group.expressions]
        values = [part for part in select.expressions if part not in keys]
        if not values or plain_keys(select) is None:
            return None
        plain = [part for part in values if not part.find(exp.Window)]
        select.set("expressions", [*keys, rng.choice(plain or values)])
    else:
        kept = sorted(rng.sample(range(len(select.expressions)), rng.choice([1, 2])))
        shown = [select.expressions[index] for index in kept]
        block = block_of(select, context.schema)
        columns = [block.column_of(part.unalias()) for part in shown]
        if not any(own is not None and own.role not in ("measure", "key", "opaque") for own in columns):
            return None
        select.set("expressions", shown)
    select.set("order", None)
    select.set("limit", None)
    select.set("offset", None)
    if group is None and not is_aggregated(select) and not select.find(exp.Window) and conjuncts(select):
        select.set("distinct", exp.Distinct() if rng.random() < 0.4 else None)
    return tree


def name_outputs(select: exp.Select) -> None:
    """Give every output a name of its own, so that a query around can refer to it."""
    taken: set[str] = set()
    outputs: list[exp.Expr] = []
    for position, part in enumerate(select.expressions):
        name = output_name(part)
        if not name or name.casefold() in taken:
            name = new_name(_spoken(part.unalias()) or f"value_{position + 1}", taken)
            part = exp.alias_(part.unalias().copy(), identifier(name), copy=False)
        taken.add(name.casefold())
        outputs.append(part)
    select.set("expressions", outputs)


def _spoken(expression: exp.Expr) -> str:
    """Return a name for an expression without one, after its function and column."""
    found = expression.find(exp.Column)
    words = [expression.key if isinstance(expression, exp.Func) else "", found.name if found is not None else "rows"]
    return re.sub(r"\W+", "_", "_".join(word for word in words if word)).lower()
