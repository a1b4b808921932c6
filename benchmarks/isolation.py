"""What does it cost to run statements in a process of their own? Prints one JSON object.

    python -m benchmarks.isolation [--run runs/tpcds | --corpus FILE --dialect duckdb] [--small 2000]

`ratio` is the throughput of a sandbox over that of an engine in this process, on the queries of a run over TPC-DS (its
99 official ones without a run): 0.8 is the limit. `small_us` is what the sandbox adds to each of many statements that
take hardly any time, on SQLite: 100 is the limit. The two take turns, and of each statement the least time of several
counts: what else the machine does has no part in it.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from benchmarks.corpus import add_arguments, add_run_argument, chosen_queries
from rayfactory.compose import compose
from rayfactory.config import ExecutionConfig
from rayfactory.databases.engine import Database, connect
from rayfactory.databases.sandbox import Sandbox
from rayfactory.errors import StatementError
from rayfactory.runs import open_databases

MIN_RATIO = 0.8
MAX_SMALL_US = 100
REPETITIONS = 5


def time_of(run: Callable[[str], object], query: str) -> float:
    """Return how long a query takes, in seconds."""
    started = time.perf_counter()
    with suppress(StatementError):
        run(query)
    return time.perf_counter() - started


def compared(database: Database, queries: Sequence[str], at_once: int) -> tuple[float, float]:
    """Return the seconds that queries take in this process, and in a sandbox: of each query the least that was seen.

    Args:
        at_once: statements that one runs before it is the other's turn.
    """
    limits = ExecutionConfig()
    engine, sandbox = connect(database, limits), Sandbox({database.name: database}, limits)
    ways: list[Callable[[str], object]] = [engine.run, partial(sandbox.run, database.name)]
    least = [[float("inf")] * len(queries) for _ in ways]
    for _ in range(REPETITIONS):
        for start in range(0, len(queries), at_once):
            for run, times in zip(ways, least, strict=True):
                for i in range(start, min(start + at_once, len(queries))):
                    times[i] = min(times[i], time_of(run, queries[i]))
    engine.close()
    sandbox.close()
    here_s, there_s = map(sum, least)
    return here_s, there_s


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    add_run_argument(parser)
    parser.add_argument("--small", type=int, default=2_000, help="statements that take hardly any time")
    parser.set_defaults(limit=300)
    arguments = parser.parse_args()
    queries = chosen_queries(arguments)
    databases, _ = open_databases(compose(["+benchmark=tpcds"]))
    here_s, there_s = compared(databases["tpcds"], queries, 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.sqlite"
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE t (i INTEGER PRIMARY KEY, s TEXT)")
            connection.executemany("INSERT INTO t VALUES (?, ?)", [(i, f"row {i}") for i in range(100)])
        connection.close()
        small = [f"SELECT s FROM t WHERE i = {i % 100}" for i in range(arguments.small)]
        small_here_s, small_there_s = compared(Database("small", "sqlite", str(path)), small, 100)
    small_us = (small_there_s - small_here_s) / len(small) * 1e6
    report = {
        "benchmark": "isolation",
        "reference": "the same engine in this process",
        "queries": len(queries),
        "ours": round(len(queries) / there_s, 1),
        "reference_per_s": round(len(queries) / here_s, 1),
        "ratio": round(here_s / there_s, 3),
        "small_us": round(small_us, 1),
        "small_here_us": round(small_here_s / len(small) * 1e6, 1),
    }
    print(json.dumps(report))
    if here_s / there_s < MIN_RATIO or small_us > MAX_SMALL_US:
        raise SystemExit(f"a limit is missed: ratio {MIN_RATIO}, {MAX_SMALL_US} us a statement")


if __name__ == "__main__":
    main()
