"""What does judging cost, and how much of the machine does Ray make of it? Prints one JSON object.

    python -m benchmarks.judge [--run runs/tpcds | --corpus FILE] [--limit 1000]

The rows of a finished run over TPC-DS, or queries of a file for it (the 99 official ones where neither is given), are
judged as candidates for an empty pool, in rounds of 200. Each stage alone: parsing (with the canonical form, the
features and the tree), running, embedding, and retrieval with admission, in one process for each core, all of them at
that stage; `core_ms` has the core-milliseconds a query of each. Then all stages by the actors and datasets of a run.
`reference_per_s` is what the cores could do if the stages were all: cores / the sum of the stages' core-seconds a
query; `ours` is what Ray does, both in queries a second, and `driver_ms` is the processor's time that the process of
the loop itself takes for a query, of which a cluster has one. The two take turns, a round each, so that a machine which
changes its speed does so for both.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from benchmarks.corpus import add_arguments, add_run_argument, chosen_queries
from rayfactory.cluster.crew import Crew
from rayfactory.cluster.critic import Contender, CriticalAgent
from rayfactory.cluster.dataflow import leave_alone_what_is_there
from rayfactory.cluster.session import connected
from rayfactory.compose import compose
from rayfactory.config import Config
from rayfactory.records import Candidate, Verdict
from rayfactory.runs import open_databases, with_encoder
from rayfactory.tools.embedding import ENCODERS, Embedder
from rayfactory.tools.execution import ExecutionTool, examine

PER_ROUND = 200
MIN_RATIO = 0.8
STAGES = ("parse", "execute", "embed", "retrieve")


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


class Stages:
    """The stages in this process, on one thread.

    Args:
        config: of a run.
    """

    def __init__(self, config: Config) -> None:
        databases, schemas = open_databases(config)
        self._block = config.embedding.batch_size
        self._tool = ExecutionTool(databases, schemas, config.execution)
        self._embedder = Embedder(config.embedding, Path(config.data_dir) / ENCODERS, num_streams=1)
        self._critic = CriticalAgent(config, {name: schema.dialect for name, schema in schemas.items()})
        self._first_id = 0
        leave_alone_what_is_there()  # as in the processes of a run

    def do(self, stage: str | None, candidates: Sequence[Candidate], lasting: bool) -> float:
        """Do one stage of a round, after the one before it; return its core-seconds.

        Args:
            stage: None: none of them.
            candidates: of the round.
            lasting: what is admitted is in the pool afterwards.
        """
        # Not the processor's time: statements run in another process while this one waits, and together they have one
        # core; and what a hypervisor takes from a core is not to be had by a run either.
        begun = time.perf_counter()
        if stage == "parse":
            self._examined = [examine(candidate.sql, candidate.dialect) for candidate in candidates]
        elif stage == "execute":
            self._executions = [
                self._tool.run(candidate.database, candidate.sql, found)
                for candidate, found in zip(candidates, self._examined, strict=True)
            ]
        elif stage == "embed":
            texts = [execution.text for execution in self._executions]
            blocks = [texts[start : start + self._block] for start in range(0, len(texts), self._block)]
            self._vectors_ND = np.concatenate([self._embedder.encode(block) for block in blocks])
        elif stage == "retrieve":
            admitted = self._admitted(candidates)
            ids = {self._first_id + place: self._first_id + i for i, place in enumerate(admitted)}
            self._critic.commit(ids if lasting else {})
            self._first_id += len(ids) if lasting else 0
        return time.perf_counter() - begun

    def close(self) -> None:
        """End the process that statements run in."""
        self._tool.close()

    def _admitted(self, candidates: Sequence[Candidate]) -> list[int]:
        """Return the places of those that are admitted."""
        admitted = []
        for start in range(0, len(candidates), self._block):
            contenders = [
                Contender(place, candidates[place], self._executions[place], self._vectors_ND[place])
                for place in range(start, min(start + self._block, len(candidates)))
                if self._executions[place].reason is None
            ]
            decisions = self._critic.admit(contenders, self._first_id)
            admitted += [
                contender.position
                for contender, decision in zip(contenders, decisions, strict=True)
                if decision.reason is None
            ]
        return admitted


class Alone:
    """Each stage with the machine to itself: in one process for each core that is to work at it.

    Args:
        config: of a run.
        num_cores: that work at a stage at the same time, each at all candidates.
    """

    def __init__(self, config: Config, num_cores: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes = []
        for _ in range(num_cores):
            ours, theirs = context.Pipe()
            context.Process(target=_work, args=(config, theirs), daemon=True).start()
            self._pipes.append(ours)
        self.core_s: dict[str, float] = {}

    def judge(self, candidates: Sequence[Candidate], *, counted: bool = True) -> None:
        """Judge a round, and count the core-seconds of each stage, the mean of the cores.

        Args:
            candidates: of one round.
            counted: else it is what the first queries make warm, and not in the pool afterwards.
        """
        for stage in (None, *STAGES):
            for pipe in self._pipes:
                pipe.send((stage, candidates, counted))
            seconds = sum(pipe.recv() for pipe in self._pipes) / len(self._pipes)
            if stage is not None and counted:
                self.core_s[stage] = self.core_s.get(stage, 0.0) + seconds

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.send(None)


def _work(config: Config, pipe: Connection) -> None:
    """Do one stage after the other, as `Alone` asks for them."""
    stages = Stages(config)
    while (asked := pipe.recv()) is not None:
        pipe.send(stages.do(*asked))
    stages.close()


class ThroughRay:
    """The actors and datasets of a run."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._first_id = 0
        self.wall_s = self.driver_s = 0.0

    def warm_up(self, candidates: Sequence[Candidate]) -> None:
        """Start the processes of the stages; nothing of it is counted, or in the pool afterwards."""
        for _ in range(2):
            self._crew.judge([candidates], 0, lambda _: None)
            self._crew.commit({})

    def judge(self, candidates: Sequence[Candidate]) -> None:
        """Judge a round, and count the seconds."""
        begun, driver_begun = time.perf_counter(), time.process_time()
        verdicts = self._crew.judge([candidates], self._first_id, lambda _: None)
        ids = _ids(verdicts, self._first_id)
        self._crew.commit(ids)
        self.wall_s += time.perf_counter() - begun
        self.driver_s += time.process_time() - driver_begun
        self._first_id += len(ids)


def _ids(verdicts: Sequence[Verdict], first_id: int) -> dict[int, int]:
    admitted = [position for position, verdict in enumerate(verdicts) if verdict.reason is None]
    return {first_id + position: first_id + i for i, position in enumerate(admitted)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    add_run_argument(parser)
    parser.set_defaults(limit=1000)
    arguments = parser.parse_args()
    candidates = as_candidates(chosen_queries(arguments))
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        config = compose(
            ["+benchmark=tpcds", f"run_dir={folder}/run", "cluster.dashboard=false", f"cluster.num_cpus={cores}"]
        )
        config = with_encoder(replace(config, round=replace(config.round, requests_after_warmup=20)))
        databases, schemas = open_databases(config)
        rounds = [candidates[start : start + PER_ROUND] for start in range(0, len(candidates), PER_ROUND)]
        with connected(config.cluster):
            crew = Crew(config, databases, schemas, list)
            through_ray, alone = ThroughRay(crew), Alone(config, cores)
            through_ray.warm_up(rounds[0])
            alone.judge(rounds[0], counted=False)
            for round_ in rounds:
                alone.judge(round_)
                through_ray.judge(round_)
            crew.close()
        alone.close()
    possible = cores * len(candidates) / sum(alone.core_s.values())
    reached = len(candidates) / through_ray.wall_s
    ratio = reached / possible
    report = {
        "benchmark": "judge",
        "reference": "cores / the sum of the stages' core-seconds a query",
        "candidates": len(candidates),
        "cores": cores,
        "ours": round(reached, 1),
        "reference_per_s": round(possible, 1),
        "ratio": round(ratio, 3),
        "driver_ms": round(through_ray.driver_s / len(candidates) * 1e3, 2),
        "core_ms": {stage: round(seconds / len(candidates) * 1e3, 2) for stage, seconds in alone.core_s.items()},
    }
    print(json.dumps(report))
    if len(candidates) >= 1000 and ratio < MIN_RATIO:
        raise SystemExit(f"ratio {ratio:.3f} is less than {MIN_RATIO}")


if __name__ == "__main__":
    main()
