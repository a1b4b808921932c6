"""The loop: plan, produce, judge, commit. Read this first.

A round is judged from its beginning on while the rest of it is still being written. Meanwhile the next one is planned
and produced; and as soon as it is committed, so is the one after that, beside what is still being written. So the
models have calls at hand whenever the judges are the quicker ones, and the plan of round t rests on the rounds up to
t - 2, also in a run that resumes: the pool is the same however often the run was interrupted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import pyarrow as pa

from rayfactory.agents.critical import evaluate
from rayfactory.agents.planning import Knowledge, Plan, PlanningAgents, plan_round, queries_missing
from rayfactory.config import Config
from rayfactory.databases.schema import Schema
from rayfactory.databases.schemas import about
from rayfactory.errors import RunDirError
from rayfactory.manifests import PlannedRequest
from rayfactory.models.chat import ChatStatus
from rayfactory.pool import Pool
from rayfactory.records import (
    Answer,
    Candidate,
    Request,
    Tally,
    Verdict,
)
from rayfactory.reports.monitor import Monitor, Progress
from rayfactory.reports.summary import StopReason
from rayfactory.rounds import Produced, round_tables, row_costs, without_surplus
from rayfactory.standing import before

T = TypeVar("T")

_BLOCKS_AT_ONCE = 4
"""Blocks of a round that are judged while the rest of it is being written; starting the stages takes as long as one."""

_ROWS_AT_ONCE = 2_048
"""As many rows of the pool, or a round more, are read and given to an index together."""

_LOOK_S = 0.1
"""How long to wait between two looks at what has been written."""


class Clock:
    """Seconds of work on a run, over all its processes."""

    def __init__(self, before_s: float) -> None:
        self._before_s = before_s
        self._started = time.monotonic()

    @property
    def wall_s(self) -> float:
        return self._before_s + self.process_s

    @property
    def process_s(self) -> float:
        """Those of this process."""
        return time.monotonic() - self._started


class Workers(PlanningAgents, Protocol):
    """What the loop asks of the agents, wherever they run; `cluster.crew.Crew` has them on Ray."""

    def produce(self, requests: Sequence[Request], on_answer: Callable[[int, Answer], None]) -> list[Answer]:
        """Have the authors answer the requests of a round; return their answers in order."""

    def take_tallies(self) -> list[Tally]:
        """Return what happened between the planning agents and their models since the last call."""

    def leave(self) -> None:
        """Have what another thread waits for end soon: the run is being left."""

    def models(self) -> ChatStatus | None:
        """Return the newest that is known of the models; None where all agents keep to their rules."""

    def judge(
        self,
        chunks: Iterable[Sequence[Candidate]],
        first_id: int,
        on_verdicts: Callable[[Sequence[Verdict]], None],
    ) -> list[Verdict]:
        """Judge the candidates of a round, which come in order, some at a time."""

    def show(self, progress: Progress, phase_s: Mapping[str, float] | None = None) -> None:
        """Tell whoever watches the agents how the run is doing; after a round with the seconds of its phases."""

    def commit(self, ids: Mapping[int, int]) -> None:
        """Learn which query_id each admitted position of the round has got."""


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A round in the background: first it is planned, then it is written.

    Attributes:
        answers: those that have come in so far, by the place of their request.
    """

    plan: Future[Plan]
    produced: Future[Produced]
    answers: dict[int, Answer]


class _Stopwatch:
    """Tells how long at least one of several tasks was at work; any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._since = self._busy_s = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of a with statement, once where several overlap."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def take_s(self) -> float:
        """Return the seconds counted since the last call."""
        self._count(0)
        with self._lock:
            busy_s, self._busy_s = self._busy_s, 0.0
        return busy_s

    def _count(self, change: int) -> None:
        with self._lock:
            now = time.monotonic()
            if self._running:
                self._busy_s += now - self._since
            self._since = now
            self._running += change


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
        self._counted, self._knowledge = before(config, schemas, pool, progress.commit)
        self._planning = _Stopwatch()
        self._answering = _Stopwatch()
        self._writing = _Stopwatch()
        self._start_s: dict[str, float] = {}
        self._warned = False
        self._said: set[str] = set()
        progress.admitted_before = progress.admitted
        progress.tables = sum(each.num_populated for each in about(schemas).values())
        self._show_counts()

    def run(self, crew: Workers) -> StopReason:
        """Go round until there is a reason to stop."""
        background = ThreadPoolExecutor(max_workers=2, thread_name_prefix="produce")
        out_of_budget = False
        self._start_s = {"start": self._clock.process_s}
        try:
            self._progress.activity = "writing the first round"
            current = self._start_producing(crew, background)
            while current is not None:
                plan = self._wait_for(crew, current.plan)
                self._knowledge.plan(plan.state, plan.requests)
                # What is known now is what a resumed run would know: everything before the round that is under way.
                self._learn_up_to(plan.round - 1)
                overlaps = self._config.round.overlap and not out_of_budget
                following = self._start_producing(crew, background) if overlaps else None
                self._compact()  # beside what is being written
                verdicts, judge_s = self._judge(crew, plan, current)
                produced = self._wait_for(crew, current.produced)
                out_of_budget = out_of_budget or produced.out_of_budget
                if produced.out_of_budget and not produced.candidates:
                    return "max_cost"
                self._commit(crew, produced, verdicts, judge_s)
                reason = self._counted.reason_to_stop(self._pool.num_rows)
                if reason is not None:
                    return reason
                self._warn_if_saturated()
                if following is None and not out_of_budget:
                    # Enough seemed to be under way, and was not; or rounds do not overlap.
                    following = self._start_producing(crew, background)
                current = following
        except (KeyboardInterrupt, SystemExit):
            self._monitor.say(
                f"Stopping, which takes a few seconds. {self._pool.num_rows} rows are committed; "
                "what is under way is not, and is done again when the run goes on."
            )
            raise
        finally:
            # What is still being written is not needed any more.
            crew.leave()
            background.shutdown(cancel_futures=True)
        if out_of_budget:
            return "max_cost"
        return self._counted.reason_to_stop(self._pool.num_rows) or "max_candidates"

    # -- plan and produce -------------------------------------------------------

    def _start_producing(self, crew: Workers, background: ThreadPoolExecutor) -> _UnderWay | None:
        """Have the next round planned and written in the background; the plan of the one before it has to be known.

        None where the budget is spent, or where the rounds under way will probably reach the target.
        """
        most = self._most_queries()
        if most is not None and most <= 0:
            return None
        plan: Future[Plan] = Future()
        answers: dict[int, Answer] = {}
        return _UnderWay(plan, background.submit(self._produce, crew, most, plan, answers), answers)

    def _produce(
        self, crew: Workers, max_queries: int | None, planned: Future[Plan], coming: dict[int, Answer]
    ) -> Produced:
        with self._writing.running():
            plan, answers, tallies = self._plan_and_answer(crew, max_queries, planned, coming)
        phase_s = {
            "plan": self._planning.take_s(),
            "produce": self._answering.take_s(),
            "write": self._writing.take_s(),
        }
        return Produced(plan, tuple(answers), tuple(tallies), phase_s)

    def _plan_and_answer(
        self, crew: Workers, max_queries: int | None, planned: Future[Plan], coming: dict[int, Answer]
    ) -> tuple[Plan, list[Answer], list[Tally]]:
        try:
            with self._planning.running():
                plan = plan_round(self._config, self._schemas, self._knowledge, max_queries, crew)
                tallies = crew.take_tallies()
        except BaseException as error:
            planned.set_exception(error)
            raise
        # From here on what is known may change: whoever waits for the plan learns.
        planned.set_result(plan)

        def on_answer(place: int, answer: Answer) -> None:
            self._progress.answer(len(answer.candidates))
            coming[place] = answer

        with self._answering.running():
            answers = crew.produce(plan.requests, on_answer)
        return plan, answers, tallies

    def _most_queries(self) -> int | None:
        """Return how many queries the next round may ask for, at most; None for no limit.

        It is a function of what a resumed run knows too, as the rest of a plan is.
        """
        limits = []
        if self._config.max_candidates is not None:
            limits.append(self._config.max_candidates - self._knowledge.requested.total())
        if self._config.target is not None:
            missing = queries_missing(self._knowledge, self._config.target)
            if missing == 0 and self._pool.next_round == self._knowledge.history.num_planned:
                missing = queries_missing(self._knowledge, self._config.target, self._pool.num_rows)
            limits.append(missing)
        return min(limits, default=None)

    def _wait_for(self, crew: Workers, future: Future[T]) -> T:
        while not self._is_done(crew, future, 0.5):
            pass
        return future.result()

    def _is_done(self, crew: Workers, future: Future[T], patience_s: float) -> bool:
        """Wait a little for something in the background, and show how things are if it is not there yet."""
        if wait([future], patience_s).done:
            return True
        self.show_models(crew)
        self._monitor.tick()
        return False

    def _learn_up_to(self, last_round: int) -> None:
        """Let the next plan rest on the committed rounds up to `last_round`."""
        for number in range(self._knowledge.history.num_judged, last_round + 1):
            evaluation = self._pool.manifests[number].evaluation
            self._knowledge.learn(self._pool.rows(number, number, Knowledge.COLUMNS), evaluation)
            self._knowledge.learn_failures(self._pool.rejects(number))

    # -- judge and commit -------------------------------------------------------

    def _judge(self, crew: Workers, plan: Plan, written: _UnderWay) -> tuple[list[Verdict], float]:
        """Return the verdicts of a round, which may still be being written, and the seconds of judging alone."""
        last = (-1, -1)

        def on_verdicts(verdicts: Sequence[Verdict]) -> None:
            nonlocal last
            ends = [(verdict.candidate.request, verdict.candidate.ordinal) for verdict in (verdicts[0], verdicts[-1])]
            if ends[0] <= last:  # the round is judged again
                self._progress.begin_round(plan.round, plan.state, plan.num_queries)
            last = ends[1]
            self._progress.judge(list(verdicts))
            self.show_models(crew)
            self._monitor.tick()

        self._progress.begin_round(plan.round, plan.state, plan.num_queries)
        waiting = _Stopwatch()
        started = time.monotonic()
        verdicts = crew.judge(self._as_it_comes(crew, plan, written, waiting), self._pool.num_rows, on_verdicts)
        return verdicts, time.monotonic() - started - waiting.take_s()

    def _as_it_comes(
        self, crew: Workers, plan: Plan, written: _UnderWay, waiting: _Stopwatch
    ) -> Iterator[list[Candidate]]:
        """Yield the candidates of a round in order: as many blocks as are worth starting their stages for."""
        block_size = self._config.embedding.batch_size
        chunk: list[Candidate] = []
        place, is_written = 0, False
        while not is_written:
            # In this order: what comes in between is there for the next look.
            is_written = written.produced.done()
            while (answer := written.answers.get(place)) is not None:
                chunk += answer.candidates
                place += 1
            if is_written:
                written.produced.result()  # where it went wrong, there is nothing more to judge
                num_ready = len(chunk)
            else:
                num_ready = len(chunk) // block_size * block_size
                if num_ready < _BLOCKS_AT_ONCE * block_size or not self._config.round.overlap:
                    self._progress.activity = f"writing round {plan.round}" if plan.round else "writing the first round"
                    with waiting.running():
                        self._is_done(crew, written.produced, _LOOK_S)
                    continue
            if num_ready:
                self._progress.hand_over(num_ready)
                yield chunk[:num_ready]
                del chunk[:num_ready]

    def _commit(self, crew: Workers, produced: Produced, verdicts: Sequence[Verdict], judge_s: float) -> None:
        plan = produced.plan
        room = None if self._config.target is None else self._config.target - self._pool.num_rows
        verdicts = without_surplus(verdicts, room)
        first_id = self._pool.num_rows
        admitted = [position for position, verdict in enumerate(verdicts) if verdict.reason is None]
        ids = {position: first_id + i for i, position in enumerate(admitted)}
        tables = round_tables(verdicts, ids, row_costs(produced, verdicts))
        evaluation = evaluate(plan.round, plan.state, [r.database for r in plan.requests], verdicts)
        phase_s = {**self._start_s, **produced.phase_s, "judge": judge_s}
        requests = [PlannedRequest(r.origin, r.database, r.tables, r.num_queries) for r in plan.requests]
        self._pool.commit(tables, requests, evaluation, self._clock.wall_s, phase_s, produced.tallies)
        self._start_s = {}
        crew.commit({first_id + position: query_id for position, query_id in ids.items()})
        self._counted.add(requests, evaluation, tables["R"])
        self._progress.commit(evaluation)
        self._show_counts()
        crew.show(self._progress, phase_s)
        self._monitor.tick(now=True)

    def _compact(self) -> None:
        """Put the files of earlier rounds together, where it is time; the run goes on where that cannot be done."""
        try:
            self._pool.compact()
        except RunDirError as error:
            self._say_once(f"Note: {error}")

    def committed_tables(self) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Yield (S, E) of the committed rounds, some at a time, for an index that has to be built."""
        first = num_rows = 0
        last = self._pool.next_round - 1
        for manifest in self._pool.manifests:
            num_rows += manifest.num_rows
            if num_rows >= _ROWS_AT_ONCE or manifest.round == last:
                yield self._pool.compared(first, manifest.round)
                first, num_rows = manifest.round + 1, 0

    def _show_counts(self) -> None:
        statistics = self._counted.statistics
        self._progress.expansion = statistics.expansion
        self._progress.similarity = statistics.mean_similarity
        self._progress.tables_covered = sum(len(counts) for counts in statistics.table_rows.values())

    def show_models(self, crew: Workers) -> None:
        """Show how the models are doing, and say what is new of what a person should know."""
        models = self._progress.models = crew.models()
        crew.show(self._progress)
        for notice in models.notices if models is not None else ():
            self._say_once(f"Note: {notice}")

    def _say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self._monitor.say(message)

    def _warn_if_saturated(self) -> None:
        if not self._warned and self._counted.is_saturated:
            self._warned = True
            self._monitor.say("The pool looks saturated: most of it is from expansion and its similarity is rising.")
