"""The Table Selection Agent: which tables a generation request is about (equations 7 and 8).

Its rule weighs what is in a table (columns and keys) against how often the pool uses it, starts from the table
that is furthest behind, and walks along foreign keys to more tables that are.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from rayfactory.config import TableSelectionConfig
from rayfactory.databases.schema import Schema, Table

NUM_TABLES_WEIGHTS = (2, 6, 7, 5, 3, 2, 1, 1)
"""How often a request is about 1, 2, 3 .. tables: most analytical queries join two to four.

Source: the paper's figure 6(a), 78.6 % of queries with a join and 30 % with two or more.
"""


TABLE_SHARE = 0.6
"""Share of a request's queries that reference any one of its tables, as far as a plan can know."""

Ask = tuple[str, int, int]
"""What one request of a plan asks of a selection agent: (database, num_queries, rng_seed)."""

Use = dict[str, dict[str, float]]
"""Rows of the pool that reference each table, by database and table; tables without rows may be absent."""


def expect(use: Use, database: str, tables: Sequence[str], num_queries: int) -> None:
    """Add to `use` what a request under way will probably add to the pool."""
    counts = use.setdefault(database, {})
    for name in tables:
        counts[name] = counts.get(name, 0.0) + TABLE_SHARE * num_queries


class TableSelectionAgent:
    """The rule behind one method, `select`; it keeps nothing between calls."""

    def __init__(self, config: TableSelectionConfig, schemas: Mapping[str, Schema]) -> None:
        self._config = config
        self._schemas = schemas

    def select(self, asks: Sequence[Ask], use: Use) -> list[tuple[str, ...]]:
        """Return the tables of each request, in order; each counts as used for those after it. `use` stays as it is."""
        use = {database: dict(counts) for database, counts in use.items()}
        chosen = []
        for database, num_queries, rng_seed in asks:
            schema, rng = self._schemas[database], random.Random(rng_seed)
            tables = select_tables(schema, use.get(database, {}), self._config.max_tables, rng)
            expect(use, database, tables, num_queries)
            chosen.append(tables)
        return chosen


def complexity(schema: Schema, table: Table) -> float:
    """Return the share of use that a table deserves relative to others: more columns and keys, more use.

    Grows with the square root, so that the widest table of a schema gets about twice the use of the narrowest: an
    even use that is tilted towards the complex (the paper's figure 7).
    """
    num_keys = sum(table.name in (key.table, key.referenced_table) for key in schema.foreign_keys)
    return float((4 + len(table.columns) + 2 * num_keys) ** 0.25)


def select_tables(schema: Schema, use: Mapping[str, float], max_tables: int, rng: random.Random) -> tuple[str, ...]:
    """Return the tables of one request, the one furthest behind first.

    Args:
        schema: of the request's database; at least one of its tables has rows.
        use: rows of the pool that reference each table, those expected of requests under way included.
        max_tables: at most so many.
        rng: source of every choice.
    """
    tables = schema.populated
    weight = {table.name: complexity(schema, table) for table in tables}
    behind = {name: use.get(name, 0.0) / weight[name] for name in weight}
    wanted = min(rng.choices(range(1, len(NUM_TABLES_WEIGHTS) + 1), NUM_TABLES_WEIGHTS)[0], max_tables, len(tables))
    start = _least(list(weight), behind, rng, spread=0.1)
    chosen = [start]
    neighbours = _neighbours(schema)
    while len(chosen) < wanted:
        reachable = sorted({n for name in chosen for n in neighbours.get(name, ()) if n in weight and n not in chosen})
        if not reachable:
            break
        chosen.append(_least(reachable, behind, rng, spread=0.25))
    if len(chosen) == 1 and wanted > 1 and not neighbours.get(start):
        # Nothing to join with: a second table can still be compared with in a subquery or a set operation.
        others = [name for name in weight if name != start]
        chosen.append(_least(others, behind, rng, spread=0.25))
    return tuple(chosen)


def _least(names: Sequence[str], behind: Mapping[str, float], rng: random.Random, spread: float) -> str:
    """Return one of the names that are furthest behind: chance decides within `spread` of the mean use."""
    slack = 1 + spread * (sum(behind.values()) / len(behind))
    return min(names, key=lambda name: (behind[name] + slack * rng.random(), name))


def _neighbours(schema: Schema) -> dict[str, list[str]]:
    """Return for each table those that a foreign key connects with it, itself left out."""
    found: dict[str, list[str]] = {}
    for key in schema.foreign_keys:
        if key.table != key.referenced_table:
            found.setdefault(key.table, []).append(key.referenced_table)
            found.setdefault(key.referenced_table, []).append(key.table)
    return found
