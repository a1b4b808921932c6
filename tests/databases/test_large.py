"""A database of a gigabyte is profiled from a sample, in bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.databases.make_large_database import make_large_database

PROJECT = Path(__file__).resolve().parents[2]

PROFILE = """
import json, resource, sys
from pathlib import Path
from rayfactory.config import BenchmarkConfig, ExecutionConfig, ProfileConfig
from rayfactory.databases.benchmark import load_schemas, open_benchmark

benchmark = open_benchmark(BenchmarkConfig(name="custom", root=sys.argv[1]), Path(sys.argv[2]))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
(schema,) = load_schemas(benchmark, ProfileConfig(), ExecutionConfig(), Path(sys.argv[2]))
print(json.dumps({
    "bytes": peak() - before,
    "read": int(next(line for line in open("/proc/self/io") if line.startswith("rchar")).split()[1]),
    "rows": {table.name: table.num_rows for table in schema.tables},
    "sampled": {table.name: table.columns[0].profile.num_sampled for table in schema.tables},
    "months": schema.table("sparse").column("month").profile.num_distinct,
    "keys": [[key.table, key.referenced_table] for key in schema.foreign_keys],
}))
"""


def check(folder: Path, num_bytes: int) -> None:
    path = folder / "large.sqlite"
    num_events = make_large_database(path, num_bytes)
    done = subprocess.run(
        [sys.executable, "-c", PROFILE, str(path), str(folder / "data")],
        capture_output=True,
        text=True,
        check=True,
        cwd=PROJECT,
    )
    found = json.loads(done.stdout)
    assert found["rows"]["events"] == num_events
    assert all(rows <= 22_000 for rows in found["sampled"].values())
    assert all(found["sampled"][name] >= 10_000 for name in ("events", "daily", "sparse", "users"))
    assert found["months"] == 12
    assert sorted(found["keys"]) == [["daily", "users"], ["events", "users"]]
    assert found["bytes"] < 300e6
    # The fingerprint, one count of each table and the sample.
    assert found["read"] < 4 * path.stat().st_size


def test_a_database_of_forty_megabytes(tmp_path: Path):
    """Small enough for every run of the tests; all tables are beyond the sample's size."""
    check(tmp_path, 40_000_000)


@pytest.mark.slow
def test_a_database_of_a_gigabyte(tmp_path: Path):
    """The same at the size of a large BIRD database (RAYFACTORY_LARGE_BYTES: another size)."""
    check(tmp_path, int(os.environ.get("RAYFACTORY_LARGE_BYTES", "1000000000")))
