"""Do writing and judging overlap, and is the endpoint kept busy? A run over TPC-DS with one that takes two seconds.

    python -m benchmarks.overlap [--target 2000 --in-flight 64 --delay 2.0 --queries 10 --usable 1.0]

The endpoint is the one of the tests, in this process, beside the run's; it answers with queries that the schema grammar
wrote beforehand. Prints one JSON object. `ratio` is the time of the loop over the larger of what writing (plan and
produce) and judging took: 1 is a perfect overlap, the limit is 1.15. Overlapping rounds count once. `occupancy` is the
mean number of requests that the endpoint had at work while rounds were written, of those that may be in flight.

With ten queries a request the judges are what a run on a small machine waits for. `--queries 1 --usable 0.25`, one
query a request and three of four without any sense, makes a run that waits for the endpoint.
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
from rayfactory.databases.engine import connect
from rayfactory.models.grammar import write_queries
from rayfactory.pool import read_manifests
from rayfactory.runs import open_databases
from tests.models.endpoint_server import serving

PROJECT = Path(__file__).resolve().parents[1]
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
    parser.add_argument("--target", type=int, default=2000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--delay", type=float, default=2.0)
    parser.add_argument("--queries", type=int, default=10, help="queries of a request")
    parser.add_argument("--usable", type=float, default=1.0, help="share of the queries that parse")
    arguments = parser.parse_args()
    queries = iter(written(math.ceil(QUERIES_PER_ROW * arguments.target)))

    nonsense = random.Random(0)

    def reply(messages: Sequence[Mapping[str, str]]) -> str:
        if "<start-sql>" not in messages[0]["content"]:
            return "STATE: EXP"
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
        served = server.ledger()
        summary = json.loads(Path(folder, "run", "summary.json").read_text(encoding="utf-8"))
        manifests = list(read_manifests(Path(folder, "run")))
    phase_s = summary["phase_s"]
    first = manifests[0].phase_s
    # The clock of a run starts with Ray; the loop starts when the first plan is asked for.
    before_s = manifests[0].wall_s - sum(first.values())
    loop_s = summary["wall_s"] - before_s
    larger_s = max(phase_s["plan"] + phase_s["produce"], phase_s["judge"])
    print(
        json.dumps(
            {
                "benchmark": "overlap",
                "reference": "the larger of writing and judging, each summed over the rounds",
                "target": arguments.target,
                "in_flight": arguments.in_flight,
                "delay_s": arguments.delay,
                "queries_per_request": arguments.queries,
                "usable": arguments.usable,
                "rounds": summary["rounds"],
                "ours": round(loop_s, 2),
                "reference_s": round(larger_s, 2),
                "ratio": round(loop_s / larger_s, 3),
                "start_s": round(before_s, 2),
                "command_s": round(command_s, 2),
                "occupancy": round(served["concurrent_s"] / arguments.in_flight / phase_s["produce"], 3),
                "phase_s": phase_s,
            }
        )
    )


if __name__ == "__main__":
    main()
