"""Rewritings that take a part of a query for the whole, so that short questions arise from long ones."""

from __future__ import annotations

import random

from sqlglot import exp

from rayfactory.models.variation import join_rewrites
from rayfactory.models.variation.blocks import Context, block_of, blocks
from rayfactory.models.variation.clauses import add_conjunct, conjuncts, is_join_condition, joins_of, set_conjuncts
from rayfactory.models.variation.conditions import draw_condition
from rayfactory.models.variation.head_rewrites import (
    Shown,
    aggregates,
    draw_order,
    listed,
    name_outputs,
    regroup,
    set_head,
    show_rows,
)
from rayfactory.models.variation.nodes import is_aggregated
from rayfactory.models.variation.resolution import outputs_of
from rayfactory.models.variation.terms import BANDS_ALONE, dimensions, names_rows, pick


def take_part(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Take one CTE, branch, derived table or subquery of a larger query as a query of its own."""
    parts = [select for select in tree.find_all(exp.Select) if select is not tree and is_whole(select, context)]
    if not parts:
        return None
    select = rng.choice(parts)
    clause = tree.args.get("with_")
    part = select.copy()
    if clause is not None and part.args.get("with_") is None:
        needed = _needed(part, clause)
        if needed:
            part.set("with_", exp.With(expressions=[cte.copy() for cte in needed]))
    labelled = [shown for shown in part.expressions if isinstance(shown.unalias(), exp.Literal)]
    if len(labelled) < len(part.expressions):
        # What told this part from the others says nothing of it alone.
        part.set("expressions", [shown for shown in part.expressions if shown not in labelled])
    for shown_part in part.expressions:
        value = shown_part.unalias()
        if isinstance(value, exp.Mul) and isinstance(value.this, exp.Literal):
            value.replace(value.expression.copy())  # a share of an average is a bound, and nothing to ask for
    name_outputs(part)
    shown = outputs_of(part, context.schema)
    if is_aggregated(part):
        if any(own.role == "key" for own in shown.values()):
            return regroup(part, context, rng)
    elif all(own.role in ("key", "opaque") for own in shown.values()):
        # A list of keys means something inside another query only.
        return show_rows(part, context, rng) if rng.random() < 0.4 else regroup(part, context, rng)
    return part


def take_core(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Ask something short of one or a few of the query's tables."""
    found = [block for block in blocks(tree, context.schema) if len(block.tables) == len(block.sources)]
    found = [block for block in found if is_whole(block.select, context)]
    if not found:
        return None
    block = rng.choice(found)
    select = exp.Select(expressions=[exp.Literal.number(1)], from_=block.select.args["from_"].copy())
    select.set("joins", [join.copy() for join in joins_of(block.select)])
    set_conjuncts(select, [c for c in conjuncts(block.select) if not c.find(exp.Select)])
    kept = rng.choice([0, 1, 1, 1, 2, 2])
    while len(joins_of(select)) > kept and join_rewrites.drop_leaf(select, context, rng):
        pass
    conditions = conjuncts(select)
    plain = [condition for condition in conditions if not is_join_condition(condition)]
    rng.shuffle(plain)
    dropped = plain[rng.choice([0, 1, 1, 2]) :]
    set_conjuncts(select, [c for c in conditions if not any(c is other for other in dropped)])
    core = block_of(select, context.schema)
    if not plain or rng.random() < 0.3:
        condition = draw_condition(core, context, rng)
        if condition is not None:
            add_conjunct(select, condition)
    choice = rng.random()
    if choice < 0.15:
        set_head(select, [], aggregates(core, context, rng, rng.choice([1, 1, 2])))
    elif choice < 0.6:
        keys = pick(rng, dimensions(core, context.schema), 1)
        if not keys or (keys[0].is_band and rng.random() < BANDS_ALONE):
            return None
        set_head(select, [Shown(term.expression, term.name) for term in keys], aggregates(core, context, rng, 1, keys))
        if rng.random() < 0.3:
            draw_order(select, rng, limit_chance=0.5)
    else:
        terms = listed(core, context, rng, rng.choice([1, 2, 2, 3]))
        if not terms:
            return None
        set_head(select, [Shown(term.expression, term.name) for term in terms], [])
        if len(terms) == 1 or not any(names_rows(term.column) for term in terms) or rng.random() < 0.35:
            select.set("distinct", exp.Distinct())
        if rng.random() < 0.3:
            draw_order(select, rng, limit_chance=0.5)
    return select


def is_whole(select: exp.Select, context: Context) -> bool:
    """Whether a nested SELECT names only sources of its own and CTEs, and shows more than a constant."""
    block = block_of(select, context.schema)
    inside = {
        source.alias_or_name.casefold() for source in select.find_all(exp.Table, exp.Subquery) if source.alias_or_name
    }
    return bool(block.sources) and all(
        node.table.casefold() in inside for node in select.find_all(exp.Column) if node.table
    )


def _needed(part: exp.Expr, clause: exp.With) -> list[exp.CTE]:
    """Return the CTEs that a query rests on, directly or through others, in their order."""
    wanted = {table.name.casefold() for table in part.find_all(exp.Table)}
    needed: list[exp.CTE] = []
    for cte in reversed(clause.expressions):
        if cte.alias.casefold() in wanted and cte.find_ancestor(exp.Select) is not part:
            needed.insert(0, cte)
            wanted |= {table.name.casefold() for table in cte.find_all(exp.Table)}
    return needed
