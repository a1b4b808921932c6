"""The offline Expansion author: new queries from seeds, by rewriting and recombining their syntax trees.

A seed is resolved first, so that every column names its source. Then a few rewritings are applied, each a function of
the tree that returns the changed tree, or None where it has nothing to say. After each the query is resolved again:
what does not hold together is not kept. A size is drawn for every query, and which rewritings are tried depends on
whether the query is still larger or smaller, so that variations of variations stay between one line and a page.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlglot import exp

from rayfactory.databases.engine import Engine
from rayfactory.databases.schema import Schema
from rayfactory.errors import StatementError
from rayfactory.models.grammar.author import LOOKED_AT_ROWS
from rayfactory.models.variation import (
    aggregate_rewrites,
    condition_rewrites,
    finish,
    head_rewrites,
    join_rewrites,
    nesting_rewrites,
    part_rewrites,
    sense,
    set_rewrites,
    subquery_rewrites,
    transpose,
    window_rewrites,
)
from rayfactory.models.variation.blocks import Context, blocks, is_connected
from rayfactory.models.variation.clauses import spell_out_joins
from rayfactory.models.variation.nodes import normalise
from rayfactory.models.variation.resolution import UnresolvedError, resolve
from rayfactory.sql import base_tables, check_safe, check_text, parse, spell

Rewriting = Callable[[exp.Expr, Context, random.Random], exp.Expr | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rewriting with how often it is tried.

    Attributes:
        larger, fitting, smaller: weights while the query is larger than wanted, of the size wanted, or smaller.
        requires: a kind of node without which it has nothing to do.
    """

    rewriting: Rewriting
    larger: float
    fitting: float
    smaller: float
    requires: type[exp.Expr] = exp.Select


RULES: tuple[Rule, ...] = (
    Rule(join_rewrites.add_join, 0.0, 2.0, 4.0),
    Rule(join_rewrites.swap_partner, 0.3, 2.0, 1.5, exp.Join),
    Rule(transpose.transpose, 0.5, 1.5, 0.8),
    Rule(join_rewrites.drop_join, 2.0, 0.7, 0.0, exp.Join),
    Rule(subquery_rewrites.join_to_subquery, 0.0, 1.5, 1.2, exp.Join),
    Rule(subquery_rewrites.subquery_to_join, 0.5, 0.8, 0.5, exp.In),
    Rule(join_rewrites.inner_to_left, 0.2, 0.4, 0.3, exp.Join),
    Rule(subquery_rewrites.anti_join, 0.0, 1.0, 1.2),
    Rule(condition_rewrites.add_condition, 0.0, 1.5, 2.0),
    Rule(condition_rewrites.drop_condition, 2.0, 0.4, 0.0, exp.Where),
    Rule(condition_rewrites.replace_condition, 0.3, 1.2, 0.5, exp.Where),
    Rule(condition_rewrites.compare_with_average, 0.0, 0.6, 0.6),
    Rule(condition_rewrites.negate_condition, 0.1, 0.3, 0.2, exp.Where),
    Rule(condition_rewrites.splice_condition, 0.0, 0.8, 0.8),
    Rule(head_rewrites.regroup, 1.0, 2.0, 2.5),
    Rule(head_rewrites.add_key, 0.0, 0.5, 1.0, exp.AggFunc),
    Rule(head_rewrites.show_rows, 1.5, 0.8, 0.6),
    Rule(head_rewrites.add_having, 0.0, 0.4, 0.5, exp.Group),
    Rule(window_rewrites.add_window, 0.0, 3.0, 3.6),
    Rule(aggregate_rewrites.pivot, 0.0, 0.4, 0.5),
    Rule(aggregate_rewrites.change_aggregate, 0.3, 0.8, 0.5, exp.AggFunc),
    Rule(head_rewrites.reorder, 0.1, 0.4, 0.3),
    Rule(head_rewrites.show_less, 1.2, 0.3, 0.0),
    Rule(part_rewrites.take_part, 6.0, 0.8, 0.3),
    Rule(part_rewrites.take_core, 6.0, 0.2, 0.0),
    Rule(nesting_rewrites.wrap, 0.0, 1.4, 2.4),
    Rule(nesting_rewrites.cte_to_derived, 0.0, 0.5, 0.3, exp.With),
    Rule(nesting_rewrites.derived_to_cte, 0.0, 0.6, 0.5, exp.Subquery),
    Rule(set_rewrites.combine_conditions, 0.0, 0.8, 0.9),
    Rule(set_rewrites.combine_seeds, 0.0, 0.4, 0.5),
    Rule(condition_rewrites.member_of_seed, 0.0, 0.7, 1.0),
    Rule(aggregate_rewrites.show_overall_average, 0.0, 0.25, 0.3),
)
"""Every rewriting."""

_JOINING = (join_rewrites.add_join, subquery_rewrites.subquery_to_join, condition_rewrites.member_of_seed)

SIZES: tuple[tuple[float, int, int], ...] = (
    (0.22, 8, 40),
    (0.33, 34, 75),
    (0.25, 70, 130),
    (0.12, 110, 190),
    (0.08, 170, 290),
)
"""How long queries are wanted: a share of them, and the fewest and most nodes of their trees (about 0.9 a token)."""

MAX_NODES = 320
"""No larger query is written, which is about 350 tokens."""

MAX_ROWS = 1_000
"""A longer result is nothing that anybody reads."""

MAX_SINGLE_SHARE = 0.2
"""Of the queries of a request, those that may have a single row."""

ATTEMPTS_PER_QUERY = 8
STEPS_PER_QUERY = 18


def write_variations(
    schema: Schema,
    seeds: Sequence[str],
    num_queries: int,
    rng: random.Random,
    engine: Engine | None = None,
    table_use: Mapping[str, int] | None = None,
) -> list[str]:
    """Return up to `num_queries` new queries made from the seeds; fewer, or none, where nothing can be made of them.

    The same arguments give the same queries. Every query differs from its seeds and the others in more than constants.

    Args:
        seeds: any text; what is no SELECT over the schema that can be followed is passed over.
        engine: for looking up rows that a query selects, and how many it returns; without one, constants come from the
            column profiles.
        table_use: rows of the pool that reference each table; the less used are joined more often.
    """
    trees = [tree for tree in (_read(seed, schema) for seed in seeds) if tree is not None]
    if not trees:
        return []
    context = Context(schema, tuple(trees), engine, dict(table_use or {}))
    single = {own.name.casefold() for table in schema.tables if table.num_rows == 1 for own in table.columns}
    weights = [_seed_weight(tree, context) for tree in trees]
    seen = {_shape(tree) for tree in trees}
    written: list[str] = []
    spare: list[tuple[float, str]] = []
    odd: list[exp.Expr] = []
    num_single = 0
    for attempt in range(num_queries * ATTEMPTS_PER_QUERY):
        if len(written) == num_queries:
            break
        # Each seed in turn, and now and then once more the one whose tables the pool has used least.
        seed = trees[attempt % len(trees)] if rng.random() < 0.6 else rng.choices(trees, weights)[0]
        varied = _vary(seed, context, rng)
        if varied is None:
            continue
        tree, is_odd = varied
        shape = _shape(tree)
        if shape in seen:
            continue
        seen.add(shape)
        if is_odd:
            odd.append(tree)
            continue
        if engine is None:
            written.append(spell(tree, schema.dialect))
            continue
        looked = _look(tree, schema, engine, single)
        if looked is None:
            continue
        sql, num_rows, flaw = looked
        if num_rows == 1 and num_single + 1 > MAX_SINGLE_SHARE * num_queries:
            flaw = max(flaw, _SINGLE)
        if flaw:
            spare.append((flaw, sql))
        else:
            num_single += num_rows == 1
            written.append(sql)
    for tree in odd:
        if len(written) + sum(flaw < _EMPTY for flaw, _ in spare) >= num_queries:
            break
        looked = _look(tree, schema, engine, single) if engine is not None else (spell(tree, schema.dialect), 1, _ODD)
        if looked is not None:
            spare.append((max(_ODD, looked[2]), looked[0]))
    spare.sort(key=lambda flawed: flawed[0])  # for want of better
    return [*written, *(sql for _, sql in spare)][:num_queries]


_SINGLE, _LITTLE, _MANY, _ODD, _EMPTY = 1.0, 2.0, 3.0, 4.0, 5.0
"""Flaws of a query, the worst last: one more single row, rows that say little, too many, an odd question, no rows."""


def _look(tree: exp.Expr, schema: Schema, engine: Engine, single: Collection[str]) -> tuple[str, int, float] | None:
    """Return a query as it is written, how many rows it has, and its flaw, 0 for none; None where it does not run."""
    try:
        result = engine.run(spell(tree, schema.dialect), keep_rows=LOOKED_AT_ROWS)
        if isinstance(tree, exp.Select) and tree.args.get("having") is not None and result.row_count > 1:
            without = tree.copy()
            without.set("having", None)
            without.set("limit", None)
            if engine.run(spell(without, schema.dialect)).row_count == result.row_count:
                tree.set("having", None)  # every group meets it
    except StatementError:
        return None
    num_rows = result.row_count
    finish.drop_idle_limit(tree, num_rows)
    flaw = 0.0
    if num_rows == 0:
        flaw = _EMPTY
    elif num_rows > MAX_ROWS:
        flaw = _MANY
    elif sense.says_little(tree, result.rows, single):
        flaw = _LITTLE
    return spell(tree, schema.dialect), num_rows, flaw


def _read(seed: str, schema: Schema) -> exp.Expr | None:
    try:
        tree = parse(seed, schema.dialect)
        check_safe(tree, schema.dialect)
        check_text(seed, schema.dialect)
    except StatementError:
        return None
    if isinstance(tree, exp.Subquery):
        tree = tree.unnest()
    if not finish.is_repeatable(tree) or not base_tables(tree):
        return None
    # Only what the quotes of a word tell of it in SQLite is looked at before they are made uniform.
    resolved = resolve(tree, schema, copy=False)
    if resolved is not None:
        spell_out_joins(normalise(resolved))
    return resolved


def _seed_weight(tree: exp.Expr, context: Context) -> float:
    tables = [name for name in base_tables(tree) if name]
    return sum(join_rewrites.use_weight(context.schema.table(name).name, context) for name in tables) / max(
        1, len(tables)
    )


def _shape(tree: exp.Expr) -> str:
    """Return the kinds of a tree's nodes in order: equal for queries that differ in names and constants only."""
    return " ".join(node.key for node in tree.walk(bfs=False))


def _num_nodes(tree: exp.Expr) -> int:
    return sum(1 for _ in tree.walk())


def _vary(seed: exp.Expr, context: Context, rng: random.Random) -> tuple[exp.Expr, bool] | None:
    """Return the seed after some rewritings, and whether it asks something odd; None where none applies."""
    ((_, fewest, most),) = rng.choices(SIZES, [share for share, _, _ in SIZES])
    tree, applied, wanted = seed, 0, rng.choice([2, 2, 3, 3, 4])
    for _ in range(STEPS_PER_QUERY):
        size = _num_nodes(tree)
        if applied >= wanted and fewest <= size <= most:
            break
        if size > most:
            weights = [rule.larger for rule in RULES]
        elif size < fewest:
            weights = [rule.smaller for rule in RULES]
        elif applied >= wanted:
            break
        else:
            weights = [rule.fitting for rule in RULES]
        # Most questions are about two tables, and some about more.
        eagerness = {0: 3.0, 1: 1.0}.get(len(list(tree.find_all(exp.Join))), 0.6)
        weights = [
            weight * (eagerness if rule.rewriting in _JOINING else 1.0)
            for rule, weight in zip(RULES, weights, strict=True)
        ]
        (rule,) = rng.choices(RULES, weights)
        if tree.find(rule.requires) is None:
            continue
        changed = apply(rule.rewriting, tree, context, rng)
        if changed is not None and (_num_nodes(changed) <= max(MAX_NODES, most) or size > most):
            tree, applied = changed, applied + 1
    if not applied or _num_nodes(tree) > MAX_NODES:
        return None
    if rng.random() < 0.7:  # a single figure is asked for now and then
        tree = apply(head_rewrites.add_key, tree, context, rng) or tree
    finished = finish.finish(tree.copy(), context, rng)
    checked = resolve(finished, context.schema)
    if checked is None or not all(is_connected(block) for block in blocks(checked, context.schema)):
        return None
    return finished, sense.is_odd(checked, context.schema)


def apply(rewriting: Rewriting, tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Return what a rewriting makes of a copy of the tree; None where it does not apply or does not hold together."""
    try:
        changed = rewriting(tree.copy(), context, rng)
    except UnresolvedError:  # a source that the rewriting has made cannot be followed
        return None
    return None if changed is None else resolve(changed, context.schema, copy=False)
