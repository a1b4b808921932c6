"""How long until a large run is ready to judge again? Prints one JSON object.

    python -m benchmarks.resume --run runs/tpcds [--rows 100000]

The rows of a finished run over TPC-DS are written over and over into another run directory, with canonical forms and
vectors that differ (each vector moves by a little noise), until it has `--rows`. Then the command of the run goes on
for one row more, as a user would have it: from the shell, with Ray. `ours` is the time until it is ready to judge (the
start, what is read back, building the index) with what it takes to end; `all_s` has the one small round as well. The
same command on the run itself is the reference.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from rayfactory.identity import read_identity
from rayfactory.manifests import Manifest
from rayfactory.pool import Pool, opened, read_manifests
from rayfactory.records import E_SCHEMA, R_SCHEMA, REJECTS_SCHEMA, S_SCHEMA

PROJECT = Path(__file__).resolve().parents[1]
ROWS_PER_ROUND = 200


def grown(source: Pool, target: Path, num_rows: int) -> None:
    """Write a run with the rows of another one, repeated until there are `num_rows`."""
    identity = read_identity(source.run_dir)
    assert identity is not None
    rows = source.rows(0, source.next_round - 1)
    signatures, embeddings = source.compared(0, source.next_round - 1)
    vectors_ND = np.array(embeddings["vector"].to_pylist(), np.float32)
    last: Manifest = source.manifests[-1]
    rng = np.random.default_rng(0)
    with opened(target, {name: value for name, value in identity.items() if name != "format"}) as pool:
        while pool.num_rows < num_rows:
            count = min(ROWS_PER_ROUND, num_rows - pool.num_rows)
            places = rng.integers(0, len(rows), count)
            ids = np.arange(pool.num_rows, pool.num_rows + count)
            moved = vectors_ND[places] + 0.01 * rng.normal(size=(count, vectors_ND.shape[1])).astype(np.float32)
            moved /= np.linalg.norm(moved, axis=1, keepdims=True)
            pool.commit(
                {
                    "R": _with(rows.take(places), query_id=ids, round=np.full(count, pool.next_round)).cast(R_SCHEMA),
                    "E": _with(embeddings.take(places), query_id=ids, vector=list(moved)).cast(E_SCHEMA),
                    "S": _with(
                        signatures.take(places),
                        query_id=ids,
                        canonical_digest=pa.array([rng.bytes(16) for _ in range(count)], pa.binary(16)),
                    ).cast(S_SCHEMA),
                    "rejects": REJECTS_SCHEMA.empty_table(),
                },
                last.plan,
                replace(last.evaluation, round=pool.next_round),
                pool.wall_s + 1,
            )
            pool.compact()


def _with(table: pa.Table, **columns: object) -> pa.Table:
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
    return table


def seconds(run_dir: Path, num_rows: int) -> tuple[float, float]:
    """Return how long the command takes that goes on with a run for one row: without its rounds, and all of it."""
    before = list(read_manifests(run_dir))
    command = [sys.executable, "-m", "rayfactory", "+benchmark=tpcds", f"run_dir={run_dir}", f"target={num_rows + 1}"]
    started = time.monotonic()
    subprocess.run([*command, "display.mode=none", "cluster.dashboard=false"], cwd=PROJECT, check=True)
    all_s = time.monotonic() - started
    manifests = list(read_manifests(run_dir))
    rounds_s = manifests[-1].wall_s - before[-1].wall_s - manifests[len(before)].phase_s["start"]
    return all_s - rounds_s, all_s


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a finished run over TPC-DS, with its default settings")
    parser.add_argument("--rows", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small", Path(folder) / "large"
        shutil.copytree(arguments.run, small)
        identity = read_identity(small)
        assert identity is not None
        with opened(small, {name: value for name, value in identity.items() if name != "format"}) as pool:
            started = time.monotonic()
            grown(pool, large, arguments.rows)
            written_s = time.monotonic() - started
        num_small = sum(manifest.num_rows for manifest in read_manifests(small))
        reference_s, _ = seconds(small, num_small)
        ours_s, all_s = seconds(large, arguments.rows)
    report = {
        "benchmark": "resume",
        "reference": f"the same command on the run of {num_small} rows",
        "rows": arguments.rows,
        "ours": round(ours_s, 1),
        "reference_s": round(reference_s, 1),
        "ratio": round(ours_s / reference_s, 2),
        "all_s": round(all_s, 1),
        "written_s": round(written_s, 1),
    }
    print(json.dumps(report))
    if ours_s >= 60:
        raise SystemExit("a run of that size has to be ready in under 60 s")


if __name__ == "__main__":
    main()
