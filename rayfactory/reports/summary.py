"""`summary.json`: what a run has made, in figures that another program reads."""

from __future__ import annotations

import platform
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from rayfactory import __version__
from rayfactory.databases.schema import Schema
from rayfactory.databases.schemas import about
from rayfactory.manifests import Manifest
from rayfactory.pool import connect
from rayfactory.records import DID_NOT_RUN, Tally, add_tallies
from rayfactory.reports.figures import projected_cost_usd
from rayfactory.tools.statistics import gini, share

StopReason = Literal["target", "saturated", "exhausted", "max_candidates", "max_cost", "interrupted"]

STOP_REASONS: dict[StopReason, str] = {
    "target": "the pool has the rows that were asked for",
    "saturated": "new queries only repeat the pool",
    "exhausted": "many rounds in a row admitted nothing",
    "max_candidates": "max_candidates was reached",
    "max_cost": "max_cost_usd was reached",
    "interrupted": "the run was interrupted",
}
"""Why a run ends."""

_PACKAGES = ("ray", "duckdb", "sqlglot", "faiss-cpu", "openvino", "sentence-transformers", "torch", "numpy", "pyarrow")


def summarise(
    run_dir: Path,
    identity: Mapping[str, Any],
    schemas: Mapping[str, Schema],
    manifests: Sequence[Manifest],
    target: int | None,
    stop_reason: StopReason,
    wall_s: float,
    books: Sequence[Mapping[str, Any]] = (),
    max_cost_usd: float | None = None,
) -> dict[str, Any]:
    """Return the contents of `summary.json`, computed from the committed rounds.

    Rates are shares in [0, 1]; a rate over nothing is 0. `executability` is over all candidates; `non_empty_rate`,
    `mean_similarity` and `expansion_ratio` are over the rows of R; `table_gini` is over all base tables with rows.

    Args:
        run_dir: of the run.
        identity: `benchmark`, `seed` and `config_sha256`.
        schemas: of its databases.
        manifests: of its committed rounds.
        target: rows asked for.
        stop_reason: why the run ended.
        wall_s: seconds of work on the run, over all its processes.
        books: the ledger's rows: one for each model and agent.
        max_cost_usd: the budget that the run had.

    `phase_s` sums the seconds of each phase, see `pool.Manifest`; they overlap, so that together they may exceed
    `wall_s`. `write` is the time in which rounds were planned or produced, each second once.
    `cost_usd` is what replies cost, also those of rounds that were never committed. `cost_unconfirmed_usd` is the most
    that requests without a reply may have cost. `projected_cost_usd` is both together at the target, see
    `figures.projected_cost_usd`; None without a target or without rows.
    """
    connection = connect(run_dir)
    try:
        figures = connection.execute(
            "SELECT count(*), count(*) FILTER (origin = 'expansion'), count(*) FILTER (row_count > 0), "
            "avg(similarity) FROM R"
        ).fetchone()
        use = connection.execute(
            "SELECT database, name, count(*) FROM (SELECT database, unnest(tables) AS name FROM R) GROUP BY ALL"
        ).fetchall()
        rejected = dict(
            connection.execute("SELECT reason, count(*) FROM rejects GROUP BY 1 ORDER BY 2 DESC, 1").fetchall()
        )
    finally:
        connection.close()
    # In one go: they may come from the disk.
    phase_s, tallies = dict.fromkeys(("start", "plan", "produce", "write", "judge"), 0.0), tuple[Tally, ...]()
    for manifest in manifests:
        tallies = add_tallies((*tallies, *manifest.tallies))
        for phase in phase_s:
            phase_s[phase] += manifest.phase_s.get(phase, 0.0)
    assert figures is not None
    admitted, expansion, non_empty, mean_similarity = figures
    cost_usd, unconfirmed_usd = _total(books, "cost_usd"), _total(books, "unconfirmed_usd")
    candidates = admitted + sum(rejected.values())
    did_not_run = sum(count for reason, count in rejected.items() if reason in DID_NOT_RUN)
    counts = Counter({(database, name): count for database, name, count in use})
    populated = [(name, table.name) for name, schema in schemas.items() for table in schema.populated]
    return {
        "benchmark": identity["benchmark"],
        "databases": len(schemas),
        "tables": sum(each.num_tables for each in about(schemas).values()),
        "tables_covered": sum(counts[key] > 0 for key in populated),
        "stop_reason": stop_reason,
        "target": target,
        "admitted": admitted,
        "candidates": candidates,
        "generation": admitted - expansion,
        "expansion": expansion,
        "expansion_ratio": share(expansion, admitted),
        "executability": share(candidates - did_not_run, candidates),
        "non_empty_rate": share(non_empty, admitted),
        "admission_rate": share(admitted, candidates),
        "rejected": rejected,
        "mean_similarity": mean_similarity,
        "table_gini": gini(counts[key] for key in populated),
        "tokens_in": _total(books, "tokens_in"),
        "tokens_out": _total(books, "tokens_out"),
        "cost_usd": cost_usd,
        "cost_unconfirmed_usd": unconfirmed_usd,
        "cost_usd_per_1000": 1000 * share(cost_usd, admitted),
        "projected_cost_usd": projected_cost_usd(cost_usd + unconfirmed_usd, admitted, target),
        "max_cost_usd": max_cost_usd,
        "ledger": list(books),
        "agents": [asdict(tally) for tally in tallies],
        "rounds": len(manifests),
        "wall_s": round(wall_s, 3),
        "phase_s": {phase: round(seconds, 3) for phase, seconds in phase_s.items()},
        "queries_per_second": share(admitted, wall_s),
        "seed": identity["seed"],
        "config_sha256": identity["config_sha256"],
        "versions": versions(),
    }


def farewell(place: str, summary: Mapping[str, Any]) -> str:
    """Return what a person is told at the end: why the run ended, what came out, and how to read it."""
    spent = f"{summary['wall_s']:.0f} s, ${summary['cost_usd']:.2f}"
    if not summary["candidates"]:
        return (
            f"Stopped: {STOP_REASONS[summary['stop_reason']]}.\n"
            f"  The pool is empty: a round is in it when all of it is judged; {spent}"
        )
    reasons = ", ".join(f"{reason} {count}" for reason, count in list(summary["rejected"].items())[:4])
    similarity = "none" if summary["mean_similarity"] is None else f"{summary['mean_similarity']:.3f}"
    quality = (
        f"executability {summary['executability']:.3f}, non-empty {summary['non_empty_rate']:.3f}, "
        f"mean similarity {similarity}"
    )
    used = f"{summary['tables_covered']} of {summary['tables']} (Gini {summary['table_gini']:.2f})"
    fallbacks = sum(agent["fallbacks"] for agent in summary["agents"])
    replies = sum(agent["replies"] for agent in summary["agents"])
    repeated = sum(agent["repeated"] for agent in summary["agents"])
    models = [f"  {replies} replies of models read; a rule answered instead {fallbacks} times"] if replies else []
    if fallbacks and not replies:
        models = [f"  No reply of a model could be had; a rule answered instead {fallbacks} times"]
    if repeated:
        models.append(f"  {repeated} queries stood in one reply more than once and were left out")
    return "\n".join(
        [
            f"Stopped: {STOP_REASONS[summary['stop_reason']]}.",
            f"  {summary['admitted']} rows of {summary['candidates']} candidates (rejected: {reasons or 'none'})",
            f"  {quality}, tables {used}, {spent}",
            *models,
            f"Results: {place}/summary.json and the pool beside it. Read it in Python with:",
            f"  rayfactory.pool.connect({place!r}).sql('SELECT * FROM R').show()",
            f"See what it is like with: python -m rayfactory task=report run_dir={shlex.quote(place)}",
        ]
    )


def versions() -> dict[str, str]:
    """Return the versions of Python, rayfactory and the packages that shape a run."""
    found = {"python": platform.python_version(), "rayfactory": __version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _total(books: Sequence[Mapping[str, Any]], name: str) -> Any:
    return sum(row[name] for row in books)
