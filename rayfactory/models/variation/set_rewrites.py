"""Rewritings that put two queries together with UNION, INTERSECT or EXCEPT."""

from __future__ import annotations

import random
import re

from sqlglot import exp

from rayfactory.databases.schema import Column, Table
from rayfactory.models.grammar.expressions import prefixed
from rayfactory.models.grammar.skeleton import are_alike
from rayfactory.models.variation.blocks import Block, Context, block_of, conditioned_columns, references_in, root_select
from rayfactory.models.variation.clauses import add_conjunct, plain_keys
from rayfactory.models.variation.conditions import draw_condition
from rayfactory.models.variation.head_rewrites import (
    Shown,
    adds_up,
    name_outputs,
    set_head,
)
from rayfactory.models.variation.naming import identifier, new_name
from rayfactory.models.variation.nodes import is_aggregated, output_name
from rayfactory.models.variation.terms import dimensions, labels, measures, pick

MIN_COMPARED_SHARE = 0.04
"""Share of the rows that a part must have at least to be set beside another."""


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
    if is_aggregated(select):
        return _side_by_side(one, two, context, rng)
    first, second = draw_condition(one, context, rng), draw_condition(two, context, rng)
    if first is None or second is None or _columns(first) == _columns(second):
        return None
    if kind is not exp.Except:
        add_conjunct(select, first)
    add_conjunct(other, second)
    return kind(this=select, expression=other, distinct=True)


def _columns(condition: exp.Expr) -> list[exp.Column]:
    return list(condition.find_all(exp.Column))


def _side_by_side(one: Block, two: Block, context: Context, rng: random.Random) -> exp.Expr | None:
    """Put the same figures for two parts of the rows under each other; each says which part it is of."""
    compared, _ = conditioned_columns(one)
    taken = compared.union(*(references_in(part) for part in one.select.expressions))
    found = [
        term
        for term in dimensions(one, context.schema)
        if term.column is not None
        and term.column.role == "category"
        and term.column.kind == "text"
        and not taken.intersection(term.uses)
    ]
    parts = [(term, _frequent(term.column)) for term in found if term.column is not None]
    parts = [(term, values) for term, values in parts if len(values) >= 2]
    if not parts:
        return None
    term, values = rng.choices(parts, [term.weight for term, _ in parts])[0]
    used = {output_name(part).casefold() for part in one.select.expressions}
    name = new_name(term.name, used)
    for block, value in zip((one, two), rng.sample(values, 2), strict=True):
        text = exp.Literal.string(value)
        add_conjunct(block.select, exp.EQ(this=term.expression.copy(), expression=text))
        label = exp.alias_(text.copy(), identifier(name), copy=False)
        block.select.set("expressions", [label, *block.select.expressions])
    return exp.Union(this=one.select, expression=two.select, distinct=False)


def _frequent(own: Column) -> list[str]:
    """Return the values of a category that are worth comparing."""
    return [
        value
        for value, share in own.profile.common_values[:6]
        if isinstance(value, str) and share >= MIN_COMPARED_SHARE and 0 < len(value.strip()) <= 30
    ]


def combine_seeds(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Put the same figures over two queries under each other, each with its name."""
    select = root_select(tree)
    if select is None or select.args.get("with_") is not None:
        return None
    one = block_of(select, context.schema)
    if not one.tables:
        return None
    topic = _topic(one)
    others = [
        seed
        for seed in context.seeds
        if isinstance(seed, exp.Select)
        and seed.args.get("with_") is None
        and (block := block_of(seed, context.schema)).tables
        and _spoken(topic) != _spoken(_topic(block))
        and are_alike(context.schema, topic.name, _topic(block).name)
    ]
    if not others:
        return None
    other = rng.choice(others).copy()
    two = block_of(other, context.schema)
    heads = _figures(one, two, context, rng)
    grouped: list[list[Shown]] = [[], []]
    if rng.random() < 0.5:
        first, second = (
            {t.name: t for t in dimensions(block, context.schema) if t.column is not None and t.column.kind == "text"}
            for block in (one, two)
        )
        if shared := sorted(first.keys() & second.keys()):
            name = rng.choice(shared)
            grouped = [[Shown(terms[name].expression, name)] for terms in (first, second)]
    names = [part.name for part in heads[0]]
    for block, head, keys in zip((one, two), heads, grouped, strict=True):
        label = Shown(exp.Literal.string(_spoken(_topic(block))), "source")
        set_head(block.select, keys, head)
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


def _topic(block: Block) -> Table:
    """Return the table that a block has the rows of."""
    folded = next(
        (
            name
            for name, source in block.sources.items()
            if name in block.grain and source.table is not None and not source.optional
        ),
        None,
    )
    table = block.sources[folded].table if folded is not None else next(iter(block.tables.values()))
    assert table is not None
    return table


def _spoken(table: Table) -> str:
    return re.sub(r"[_\W]+", " ", table.name).strip().lower()


def _figures(one: Block, two: Block, context: Context, rng: random.Random) -> tuple[list[Shown], list[Shown]]:
    """Return the same figures over each of two blocks: how many rows, and a quantity that both have."""
    first, second = ({term.name: term for term in measures(block, context.schema)} for block in (one, two))
    heads: tuple[list[Shown], list[Shown]] = ([], [])
    for head in heads:
        head.append(Shown(exp.Count(this=exp.Star(), big_int=True), "num_rows"))
    shared = sorted(first.keys() & second.keys())
    if shared:
        name = rng.choice(shared)
        functions: list[tuple[str, type[exp.AggFunc]]] = [("avg", exp.Avg)]
        if adds_up(name):
            functions.insert(0, ("total", exp.Sum))
        for prefix, function in functions[: rng.choice([1, 2])]:
            for head, term in zip(heads, (first[name], second[name]), strict=True):
                head.append(Shown(function(this=term.expression.copy()), prefixed(prefix, name)))
    return heads
