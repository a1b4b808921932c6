"""The loop: plan, produce, judge, commit. Read this first.

While a round is judged, the next one is planned and produced. So the plan of round t rests on the rounds up to
t - 2, also in a run that resumes, and the pool is the same however often the run was interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Protocol

import pyarrow as pa

from rayfactory.agents.critical import evaluate
from rayfactory.agents.management import LAG, is_exhausted, is_saturated
from rayfactory.agents.planning import Knowledge, Plan, PlanningAgents, plan_round, queries_missing
from rayfactory.config import Config
from rayfactory.databases.schema import Schema
from rayfactory.models.chat import ChatStatus
from rayfactory.pool import PlannedRequest, Pool
from rayfactory.records import (
    E_SCHEMA,
    R_SCHEMA,
    REJECTS_SCHEMA,
    Answer,
    Candidate,
    Request,
    Tally,
    Verdict,
    add_tallies,
)
from rayfactory.reports.monitor import Monitor, Progress
from rayfactory.reports.summary import StopReason
from rayfactory.tools.statistics import Statistics


class Clock:
    """Seconds of work on a run, over all its processes."""

    def __init__(self, before_s: float) -> None:
        self._before_s = before_s
        self._started = time.monotonic()

    @property
    def wall_s(self) -> float:
        return self._before_s + time.monotonic() - self._started


class _Counted:
    """Counts over every committed round, for the stopping rules and the monitor."""

    def __init__(self, pool: Pool) -> None:
        self.statistics = Statistics()
        self.pool_similarities: list[float] = []
        for manifest in pool.manifests:
            self.add(pool.rows(manifest.round, manifest.round))

    def add(self, rows: pa.Table) -> None:
        self.statistics.add(rows)
        if self.statistics.mean_similarity is not None:
            self.pool_similarities.append(self.statistics.mean_similarity)


class Workers(PlanningAgents, Protocol):
    """What the loop asks of the agents, wherever they run; `cluster.crew.Crew` has them on Ray."""

    def produce(self, requests: Sequence[Request], on_answer: Callable[[int], None]) -> list[Answer]:
        """Have the authors answer the requests of a round, in their order."""

    def take_tallies(self) -> list[Tally]:
        """Return what happened between the planning agents and their models since the last call."""

    def leave(self) -> None:
        """Have what another thread waits for end soon: the run is being left."""

    def models(self) -> ChatStatus | None:
        """Return the newest that is known of the models; None where all agents keep to their rules."""

    def judge(
        self, candidates: Sequence[Candidate], first_id: int, on_verdicts: Callable[[Sequence[Verdict]], None]
    ) -> list[Verdict]:
        """Judge the candidates of a round."""

    def commit(self, ids: Mapping[int, int]) -> None:
        """Learn which query_id each admitted position of the round has got."""


@dataclass(frozen=True, slots=True)
class Produced:
    """A round that is planned and written.

    Attributes:
        candidates: in order.
        tallies: what happened between the agents and their models, one for each agent.
        out_of_budget: whether requests stayed unanswered because `max_cost_usd` was reached.
        phase_s: seconds that planning and writing took.
    """

    plan: Plan
    candidates: tuple[Candidate, ...]
    tallies: tuple[Tally, ...]
    out_of_budget: bool
    phase_s: dict[str, float]


class Loop:
    """One process's work on a run."""

    def __init__(
        self,
        config: Config,
        schemas: Mapping[str, Schema],
        pool: Pool,
        monitor: Monitor,
        progress: Progress,
        clock: Clock,
    ) -> None:
        self._config = config
        self._schemas = schemas
        self._pool = pool
        self._monitor = monitor
        self._progress = progress
        self._clock = clock
        self._counted = _Counted(pool)
        self._knowledge = _knowledge_before(pool)
        self._warned = False
        self._said: set[str] = set()
        for manifest in pool.manifests:
            progress.commit(manifest.evaluation)
        progress.admitted_before = progress.admitted
        progress.tables = sum(len(schema.populated) for schema in schemas.values())
        self._show_counts()

    def run(self, crew: Workers) -> StopReason:
        """Go round until there is a reason to stop."""
        background = ThreadPoolExecutor(max_workers=1, thread_name_prefix="produce")
        try:
            future = self._start_producing(crew, background)
            while future is not None:
                produced = self._wait_for(crew, future)
                if produced.out_of_budget and not produced.candidates:
                    return "max_cost"
                self._remember(produced.plan)
                # What is known now is what a resumed run would know: everything before the round that is under way.
                self._learn_up_to(produced.plan.round - 1)
                future = None if produced.out_of_budget else self._start_producing(crew, background)
                started = time.monotonic()
                verdicts = self._judge(crew, produced)
                self._commit(crew, produced, verdicts, time.monotonic() - started)
                reason = _stop_reason(self._config, self._pool, self._counted)
                if reason is not None:
                    return reason
                if produced.out_of_budget:
                    return "max_cost"
                self._warn_if_saturated()
                # Enough seemed to be under way, and was not.
                future = future or self._start_producing(crew, background)
        except (KeyboardInterrupt, SystemExit):
            self._monitor.say(
                f"Stopping, which takes a few seconds. {self._pool.num_rows} rows are committed; "
                "the round that is under way is not, and is done again when the run goes on."
            )
            raise
        finally:
            # What is still being written is not needed any more.
            crew.leave()
            background.shutdown(cancel_futures=True)
        return _stop_reason(self._config, self._pool, self._counted) or "max_candidates"

    # -- plan and produce -------------------------------------------------------

    def _start_producing(self, crew: Workers, background: ThreadPoolExecutor) -> Future[Produced] | None:
        """Have the next round planned and written in the background.

        None where the budget is spent, or where the round under way will probably reach the target.
        """
        most = self._most_queries()
        if most is not None and most <= 0:
            return None
        self._progress.answered = 0
        self._progress.activity = "writing the first round"
        return background.submit(self._produce, crew, most)

    def _produce(self, crew: Workers, max_queries: int | None) -> Produced:
        started = time.monotonic()
        plan = plan_round(self._config, self._schemas, self._knowledge, max_queries, crew)
        planned = time.monotonic()
        answers = crew.produce(plan.requests, self._on_answer)
        return Produced(
            plan,
            tuple(candidate for answer in answers for candidate in answer.candidates),
            add_tallies([*crew.take_tallies(), *(tally for answer in answers for tally in answer.tallies)]),
            any(answer.out_of_budget for answer in answers),
            {"plan": planned - started, "produce": time.monotonic() - planned},
        )

    def _remember(self, plan: Plan) -> None:
        """Let the next plan know of one that is written."""
        known = self._knowledge
        known.states.append(plan.state)
        for request in plan.requests:
            known.requested[request.database] += request.num_queries
        known.under_way = [(r.database, r.tables, r.num_queries) for r in plan.requests]

    def _most_queries(self) -> int | None:
        """Return how many queries the next round may ask for, at most; None for no limit.

        It is a function of what a resumed run knows too, as the rest of a plan is.
        """
        limits = []
        if self._config.max_candidates is not None:
            limits.append(self._config.max_candidates - self._knowledge.requested.total())
        if self._config.target is not None:
            missing = queries_missing(self._knowledge, self._config.target)
            if missing == 0 and len(self._pool.manifests) == len(self._knowledge.states):
                missing = queries_missing(self._knowledge, self._config.target, self._pool.num_rows)
            limits.append(missing)
        return min(limits, default=None)

    def _on_answer(self, num_candidates: int) -> None:
        self._progress.answered += num_candidates

    def _wait_for(self, crew: Workers, future: Future[Produced]) -> Produced:
        while True:
            try:
                return future.result(timeout=0.5)
            except TimeoutError:
                if future.done():
                    raise
                self.show_models(crew)
                self._monitor.tick()

    def _learn_up_to(self, last_round: int) -> None:
        """Let the next plan rest on the committed rounds up to `last_round`."""
        for number in range(len(self._knowledge.evaluations), last_round + 1):
            evaluation = self._pool.manifests[number].evaluation
            self._knowledge.learn(self._pool.rows(number, number), self._pool.rejects(number), evaluation)

    # -- judge and commit -------------------------------------------------------

    def _judge(self, crew: Workers, produced: Produced) -> list[Verdict]:
        def on_verdicts(verdicts: Sequence[Verdict]) -> None:
            self._progress.judge(list(verdicts))
            self.show_models(crew)
            self._monitor.tick()

        plan = produced.plan
        self._progress.begin_round(plan.round, plan.state, len(produced.candidates))
        self._monitor.tick()
        return crew.judge(produced.candidates, self._pool.num_rows, on_verdicts)

    def _commit(self, crew: Workers, produced: Produced, verdicts: Sequence[Verdict], judge_s: float) -> None:
        plan = produced.plan
        room = None if self._config.target is None else self._config.target - self._pool.num_rows
        verdicts = without_surplus(verdicts, room)
        first_id = self._pool.num_rows
        admitted = [position for position, verdict in enumerate(verdicts) if verdict.reason is None]
        ids = {position: first_id + i for i, position in enumerate(admitted)}
        tables = round_tables(verdicts, ids)
        evaluation = evaluate(plan.round, plan.state, [r.database for r in plan.requests], verdicts)
        phase_s = {**produced.phase_s, "judge": judge_s}
        requests = [PlannedRequest(r.origin, r.database, r.tables, r.num_queries) for r in plan.requests]
        self._pool.commit(tables, requests, evaluation, self._clock.wall_s, phase_s, produced.tallies)
        crew.commit({first_id + position: query_id for position, query_id in ids.items()})
        self._counted.add(tables["R"])
        self._progress.commit(evaluation)
        self._show_counts()
        self._monitor.tick(now=True)

    def committed_tables(self) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Yield (R, E) of each committed round, for an index that has to be built."""
        for manifest in self._pool.manifests:
            yield (
                self._pool.rows(manifest.round, manifest.round),
                self._pool.vectors(manifest.round, manifest.round),
            )

    def _show_counts(self) -> None:
        statistics = self._counted.statistics
        self._progress.expansion = statistics.expansion
        self._progress.similarity = statistics.mean_similarity
        self._progress.tables_covered = sum(len(counts) for counts in statistics.table_rows.values())

    def show_models(self, crew: Workers) -> None:
        """Show how the models are doing, and say what is new of what a person should know."""
        models = self._progress.models = crew.models()
        for notice in models.notices if models is not None else ():
            if notice not in self._said:
                self._said.add(notice)
                self._monitor.say(f"Note: {notice}")

    def _warn_if_saturated(self) -> None:
        if not self._warned and _is_saturated(self._config, self._counted):
            self._warned = True
            self._monitor.say("The pool looks saturated: most of it is from expansion and its similarity is rising.")


def _knowledge_before(pool: Pool) -> Knowledge:
    """Return what the plan of the next round rests on when a run is opened."""
    knowledge = Knowledge()
    for manifest in pool.manifests:
        knowledge.states.append(manifest.evaluation.state)
        for request in manifest.plan:
            knowledge.requested[request.database] += request.num_queries
    for manifest in pool.manifests[: len(pool.manifests) - LAG + 1]:
        knowledge.learn(pool.rows(manifest.round, manifest.round), pool.rejects(manifest.round), manifest.evaluation)
    if pool.manifests:
        knowledge.under_way = [(r.database, r.tables, r.num_queries) for r in pool.manifests[-1].plan]
    return knowledge


def reason_to_stop(config: Config, pool: Pool) -> StopReason | None:
    """Return why a run needs no more rounds than are committed, or None where it goes on."""
    return _stop_reason(config, pool, _Counted(pool))


def _stop_reason(config: Config, pool: Pool, counted: _Counted) -> StopReason | None:
    """Return why the run is over after the committed rounds, or None where it goes on."""
    if config.target is not None and pool.num_rows >= config.target:
        return "target"
    if is_exhausted([manifest.evaluation for manifest in pool.manifests], config.management):
        return "exhausted"
    if config.target is None and _is_saturated(config, counted):
        return "saturated"
    requested = sum(request.num_queries for manifest in pool.manifests for request in manifest.plan)
    if config.max_candidates is not None and requested >= config.max_candidates:
        return "max_candidates"
    return None


def _is_saturated(config: Config, counted: _Counted) -> bool:
    return is_saturated(counted.statistics.expansion_ratio, counted.pool_similarities, config.management)


def without_surplus(verdicts: Sequence[Verdict], room: int | None) -> list[Verdict]:
    """Return the verdicts with all admitted ones after the first `room` rejected as ``surplus``; None: no limit."""
    kept = 0
    result = []
    for verdict in verdicts:
        if verdict.reason is None:
            kept += 1
            if room is not None and kept > room:
                verdict = replace(verdict, reason="surplus", detail="the target was reached")
        result.append(verdict)
    return result


def round_tables(verdicts: Sequence[Verdict], ids: Mapping[int, int]) -> dict[str, pa.Table]:
    """Return R, E and rejects of one round.

    Args:
        verdicts: one for each candidate, in order.
        ids: query_id of each position that is admitted.
    """
    rows, vectors, rejects = [], [], []
    for position, verdict in enumerate(verdicts):
        candidate, execution = verdict.candidate, verdict.execution
        origin = {"database": candidate.database, "sql": candidate.sql, "origin": candidate.origin}
        if position not in ids:
            rejects.append(
                {
                    **origin,
                    "round": candidate.round,
                    "reason": verdict.reason,
                    "detail": verdict.detail,
                    "model": candidate.model,
                }
            )
            continue
        assert execution.features is not None
        assert verdict.vector is not None
        nearest = verdict.nearest
        rows.append(
            {
                **origin,
                "query_id": ids[position],
                "dialect": candidate.dialect,
                "tables": list(execution.tables),
                "round": candidate.round,
                "model": candidate.model,
                "prompt_sha256": candidate.prompt_sha256,
                "seed_ids": list(candidate.seed_ids),
                "row_count": execution.row_count,
                "execution_ms": execution.execution_ms,
                "similarity": verdict.similarity,
                "nearest_id": ids[nearest] if nearest is not None and verdict.nearest_in_round else nearest,
                "nearest_similarity": verdict.nearest_similarity,
                **asdict(execution.features),
                "cost_usd": candidate.cost_usd,
            }
        )
        vectors.append({"query_id": ids[position], "database": candidate.database, "vector": verdict.vector})
    return {
        "R": pa.Table.from_pylist(rows, schema=R_SCHEMA),
        "E": pa.Table.from_pylist(vectors, schema=E_SCHEMA),
        "rejects": pa.Table.from_pylist(rejects, schema=REJECTS_SCHEMA),
    }
