"""The queries of a corpus that are parsed anew: all, or a draw where there are many."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rayfactory.analysis.corpus import Corpus
from rayfactory.analysis.structure import Structure, structures_of

PARSED = 20_000
"""Queries that are parsed anew, at most: of a larger corpus a draw."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The queries that were parsed anew: all, or a draw.

    Attributes:
        query_ids: theirs, ascending.
        structures: in the same order; None for what does not parse.
        databases: in the same order.
    """

    query_ids: list[int]
    structures: list[Structure | None]
    databases: list[str]

    @property
    def parsed(self) -> list[tuple[str, Structure]]:
        """Database and structure of those that parse."""
        pairs = zip(self.databases, self.structures, strict=True)
        return [(database, structure) for database, structure in pairs if structure is not None]


def take_apart(corpus: Corpus, seed: int, limit: int = PARSED) -> Taken:
    """Parse the queries of a corpus, or a draw of them."""
    query_ids = drawn(corpus.num_queries, limit, seed)
    rows = of_ids(corpus, query_ids, "sql, dialect, database")
    columns = {name: outline.columns for name, outline in corpus.outlines.items()}
    queries = [(row["sql"], row["dialect"], row["database"]) for row in rows]
    return Taken(query_ids, list(structures_of(queries, columns)), [row["database"] for row in rows])


def drawn(num_queries: int, limit: int, seed: int) -> list[int]:
    """Return query_ids, ascending: all, or as many as the limit, drawn without replacement."""
    if num_queries <= limit:
        return list(range(num_queries))
    return sorted(random.Random(seed).sample(range(num_queries), limit))


def of_ids(corpus: Corpus, query_ids: Sequence[int], columns: str) -> list[dict[str, Any]]:
    """Return columns of R for some queries, in ascending order of their ids."""
    return corpus.rows(
        f"SELECT query_id, {columns} FROM R WHERE query_id IN (SELECT unnest(?)) ORDER BY query_id", [list(query_ids)]
    )
