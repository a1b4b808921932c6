"""Benchmarks one after the other: `python -m benchmarks critic`, `run`, `methods` or `models`.

Each prints its JSON object. Those after one that misses a limit are run all the same, and what was missed is told at
the end, with exit code 1.
"""

from __future__ import annotations

import subprocess
import sys
import time

RUN = "--run runs/tpcds"

SETS = {
    "critic": ("tree_distance", f"retrieval {RUN}", f"embedding {RUN}", f"judge {RUN}", f"pool_growth {RUN}"),
    "run": (f"quality {RUN}", f"isolation {RUN}", f"resume {RUN}", "compaction"),
    "methods": ("diversity", "ablations"),
    "models": ("endpoint", "overlap", "serving", "constrained"),
}
"""Scripts with their arguments; those of `critic` and `run` are about a run over TPC-DS that is there."""


def main() -> None:
    """Run a set of them."""
    if len(sys.argv) != 2 or sys.argv[1] not in SETS:
        sys.exit(f"name one of the sets: {', '.join(SETS)}")
    missed = []
    for words in SETS[sys.argv[1]]:
        script, *arguments = words.split()
        print(f"# benchmarks.{words}", file=sys.stderr)
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{script}", *arguments], check=False)
        print(f"# {time.monotonic() - began:.0f} s", file=sys.stderr)
        if done.returncode:
            missed.append(script)
    if missed:
        sys.exit(f"missed a limit, or failed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
