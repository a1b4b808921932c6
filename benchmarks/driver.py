"""Does the driver of a run grow with its pool, in memory or in the time of a plan? Prints one JSON object.

    python -m benchmarks.driver --run runs/tpcds [--rows 10000 1000000] [--more 1000]

The rows of a finished run over TPC-DS are written over and over into pools of each size, as `benchmarks.resume` does,
with rounds put together as a run does it. Then the command of the run goes on with each for `--more` rows, as a user
would have it; `growing.watched` says what is measured. `ratio` is of the memory with the largest pool to that with the
smallest.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.growing import watched
from benchmarks.resume import grown
from rayfactory.identity import read_identity
from rayfactory.pool import opened

MAX_RATIO, MAX_PLAN_MS = 1.1, 100.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a finished run over TPC-DS, with its default settings")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--more", type=int, default=1_000)
    arguments = parser.parse_args()
    identity = read_identity(arguments.run)
    if identity is None:
        parser.error(f"there is no run in {arguments.run}: make run")
    known = {name: value for name, value in identity.items() if name != "format"}
    pools = []
    for num_rows in sorted(arguments.rows):
        with tempfile.TemporaryDirectory() as folder:
            run_dir = Path(folder) / "run"
            with opened(arguments.run, known) as pool:
                grown(pool, run_dir, num_rows)
            took = watched(run_dir, ["+benchmark=tpcds", f"target={num_rows + arguments.more}"])
            pools.append({"rows": num_rows, **took})
            print(pools[-1], file=sys.stderr)
    ratio = pools[-1]["memory_mb"] / pools[0]["memory_mb"]
    longest_ms = max(pool["plan_ms"]["longest"] for pool in pools)
    print(json.dumps({"benchmark": "driver", "pools": pools, "ratio": round(ratio, 3), "longest_plan_ms": longest_ms}))
    if ratio > MAX_RATIO or longest_ms >= MAX_PLAN_MS:
        raise SystemExit(f"memory may grow {MAX_RATIO} times, and a plan has to take less than {MAX_PLAN_MS:.0f} ms")


if __name__ == "__main__":
    main()
