"""New conditions over a block: on values that occur, true for some rows and not for all."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import replace

from sqlglot import exp

from rayfactory.databases.engine import Engine
from rayfactory.errors import StatementError
from rayfactory.models.grammar.predicates import MAX_SHARE, column_weight, predicates
from rayfactory.models.grammar.scope import (
    MISSING,
    Field,
    Missing,
    WitnessValue,
    as_constant,
    determines,
    fields_of,
    say_the_same,
)
from rayfactory.models.grammar.skeleton import is_calendar_table
from rayfactory.models.grammar.syntax import JOINS_NESTED
from rayfactory.models.variation.blocks import Block, Context, nested_queries, parsed
from rayfactory.models.variation.clauses import add_conjunct, conjuncts, joins_of, plain_keys
from rayfactory.models.variation.naming import column, identifier
from rayfactory.models.variation.nodes import own_nodes
from rayfactory.models.variation.terms import measures
from rayfactory.sql import spell

MAX_PROBED_ROWS = {"duckdb": 2_000_000, "postgres": 2_000_000, "mysql": 200_000, "sqlite": 200_000}
"""A query over tables with more rows in all than this is not looked into, by dialect: not all have a hash join."""

WITNESS_ROWS = 60

KEPT_ROWS = 8
"""Rows that a new condition should leave: one on a few rows keeps most of them."""

NULL_TESTS = 0.08
"""How often a condition may be that a value is there, or is missing."""

MIN_SHARE = 0.08
"""A condition that keeps a smaller share of the rows leaves too little for others."""


def draw_condition(
    block: Block,
    context: Context,
    rng: random.Random,
    aliases: Sequence[str] | None = None,
) -> exp.Expr | None:
    """Return a condition on a column of the block that no other condition is on, or None where there is none.

    At least one row that the block selects now satisfies it, as far as that can be seen: the constant comes from such a
    row, or from the profile where no row can be looked up.
    """
    taken = _conditioned(block)
    candidates = _candidates(block, taken, aliases)
    weights = [column_weight(field) for field in candidates]
    if sum(weights) <= 0:
        return None
    drawn = rng.choices(candidates, weights, k=6)
    chosen = list({field.qualified: field for field in drawn}.values())
    told = [field for field in _fields(block) if (field.source.casefold(), field.column.name.casefold()) in taken]
    rows = witnesses(block, context, [*chosen, *told])
    smallest = MIN_SHARE
    row: Sequence[WitnessValue] = [MISSING] * len(chosen)
    if rows is not None:
        if not rows:
            return None
        row = [as_constant(value) for value in rng.choice(rows)]
        smallest = max(MIN_SHARE, min(0.5, KEPT_ROWS / len(rows)))
        columns = [
            _seen(field, values) for field, values in zip((*chosen, *told), zip(*rows, strict=True), strict=True)
        ]
        told = columns[len(chosen) :]
        # What another condition or a group tells already is not said once more.
        repeated = [any(_is_told(field, other) for other in told) for field in columns[: len(chosen)]]
    else:
        repeated = [any(say_the_same(field, other) for other in told) for field in chosen]
    allow_nulls = rng.random() < NULL_TESTS
    for field, value, is_repeated in zip(chosen, row, repeated, strict=False):
        if is_repeated:
            continue
        seen = replace(field, witness=value, sample=() if value is MISSING else (value,))
        found = [
            predicate
            for predicate in predicates(seen, context.schema.dialect)
            if predicate.share >= smallest and (allow_nulls or not predicate.sql.endswith("NULL"))
        ]
        if found:
            text = rng.choices(found, [predicate.weight for predicate in found])[0].sql
            return parsed(text, context.schema.dialect)
    return None


def _seen(field: Field, values: Sequence[object]) -> Field:
    """Return a field with what it holds in some rows."""
    sample = tuple([as_constant(value) for value in values])
    present = tuple([value for value in sample if value is not None and not isinstance(value, Missing)])
    return replace(field, sample=sample, present=present, num_seen=len(set(present)))


def _is_told(field: Field, other: Field) -> bool:
    return say_the_same(field, other) or determines(other, field) or determines(field, other)


def witnesses(block: Block, context: Context, fields: Sequence[Field]) -> tuple[tuple[object, ...], ...] | None:
    """Return the values of some columns in up to WITNESS_ROWS rows that the block selects.

    None where the block cannot be looked into.
    """
    query = _probe(block, [column(field.source, field.column.name) for field in fields], WITNESS_ROWS, context)
    if query is None or context.engine is None:
        return None
    return _look_up(query, WITNESS_ROWS, context.engine)


def sample_rows(block: Block, shown: Sequence[exp.Expr], context: Context, limit: int) -> list[list[WitnessValue]]:
    """Return the values of some expressions in some rows that a block selects; none where it cannot be looked into."""
    query = _probe(block, [part.copy() for part in shown], limit, context)
    rows = None if query is None or context.engine is None else _look_up(query, limit, context.engine)
    return [[as_constant(value) for value in row] for row in rows or ()]


def _look_up(query: exp.Select, limit: int, engine: Engine) -> tuple[tuple[object, ...], ...] | None:
    try:
        return engine.run(spell(query, engine.dialect), keep_rows=limit).rows
    except StatementError:
        return None


def selects_rows(block: Block, context: Context) -> bool:
    """Return whether some row satisfies the block's conditions, HAVING aside; True where that cannot be looked up."""
    query = _probe(block, [exp.Literal.number(1)], 1, context)
    if query is None or context.engine is None:
        return True
    try:
        return context.engine.run(spell(query, context.schema.dialect)).row_count > 0
    except StatementError:
        return False


def add_choice(block: Block, condition: exp.Expr, context: Context) -> bool:
    """Add a condition to a block; return whether it selects some of the rows and not nearly all."""
    before = _num_rows(block, context)
    add_conjunct(block.select, condition)
    after = _num_rows(block, context)
    if before is None or after is None:
        return True
    return 0 < after <= MAX_SHARE * before


def _num_rows(block: Block, context: Context) -> int | None:
    """Return how many rows a block selects, grouping aside; None where that cannot be looked up."""
    query = _probe(block, [exp.Count(this=exp.Star(), big_int=True)], 1, context)
    rows = None if query is None or context.engine is None else _look_up(query, 1, context.engine)
    return rows[0][0] if rows and isinstance(rows[0][0], int) else None


def _probe(block: Block, shown: Sequence[exp.Expr], limit: int, context: Context) -> exp.Select | None:
    """Return a query for a few rows of what a block reads, or None where that may take long or is not whole alone."""
    select = block.select
    dialect = context.schema.dialect
    own = set(block.sources)
    clause = select.root().args.get("with_")
    nodes = [*select.find_all(exp.Table), *(clause.find_all(exp.Table) if clause is not None else ())]
    num_rows = {table.name.casefold(): table.num_rows for table in context.schema.tables}
    if sum(num_rows.get(node.name.casefold(), 0) for node in nodes) > MAX_PROBED_ROWS[dialect]:
        return None
    if select.find_ancestor(exp.CTE) is not None:
        clause = None
        if len(block.tables) != len(own):
            return None
    kept: list[exp.Expr] = []
    for condition in conjuncts(select):
        if not {part.table.casefold() for part in own_nodes(condition) if isinstance(part, exp.Column)} <= own:
            return None
        # Most databases run a query that looks back into this one once a row.
        if dialect not in JOINS_NESTED and any(_looks_back(query, own) for query in nested_queries(condition)):
            continue
        kept.append(condition.copy())
    probe = exp.Select(expressions=list(shown), from_=select.args["from_"].copy())
    probe.set("joins", [join.copy() for join in joins_of(select)])
    if kept:
        probe.set("where", exp.Where(this=exp.and_(*kept, copy=False)))
    if clause is not None:
        probe.set("with_", clause.copy())
    probe.set("limit", exp.Limit(expression=exp.Literal.number(limit)))
    return probe


def _looks_back(query: exp.Expr, outer: Collection[str]) -> bool:
    inside = {part.alias_or_name.casefold() for part in query.find_all(exp.Table)}
    return any(
        node.table.casefold() in outer and node.table.casefold() not in inside for node in query.find_all(exp.Column)
    )


def _conditioned(block: Block) -> set[tuple[str, str]]:
    """Return (alias, column) of every column that a condition compares or a group rests on already, folded."""
    found: set[tuple[str, str]] = set()
    for condition in conjuncts(block.select):
        for node in own_nodes(condition):
            if isinstance(node, exp.Column):
                found.add((node.table.casefold(), node.name.casefold()))
    for part in block.select.expressions:
        for test in part.find_all(exp.If, exp.Filter):
            found.update((node.table.casefold(), node.name.casefold()) for node in test.find_all(exp.Column))
    # To pin what the rows are grouped by would leave one group.
    for key in plain_keys(block.select) or []:
        found.update((node.table.casefold(), node.name.casefold()) for node in key.find_all(exp.Column))
    return found


def _fields(block: Block) -> list[Field]:
    return [
        field
        for source in block.sources.values()
        if source.table is not None and not source.optional
        for field in fields_of(source.table, source.alias, qualify=True)
    ]


def _candidates(block: Block, taken: Collection[tuple[str, str]], aliases: Sequence[str] | None) -> list[Field]:
    wanted = set(block.sources) if aliases is None else {alias.casefold() for alias in aliases}
    # One condition on a day or a time of day settles most others on it.
    timed = {alias for alias, _ in taken if alias in block.sources and _is_calendar(block, alias)}
    return [
        field
        for field in _fields(block)
        if (folded := field.source.casefold()) in wanted
        and field.column.profile.num_distinct > 1
        and folded not in timed
        and (folded, field.column.name.casefold()) not in taken
    ]


def _is_calendar(block: Block, alias: str) -> bool:
    table = block.sources[alias].table
    return table is not None and is_calendar_table(table)


def above_average(block: Block, context: Context, rng: random.Random) -> exp.Expr | None:
    """Return a comparison of one of the block's quantities with its average over the table."""
    terms = [
        term
        for term in measures(block, context.schema)
        if term.alias in block.tables
        and not block.sources[term.alias.casefold()].optional
        and term.column is not None
        and term.column.profile.num_distinct > 3
    ]
    if not terms:
        return None
    term = rng.choice(terms)
    assert term.column is not None
    table = block.tables[term.alias]
    inner_alias = f"{term.alias}_all" if term.alias.isidentifier() else "every_row"
    average = exp.select(exp.Avg(this=column(inner_alias, term.column.name))).from_(
        exp.Table(this=identifier(table.name), alias=exp.TableAlias(this=identifier(inner_alias)))
    )
    groups = [
        own
        for own in table.columns
        if own.role == "category" and 2 <= own.profile.num_distinct <= 20 and own.kind == "text"
    ]
    # One average a group is computed once a row where a database cannot turn it into a join.
    is_affordable = context.schema.dialect in JOINS_NESTED or table.num_rows <= 2_000
    if groups and is_affordable and rng.random() < 0.4:
        group = rng.choice(groups)
        average = average.where(
            exp.EQ(this=column(inner_alias, group.name), expression=column(term.alias, group.name)), copy=False
        )
    comparison: type[exp.Binary] = exp.GT if rng.random() < 0.65 else exp.LT
    value: exp.Expr = exp.Subquery(this=average)
    if rng.random() < 0.25:
        factor = rng.choice(["1.2", "1.5"] if comparison is exp.GT else ["0.8", "0.5"])
        value = exp.Mul(this=exp.Literal.number(factor), expression=value)
    return comparison(this=term.expression.copy(), expression=value)
