"""Runs as anyone would start them, for the benchmarks that look at what comes of them, or at what they take."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rayfactory.pool import read_manifests

PROJECT = Path(__file__).resolve().parents[1]
_LOOK_S = 0.05


def grown(run_dir: Path, settings: Sequence[str]) -> Path:
    """Grow the pool of a run, or go on with it where it is there; return its folder.

    Raises:
        SystemExit: it ended with an error, which stands on standard error.
    """
    _rayfactory("+benchmark=tpcds", f"run_dir={run_dir}", "display.mode=lines", "cluster.dashboard=false", *settings)
    return run_dir


def watched(run_dir: Path, settings: Sequence[str]) -> dict[str, Any]:
    """Begin a run, or go on with it where it is there; return what its driver took.

    Returns:
        `memory_mb` is the most that the driver's process had of its own (anonymous memory: what it maps of Ray's
        object store is shared), and `resident_mb` the most with what is shared; `plan_ms` are the median and the
        longest of the rounds; `seconds` are those of the whole command.

    Raises:
        SystemExit: it ended with an error, which stands on standard error.
    """
    before = len(read_manifests(run_dir)) if run_dir.exists() else 0
    words = [f"run_dir={run_dir}", *settings, "display.mode=none", "cluster.dashboard=false"]
    command = [sys.executable, "-m", "rayfactory", *words]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=sys.stderr)
    most = {"RssAnon": 0, "VmHWM": 0}
    started = time.monotonic()
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        except OSError:
            break
        for line_ in status.splitlines():
            name, _, value = line_.partition(":")
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
