"""The schema grammar: everything that is worth asking over a set of tables, as a context-free grammar.

What a context-free grammar cannot tie together (the join skeleton and its aliases, grouping keys, the names that a
query introduces) is drawn first; the grammar is what stays open, unrolled to a bounded depth. Sampled with a seeded
generator it writes queries; as EBNF it constrains what a language model writes.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

from sqlglot.errors import SqlglotError

from rayfactory.databases.engine import Engine
from rayfactory.databases.schema import Schema
from rayfactory.errors import StatementError
from rayfactory.models.grammar.cfg import Grammar, GrammarBuilder
from rayfactory.models.grammar.draft import DeadEndError, Draft
from rayfactory.models.grammar.expressions import aggregates, dimensions, measures
from rayfactory.models.grammar.predicates import column_weight, comparisons, predicates
from rayfactory.models.grammar.questions import QUESTIONS, plainest
from rayfactory.models.grammar.scope import base_scope
from rayfactory.models.grammar.skeleton import KeyGraph
from rayfactory.models.grammar.syntax import quote_name
from rayfactory.sql import spelled

__all__ = ["Grammar", "scope_grammar", "write_queries"]

MAX_DRAWS = 12
"""Questions tried for one query before the plainest one is asked."""

LOOKED_AT_ROWS = 60
"""Rows of a result that are looked at for what they say."""


def write_queries(
    schema: Schema,
    tables: Sequence[str],
    num_queries: int,
    rng: Random,
    engine: Engine | None,
    table_use: Mapping[str, int] | None = None,
) -> list[str]:
    """Return queries about the tables, each with a question, a join skeleton and a grammar of its own.

    Use is spread over the tables, and most over the first. A query that returns nothing is drawn again, where there is
    an engine to tell.

    Args:
        tables: names of base tables; those without rows are passed over, unless none has any.
        engine: runs the statements that the constants are taken from; None: they come from the profiles.
        table_use: rows of the pool that reference each table; of two tables that would do, the less used is taken.

    Raises:
        KeyError: the database has no such table.
    """
    graph = KeyGraph(schema)
    wanted = with_rows(schema, tables)
    use = _relative_use(schema, table_use or {})
    asked: Counter[str] = Counter()
    written: list[str] = []
    while len(written) < num_queries:
        sql, tables_used = _write(graph, wanted, rng, engine, use, asked, set(written))
        for name in tables_used:
            use[name] += 1
        written.append(sql)
    return [spelled(sql, schema.dialect) for sql in written]


def _relative_use(schema: Schema, table_use: Mapping[str, int]) -> defaultdict[str, float]:
    """Return how often each table is used, against the mean over the tables with rows."""
    mean = sum(table_use.values()) / max(1, len(schema.populated))
    return defaultdict(float, {name: rows / mean for name, rows in table_use.items() if rows})


def with_rows(schema: Schema, tables: Sequence[str]) -> list[str]:
    """Return the tables that have rows, or all where none has any; the first tables of the schema for none at all.

    Raises:
        KeyError: the database has no such table.
    """
    named = list(dict.fromkeys(schema.table(name).name for name in tables)) or [
        table.name for table in schema.tables[:8]
    ]
    return [name for name in named if schema.table(name).num_rows > 0] or named


def _write(
    graph: KeyGraph,
    wanted: Sequence[str],
    rng: Random,
    engine: Engine | None,
    use: Mapping[str, float],
    asked: Counter[str],
    written: set[str],
) -> tuple[str, list[str]]:
    """Return a query that has rows and was not written before, or after a few draws the plainest, and its tables.

    Where groups or distinct values were asked for and only one is there, or a column is nothing throughout, another
    draw is tried first.
    """
    second_best: tuple[str, list[str]] | None = None
    for _ in range(5):
        grammar, draft = _draw(graph, wanted, rng, engine, use, asked)
        sql = grammar.sample(rng)
        tables = _referenced(sql, draft)
        if len(tables) < min(2, len(wanted)) or sql in written:
            continue
        rows, tells = (2, True) if engine is None else _look(engine, sql)
        if engine is not None:
            sql = _without_idle_limit(sql, rows)
            if sql in written:
                continue
        if tells and (rows > 1 or (rows == 1 and "GROUP BY" not in sql and not sql.startswith("SELECT DISTINCT"))):
            return sql, tables
        if rows and second_best is None:
            second_best = sql, tables
        elif rows:
            break
    if second_best:
        return second_best
    draft = Draft(graph, wanted, rng, engine, use)
    return plainest(draft), list(draft.used)


def _referenced(sql: str, draft: Draft) -> list[str]:
    """Return the tables that stand in FROM somewhere; a draft may have looked at more."""
    return [name for name in draft.used if re.search(rf'(?:FROM|JOIN|,) {re.escape(quote_name(name))}(?![\w"])', sql)]


_LIMIT = re.compile(r" LIMIT (\d+)$")


def _without_idle_limit(sql: str, num_rows: int) -> str:
    """Return a query without the LIMIT at its end, where its rows do not reach that."""
    found = _LIMIT.search(sql)
    return sql[: found.start()] if found and num_rows < int(found.group(1)) else sql


def _look(engine: Engine, sql: str) -> tuple[int, bool]:
    """Return the number of rows of a query, and whether each of its columns says something in the first of them."""
    try:
        result = engine.run(spelled(sql, engine.dialect), keep_rows=LOOKED_AT_ROWS)
    except (StatementError, SqlglotError):
        return 0, True
    columns = list(zip(*result.rows, strict=True))
    return result.row_count, not any(all(value in (None, 0) for value in values) for values in columns)


def _draw(
    graph: KeyGraph,
    wanted: Sequence[str],
    rng: Random,
    engine: Engine | None,
    use: Mapping[str, float],
    asked: Counter[str],
) -> tuple[Grammar, Draft]:
    for _ in range(MAX_DRAWS):
        draft = Draft(graph, wanted, rng, engine, use)
        # A question that this request has asked already gives way to others.
        _weight, question = draft.pick(
            [(weight / (1 + asked[question.__name__]) ** 1.5, (weight, question)) for weight, question in QUESTIONS]
        )
        try:
            body = question(draft)
        except DeadEndError:
            continue
        if len(wanted) > 1 and len(draft.used) < 2:
            continue
        asked[question.__name__] += 1
        return _grammar(draft, body), draft
    draft = Draft(graph, wanted, rng, engine, use)
    return _grammar(draft, plainest(draft)), draft


def _grammar(draft: Draft, body: str) -> Grammar:
    draft.builder.define("root", [(1.0, statement(draft, body))])
    return draft.builder.build().reachable()


def statement(draft: Draft, body: str) -> str:
    """Return a body with the common table expressions of its draft before it; it may hold references to rules."""
    return f"WITH {', '.join(draft.ctes)} {body}" if draft.ctes else body


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
    - each of these with ``:<alias>`` after it, where there are several aliases: the same over one of them.

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
    graph = KeyGraph(schema)
    grain = scope.grain.name
    scope = replace(scope, countable=graph.countable_columns(grain), is_profile=graph.is_profile(grain))
    conditions: list[tuple[float, str]] = []
    for field in scope.fields:
        found = predicates(field, scope.dialect)
        total = sum(predicate.weight for predicate in found)
        conditions.extend((column_weight(field) * predicate.weight / total, predicate.sql) for predicate in found)
    conditions.extend((0.2, predicate.sql) for predicate in comparisons(scope.fields))
    conditions = [(weight, spelled(sql, schema.dialect)) for weight, sql in conditions]
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
            weighted = [(each.weight, spelled(each.sql, schema.dialect)) for each in expressions]
            builder.define(f"{symbol}{suffix}", _thinned(weighted, rng))
    sortable = [field for field in scope.fields if field.column.role not in ("opaque", "key")]
    if sortable:
        builder.define(
            f"ordering{suffix}",
            _thinned(
                [(1.0, f"{spelled(field.sql, schema.dialect)} {way}") for field in sortable for way in ("ASC", "DESC")],
                rng,
            ),
        )


MAX_ALTERNATIVES = 150
"""Alternatives of one symbol of a scope."""


def _thinned(alternatives: list[tuple[float, str]], rng: Random) -> list[tuple[float, str]]:
    if len(alternatives) <= MAX_ALTERNATIVES:
        return alternatives
    return [alternatives[position] for position in sorted(rng.sample(range(len(alternatives)), MAX_ALTERNATIVES))]
