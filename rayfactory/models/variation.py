"""The offline Expansion author: new queries from seeds, by rewriting and recombining their syntax trees.

A seed is resolved first, so that every column names its source. Then one to a few rewritings are applied, each a
function of the tree that returns the changed tree, or None where it has nothing to say. After each the query is
resolved again: what does not hold together is not kept.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from sqlglot import exp

from rayfactory.databases.engine import Engine
from rayfactory.databases.schema import Schema
from rayfactory.errors import StatementError
from rayfactory.models import condition_rewrites, head_rewrites, join_rewrites, nesting_rewrites
from rayfactory.models.blocks import Context
from rayfactory.models.scopes import UnresolvedError, resolve
from rayfactory.sql import parse, skeleton

Rewriting = Callable[[exp.Expression, Context, random.Random], exp.Expression | None]

REWRITINGS: tuple[tuple[Rewriting, float], ...] = (
    (join_rewrites.add_join, 3.0),
    (join_rewrites.swap_partner, 2.0),
    (join_rewrites.drop_join, 1.0),
    (join_rewrites.join_to_subquery, 1.0),
    (join_rewrites.subquery_to_join, 1.0),
    (join_rewrites.inner_to_left, 0.4),
    (join_rewrites.anti_join, 1.0),
    (condition_rewrites.add_condition, 2.0),
    (condition_rewrites.drop_condition, 0.7),
    (condition_rewrites.replace_condition, 1.0),
    (condition_rewrites.compare_with_average, 0.7),
    (condition_rewrites.negate_condition, 0.3),
    (condition_rewrites.splice_condition, 1.0),
    (head_rewrites.regroup, 2.0),
    (head_rewrites.show_rows, 1.0),
    (head_rewrites.add_having, 0.5),
    (head_rewrites.add_window, 1.0),
    (head_rewrites.pivot, 0.6),
    (head_rewrites.change_aggregate, 1.0),
    (head_rewrites.reorder, 0.5),
    (head_rewrites.show_less, 0.5),
    (nesting_rewrites.take_part, 1.0),
    (nesting_rewrites.wrap, 1.5),
    (nesting_rewrites.cte_to_derived, 0.5),
    (nesting_rewrites.derived_to_cte, 0.6),
    (nesting_rewrites.combine_conditions, 0.7),
    (nesting_rewrites.combine_seeds, 0.6),
    (nesting_rewrites.member_of_seed, 1.0),
    (nesting_rewrites.aggregate_top, 0.3),
)
"""Every rewriting with how often it is tried."""

ATTEMPTS_PER_QUERY = 6


def write_variations(
    schema: Schema,
    seeds: Sequence[str],
    num_queries: int,
    rng: random.Random,
    engine: Engine | None = None,
    table_use: Mapping[str, int] | None = None,
) -> list[str]:
    """Return up to `num_queries` new queries made from the seeds; fewer, or none, where nothing can be made of them."""
    trees = [tree for tree in (_read(seed, schema) for seed in seeds) if tree is not None]
    if not trees:
        return []
    context = Context(schema, tuple(trees), engine, dict(table_use or {}))
    seen = {skeleton(tree, schema.dialect) for tree in trees}
    written: list[str] = []
    for attempt in range(num_queries * ATTEMPTS_PER_QUERY):
        if len(written) == num_queries:
            break
        tree = _vary(trees[attempt % len(trees)], context, rng)
        if tree is None:
            continue
        shape = skeleton(tree, schema.dialect)
        if shape not in seen:
            seen.add(shape)
            written.append(tree.sql(dialect=schema.dialect))
    return written


def _read(seed: str, schema: Schema) -> exp.Expression | None:
    try:
        tree = parse(seed, schema.dialect)
    except StatementError:
        return None
    return resolve(tree, schema)


def _vary(seed: exp.Expression, context: Context, rng: random.Random) -> exp.Expression | None:
    """Return the seed after one to four rewritings."""
    functions = [function for function, _ in REWRITINGS]
    weights = [weight for _, weight in REWRITINGS]
    tree, applied, wanted = seed, 0, rng.choice([2, 2, 3, 3, 4])
    for _ in range(4 * wanted):
        if applied == wanted:
            break
        (function,) = rng.choices(functions, weights)
        changed = apply(function, tree, context, rng)
        if changed is not None:
            tree, applied = changed, applied + 1
    return tree if applied else None


def apply(rewriting: Rewriting, tree: exp.Expression, context: Context, rng: random.Random) -> exp.Expression | None:
    """Return what a rewriting makes of a copy of the tree, if it holds together."""
    try:
        changed = rewriting(tree.copy(), context, rng)
    except UnresolvedError:  # a source that the rewriting has made cannot be followed
        return None
    if changed is None:
        return None
    resolved = resolve(changed, context.schema)
    return None if resolved is None or resolved == tree else resolved
