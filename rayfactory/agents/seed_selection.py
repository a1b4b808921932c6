"""The Seed Selection Agent: which pool queries an expansion request builds on (equation 10).

Its rule prefers queries over under-used tables and with under-used constructs, and does not take the same query
twice in a round.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from rayfactory.agents.table_selection import Ask, Use, complexity, expect
from rayfactory.config import SeedSelectionConfig
from rayfactory.databases.schema import Schema

MAX_SEED_TOKENS = 400
"""Longer queries make poor seeds: their variations are longer still."""

MAX_SEEDS_PER_DATABASE = 2_000
"""Seeds kept of each database, the newest: memory stays bounded, and old patterns give way to new ones."""

CONSTRUCTS = ("num_joins", "num_predicates", "num_subqueries", "num_aggregates", "num_windows")


@dataclass(frozen=True, slots=True)
class PoolSeed:
    """One pool row as seed selection sees it; `constructs` says which of `CONSTRUCTS` it has."""

    query_id: int
    sql: str
    tables: tuple[str, ...]
    constructs: tuple[bool, ...]


@dataclass
class SeedShelf:
    """The pool rows that may be seeds, by database: those that return rows and are not too long."""

    by_database: dict[str, deque[PoolSeed]] = field(default_factory=dict)

    def add(self, rows: pa.Table) -> None:
        """Take the seeds out of rows of R."""
        columns = ("query_id", "sql", "tables", "row_count", "num_tokens", "database", *CONSTRUCTS)
        for query_id, sql, tables, row_count, num_tokens, database, *counts in zip(
            *(rows[name].to_pylist() for name in columns), strict=True
        ):
            if row_count > 0 and num_tokens <= MAX_SEED_TOKENS:
                shelf = self.by_database.setdefault(database, deque(maxlen=MAX_SEEDS_PER_DATABASE))
                shelf.append(PoolSeed(query_id, sql, tuple(tables), tuple(count > 0 for count in counts)))

    def of(self, database: str) -> Sequence[PoolSeed]:
        """Return the seeds of a database, oldest first."""
        return self.by_database.get(database, ())


class SeedSelectionAgent:
    """The rule behind one method, `select`; it keeps nothing between calls."""

    def __init__(self, config: SeedSelectionConfig, schemas: Mapping[str, Schema]) -> None:
        self._config = config
        self._schemas = schemas

    def select(self, asks: Sequence[Ask], shelves: Mapping[str, Sequence[PoolSeed]], use: Use) -> list[list[PoolSeed]]:
        """Return the seeds of each request, in order; each counts as used for those after it.

        Args:
            asks: of the plan; each for a database that has seeds.
            shelves: the seeds to choose from, by database.
            use: rows that reference each table; it stays as it is.
        """
        use = {database: dict(counts) for database, counts in use.items()}
        taken: set[int] = set()
        chosen = []
        for database, num_queries, rng_seed in asks:
            rng = random.Random(rng_seed)
            counts = use.get(database, {})
            seeds = select_seeds(self._schemas[database], shelves[database], counts, self._config.num_seeds, taken, rng)
            taken.update(seed.query_id for seed in seeds)
            expect(use, database, seed_tables(seeds), num_queries)
            chosen.append(seeds)
        return chosen


def seed_tables(seeds: Sequence[PoolSeed]) -> tuple[str, ...]:
    """Return the base tables that the seeds reference, each once, in order."""
    return tuple(dict.fromkeys(name for seed in seeds for name in seed.tables))


def select_seeds(
    schema: Schema,
    seeds: Sequence[PoolSeed],
    use: Mapping[str, float],
    num_seeds: int,
    taken: Collection[int],
    rng: random.Random,
) -> list[PoolSeed]:
    """Return the seeds of one request; fewer than `num_seeds` where there are fewer.

    A seed is the likelier the less its tables are used and the rarer its constructs are.

    Args:
        schema: of the database.
        seeds: to choose from; at least one.
        use: rows that reference each table, those expected of requests under way included.
        num_seeds: how many.
        taken: ids already used in this round; used again only when nothing else is left.
        rng: source of every choice.
    """
    need = {table.name: (complexity(schema, table) / (1 + use.get(table.name, 0.0))) ** 2 for table in schema.populated}
    rarity = [len(seeds) / (1 + sum(flags)) for flags in zip(*(seed.constructs for seed in seeds), strict=True)]
    free = [seed for seed in seeds if seed.query_id not in taken] or list(seeds)
    chosen: list[PoolSeed] = []
    while free and len(chosen) < num_seeds:
        scores = [_need(seed.tables, need) * (1 + _rarity(seed.constructs, rarity)) for seed in free]
        pick = rng.choices(range(len(free)), scores if sum(scores) > 0 else None)[0]
        chosen.append(free.pop(pick))
    return chosen


def _need(tables: Sequence[str], need: Mapping[str, float]) -> float:
    known = [need[name] for name in tables if name in need]
    return sum(known) / len(known) if known else 0.0


def _rarity(constructs: Sequence[bool], rarity: Sequence[float]) -> float:
    return sum(weight for weight, has in zip(rarity, constructs, strict=True) if has)
