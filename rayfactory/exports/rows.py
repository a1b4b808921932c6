"""What is exported: the rows of a pool, each with its skeleton and the split that it belongs to."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rayfactory import sql
from rayfactory.errors import StatementError
from rayfactory.pool import connect

ROWS_AT_ONCE = 2_000
"""Rows that are in memory at a time, and that a process takes apart at a time."""

SPLITS = {
    "none": "all rows in one file, train",
    "skeleton": "queries of one skeleton are all in train or all in test",
    "database": "queries of one database are all in train or all in test",
}
"""How rows may be divided, by the name that `split=` takes."""


@dataclass(frozen=True, slots=True)
class Row:
    """One query of the pool on its way out.

    Attributes:
        values: every column of table R by name.
        skeleton: 16 hex digits that stand for its skeleton: the query without names and constants.
        split: ``train`` or ``test``.
        weight: how many queries of the pool have its skeleton.
    """

    values: dict[str, Any]
    skeleton: str
    split: str
    weight: int


class Rows:
    """The rows of a run, divided.

    Args:
        run_dir: of a run that has been started.
        split: one of `SPLITS`.
        test_share: of the rows, in [0, 1]: as many whole groups go to the test split as fit into it.
        seed: decides which groups.
        on_progress: called with how many skeletons are known.

    Raises:
        RunDirError: there is no run.
    """

    def __init__(
        self, run_dir: Path, split: str, test_share: float, seed: int, on_progress: Callable[[int], None]
    ) -> None:
        self._run_dir = run_dir
        self._skeletons = _skeletons(run_dir, on_progress)
        self._sizes = Counter(self._skeletons)
        self._test = frozenset[str]()
        self._by = split
        if split != "none":
            groups = self._sizes if split == "skeleton" else _databases(run_dir)
            self._test = chosen(groups, test_share, seed)

    def __len__(self) -> int:
        return len(self._skeletons)

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows in the order of the pool."""
        for place, values in enumerate(_values(self._run_dir, "*")):
            skeleton = self._skeletons[place]
            group = skeleton if self._by == "skeleton" else values["database"]
            yield Row(values, skeleton, "test" if group in self._test else "train", self._sizes[skeleton])

    @property
    def num_skeletons(self) -> int:
        """How many different ones there are."""
        return len(self._sizes)


def chosen(groups: Counter[str], share: float, seed: int) -> frozenset[str]:
    """Return groups whose rows are together at most a share of all, in an order that the seed decides.

    What is left out because it is too large does not end the choice: a smaller group may still fit.
    """
    room = share * groups.total()
    test = set()
    for group in sorted(groups, key=lambda name: blake2b(f"{seed} {name}".encode("utf-8", "surrogatepass")).digest()):
        if groups[group] <= room:
            test.add(group)
            room -= groups[group]
    return frozenset(test)


def _values(run_dir: Path, columns: str) -> Iterator[dict[str, Any]]:
    with connect(run_dir) as connection:
        found = connection.sql(f"SELECT {columns} FROM R ORDER BY query_id")
        for batch in found.to_arrow_reader(ROWS_AT_ONCE):
            yield from batch.to_pylist()


def _databases(run_dir: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for values in _values(run_dir, "query_id, database"):
        counts[values["database"]] += 1
    return counts


def _skeletons(run_dir: Path, on_progress: Callable[[int], None]) -> list[str]:
    """Return the skeleton of each row, in order; where there are many, with a process for each CPU."""
    chunks: list[list[tuple[str, str]]] = [[]]
    for values in _values(run_dir, "query_id, sql, dialect"):
        if len(chunks[-1]) == ROWS_AT_ONCE:
            chunks.append([])
        chunks[-1].append((values["sql"], values["dialect"]))
    found: list[str] = []

    def collect(each: list[str]) -> None:
        found.extend(each)
        on_progress(len(found))

    if len(chunks) == 1:
        collect(skeletons_of(chunks[0]))
        return found
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as processes:
        for each in processes.map(skeletons_of, chunks):
            collect(each)
    return found


def skeletons_of(queries: Sequence[tuple[str, str]]) -> list[str]:
    """Return what stands for the skeleton of each query, given with its dialect; for its text where it has none."""
    return [blake2b(_skeleton(*query).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest() for query in queries]


def _skeleton(query: str, dialect: str) -> str:
    try:
        return sql.skeleton(sql.parse(query, dialect), dialect)
    except StatementError:
        return query
