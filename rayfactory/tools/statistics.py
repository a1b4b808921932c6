"""The Statistical Tool: how the pool uses the schema, counted as rounds come in (equation 7).

The counts are a function of the rows given to `Statistics.add`, in any grouping, so that a run that resumes
counts what the run before it had counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import pyarrow as pa


@dataclass
class Statistics:
    """Counts over the rows of R that were added.

    Attributes:
        rows: rows of each database.
        table_rows: rows that reference each table, by database and table name.
        expansion: rows that the Expansion Team wrote.
        similarity_sum, similarity_count: over the rows that have a similarity.
    """

    rows: Counter[str] = field(default_factory=Counter)
    table_rows: dict[str, Counter[str]] = field(default_factory=dict)
    expansion: int = 0
    similarity_sum: float = 0.0
    similarity_count: int = 0

    COLUMNS: ClassVar = ("database", "tables", "origin", "similarity")
    """Columns of R that are counted."""

    def add(self, rows: pa.Table) -> None:
        """Count rows of R, of which it takes `COLUMNS`."""
        databases = rows["database"].to_pylist()
        self.rows.update(databases)
        for database, tables in zip(databases, rows["tables"].to_pylist(), strict=True):
            self.table_rows.setdefault(database, Counter()).update(tables)
        self.expansion += sum(origin == "expansion" for origin in rows["origin"].to_pylist())
        for similarity in rows["similarity"].to_pylist():
            if similarity is not None:
                self.similarity_sum += similarity
                self.similarity_count += 1

    def table_use(self, database: str) -> Counter[str]:
        """Return the rows that reference each table of a database; tables without rows are absent."""
        return self.table_rows.get(database, Counter())

    @property
    def total(self) -> int:
        """Rows of all databases."""
        return self.rows.total()

    @property
    def expansion_ratio(self) -> float:
        """Rows from expansion over all rows, in [0, 1]; 0 for an empty pool."""
        return self.expansion / self.total if self.total else 0.0

    @property
    def mean_similarity(self) -> float | None:
        """Mean similarity at admission over the pool, in [0, 1]; None where no row has one."""
        return self.similarity_sum / self.similarity_count if self.similarity_count else None


def gini(counts: Iterable[int]) -> float:
    """Return the Gini coefficient of non-negative counts, in [0, 1): 0 where all are equal.

    Mean absolute difference over twice the mean; 0 for no counts or only zeros.
    """
    ordered: Sequence[int] = sorted(counts)
    n, total = len(ordered), sum(ordered)
    if total == 0:
        return 0.0
    weighted = sum(position * count for position, count in enumerate(ordered, start=1))
    return 2 * weighted / (n * total) - (n + 1) / n


def share(part: float, whole: float) -> float:
    """Return a part of a whole; 0 of nothing."""
    return part / whole if whole else 0.0
