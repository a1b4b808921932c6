"""Runs over TPC-DS as anyone would start them, for the benchmarks that compare what comes of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]


def grown(run_dir: Path, settings: Sequence[str]) -> Path:
    """Grow the pool of a run, or go on with it where it is there; return its folder.

    Raises:
        SystemExit: it ended with an error, which stands on standard error.
    """
    _rayfactory("+benchmark=tpcds", f"run_dir={run_dir}", "display.mode=lines", "cluster.dashboard=false", *settings)
    return run_dir


def compared(corpora: Sequence[Path], output: Path, settings: Sequence[str]) -> list[dict[str, Any]]:
    """Compare runs and files of queries; return the figures of each, in order (see `analysis.compare`)."""
    names = ",".join(str(path) for path in corpora)
    _rayfactory("task=compare", f"runs=[{names}]", f"output={output}", *settings)
    found = json.loads((output / "compare.json").read_text(encoding="utf-8"))
    columns: list[dict[str, Any]] = found["corpora"]
    return columns


def line(column: dict[str, Any]) -> dict[str, Any]:
    """Return what a table of corpora says of one of them."""
    about, at_n = column["corpus"], column["at_n"]
    tables = column["tables"]
    return {
        "n": at_n["n"],
        "similarity": {name: column["similarity"][name] for name in ("mean", "low", "high")},
        "vendi": [{name: each[name] for name in ("encoder", "score", "low", "high")} for each in at_n["vendi"]],
        "executability": about["executability"],
        "non_empty_rate": about["non_empty_rate"],
        "distinct_skeletons_share": at_n["distinct_skeletons_share"],
        "tables_gini": tables["gini"],
        "queries_per_second": column["queries_per_second"],
    }


def _rayfactory(*words: str) -> None:
    # What it says of its progress is not this script's result.
    done = subprocess.run([sys.executable, "-m", "rayfactory", *words], cwd=PROJECT, stdout=sys.stderr, check=False)
    if done.returncode:
        raise SystemExit(f"python -m rayfactory {' '.join(words)} ended with {done.returncode}")
