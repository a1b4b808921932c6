"""What does judging cost, and how much of the machine does Ray make of it? Prints one JSON object.

    python -m benchmarks.judge [--run runs/tpcds | --corpus FILE] [--limit 1000]

The rows of a finished run over TPC-DS, or queries of a file for it (the 99 official ones where neither is given), are
judged as candidates for an empty pool, in rounds of 200. Each stage alone: parsing (with the canonical form, the
features and the tree), running, embedding, and retrieval with admission, each in this process on one thread; `core_ms`
has the core-milliseconds a query of each. Then all of it by the actors and datasets of a run. `reference_per_s` is what
the cores could do if the stages were all: cores / the sum of the stages' core-seconds a query; `ours` is what Ray does,
both in queries a second.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.corpus import add_arguments, official_tpcds, read_corpus
from rayfactory.cluster.crew import Crew
from rayfactory.cluster.critic import Contender, CriticalAgent
from rayfactory.cluster.session import connected
from rayfactory.compose import compose
from rayfactory.config import Config
from rayfactory.databases.engine import Database
from rayfactory.databases.schema import Schema
from rayfactory.pool import connect
from rayfactory.records import Candidate, Verdict
from rayfactory.runs import open_databases, with_encoder
from rayfactory.tools.embedding import ENCODERS, Embedder
from rayfactory.tools.execution import ExecutionTool, examine

PER_ROUND = 200
MIN_RATIO = 0.8


def queries_of(run_dir: Path) -> list[str]:
    """Return the queries of a run, in order."""
    return [sql for (sql,) in connect(run_dir).sql("SELECT sql FROM R ORDER BY query_id").fetchall()]


def as_candidates(queries: Sequence[str]) -> list[Candidate]:
    """Return queries over TPC-DS as candidates."""
    return [
        Candidate(
            database="tpcds",
            dialect="duckdb",
            sql=sql,
            origin="generation",
            round=place // PER_ROUND,
            request=place % PER_ROUND // 10,
            ordinal=place % 10,
            model="",
            prompt_sha256="",
            seed_ids=(),
            num_request_tables=2,
        )
        for place, sql in enumerate(queries)
    ]


def stages_alone(
    config: Config, databases: dict[str, Database], schemas: dict[str, Schema], candidates: Sequence[Candidate]
) -> dict[str, float]:
    """Return the core-seconds of each stage over all candidates."""
    seconds: dict[str, float] = {}

    def since(begun: float) -> float:
        return time.process_time() - begun

    # What the first queries make warm, they do for the run's actors too.
    for candidate in candidates[:PER_ROUND]:
        examine(candidate.sql, candidate.dialect)
    begun = time.process_time()
    examined = [examine(candidate.sql, candidate.dialect) for candidate in candidates]
    seconds["parse"] = since(begun)
    tool = ExecutionTool(databases, schemas, config.execution)
    for candidate, found in zip(candidates[:PER_ROUND], examined, strict=False):
        tool.run(candidate.database, candidate.sql, found)
    # Statements run in another process while this one waits: together they have one core.
    begun_wall = time.perf_counter()
    executions = [
        tool.run(candidate.database, candidate.sql, found)
        for candidate, found in zip(candidates, examined, strict=True)
    ]
    seconds["execute"] = time.perf_counter() - begun_wall
    tool.close()
    embedder = Embedder(config.embedding, Path(config.data_dir) / ENCODERS, num_streams=1)
    embedder.encode([execution.text for execution in executions[: 2 * config.embedding.batch_size]])
    block, first_id = config.embedding.batch_size, 0
    texts = [execution.text for execution in executions]
    begun = time.process_time()
    vectors = np.concatenate([embedder.encode(texts[start : start + block]) for start in range(0, len(texts), block)])
    seconds["embed"] = since(begun)
    critic = CriticalAgent(config, {name: schema.dialect for name, schema in schemas.items()})
    begun = time.process_time()
    for start in range(0, len(candidates), PER_ROUND):
        ids: dict[int, int] = {}
        end = min(start + PER_ROUND, len(candidates))
        for first in range(start, end, block):
            contenders = [
                Contender(i - start, candidates[i], executions[i], vectors[i])
                for i in range(first, min(first + block, end))
                if executions[i].reason is None
            ]
            decisions = critic.admit(contenders, first_id)
            for contender, decision in zip(contenders, decisions, strict=True):
                if decision.reason is None:
                    ids[first_id + contender.position] = first_id + len(ids)
        critic.commit(ids)
        first_id += len(ids)
    seconds["retrieve"] = since(begun)
    return seconds


def through_ray(
    config: Config, databases: dict[str, Database], schemas: dict[str, Schema], candidates: Sequence[Candidate]
) -> float:
    """Return the seconds in which the actors of a run judge all candidates."""
    with connected(config.cluster) as session:
        crew = Crew(config, session, databases, schemas, list)
        first_id = 0

        def judged(round_: Sequence[Candidate]) -> None:
            nonlocal first_id
            verdicts = crew.judge([round_], first_id, lambda _: None)
            crew.commit(_ids(verdicts, first_id))
            first_id += len(_ids(verdicts, first_id))

        # The processes of the stages start with the first rounds; what they judge is not in the pool afterwards.
        for _ in range(2):
            crew.judge([candidates[:PER_ROUND]], first_id, lambda _: None)
            crew.commit({})
        begun = time.perf_counter()
        for start in range(0, len(candidates), PER_ROUND):
            judged(candidates[start : start + PER_ROUND])
        seconds = time.perf_counter() - begun
        crew.close()
    return seconds


def _ids(verdicts: Sequence[Verdict], first_id: int) -> dict[int, int]:
    admitted = [position for position, verdict in enumerate(verdicts) if verdict.reason is None]
    return {first_id + position: first_id + i for i, position in enumerate(admitted)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--run", type=Path, help="a finished run over TPC-DS")
    parser.set_defaults(limit=1000)
    arguments = parser.parse_args()
    if arguments.run is not None:
        queries = queries_of(arguments.run)
    else:
        queries = official_tpcds() if arguments.corpus is None else read_corpus(arguments.corpus)
    candidates = as_candidates(queries[: arguments.limit])
    with tempfile.TemporaryDirectory() as folder:
        config = compose(["+benchmark=tpcds", f"run_dir={folder}/run", "cluster.dashboard=false"])
        config = with_encoder(replace(config, round=replace(config.round, requests_after_warmup=20)))
        databases, schemas = open_databases(config)
        alone_s = stages_alone(config, databases, schemas, candidates)
        ray_s = through_ray(config, databases, schemas, candidates)
    cores = len(os.sched_getaffinity(0))
    possible = cores * len(candidates) / sum(alone_s.values())
    reached = len(candidates) / ray_s
    ratio = reached / possible
    report = {
        "benchmark": "judge",
        "reference": "cores / the sum of the stages' core-seconds a query",
        "candidates": len(candidates),
        "cores": cores,
        "ours": round(reached, 1),
        "reference_per_s": round(possible, 1),
        "ratio": round(ratio, 3),
        "core_ms": {stage: round(seconds / len(candidates) * 1e3, 2) for stage, seconds in alone_s.items()},
    }
    print(json.dumps(report))
    if len(candidates) >= 1000 and ratio < MIN_RATIO:
        raise SystemExit(f"ratio {ratio:.3f} is less than {MIN_RATIO}")


if __name__ == "__main__":
    main()
