"""Do writing and judging overlap, and is the endpoint kept busy? A run over TPC-DS with one that takes two seconds.

    python -m benchmarks.overlap [--target 2000 --in-flight 64 --delay 2.0 --queries 10 --usable 1.0]

The endpoint is the one of the tests, in this process, beside the run's; it answers with queries that the schema grammar
wrote beforehand. Prints one JSON object. `ratio` is the time of the loop over the larger of what writing (planning or
producing, each second once) and judging took: 1 is a perfect overlap, the limit is 1.15. `occupancy` is the mean number
of requests that the endpoint had at work while rounds were produced, of those that may be in flight;
`occupancy_after_warmup` leaves out the small rounds of the warm-up, and takes in the time in which rounds were planned.

With ten queries a request the judges are what a run on a small machine waits for. `--queries 1 --usable 0.25`, one
query a request and three of four without any sense, makes a run that waits for the endpoint; the limit of its occupancy
is 0.9. A run over 2,000 rows or more that misses a limit ends with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rayfactory.agents.table_selection import select_tables
from rayfactory.compose import compose
from rayfactory.config import ManagementConfig
from rayfactory.databases.engine import connect
from rayfactory.models.grammar import write_queries
from rayfactory.pool import read_manifests
from rayfactory.runs import open_databases
from tests.models.endpoint_server import serving

PROJECT = Path(__file__).resolve().parents[1]
FULL_TARGET = 2_000
MAX_RATIO = 1.15
MIN_OCCUPANCY = 0.9
QUERIES_PER_ROW = 1.5
"""Written for the endpoint to answer with; each is given out once, as no model repeats itself word for word."""


def written(count: int) -> list[str]:
    """Return queries over TPC-DS for the endpoint to answer with."""
    config = compose(["+benchmark=tpcds"])
    databases, schemas = open_databases(config)
    schema, rng, use = schemas["tpcds"], random.Random(0), dict[str, float]()
    with_rows = connect(databases["tpcds"], config.execution)
    queries: list[str] = []
    while len(queries) < count:
        tables = select_tables(schema, use, 8, rng)
        for name in tables:
            use[name] = use.get(name, 0.0) + 1
        queries += write_queries(schema, tables, 20, rng, with_rows)
    return queries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=int, default=FULL_TARGET)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--delay", type=float, default=2.0)
    parser.add_argument("--queries", type=int, default=10, help="queries of a request")
    parser.add_argument("--usable", type=float, default=1.0, help="share of the queries that parse")
    arguments = parser.parse_args()
    queries = iter(written(math.ceil(QUERIES_PER_ROW * arguments.target)))

    nonsense = random.Random(0)
    asked_at_s: list[float] = []

    def reply(messages: Sequence[Mapping[str, str]]) -> str:
        if "<start-sql>" not in messages[0]["content"]:
            return "STATE: EXP"
        if "You correct SQL" not in messages[0]["content"]:
            asked_at_s.append(time.monotonic())
        made = [
            next(queries) if nonsense.random() < arguments.usable else "SELECT FROM WHERE"
            for _ in range(arguments.queries)
        ]
        return "\n".join(f"<start-sql>\n{sql}\n<end-sql>" for sql in made)

    with tempfile.TemporaryDirectory() as folder, serving(reply=reply, delay_s=arguments.delay) as server:
        command = [sys.executable, "-m", "rayfactory", "+benchmark=tpcds", "models=endpoint", "display.mode=none"]
        command += [
            f"models.strong.base_url={server.base_url}",
            "models.strong.name=test-model",
            f"run_dir={folder}/run",
        ]
        command += [f"models.strong.max_in_flight={arguments.in_flight}", f"target={arguments.target}"]
        command += [f"round.queries_per_request={arguments.queries}", "cluster.dashboard=false"]
        # A second try at what does not parse would be a call of its own.
        command += [] if arguments.usable == 1 else ["models.self_correction=false"]
        started = time.monotonic()
        subprocess.run(command, cwd=PROJECT, check=True)
        command_s = time.monotonic() - started
        spans_s = list(server.spans_s)
        summary = json.loads(Path(folder, "run", "summary.json").read_text(encoding="utf-8"))
        manifests = list(read_manifests(Path(folder, "run")))
    phase_s = summary["phase_s"]
    loop_s = summary["wall_s"] - phase_s["start"]
    larger_s = max(phase_s["write"], phase_s["judge"])
    warm_up, rest = manifests[: ManagementConfig().warmup_rounds], manifests[ManagementConfig().warmup_rounds :]
    # Each request takes as long as the others: the last one of the warm-up that began was the last to be answered.
    warm_s = asked_at_s[sum(len(manifest.plan) for manifest in warm_up) - 1] + arguments.delay
    result = {
        "benchmark": "overlap",
        "reference": "the larger of writing and judging, each summed over the rounds",
        "target": arguments.target,
        "in_flight": arguments.in_flight,
        "delay_s": arguments.delay,
        "queries_per_request": arguments.queries,
        "usable": arguments.usable,
        "rounds": summary["rounds"],
        "requests": len(asked_at_s),
        "requests_of_rounds": sum(len(manifest.plan) for manifest in manifests),
        "ours": round(loop_s, 2),
        "reference_s": round(larger_s, 2),
        "ratio": round(loop_s / larger_s, 3),
        "start_s": phase_s["start"],
        "command_s": round(command_s, 2),
        "occupancy": occupancy(spans_s, 0.0, phase_s["produce"], arguments.in_flight),
        "occupancy_after_warmup": occupancy(
            spans_s, warm_s, sum(manifest.phase_s["write"] for manifest in rest), arguments.in_flight
        ),
        "phase_s": phase_s,
    }
    print(json.dumps(result))
    if arguments.target >= FULL_TARGET:
        if result["ratio"] > MAX_RATIO:
            sys.exit(f"ratio {result['ratio']} is more than {MAX_RATIO}")
        if phase_s["write"] >= phase_s["judge"] and result["occupancy"] < MIN_OCCUPANCY:
            sys.exit(f"occupancy {result['occupancy']} is less than {MIN_OCCUPANCY}")


def occupancy(spans_s: Sequence[tuple[float, float]], since_s: float, write_s: float, in_flight: int) -> float:
    """Return the share of `in_flight` that was at work in so many seconds of writing since a moment."""
    busy_s = sum(max(0.0, end - max(begin, since_s)) for begin, end in spans_s)
    return round(busy_s / in_flight / write_s, 3) if write_s else 0.0


if __name__ == "__main__":
    main()
