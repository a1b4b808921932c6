"""Does the driver of a run grow with its pool, in memory or in the time of a plan? Prints one JSON object.

    python -m benchmarks.driver --run runs/tpcds [--rows 10000 1000000] [--more 1000]

The rows of a finished run over TPC-DS are written over and over into pools of each size, as `benchmarks.resume` does,
with rounds put together as a run does it. Then the command of the run goes on with each for `--more` rows, as a user
would have it. `memory_mb` is the most that the driver's process had of its own (anonymous memory: what it maps of Ray's
object store is shared), and `resident_mb` the most with what is shared; `plan_ms` are the median and the longest of
its rounds. `ratio` is of the largest pool to the smallest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.resume import PROJECT, grown
from rayfactory.identity import read_identity
from rayfactory.pool import opened, read_manifests

MAX_RATIO, MAX_PLAN_MS = 1.1, 100.0
_LOOK_S = 0.05


def went_on(run_dir: Path, target: int) -> dict[str, Any]:
    """Have a run go on to a target; return what its driver took."""
    before = len(read_manifests(run_dir))
    command = [sys.executable, "-m", "rayfactory", "+benchmark=tpcds", f"run_dir={run_dir}", f"target={target}"]
    process = subprocess.Popen([*command, "display.mode=none", "cluster.dashboard=false"], cwd=PROJECT)
    most = {"RssAnon": 0, "VmHWM": 0}
    started = time.monotonic()
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        except OSError:
            break
        for line in status.splitlines():
            name, _, value = line.partition(":")
            if name in most:
                most[name] = max(most[name], int(value.split()[0]))
        time.sleep(_LOOK_S)
    if process.wait():
        raise SystemExit(f"the run in {run_dir} ended with exit code {process.returncode}")
    plans_ms = [1000 * manifest.phase_s["plan"] for manifest in read_manifests(run_dir)[before:]]
    return {
        "memory_mb": round(most["RssAnon"] / 1024, 1),
        "resident_mb": round(most["VmHWM"] / 1024, 1),
        "plan_ms": {"median": round(statistics.median(plans_ms), 1), "longest": round(max(plans_ms), 1)},
        "rounds": len(plans_ms),
        "seconds": round(time.monotonic() - started, 1),
    }


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
            pools.append({"rows": num_rows, **went_on(run_dir, num_rows + arguments.more)})
            print(pools[-1], file=sys.stderr)
    ratio = pools[-1]["memory_mb"] / pools[0]["memory_mb"]
    longest_ms = max(pool["plan_ms"]["longest"] for pool in pools)
    print(json.dumps({"benchmark": "driver", "pools": pools, "ratio": round(ratio, 3), "longest_plan_ms": longest_ms}))
    if ratio > MAX_RATIO or longest_ms >= MAX_PLAN_MS:
        raise SystemExit(f"memory may grow {MAX_RATIO} times, and a plan has to take less than {MAX_PLAN_MS:.0f} ms")


if __name__ == "__main__":
    main()
