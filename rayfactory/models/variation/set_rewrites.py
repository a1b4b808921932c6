"""Rewritings that put two queries together with UNION, INTERSECT or EXCEPT."""

from __future__ import annotations

import random
import re

from sqlglot import exp

from rayfactory.models.variation.blocks import Block, Context, block_of, dimensions, labels, measures, pick, root_select
from rayfactory.models.variation.clauses import add_conjunct, plain_keys
from rayfactory.models.variation.conditions import draw_condition
from rayfactory.models.variation.head_rewrites import (
    Shown,
    name_outputs,
    set_head,
)
from rayfactory.models.variation.naming import identifier, plain_name
from rayfactory.models.variation.nodes import is_aggregated


def combine_conditions(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Combine what two different conditions select: UNION, INTERSECT or EXCEPT of the query with each."""
    select = root_select(tree)
    if select is None or select.args.get("with_") is not None or select.args.get("from_") is None:
        return None
    if select.find(exp.Window) is not None or len(list(select.walk())) > 130:
        return None
    block = block_of(select, context.schema)
    if not block.tables:
        return None
    if plain_keys(select) is None:
        return None
    kinds: list[type[exp.SetOperation]] = [exp.Union]
    if not is_aggregated(select):
        # What two sets of rows have in common, or not, is asked of things that have many values.
        named = [
            term
            for term in labels(block, context.schema)
            if term.column is not None
            and term.column.role in ("text", "identifier", "category")
            and term.column.profile.num_distinct >= 8
        ]
        keys = pick(rng, named, rng.choice([1, 1, 2]))
        if not keys:
            return None
        set_head(select, [Shown(term.expression, term.name) for term in keys], [])
        kinds += [exp.Except, exp.Intersect]
    for key in ("order", "limit", "offset", "distinct"):
        select.set(key, None)
    name_outputs(select)
    other = select.copy()
    kind = rng.choice(kinds)
    one, two = block_of(select, context.schema), block_of(other, context.schema)
    first, second = draw_condition(one, context, rng), draw_condition(two, context, rng)
    if first is None or second is None or _columns(first) == _columns(second):
        return None
    if kind is not exp.Except:
        add_conjunct(select, first)
    add_conjunct(other, second)
    if is_aggregated(select):
        # The same figures for two parts of the rows: each says which part it is of.
        for part, condition, block in ((select, first, one), (other, second, two)):
            label = exp.alias_(exp.Literal.string(_in_words(condition, block)), identifier("segment"), copy=False)
            part.set("expressions", [label, *part.expressions])
        return exp.Union(this=select, expression=other, distinct=False)
    return kind(this=select, expression=other, distinct=True)


def _columns(condition: exp.Expr) -> list[exp.Column]:
    return list(condition.find_all(exp.Column))


def _in_words(condition: exp.Expr, block: Block) -> str:
    """Return a condition as a label: ``state IN (MS, GA)``."""
    plain = condition.copy()
    for node in plain.find_all(exp.Column):
        table = block.tables.get(node.table)
        node.replace(exp.Column(this=exp.to_identifier(plain_name(table, node.name).replace("_", " "), quoted=False)))
    return re.sub(r"['\"]", "", re.sub(r"\bDATE '", "'", plain.sql()))


def combine_seeds(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Put the same figures over two queries under each other, each with its name."""
    select = root_select(tree)
    others = [seed for seed in context.seeds if isinstance(seed, exp.Select) and seed.args.get("with_") is None]
    if select is None or not others or select.args.get("with_") is not None:
        return None
    other = rng.choice(others).copy()
    assert isinstance(other, exp.Select)
    one, two = block_of(select, context.schema), block_of(other, context.schema)
    if not one.tables or not two.tables:
        return None
    first_name, second_name = (_topic(block) for block in (one, two))
    if first_name == second_name:
        return None
    heads = [_figures(block, context, rng) for block in (one, two)]
    count = min(len(heads[0]), len(heads[1]), rng.choice([1, 2]))
    grouped: list[list[Shown]] = [[], []]
    if rng.random() < 0.5:
        pairs = [
            pick(
                rng,
                [t for t in dimensions(block, context.schema) if t.column is not None and t.column.kind == "text"],
                1,
            )
            for block in (one, two)
        ]
        if all(pairs):
            grouped = [[Shown(pair[0].expression, "category_name")] for pair in pairs]
    names = ["num_rows", "total_amount", "avg_amount"]
    for block, head, topic, keys in zip((one, two), heads, (first_name, second_name), grouped, strict=True):
        label = Shown(exp.Literal.string(topic), "source")
        values = [Shown(part.expression, name) for part, name in zip(head[: count + 1], names, strict=False)]
        set_head(block.select, keys, values)
        taken = {"source"}
        outputs = [exp.alias_(label.expression, identifier("source"), copy=False)]
        for part in block.select.expressions:
            inner = part.unalias()
            index = len(outputs) - 1
            wanted = keys[0].name if index < len(keys) else names[index - len(keys)]
            taken.add(wanted)
            outputs.append(exp.alias_(inner.copy(), identifier(wanted), copy=False))
        block.select.set("expressions", outputs)
    return exp.Union(this=select, expression=other, distinct=False)


def _topic(block: Block) -> str:
    folded = next(
        (name for name in block.sources if name in block.grain and block.sources[name].table is not None), None
    )
    table = block.sources[folded].table if folded is not None else next(iter(block.tables.values()))
    assert table is not None
    return re.sub(r"[_\W]+", " ", table.name).strip().lower()


def _figures(block: Block, context: Context, rng: random.Random) -> list[Shown]:
    figures = [Shown(exp.Count(this=exp.Star(), big_int=True), "num_rows")]
    terms = measures(block, context.schema)
    if terms:
        term = rng.choice(terms)
        figures.append(Shown(exp.Sum(this=term.expression.copy()), "total_amount"))
        figures.append(Shown(exp.Avg(this=term.expression.copy()), "avg_amount"))
    return figures
