"""What is exported: the rows of a pool, each with its skeleton and the split that it belongs to."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa

from rayfactory import sql, translation
from rayfactory.analysis.structure import digest
from rayfactory.errors import StatementError
from rayfactory.pool import connect

ROWS_AT_ONCE = 2_000
"""Rows that are in memory at a time, and that a process takes apart at a time."""


@dataclass(frozen=True, slots=True)
class Row:
    """One query of the pool on its way out.

    Attributes:
        values: every column of table R by name, and `question` and `evidence` where it is exported with them.
        skeleton: 16 hex digits that stand for its skeleton: the query without names and constants.
        split: ``train`` or ``test``.
        weight: how many queries of the pool have its skeleton.
    """

    values: dict[str, Any]
    skeleton: str
    split: str
    weight: int


class Rows:
    """The rows of a run as they are when this is made, divided. Others may be added meanwhile.

    Args:
        run_dir: of a run that has been started.
        split: one of `validate.SPLITS`.
        test_share: of the rows, in [0, 1]: as many whole groups go to the test split as fit into it.
        seed: decides which groups.
        on_progress: called with how many skeletons are known.
        questions: folder of a translation: only queries with a question that holds are exported, each as it belongs to
            its question, with the columns ``question`` and ``evidence``. None: all of them, without.

    Attributes:
        databases: rows of each database.
        models: what wrote them, in alphabetical order.
        splits: rows in each split that has some.

    Raises:
        RunDirError: there is no run.
    """

    def __init__(
        self,
        run_dir: Path,
        split: str,
        test_share: float,
        seed: int,
        on_progress: Callable[[int], None],
        questions: Path | None = None,
    ) -> None:
        # What an open connection shows stays as it is, whatever the run does.
        self._pool = connect(run_dir)
        self._source = "R"
        if questions is not None:
            translation.connect(questions, self._pool)
            anew = ", ".join(f'Q."{name}" AS "{name}"' for name in translation.OF_THE_QUERY)
            self._source = (
                f"(SELECT R.* REPLACE ({anew}), Q.question, Q.evidence FROM R JOIN Q USING (query_id) "
                "WHERE Q.reason IS NULL)"
            )
        self.databases: Counter[str] = Counter(
            dict(self._pool.sql(f"SELECT database, count(*) FROM {self._source} GROUP BY database").fetchall())
        )
        models = self._pool.sql(f"SELECT DISTINCT model FROM {self._source} ORDER BY 1").fetchall()
        self.models = [str(model) for (model,) in models]
        self._skeletons = _skeletons(self._values("sql, dialect"), on_progress)
        self._sizes = Counter(self._skeletons)
        self._by = split
        groups = {"none": Counter[str](), "skeleton": self._sizes, "database": self.databases}[split]
        self._test = chosen(groups, test_share, seed)
        num_test = sum(groups[group] for group in self._test)
        self.splits = {name: n for name, n in (("train", len(self) - num_test), ("test", num_test)) if n}

    def __len__(self) -> int:
        return len(self._skeletons)

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows in the order of the pool."""
        rows = (row for batch in self._values("*") for row in batch.to_pylist())
        for skeleton, row in zip(self._skeletons, rows, strict=True):
            group = skeleton if self._by == "skeleton" else row["database"]
            yield Row(row, skeleton, "test" if group in self._test else "train", self._sizes[skeleton])

    @property
    def num_skeletons(self) -> int:
        """How many different ones there are."""
        return len(self._sizes)

    def close(self) -> None:
        """Let the run put together the files that are read here."""
        self._pool.close()

    def _values(self, columns: str) -> Iterator[pa.RecordBatch]:
        # A cursor of its own, so that two may be read at a time.
        found = self._pool.cursor().sql(f"SELECT {columns} FROM {self._source} ORDER BY query_id")
        yield from found.to_arrow_reader(ROWS_AT_ONCE)


def chosen(groups: Counter[str], share: float, seed: int) -> frozenset[str]:
    """Return groups whose rows are together at most a share of all, in an order that the seed decides.

    What is left out because it is too large does not end the choice: a smaller group may still fit.
    """
    room = share * groups.total()
    test = set()
    for group in sorted(groups, key=lambda name: blake2b(f"{seed} {name}".encode()).digest()):
        if groups[group] <= room:
            test.add(group)
            room -= groups[group]
    return frozenset(test)


def _skeletons(batches: Iterator[pa.RecordBatch], on_progress: Callable[[int], None]) -> list[str]:
    """Return the skeleton of each row, in order; where there are several batches, with a process for each CPU."""
    queries = (list(zip(*batch.to_pydict().values(), strict=True)) for batch in batches)
    first = next(queries, [])
    second = next(queries, None)
    if second is None:
        return skeletons_of(first)  # a process takes longer to start
    found: list[str] = []
    num_processes = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(num_processes, get_context("spawn")) as processes:
        waiting = deque(processes.submit(skeletons_of, each) for each in (first, second))
        while waiting:
            # Not all of a large pool is in memory at once.
            more = islice(queries, max(0, 2 * num_processes - len(waiting)))
            waiting.extend(processes.submit(skeletons_of, each) for each in more)
            found += waiting.popleft().result()
            on_progress(len(found))
    return found


def skeletons_of(queries: Sequence[tuple[str, str]]) -> list[str]:
    """Return what stands for the skeleton of each query, given with its dialect; for its text where it has none."""
    return [digest(_skeleton(*query)) for query in queries]


def _skeleton(query: str, dialect: str) -> str:
    try:
        return sql.skeleton(sql.parse(query, dialect), dialect)
    except StatementError:
        return query
