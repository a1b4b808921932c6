"""How does a run scale: with actors on this machine, and with nodes that are not here? Prints one JSON object.

    python -m benchmarks.scaling --run runs/tpcds [--measured FILE] [--node-cores 16 --node-usd-per-h 0.68 ..]

First what this machine tells. `generation`: rows admitted in a second by 8 generation actors, each with one call at a
time to an endpoint that takes two seconds, over those by one. `critic`: candidates judged in a second by workers on two
cores over those by one worker on one core, by `benchmarks.judge`; it tells the costs of the stages as well.
`stages_alone_ratio` is what two cores do over what one does without Ray, each stage by itself in a process on each
core: less than 2 where cores share what is between them and the memory.

Then `benchmarks.simulation` plays runs on 1 to 1,000 nodes with these costs: what is judged in a second, what was
busiest, and what 300,000, 10 million and 1 billion queries take in hours and dollars. `this_machine` is the same
simulation of the two runs that were measured, beside them: by so much it is wrong here. `--measured` takes the first
part from the output of an earlier run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.overlap import written
from benchmarks.simulation import Cluster, Costs, Outcome, Rounds, simulate
from rayfactory.agents.table_selection import select_tables
from rayfactory.compose import compose
from rayfactory.databases.engine import connect
from rayfactory.identity import read_identity
from rayfactory.models.grammar import write_queries
from rayfactory.pool import opened, read_manifests, read_summary
from rayfactory.reports.estimates import ADMITTED_SHARE, estimates, outlook
from rayfactory.reports.examples import example_prompts
from rayfactory.runs import open_databases
from tests.models.endpoint_server import serving

PROJECT = Path(__file__).resolve().parents[1]
ACTORS = (1, 8)
DELAY_S = 2.0
REQUESTS_PER_ACTOR, NUM_ROUNDS = 10, 4
MIN_GENERATION, MIN_CRITIC = 7.0, 1.8
NODES = (1, 3, 10, 30, 100, 300, 1_000)
CORPORA = (300_000, 10_000_000, 1_000_000_000)
ROWS_OF_AN_ESTIMATE = 100_000


def generation(num_actors: int, queries: Sequence[str]) -> dict[str, float]:
    """Return what generation actors admit in a second, each with one call at a time that asks for one query."""
    places = count()

    def reply(_messages: Sequence[Mapping[str, str]]) -> str:
        return f"<start-sql>\n{queries[next(places) % len(queries)]}\n<end-sql>"

    requests = REQUESTS_PER_ACTOR * num_actors
    with tempfile.TemporaryDirectory() as folder, serving(reply=reply, delay_s=DELAY_S) as server:
        run_dir = Path(folder, "run")
        command = [sys.executable, "-m", "rayfactory", "+benchmark=tpcds", "models=endpoint", "display.mode=none"]
        command += [f"models.strong.base_url={server.base_url}", "models.strong.name=test-model", f"run_dir={run_dir}"]
        agents = ("expansion", "table_selection", "seed_selection", "management", "critical")
        command += [f"models.{agent}.model=rule" for agent in agents] + ["models.self_correction=false"]
        command += [f"cluster.workers={num_actors}", f"models.strong.max_in_flight={num_actors}"]
        command += ["round.queries_per_request=1", f"round.requests={requests}", "cluster.dashboard=false"]
        # Every round explores, so that all is written by the actors that are counted.
        command += [f"management.warmup_rounds={NUM_ROUNDS}", f"max_candidates={NUM_ROUNDS * requests}", "target=null"]
        subprocess.run(command, cwd=PROJECT, check=True)
        manifests = read_manifests(run_dir)
    rows = sum(manifest.num_rows for manifest in manifests[1:])
    seconds = manifests[-1].wall_s - manifests[0].wall_s
    return {"actors": num_actors, "rows": rows, "seconds": round(seconds, 1), "rows_per_s": round(rows / seconds, 3)}


def judged(run: Path, cores: Sequence[int], limit: int) -> dict[str, Any]:
    """Return what `benchmarks.judge` says where it has these cores."""
    command = [sys.executable, "-m", "benchmarks.judge", "--run", str(run), "--limit", str(limit)]
    done = subprocess.run(
        command,
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    if not done.stdout.startswith("{"):
        raise SystemExit(f"benchmarks.judge ended with {done.returncode}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def write_ms(num_queries: int = 200) -> float:
    """Return the core-milliseconds that a query takes which the rule of the generation agent writes."""
    databases, schemas = open_databases(compose(["+benchmark=tpcds"]))
    schema, rng = schemas["tpcds"], random.Random(1)
    engine = connect(databases["tpcds"], compose(["+benchmark=tpcds"]).execution)
    begun, found = time.perf_counter(), 0
    while found < num_queries:
        found += len(write_queries(schema, select_tables(schema, {}, 8, rng), 10, rng, engine))
    return 1e3 * (time.perf_counter() - begun) / found


def round_ms_per_row(run: Path) -> float:
    """Return the milliseconds of the driver that a row takes of a round's plan (the median of a run) and commit."""
    identity = read_identity(run)
    assert identity is not None
    known = {name: value for name, value in identity.items() if name != "format"}
    with tempfile.TemporaryDirectory() as folder, opened(run, known) as source, opened(Path(folder), known) as pool:
        manifest, (signatures, vectors) = source.manifests[0], source.compared(0, 0)
        tables = {"R": source.rows(0, 0), "E": vectors, "S": signatures, "rejects": source.rejects(0)}
        begun = time.perf_counter()
        pool.commit(tables, manifest.plan, manifest.evaluation, manifest.wall_s)
        commit_s = time.perf_counter() - begun
        plans_s = sorted(manifest.phase_s["plan"] for manifest in source.manifests)
    return 1e3 * (commit_s + plans_s[len(plans_s) // 2]) / manifest.num_rows


def admitted_share(run: Path) -> float:
    """Return the share of its candidates that a run admitted."""
    summary = read_summary(run)
    return float(summary["admitted"] / summary["candidates"])


def measured(run: Path, limit: int) -> dict[str, Any]:
    """Return what this machine tells."""
    here = sorted(os.sched_getaffinity(0))
    one, two = (judged(run, cores, limit) for cores in (here[:1], here[:2]))
    queries = written(REQUESTS_PER_ACTOR * ACTORS[-1] * NUM_ROUNDS)
    actors = [generation(number, queries) for number in ACTORS]
    return {
        "generation": actors,
        "generation_ratio": round(actors[-1]["rows_per_s"] / actors[0]["rows_per_s"], 2),
        "critic": {
            "one_worker_per_s": one["ours"],
            "two_workers_per_s": two["ours"],
            "ratio": round(two["ours"] / one["ours"], 2),
            "stages_alone_ratio": round(two["reference_per_s"] / one["reference_per_s"], 2),
        },
        "core_ms": two["core_ms"] | {"write": round(write_ms(), 2)},
        "driver_ms": round(two["driver_ms"] + round_ms_per_row(run), 2),
        "admitted_share": round(admitted_share(run), 3),
    }


def usd_per_row(models: str) -> float:
    """Return what a preview of a run over TPC-DS says that a row costs."""
    config = compose(["+benchmark=tpcds", f"models={models}", f"target={ROWS_OF_AN_ESTIMATE}"])
    _, schemas = open_databases(config)
    left = outlook(config)
    found = estimates(config, schemas, example_prompts(config, schemas), left)
    return sum(estimate.cost_usd for estimate in found) / ROWS_OF_AN_ESTIMATE


def predictions(known: Mapping[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the simulation says of this machine, and of clusters."""
    core_ms = known["core_ms"]
    costs = Costs(
        write_s=core_ms["write"] / 1e3,
        judge_s=(core_ms["parse"] + core_ms["execute"] + core_ms["embed"]) / 1e3,
        retrieve_s=core_ms["retrieve"] / 1e3,
        driver_s=known["driver_ms"] / 1e3,
    )
    # Judging alone, where critic and driver have no cores of their own.
    on_cores = Costs(0.0, costs.judge_s + costs.retrieve_s + costs.driver_s, 0.0, 0.0)
    here = [simulate(on_cores, Cluster(cores), Rounds(20)).queries_per_s for cores in (1, 2)]
    read = Costs(costs.driver_s, costs.judge_s, costs.retrieve_s, costs.driver_s)
    scenarios: dict[str, tuple[Costs, int, float, float, float]] = {
        # What writes, the calls of a node, the dollars of a node-hour and of a row, the share that is admitted.
        "rules": (costs, 0, arguments.node_usd_per_h, 0.0, known["admitted_share"]),
        "models": (read, arguments.gpu_calls, arguments.gpu_node_usd_per_h, usd_per_row("paper"), ADMITTED_SHARE),
    }
    found: dict[str, Any] = {
        "this_machine": [
            {"cores": cores, "simulated_per_s": round(per_s, 1), "measured_per_s": known["critic"][name]}
            for cores, per_s, name in zip((1, 2), here, ("one_worker_per_s", "two_workers_per_s"), strict=True)
        ]
    }
    for name, (its_costs, calls, node_usd, row_usd, share) in scenarios.items():
        for critics in (1, arguments.critics):
            sizes = []
            for nodes in NODES:
                outcome = on_nodes(its_costs, nodes, critics, calls, arguments)
                hours = {rows: rows / share / outcome.queries_per_s / 3600 for rows in CORPORA}
                corpora = {
                    f"{rows:,}": {
                        "hours": round(hours[rows], 2),
                        "usd": round(hours[rows] * nodes * node_usd + rows * row_usd),
                    }
                    for rows in CORPORA
                }
                busy = {resource: round(share, 2) for resource, share in outcome.busy.items()}
                sizes.append(
                    {
                        "nodes": nodes,
                        "queries_per_s": round(outcome.queries_per_s, 1),
                        "bottleneck": outcome.bottleneck,
                        "busy": busy,
                        "corpora": corpora,
                    }
                )
            found[f"{name}, {critics} critic(s)"] = sizes
    return found


def on_nodes(costs: Costs, nodes: int, critics: int, calls: int, arguments: argparse.Namespace) -> Outcome:
    """Return what a run does on so many nodes, with rounds that are as large as they have to be."""
    cores = nodes * arguments.node_cores
    # Enough that all cores, and all calls, have work while the last blocks of a round are judged.
    requests = max(20, 4 * cores, 4 * calls * nodes)
    return simulate(costs, Cluster(cores, critics, calls * nodes, arguments.call_s), Rounds(requests), num_rounds=4)


def main() -> None:
    """Measure, simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a finished run over TPC-DS, with its default settings")
    parser.add_argument("--measured", type=Path, help="output of an earlier run, whose measurements are taken")
    parser.add_argument("--limit", type=int, default=1_000, help="candidates that are judged")
    parser.add_argument("--critics", type=int, default=64, help="shards of the index, where there are many databases")
    parser.add_argument("--node-cores", type=int, default=16)
    parser.add_argument("--node-usd-per-h", type=float, default=0.68, help="of a node with these cores: an assumption")
    parser.add_argument("--gpu-node-usd-per-h", type=float, default=1.6, help="with a GPU as well: an assumption")
    parser.add_argument("--gpu-calls", type=int, default=64, help="calls that the GPU of a node answers at a time")
    parser.add_argument("--call-s", type=float, default=50.0, help="seconds of such a call, ten queries: an assumption")
    arguments = parser.parse_args()
    if arguments.measured is not None:
        known: dict[str, Any] = json.loads(arguments.measured.read_text(encoding="utf-8"))["measured"]
    else:
        known = measured(arguments.run, arguments.limit)
    assumed = ("node_cores", "node_usd_per_h", "gpu_node_usd_per_h", "gpu_calls", "call_s", "critics")
    report = {
        "benchmark": "scaling",
        "measured": known,
        "assumed": {name: getattr(arguments, name) for name in assumed},
        "simulated": predictions(known, arguments),
    }
    print(json.dumps(report))
    if known["generation_ratio"] < MIN_GENERATION or known["critic"]["ratio"] < MIN_CRITIC:
        raise SystemExit(f"8 actors have to do {MIN_GENERATION} times what 1 does, 2 workers {MIN_CRITIC} times")


if __name__ == "__main__":
    main()
