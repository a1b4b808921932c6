"""What does it cost to put the rounds of a long run together, and what is gained? Prints one JSON object.

    python -m benchmarks.compaction [--rounds 1024] [--rows 200]

A run directory gets rounds of rows like those of a TPC-DS run (700 characters of SQL, 66 nodes, vectors of 384
numbers). `ours` is the CPU time that putting together takes for each round, in milliseconds, `commit_ms` what the
commit itself does; `longest_s` is the longest single time that the run would wait. Then both directories are read as
their readers do: all of R through `connect` (`query_s`), and round by round as a run that goes on does (`resume_s`).
`reference_*` are those of the directory without segments.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from rayfactory.manifests import PlannedRequest
from rayfactory.pool import Pool, connect, opened
from rayfactory.records import E_SCHEMA, R_SCHEMA, REJECTS_SCHEMA, S_SCHEMA, Evaluation
from rayfactory.tools.statistics import Statistics

IDENTITY = {"benchmark": "none", "seed": 0, "config_sha256": ""}
NUM_CHARS, NUM_NODES, DIMENSION = 700, 66, 384


def tables(number: int, first_id: int, num_rows: int, rng: np.random.Generator) -> dict[str, pa.Table]:
    """Return the tables of one round, of random content."""
    ids, database = np.arange(first_id, first_id + num_rows), ["tpcds"] * num_rows
    letters = rng.integers(97, 101, (num_rows, NUM_CHARS), np.uint8)
    text = [row.tobytes().decode() for row in letters]
    vectors = rng.normal(size=(num_rows, DIMENSION)).astype(np.float32)
    known = {
        "query_id": ids, "database": database, "dialect": ["duckdb"] * num_rows, "sql": text,
        "tables": [["store_sales", "item"]] * num_rows, "origin": ["expansion"] * num_rows, "model": ["m"] * num_rows,
        "prompt_sha256": ["0" * 64] * num_rows, "seed_ids": [[1, 2, 3]] * num_rows, "round": np.full(num_rows, number),
    }  # fmt: skip
    numbers = {name: rng.integers(0, 100, num_rows) for name in R_SCHEMA.names if name not in known}
    r = pa.table({name: (known | numbers)[name] for name in R_SCHEMA.names}).cast(R_SCHEMA)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    s = {
        "query_id": ids,
        "database": database,
        "words": text,
        "labels": list(rng.integers(-(2**62), 2**62, (num_rows, NUM_NODES))),
        "leftmost": list(rng.integers(0, NUM_NODES, (num_rows, NUM_NODES), np.int32)),
        "canonical_digest": pa.array([rng.bytes(16) for _ in range(num_rows)], pa.binary(16)),
    }
    return {
        "R": r,
        "E": pa.table({"query_id": ids, "database": database, "vector": list(vectors)}).cast(E_SCHEMA),
        "S": pa.table(s).cast(S_SCHEMA),
        "rejects": REJECTS_SCHEMA.empty_table(),
    }


def cpu_s() -> float:
    """Return the CPU time of this process, all its threads, in seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def grown(run_dir: Path, num_rounds: int, num_rows: int, *, compact: bool) -> dict[str, float]:
    """Commit rounds; return the CPU milliseconds a round of commits and of putting together, and the longest wait."""
    rng = np.random.default_rng(0)
    spent = {"commit": 0.0, "compact": 0.0}
    longest_s = 0.0
    plan = [PlannedRequest("generation", "tpcds", ("store_sales", "item"), 10)] * 20
    with opened(run_dir, IDENTITY) as pool:
        for number in range(num_rounds):
            rows = tables(number, pool.num_rows, num_rows, rng)
            evaluation = Evaluation(number, "GEN", num_rows, 1.0, 1.0, 0.5, {}, {"tpcds": 20}, {"tpcds": num_rows})
            before_s = cpu_s()
            pool.commit(rows, plan, evaluation, 1.0)
            committed_s, begun = cpu_s(), time.monotonic()
            if compact:
                pool.compact()
            longest_s = max(longest_s, time.monotonic() - begun)
            spent["commit"] += committed_s - before_s
            spent["compact"] += cpu_s() - committed_s
    each = {name: 1000 * seconds / num_rounds for name, seconds in spent.items()}
    return {**each, "longest_s": longest_s, "files": sum(path.is_file() for path in run_dir.rglob("*"))}


def read(run_dir: Path) -> tuple[float, float]:
    """Return the CPU seconds of a query over all of R, and of reading what a run that goes on does."""
    begun_s = cpu_s()
    connection = connect(run_dir)
    connection.sql("SELECT avg(similarity), sum(length(sql)) FROM R").fetchall()
    connection.close()
    queried_s = cpu_s()
    with opened(run_dir, IDENTITY) as pool:
        _read_all(pool)
    return queried_s - begun_s, cpu_s() - queried_s


def _read_all(pool: Pool) -> None:
    last = pool.next_round - 1
    for columns in (None, Statistics.COLUMNS):
        for _ in pool.by_round("R", 0, last, columns):
            pass
    for _ in pool.by_round("rejects", 0, last):
        pass
    for first in range(0, last + 1, 32):
        pool.compared(first, min(first + 31, last))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1_024)
    parser.add_argument("--rows", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plain = grown(Path(folder, "plain"), arguments.rounds, arguments.rows, compact=False)
        ours = grown(Path(folder, "compacted"), arguments.rounds, arguments.rows, compact=True)
        (query_s, resume_s), (reference_query_s, reference_resume_s) = (
            read(Path(folder, name)) for name in ("compacted", "plain")
        )
        megabytes = [
            sum(path.stat().st_size for path in Path(folder, name).rglob("*")) // 10**6
            for name in ("compacted", "plain")
        ]
    print(
        json.dumps(
            {
                "benchmark": "compaction",
                "reference": "the same rounds, each in files of its own",
                "rounds": arguments.rounds,
                "rows_per_round": arguments.rows,
                "ours": round(ours["compact"], 1),
                "commit_ms": round(ours["commit"], 1),
                "longest_s": round(ours["longest_s"], 2),
                "files": ours["files"],
                "reference_files": plain["files"],
                "megabytes": megabytes[0],
                "reference_megabytes": megabytes[1],
                "query_s": round(query_s, 2),
                "reference_query_s": round(reference_query_s, 2),
                "resume_s": round(resume_s, 2),
                "reference_resume_s": round(reference_resume_s, 2),
                "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
