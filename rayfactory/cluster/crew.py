"""The crew of a run: its actors, and the four things a round asks of them: plan, produce, judge, commit."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from rayfactory.agents.management import Situation
from rayfactory.agents.seed_selection import PoolSeed
from rayfactory.agents.table_selection import Ask, Use
from rayfactory.bucket.store import is_url
from rayfactory.cluster.authors import ExpansionAgent, GenerationAgent
from rayfactory.cluster.dataflow import TASK_CPUS
from rayfactory.cluster.delivery import shipped
from rayfactory.cluster.encoder import can_encode, start_encoder, start_encoders
from rayfactory.cluster.gateway import CALLS_AT_ONCE, ask_status, close_gateway, start_gateway
from rayfactory.cluster.judges import Judges, LoadPool
from rayfactory.cluster.losses import Losses, as_own, brief, is_loss
from rayfactory.cluster.metrics import STAGES, Metrics
from rayfactory.cluster.planners import PLANNING_AGENTS
from rayfactory.cluster.schema_store import in_object_store
from rayfactory.cluster.shortage import Shortage
from rayfactory.cluster.tool_worker import ToolWorker
from rayfactory.cluster.vector_actor import check_index_gpu
from rayfactory.cluster.waiting import Waiting
from rayfactory.cluster.workplaces import Workplaces
from rayfactory.config import AgentConfig, Config, ModelConfig, ModelsConfig
from rayfactory.databases.engine import Database
from rayfactory.databases.schema import Schema
from rayfactory.databases.schemas import about
from rayfactory.models.chat import ChatStatus
from rayfactory.pool_copy import Copy
from rayfactory.records import Answer, Candidate, Failure, Request, State, Tally, Verdict
from rayfactory.reports.monitor import Progress
from rayfactory.validate import used_slots

REQUESTS_PER_AUTHOR = 2
"""Requests in flight for each author that keeps to its rule: one that is answered and one that waits."""

_IN_HAND = 2
"""Requests that the authors have for each that their model takes at once."""

AUTHORS = ("generation", "expansion")
"""The kinds of actors that write."""

OPENING_DATABASES = (*AUTHORS, "tools")
"""The kinds that open databases."""

JOURNAL = "journal"
"""Folder in the run directory for what was asked of models and what they replied."""

_STATELESS: dict[str, Any] = {"max_restarts": -1, "max_task_retries": 1, "scheduling_strategy": "SPREAD"}
"""Options of the actors that can be made again from their arguments: a lost call is made once more.

No `num_cpus`: Ray then places an actor where a CPU is free and lets it hold none. Authors, workers and dataset tasks
take turns on the CPUs; held shares would leave a small cluster without a CPU for the tasks.
"""

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
        if config.cluster.databases == "shipped" or is_url(config.benchmark.root):
            databases = shipped(databases, config.cluster)
        self._shortage = Shortage(config, TASK_CPUS)
        self._workplaces = Workplaces(config.cluster, databases)
        try:
            self._start_all(databases, schemas, load_pool, copy)
        except BaseException:
            self._shortage.close()
            self._workplaces.close()
            raise

    def _start_all(
        self,
        databases: Mapping[str, Database],
        schemas: Mapping[str, Schema],
        load_pool: LoadPool,
        copy: Copy | None,
    ) -> None:
        """Start what the first round needs."""
        import ray

        config = self._config
        # Held for as long as the crew is, since an actor that is restarted takes them again.
        self._shared = both = [ray.put(dict(databases)), ray.put(in_object_store(schemas))]
        schemas_only = both[1:]
        self._kinds: dict[str, tuple[type, list[Any]]] = {
            **{kind: (agent, schemas_only) for kind, agent in PLANNING_AGENTS.items()},
            "generation": (GenerationAgent, both),
            "expansion": (ExpansionAgent, both),
            "tools": (ToolWorker, both),
        }
        # A rule decides in milliseconds and keeps nothing: it needs no process of its own, nor copies of the schemas.
        self._rules = {
            kind: agent(config, schemas)
            for kind, agent in PLANNING_AGENTS.items()
            if getattr(config.models, agent.agent).model == "rule"
        }
        self._started: dict[str, list[Any]] = {}
        self._starting = threading.Lock()
        self._moves = 0
        self._coming: dict[str, tuple[Any, Any]] = {}
        self._models = {slot: getattr(config.models, slot) for slot in used_slots(config.models)}
        self._gateway: Any = None
        self._mirror = copy.mirror if copy is not None else None
        if self._models:
            journal = Path(config.run_dir) / JOURNAL
            self._gateway = start_gateway(self._models, journal, config.max_cost_usd, self._mirror)
        self._status: ChatStatus | None = None
        self._status_asked: Any = None
        self._tallies: list[Tally] = []
        # First who writes the first round, then the encoders, which load while a model writes it. The others start when
        # they are first asked, while a round is judged.
        for kind in ("management", "table_selection", "generation"):
            if kind not in self._rules:
                self._actors(kind)
        self._encoders = start_encoders(config, _STATELESS)
        warm = [encoder.warm_up.remote() for encoder in self._encoders.values()]
        check_index_gpu(config.cluster)
        if config.cluster.address or self._models:
            # Other nodes than this one may not encode as it does: that is said before anything is written, or paid.
            _check_warm(warm)
        dialects = {name: each.dialect for name, each in about(schemas).items()}
        self._metrics = Metrics(copy.url if copy is not None else config.run_dir)
        tools = partial(self._actors, "tools")
        homes = self._workplaces.homes
        judges = Judges(config, dialects, load_pool, tools, homes, self._encoders, self._metrics.took)
        self._judge, self._commit = judges.judge, judges.commit

    def _actors(self, kind: str) -> list[Any]:
        """Return the actors of a kind, after starting those that are not there yet.

        Rounds are planned, written and judged in threads of their own.
        """
        with self._starting:
            started = self._started.setdefault(kind, [])
            count = self._workplaces.num_workers if kind in OPENING_DATABASES else 1
            started += [self._start(kind, number) for number in range(len(started), count)]
            return list(started)

    def _start(self, kind: str, number: int, again: str = "") -> Any:
        """Start an actor of a kind, in place of another one of its number where it is started again."""
        import ray

        agent, shared = self._kinds[kind]
        actor: Any = ray.remote(_with_shared(agent, shared))
        options = _STATELESS | ({"max_concurrency": CALLS_AT_ONCE} if kind in AUTHORS else {})
        place = self._workplaces.options(number) if kind in OPENING_DATABASES else {}
        return actor.options(name=f"{kind}-{number}{again}", **(options | place)).remote(self._config)

    def judge(
        self,
        chunks: Iterable[Sequence[Candidate]],
        first_id: int,
        on_verdicts: Callable[[Sequence[Verdict]], None],
    ) -> list[Verdict]:
        """Judge the candidates of one round, see `Judges.judge`."""

        def got_on(verdicts: Sequence[Verdict]) -> None:
            self._shortage.got_on()
            on_verdicts(verdicts)

        return self._judge(chunks, first_id, got_on)

    def commit(self, ids: Mapping[int, int]) -> None:
        """Tell the critics which query_id each admitted position of the round has got; take in nodes that joined."""
        import ray

        self._commit(ids)
        news = self._workplaces.look()
        for node_id, resources in news.nodes.items():
            if can_encode(self._config, resources):
                number = len(self._encoders) + len(self._coming)
                encoder = start_encoder(self._config, _STATELESS, number, node_id, resources)
                self._coming[node_id] = encoder, encoder.warm_up.remote()
        self._take_in_encoders()
        with self._starting:
            for kind in OPENING_DATABASES:
                started = self._started.get(kind, [])
                for number in news.moved:
                    if number < len(started):
                        # A request that it has in hand is asked again; of what was paid for it, nothing is lost.
                        ray.kill(started[number])
                        self._moves += 1
                        started[number] = self._start(kind, number, f"-moved-{self._moves}")

    def _take_in_encoders(self) -> None:
        """Have those that joined and are warm encode; one whose node cannot encode as this run does is let go."""
        import ray

        for node_id, (encoder, warm) in list(self._coming.items()):
            if not ray.wait([warm], timeout=0)[0]:
                continue
            del self._coming[node_id]
            try:
                ray.get(warm)
            except ray.exceptions.RayError as error:
                logger.warning("a node that joined encodes nothing (%s)", brief(error))
                ray.kill(encoder)
                continue
            self._encoders[node_id] = encoder

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
        (agent,) = self._actors(kind)
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
        authors = {origin: self._actors(origin) for origin in dict.fromkeys(request.origin for request in requests)}
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
                authors = {origin: self._actors(origin) for origin in authors}
                load = {each: load.get(each, 0) for group in authors.values() for each in group}
                continue
            answers[index] = answer
            self._shortage.got_on()
            on_answer(index, answer)
        return [answer for answer in answers if answer is not None]

    def _near(self, authors: Sequence[Any], database: str) -> set[Any]:
        """Return the authors on nodes that have a database; all of them where every node does."""
        homes = self._workplaces.homes()
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
            self._workplaces.close()
        if self._gateway is not None:
            with suppress(ray.exceptions.RayError):
                # What a slow storage has to take is worth more than a quick end.
                patience_s = 10 if self._mirror is None else 120
                self._status = ray.get(close_gateway(self._gateway, self._models, self._mirror), timeout=patience_s)
            self._gateway = None


def _check_warm(warm: list[Any]) -> None:
    """Wait for the encoders.

    Raises:
        ConfigError: a node cannot encode as the run was begun.
    """
    import ray

    try:
        ray.get(warm)
    except ray.exceptions.RayError as error:
        if not is_loss(error):  # one that is lost is started again
            raise as_own(error, "an encoder could not start") from error


def _requests_per_author(models: ModelsConfig, agent: AgentConfig, num_authors: int) -> int:
    """Return how many requests one author has in hand.

    Where a model writes, more than it takes at once: what follows a reply is rendered already and waits at the gateway.
    """
    if agent.model == "rule":
        return REQUESTS_PER_AUTHOR
    model: ModelConfig = getattr(models, agent.model)
    # A batch is sent when the whole round is in it.
    return sys.maxsize if model.batch else -(-_IN_HAND * model.max_in_flight // num_authors)


def _with_shared(agent: type, shared: list[Any]) -> type:
    """Return the agent's class with the last arguments of its constructor taken out of the object store.

    The actor fetches them itself, when it is restarted too. As plain arguments Ray would complain of them.
    """

    class Actor(agent):  # type: ignore[misc]
        def __init__(self, *args: Any) -> None:
            import ray

            super().__init__(*args, *ray.get(shared))

    Actor.__name__ = Actor.__qualname__ = agent.__name__
    return Actor
