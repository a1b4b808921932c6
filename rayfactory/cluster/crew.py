"""The crew of a run: its actors, and the four things a round asks of them: plan, produce, judge, commit."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rayfactory.agents.management import Situation
from rayfactory.agents.seed_selection import PoolSeed
from rayfactory.agents.table_selection import Ask, Use
from rayfactory.cluster.dataflow import TASK_CPUS
from rayfactory.cluster.gateway import ask_status, close_gateway, start_gateway
from rayfactory.cluster.judges import Judges, LoadPool
from rayfactory.cluster.losses import Losses, as_own, brief
from rayfactory.cluster.metrics import STAGES, Metrics
from rayfactory.cluster.planners import PLANNING_AGENTS
from rayfactory.cluster.shortage import Shortage
from rayfactory.cluster.staff import Staff
from rayfactory.cluster.vector_actor import check_index_gpu
from rayfactory.cluster.waiting import Waiting
from rayfactory.config import AgentConfig, Config, ModelConfig, ModelsConfig
from rayfactory.databases.engine import Database
from rayfactory.databases.schema import Schema
from rayfactory.databases.schemas import about
from rayfactory.models.chat import ChatStatus
from rayfactory.pool_copy import Copy
from rayfactory.records import Answer, Failure, Request, State, Tally
from rayfactory.reports.monitor import Progress
from rayfactory.validate import used_slots

REQUESTS_PER_AUTHOR = 2
"""Requests in flight for each author that keeps to its rule: one that is answered and one that waits."""

_IN_HAND = 2
"""Requests that the authors have for each that their model takes at once."""

JOURNAL = "journal"
"""Folder in the run directory for what was asked of models and what they replied."""

logger = logging.getLogger("rayfactory.cluster")


class Crew:
    """The actors of one run on one Ray cluster.

    What an actor knows can be made again: connections and models by starting it, the index from the pool. So an actor
    that is lost costs the work that it had in hand and nothing else.

    Args:
        config: of the run.
        databases: of the run, by name.
        schemas: of the run, by database name.
        load_pool: reads the committed rounds.
        copy: what `run_dir` is, where the pool is in object storage; held by this process.
    """

    def __init__(
        self,
        config: Config,
        databases: Mapping[str, Database],
        schemas: Mapping[str, Schema],
        load_pool: LoadPool,
        copy: Copy | None = None,
    ) -> None:
        self._config = config
        self._waiting = Waiting()
        # A rule decides in milliseconds and keeps nothing: it needs no process of its own, nor copies of the schemas.
        self._rules = {
            kind: agent(config, schemas)
            for kind, agent in PLANNING_AGENTS.items()
            if getattr(config.models, agent.agent).model == "rule"
        }
        self._models = {slot: getattr(config.models, slot) for slot in used_slots(config.models)}
        self._mirror = copy.mirror if copy is not None else None
        self._gateway: Any = None
        self._status: ChatStatus | None = None
        self._status_asked: Any = None
        self._tallies: list[Tally] = []
        self._metrics = Metrics(copy.url if copy is not None else config.run_dir)
        self._shortage = Shortage(config, TASK_CPUS)
        self._staff = Staff(config, databases, schemas)
        dialects = {name: each.dialect for name, each in about(schemas).items()}
        try:
            self._begin()
            judges = Judges(config, dialects, load_pool, self._staff, self._took)
        except BaseException:
            self._shortage.close()
            self._staff.close()
            raise
        self.judge, self._commit = judges.judge, judges.commit

    def _begin(self) -> None:
        """Start who writes the first round, then the encoders, which load while a model writes it.

        The others start when they are first asked, while a round is judged.
        """
        config = self._config
        if self._models:
            journal = Path(config.run_dir) / JOURNAL
            self._gateway = start_gateway(self._models, journal, config.max_cost_usd, self._mirror)
        for kind in ("management", "table_selection", "generation"):
            if kind not in self._rules:
                self._staff.actors(kind)
        self._staff.start_encoders()
        check_index_gpu(config.cluster)
        if config.cluster.address or self._models:
            # What is wrong with one elsewhere is said before anything is written, or paid.
            self._staff.await_encoders()

    def _took(self, stage: str, seconds: float) -> None:
        """A stage of judging took so long for a block, so the run gets on."""
        self._metrics.took(stage, seconds)
        self._shortage.got_on()

    def commit(self, ids: Mapping[int, int]) -> None:
        """Tell the critics which query_id each admitted position of the round has got; take in nodes that joined."""
        self._commit(ids)
        self._staff.look_round()

    # -- plan -----------------------------------------------------------------

    def decide(self, num_requests: int, situation: Situation) -> tuple[State, list[str]]:
        """Ask the Management Agent for the state of the next round and its databases."""
        result: tuple[State, list[str]] = self._ask("management", "decide", num_requests, situation)
        return result

    def select_tables(self, number: int, asks: Sequence[Ask], use: Use) -> list[tuple[str, ...]]:
        """Ask the Table Selection Agent for the tables of each request."""
        result: list[tuple[str, ...]] = self._ask("table_selection", "select", number, list(asks), use)
        return result

    def select_seeds(
        self, number: int, asks: Sequence[Ask], shelves: Mapping[str, Sequence[PoolSeed]], use: Use
    ) -> list[list[PoolSeed]]:
        """Ask the Seed Selection Agent for the seeds of each request."""
        stock = {name: list(seeds) for name, seeds in shelves.items()}
        result: list[list[PoolSeed]] = self._ask("seed_selection", "select", number, list(asks), stock, use)
        return result

    def advise(self, number: int, failures: Sequence[Failure]) -> str:
        """Ask the Critical Agent what the next requests should know of the failures of a round."""
        result: str = self._ask("adviser", "advise", number, list(failures))
        return result

    def take_tallies(self) -> list[Tally]:
        """Return what happened between the planning agents and their models since the last call."""
        tallies, self._tallies = self._tallies, []
        return tallies

    def _ask(self, kind: str, method: str, *args: Any) -> Any:
        """Return what a planning agent, which keeps nothing between calls, answers; it is asked again if it is lost.

        One that keeps to its rule answers in this process.
        """
        import ray

        if kind in self._rules:
            result, _ = asyncio.run(getattr(self._rules[kind], method)(*args))
            return result
        (agent,) = self._staff.actors(kind)
        losses = Losses()
        while True:
            try:
                result, tallies = ray.get(self._waiting.for_one([getattr(agent, method).remote(*args)]))
            except ray.exceptions.RayError as error:
                pause_s = losses.pause_s(error)
                if pause_s is None:
                    raise as_own(error, "an agent could not answer") from error
                self._waiting.pause(pause_s)
                continue
            self._tallies += tallies
            self._shortage.got_on()
            return result

    # -- produce --------------------------------------------------------------

    def produce(self, requests: Sequence[Request], on_answer: Callable[[int, Answer], None]) -> list[Answer]:
        """Have the authors answer the requests; return the answers in the order of the requests.

        Two rounds may be produced at a time, each in a thread of its own.

        Args:
            requests: of one round.
            on_answer: called with the place of each request, and its answer, as it comes in.

        Raises:
            UserError: a model endpoint refuses for a reason that the user can change.
            EngineError: a request could not be answered.
            LeavingError: the run is being left.
        """
        import ray

        self._waiting.go_on()
        origins = dict.fromkeys(request.origin for request in requests)
        authors = {origin: self._staff.actors(origin) for origin in origins}
        models = self._config.models
        in_hand = {
            origin: _requests_per_author(models, getattr(models, origin), len(group))
            for origin, group in authors.items()
        }
        answers: list[Answer | None] = [None] * len(requests)
        waiting = list(range(len(requests)))[::-1]
        losses = [Losses() for _ in requests]
        resting: dict[Any, float] = {}
        load = {author: 0 for group in authors.values() for author in group}
        in_flight: dict[Any, tuple[int, Any]] = {}
        while waiting or in_flight:
            while waiting:
                request = requests[waiting[-1]]
                origin = request.origin
                near = self._near(authors[origin], request.database)
                now = time.monotonic()
                author = min(
                    authors[origin],
                    key=lambda each: (
                        load[each] >= in_hand[origin],
                        resting.get(each, 0.0) > now,
                        each not in near,
                        load[each],
                    ),
                )
                if load[author] >= in_hand[origin]:
                    break
                rests_s = resting.get(author, 0.0) - now
                if rests_s > 0 and in_flight:
                    break
                self._waiting.pause(max(0.0, rests_s))
                index = waiting.pop()
                load[author] += 1
                in_flight[author.answer.remote(requests[index])] = index, author
            done = self._waiting.for_one(list(in_flight))
            index, author = in_flight.pop(done)
            if author in load:
                load[author] -= 1
            try:
                answer: Answer = ray.get(done)
            except ray.exceptions.RayError as error:
                pause_s = losses[index].pause_s(error)
                if pause_s is None:
                    raise as_own(
                        error, f"request {index} of round {requests[index].round} could not be answered"
                    ) from error
                logger.warning("an author was lost (%s); its request is asked again", brief(error))
                # The others go on meanwhile.
                resting[author] = time.monotonic() + pause_s
                waiting.append(index)
                # It may have been started again elsewhere, as another actor.
                authors = {origin: self._staff.actors(origin) for origin in origins}
                load = {each: load.get(each, 0) for group in authors.values() for each in group}
                continue
            answers[index] = answer
            self._shortage.got_on()
            on_answer(index, answer)
        return [answer for answer in answers if answer is not None]

    def _near(self, authors: Sequence[Any], database: str) -> set[Any]:
        """Return the authors on nodes that have a database; all of them where every node does."""
        homes = self._staff.homes()
        if homes.places is None:
            return set(authors)
        return {authors[number] for number in homes.of(database) if number < len(authors)}

    def leave(self) -> None:
        """Have `produce` and the planning agents' calls, which another thread makes, end within a second."""
        self._waiting.leave()

    def models(self) -> ChatStatus | None:
        """Return the newest status of the models that has come in, and ask for the next one; None without models."""
        import ray

        if self._gateway is None:
            return self._status
        if self._status_asked is None:
            self._status_asked = ask_status(self._gateway, self._models, self._mirror)
        if ray.wait([self._status_asked], timeout=0)[0]:
            with suppress(ray.exceptions.RayError):  # a gateway that is lost is started again; the next call asks it
                self._status = ray.get(self._status_asked)
            self._status_asked = None
        return self._status

    def show(self, progress: Progress, phase_s: Mapping[str, float] | None = None) -> None:
        """Have Ray's metrics say how the run is doing.

        Args:
            phase_s: seconds of the phases of a round that has just been committed.
        """
        self._metrics.show(progress)
        for phase, seconds in (phase_s or {}).items():
            if phase in STAGES:
                self._metrics.took(phase, seconds)

    def close(self) -> None:
        """End the conversation with the models: what arrived is on disk, what is open is booked as unconfirmed."""
        import ray

        self._shortage.close()
        with suppress(ray.exceptions.RayError):
            self._staff.close()
        if self._gateway is not None:
            with suppress(ray.exceptions.RayError):
                # What a slow storage has to take is worth more than a quick end.
                patience_s = 10 if self._mirror is None else 120
                self._status = ray.get(close_gateway(self._gateway, self._models, self._mirror), timeout=patience_s)
            self._gateway = None


def _requests_per_author(models: ModelsConfig, agent: AgentConfig, num_authors: int) -> int:
    """Return how many requests one author has in hand.

    Where a model writes, more than it takes at once: what follows a reply is rendered already and waits at the gateway.
    """
    if agent.model == "rule":
        return REQUESTS_PER_AUTHOR
    model: ModelConfig = getattr(models, agent.model)
    # A batch is sent when the whole round is in it.
    return sys.maxsize if model.batch else -(-_IN_HAND * model.max_in_flight // num_authors)
