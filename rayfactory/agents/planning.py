"""The plan of one round: what the Management Agent decides, carried out by the two selection agents.

A plan is a function of the settings, the seed, the schemas and what is known of earlier rounds; see
`agents.management.LAG` for what that is.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import pyarrow as pa

from rayfactory.agents.management import History, Situation
from rayfactory.agents.seed_selection import PoolSeed, SeedShelf, seed_tables
from rayfactory.agents.table_selection import Ask, Use, expect
from rayfactory.config import Config, ModelConfig
from rayfactory.databases.schema import Schema
from rayfactory.databases.schemas import about
from rayfactory.models.completion import PLANNERS
from rayfactory.records import DID_NOT_RUN, Evaluation, Failure, Request, Seed, State
from rayfactory.tools.statistics import Statistics

_TELLING_CANDIDATES = 200
"""As many of the newest candidates tell what share of the next ones will be admitted."""


_QUERIES_LIKE_A_PLAN = 5
"""A call that writes as many queries or more takes longer than the two that a plan waits for."""

_CALLS_BESIDE_A_PLAN = 8
"""Calls in a row that a round takes where each is short: while they last, another round is judged, and planned anew."""

BATCH_REQUESTS = 500
"""Requests of a round after the warm-up where generation goes in batch files."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One round: its state and its requests."""

    round: int
    state: State
    requests: tuple[Request, ...]

    @property
    def num_queries(self) -> int:
        """Queries asked for in total."""
        return sum(request.num_queries for request in self.requests)


class _Asked(Protocol):
    """A request as it is written, or as it is kept: whom it asks for how much about what."""

    @property
    def database(self) -> str: ...

    @property
    def tables(self) -> Sequence[str]: ...

    @property
    def num_queries(self) -> int: ...


@dataclass
class Knowledge:
    """What a plan may know of the rounds before it.

    Attributes:
        history: the rounds planned so far, and those of them that are judged and that the plan rests on.
        statistics, shelf: of these judged rounds.
        failures: candidates of the newest of them that did not run.
        requested: queries asked for so far, of each database, in every round planned so far.
        under_way: (database, tables, num_queries) of the requests of rounds planned but not in `statistics`.
    """

    history: History
    statistics: Statistics = field(default_factory=Statistics)
    shelf: SeedShelf = field(default_factory=SeedShelf)
    failures: Sequence[Failure] = ()
    requested: Counter[str] = field(default_factory=Counter)
    under_way: list[tuple[str, Sequence[str], int]] = field(default_factory=list)

    COLUMNS: ClassVar = tuple(dict.fromkeys((*Statistics.COLUMNS, *SeedShelf.COLUMNS)))
    """Columns of R that a plan may know of."""

    def plan(self, state: State, requests: Sequence[_Asked]) -> None:
        """Take in one round that is planned: its state and its requests."""
        self.history.plan(state)
        for request in requests:
            self.requested[request.database] += request.num_queries
        self.under_way = [(request.database, request.tables, request.num_queries) for request in requests]

    def learn(self, rows: pa.Table, evaluation: Evaluation) -> None:
        """Take in one judged round: `COLUMNS` of its rows of R, and its evaluation."""
        self.statistics.add(rows)
        self.shelf.add(rows)
        self.history.judge(evaluation)

    def learn_failures(self, rejects: pa.Table) -> None:
        """Take in the rejects of the newest judged round."""
        self.failures = tuple(
            Failure(*columns)
            for columns in zip(*(rejects[name].to_pylist() for name in Failure.__slots__), strict=True)
            if columns[2] in DID_NOT_RUN
        )


class PlanningAgents(Protocol):
    """The four agents that make a plan, wherever they run; `number` is that of the round that is planned."""

    def decide(self, num_requests: int, situation: Situation) -> tuple[State, list[str]]:
        """`ManagementAgent.decide`."""

    def select_tables(self, number: int, asks: Sequence[Ask], use: Use) -> list[tuple[str, ...]]:
        """`TableSelectionAgent.select`."""

    def select_seeds(
        self, number: int, asks: Sequence[Ask], shelves: Mapping[str, Sequence[PoolSeed]], use: Use
    ) -> list[list[PoolSeed]]:
        """`SeedSelectionAgent.select`."""

    def advise(self, number: int, failures: Sequence[Failure]) -> str:
        """Return the Critical Agent's advice from the failures of a round; the rule has none to give."""


def plan_round(
    config: Config,
    schemas: Mapping[str, Schema],
    knowledge: Knowledge,
    max_queries: int | None,
    agents: PlanningAgents,
) -> Plan:
    """Plan the next round.

    Args:
        config: of the run.
        schemas: of its databases, each with at least one table with rows.
        knowledge: what the plan may rest on.
        max_queries: queries that the budget of candidates leaves; None for no limit.
        agents: who decides.
    """
    number = knowledge.history.num_planned
    sizes = _request_sizes(config, number, max_queries)
    situation = Situation(
        knowledge.history.past(),
        {name: each.num_populated for name, each in about(schemas).items()},
        knowledge.statistics.rows,
        knowledge.requested,
    )
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="advise") as aside:
        # Nobody's decision waits for the advice: where models speak, each takes its time.
        advising = aside.submit(agents.advise, number, knowledge.failures) if knowledge.failures else None
        state, databases = agents.decide(len(sizes), situation)
        asks = [
            (database, size, _rng_seed(config.seed, number, index))
            for index, (database, size) in enumerate(zip(databases, sizes, strict=True))
        ]
        use = _expected_use(knowledge, databases)
        shelves = {name: knowledge.shelf.of(name) for name in dict.fromkeys(databases)} if state == "EXP" else {}
        # A database without seeds is explored first, whatever the state.
        exploring = [ask for ask in asks if not shelves.get(ask[0])]
        exploiting = [ask for ask in asks if shelves.get(ask[0])]
        tables_of = iter(agents.select_tables(number, exploring, use) if exploring else ())
        seeds_of = iter(agents.select_seeds(number, exploiting, shelves, use) if exploiting else ())
        advice = advising.result() if advising is not None else ""
    table_uses = {name: tuple(sorted((table, round(rows)) for table, rows in use[name].items())) for name in use}
    requests = []
    for index, (database, size, rng_seed) in enumerate(asks):
        if shelves.get(database):
            seeds = next(seeds_of)
            requests.append(
                Request(
                    number,
                    index,
                    "expansion",
                    database,
                    seed_tables(seeds),
                    tuple(Seed(seed.query_id, seed.sql) for seed in seeds),
                    table_uses[database],
                    size,
                    rng_seed,
                    advice,
                )
            )
        else:
            tables = next(tables_of)
            requests.append(
                Request(number, index, "generation", database, tables, (), table_uses[database], size, rng_seed, advice)
            )
    return Plan(number, state, tuple(requests))


def queries_missing(knowledge: Knowledge, target: int, num_rows: int | None = None) -> int:
    """Return how many more queries a pool needs, as far as the next plan can tell; 0 where enough are under way.

    Queries count by the share that was admitted of the newest ones. To be a few short costs another round, with nothing
    to judge meanwhile: so two standard deviations more are asked for, and at least a twentieth.

    Args:
        knowledge: what the plan may rest on.
        target: rows that are wanted.
        num_rows: rows of the pool where nothing is under way any more; None: those under way are estimated.
    """
    rate = _admitted_share(knowledge.history.newest)
    under_way = 0 if num_rows is not None else sum(num_queries for _, _, num_queries in knowledge.under_way)
    known = knowledge.statistics.rows.total() if num_rows is None else num_rows
    missing = target - known - rate * under_way
    if missing <= 0:
        return 0
    deviation = math.sqrt((under_way + missing / rate) * rate * (1 - rate))
    return math.ceil((missing + max(0.05 * missing, 2 * deviation)) / rate)


def _admitted_share(evaluations: Sequence[Evaluation]) -> float:
    """Return the share of candidates that were admitted in the newest rounds, in [0.1, 1]; 1 where there is none.

    It falls as a pool fills. Where hardly anything is admitted, the size of a round is the limit, not this.
    """
    candidates = admitted = 0
    for evaluation in reversed(evaluations):
        candidates += evaluation.candidates - evaluation.reasons.get("surplus", 0)
        admitted += sum(evaluation.admitted.values())
        if candidates >= _TELLING_CANDIDATES:
            break
    return max(0.1, admitted / candidates) if candidates else 1.0


def requests_of_round(config: Config, number: int) -> int:
    """Return how many requests a round has, if as many queries are missing."""
    if number < config.management.warmup_rounds:
        return config.round.requests
    return config.round.requests_after_warmup or config.round.requests


def requests_after_warmup(config: Config) -> int:
    """Return how many requests a round has after the warm-up, where the settings leave that to the run.

    Where models write, they have as many calls at hand as may be in flight; and eight times as many where a call is
    over sooner than the plan of the next round, which takes two calls in a row and comes after the judging of another.
    The warm-up stays small, so that a run of some hundred queries is not all exploring, and batch files, which may take
    a day, are large.
    """
    sizes = [config.round.requests]
    is_planned_by_models = any(getattr(config.models, agent).model != "rule" for agent in PLANNERS)
    for agent in ("generation", "expansion"):
        slot = getattr(config.models, agent).model
        if slot == "rule":
            continue
        model: ModelConfig = getattr(config.models, slot)
        calls = config.round.queries_per_request if model.constrained else 1
        is_short = config.round.queries_per_request / calls < _QUERIES_LIKE_A_PLAN
        times = _CALLS_BESIDE_A_PLAN if is_short and is_planned_by_models else 1
        sizes.append(math.ceil(times * model.max_in_flight / calls))
        if model.batch and agent == "generation":
            sizes.append(BATCH_REQUESTS)
    return max(sizes)


def _request_sizes(config: Config, number: int, max_queries: int | None) -> list[int]:
    """Return how many queries each request of the round asks for; none where the budget is spent."""
    size, count = config.round.queries_per_request, requests_of_round(config, number)
    if max_queries is None or max_queries >= size * count:
        return [size] * count
    whole, rest = divmod(max(0, max_queries), size)
    return [size] * whole + ([rest] if rest else [])


def _rng_seed(seed: int, number: int, index: int) -> int:
    """Return the seed of one request's random choices: 64 bits that share nothing with its neighbours'."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{number}/{index}".encode(), digest_size=8).digest(), "big")


def _expected_use(knowledge: Knowledge, databases: Sequence[str]) -> Use:
    """Return the rows that reference each table: counted, plus what the requests under way will probably add."""
    use: Use = {name: dict(knowledge.statistics.table_use(name)) for name in dict.fromkeys(databases)}
    for database, tables, num_queries in knowledge.under_way:
        if database in use:
            expect(use, database, tables, num_queries)
    return use
