"""The schema grammar: everything that is worth asking over a set of tables, as a context-free grammar.

What a context-free grammar cannot tie together (the join skeleton and its aliases, grouping keys, the names that a query
introduces) is drawn first; the grammar is what stays open, unrolled to a bounded depth. Sampled with a seeded generator
it writes queries; as EBNF it constrains what a language model writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from rayfactory.databases.schema import Schema
from rayfactory.models.cfg import Grammar, GrammarBuilder
from rayfactory.models.expressions import Expression, aggregates, dimensions, measures
from rayfactory.models.predicates import column_weight, comparisons, predicates
from rayfactory.models.scope import base_scope

__all__ = ["Grammar", "scope_grammar"]


def scope_grammar(
    schema: Schema, aliases: Mapping[str, str], rng: Random, witness: Mapping[tuple[str, str], object] | None = None
) -> Grammar:
    """Return the expressions that are worth writing over given aliases of base tables, as a grammar without a root.

    The symbols that are there, each only where the columns allow it:

    - ``predicate``: one atomic condition that holds for some rows and not for all.
    - ``condition``: one to three predicates, combined with AND or OR.
    - ``dimension``: what rows can be grouped by.
    - ``measure``: a quantity of one row, or arithmetic of two.
    - ``aggregate``: COUNT, SUM, AVG and others over rows, conditional ones included.
    - ``ordering``: a column with ASC or DESC.
    - ``predicate:<alias>``, ``dimension:<alias>``, ``measure:<alias>``, ``aggregate:<alias>``, ``ordering:<alias>``: the same over
      one alias alone.

    Columns are qualified with their alias, both quoted where they have to be.

    Args:
        aliases: base table of each alias.
        rng: not used up where there is nothing to draw; a wide scope is thinned with it.
        witness: values of one row of the join, keyed by (alias, column). Predicates then hold in that row.

    Raises:
        KeyError: the database has no such table.
    """
    builder = GrammarBuilder()
    _define_expressions(builder, schema, aliases, rng, witness, suffix="")
    if len(aliases) > 1:
        for alias, table in aliases.items():
            _define_expressions(builder, schema, {alias: table}, rng, witness, suffix=f":{alias}")
    return builder.build()


def _define_expressions(
    builder: GrammarBuilder,
    schema: Schema,
    aliases: Mapping[str, str],
    rng: Random,
    witness: Mapping[tuple[str, str], object] | None,
    suffix: str,
) -> None:
    scope = base_scope(schema, aliases, witness)
    conditions: list[tuple[float, str]] = []
    for field in scope.fields:
        found = predicates(field, scope.dialect)
        total = sum(predicate.weight for predicate in found)
        conditions.extend((column_weight(field) * predicate.weight / total, predicate.sql) for predicate in found)
    conditions.extend((0.2, predicate.sql) for predicate in comparisons(scope.fields))
    conditions = _thinned(conditions, rng)
    if conditions:
        predicate = builder.define(f"predicate{suffix}", conditions)
        builder.define(
            f"condition{suffix}",
            [(5, predicate), (3, f"{predicate} AND {predicate}"), (1, f"({predicate} OR {predicate})")],
        )
    for symbol, expressions in (
        ("dimension", dimensions(scope)),
        ("measure", measures(scope)),
        ("aggregate", aggregates(scope)),
    ):
        if expressions:
            builder.define(f"{symbol}{suffix}", _thinned(_weighted(expressions), rng))
    sortable = [field for field in scope.fields if field.column.role not in ("opaque", "key")]
    if sortable:
        builder.define(
            f"ordering{suffix}",
            _thinned([(1.0, f"{field.sql} {way}") for field in sortable for way in ("ASC", "DESC")], rng),
        )


MAX_ALTERNATIVES = 150
"""Alternatives of one symbol of a scope."""


def _weighted(expressions: list[Expression]) -> list[tuple[float, str]]:
    return [(expression.weight, expression.sql) for expression in expressions]


def _thinned(alternatives: list[tuple[float, str]], rng: Random) -> list[tuple[float, str]]:
    if len(alternatives) <= MAX_ALTERNATIVES:
        return alternatives
    return [alternatives[position] for position in sorted(rng.sample(range(len(alternatives)), MAX_ALTERNATIVES))]
