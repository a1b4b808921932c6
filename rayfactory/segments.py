"""Segments: files with the rows of many rounds. Which rounds share one, how they come together, and are read apart.

A long run would end with thousands of small files, of which each costs a reader as much as a large one. So consecutive
rounds are put together at fixed counts: `SIZES[0]` of them into a segment, and segments into larger ones, up to
`SIZES[-1]` rounds. Each row is written once a size, so that all the writing grows with the number of rows, and a
segment's with the largest size. Which rounds are together follows from how many there are, and from nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SIZES = (8, 64, 512)
"""Rounds of a segment; each is a multiple of the one before it, and a segment begins at a multiple of its own size."""

ROWS_PER_GROUP = 4_096
"""Rows that a segment's file is written and read by, so what is held of it in memory, and what who wants one round
reads. Of R, a quarter of it makes files twice as large and queries slower."""

WIDE_ROWS_PER_GROUP = 1_024
"""The same of tables whose rows are hundreds of numbers, of which none repeats itself: 1.5 MB of vectors, and reading
them takes several times as much."""


def due(spans: Sequence[tuple[int, int]]) -> slice | None:
    """Return which spans belong into one segment together; None where every segment is there that there can be.

    The widest segment that can be made is made, of all that it is to hold: what is due at more than one size is
    written once.

    Args:
        spans: (first, last) round of what is in files of its own, from round 0 on, without gaps.
    """
    num_rounds = spans[-1][1] + 1 if spans else 0
    for size in reversed(SIZES):
        for group, members in groupby(range(len(spans)), key=lambda i: spans[i][0] // size):
            places = list(members)
            if len(places) > 1 and (group + 1) * size <= num_rounds:
                return slice(places[0], places[-1] + 1)
    return None


def put_together(sources: Sequence[Path], target: Path, schema: pa.Schema) -> list[int]:
    """Write the rows of several files, in order, into one that is synced; return how many each of them has.

    Raises:
        OSError: something could not be read or written.
    """
    counts: list[int] = []
    per_group = WIDE_ROWS_PER_GROUP if {"vector", "labels"} & set(schema.names) else ROWS_PER_GROUP
    # Numbers of a vector have no repetitions that a dictionary would find; their bytes are alike place by place.
    has_vectors = "vector" in schema.names
    with target.open("wb") as file:
        with pq.ParquetWriter(
            file,
            schema,
            compression="zstd",
            use_dictionary=not has_vectors,
            use_byte_stream_split=["vector.list.element"] if has_vectors else False,
        ) as writer:
            waiting: list[pa.Table] = []
            num_waiting = 0
            for source in sources:
                with pq.ParquetFile(source) as rounds:
                    counts.append(rounds.metadata.num_rows)
                    for i in range(rounds.num_row_groups):
                        rows = rounds.read_row_group(i, schema.names, use_threads=False)
                        waiting.append(rows.select(schema.names).cast(schema))
                        num_waiting += len(waiting[-1])
                        if num_waiting >= per_group:
                            rows = pa.concat_tables(waiting)
                            whole = num_waiting // per_group * per_group
                            writer.write_table(rows.slice(0, whole), per_group)
                            # A copy: a slice would keep all of them.
                            waiting, num_waiting = [_copied(rows.slice(whole))], num_waiting - whole
                            del rows
                            pa.default_memory_pool().release_unused()
            writer.write_table(pa.concat_tables([schema.empty_table(), *waiting]), per_group)
        file.flush()
        os.fsync(file.fileno())
    return counts


def _copied(rows: pa.Table) -> pa.Table:
    return rows.take(pa.array(range(len(rows)), pa.int64()))


def read_rounds(
    path: Path, schema: pa.Schema, counts: Sequence[int] | None, first: int, last: int
) -> Iterator[pa.Table]:
    """Yield the rows of one round after the other; each group of rows is read once.

    Args:
        path: a file of the pool.
        schema: of the columns that are wanted.
        counts: rows of each round that the file has; None: it has one.
        first: the first round that is wanted, counted from the first of the file.
        last: the last one.

    Raises:
        ValueError: the file has not as many rows.
    """
    with pq.ParquetFile(path) as file:
        # Not by `read_table`, which takes as long again to find out what kinds of files there are.
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        counts = [sum(groups)] if counts is None else counts
        if sum(groups) != sum(counts):
            raise ValueError(f"{path} has {sum(groups)} rows, not {sum(counts)}")

        @lru_cache(maxsize=1)
        def group(i: int) -> pa.Table:
            # Arrow keeps what it has let go of: after a few groups that is several times what one of them takes.
            pa.default_memory_pool().release_unused()
            return file.read_row_group(i, schema.names, use_threads=False).select(schema.names).cast(schema)

        group_starts, round_starts = [0, *accumulate(groups)], [0, *accumulate(counts)]
        for number in range(first, last + 1):
            start, end = round_starts[number : number + 2]
            pieces = [
                group(i).slice(
                    max(start - group_starts[i], 0), min(end, group_starts[i + 1]) - max(start, group_starts[i])
                )
                for i in range(len(groups))
                if group_starts[i] < end and start < group_starts[i + 1]
            ]
            yield pa.concat_tables([schema.empty_table(), *pieces])
