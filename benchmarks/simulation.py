"""A run on clusters that are not here: a discrete-event simulation of the loop, with the costs of its stages.

What `factory` does is played event by event. A round is planned and written while the one before it is judged; of a
round that is judged, blocks go to the cores in order (parsed, run, embedded), then to the critics of their databases,
and come back to the driver, which commits the round when the last of them is there. What it leaves out: the network,
nodes that are lost, that a core which is shared is a slower one, and that a search takes longer among more queries.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Costs:
    """Seconds of each stage.

    Attributes:
        write_s: of a core, for a query that a rule writes, or that is read out of a reply.
        judge_s: of a core, for parsing, running and embedding a query.
        retrieve_s: of the critic of its database, for comparing a query with the pool and admitting it.
        driver_s: of the driver, for a query: planned, judged, committed.
    """

    write_s: float
    judge_s: float
    retrieve_s: float
    driver_s: float


@dataclass(frozen=True)
class Cluster:
    """What a run has at hand.

    Attributes:
        cores: of all nodes.
        critics: shards of the index, among which the databases are shared evenly.
        calls: requests that the models answer at a time; 0: rules write.
        call_s: seconds that a model takes for a request.
    """

    cores: int
    critics: int = 1
    calls: int = 0
    call_s: float = 0.0


@dataclass(frozen=True)
class Rounds:
    """How a run is cut into rounds, requests and blocks.

    Attributes:
        requests: of a round.
        queries: of a request.
        block: queries that are judged together.
    """

    requests: int
    queries: int = 10
    block: int = 32


@dataclass(frozen=True)
class Outcome:
    """What came of a simulated run.

    Attributes:
        queries_per_s: candidates judged in a second, without the first round, which is written with nobody judging.
        busy: share of the time in which each resource was at work, in [0, 1].
    """

    queries_per_s: float
    busy: dict[str, float]

    @property
    def bottleneck(self) -> str:
        """The resource that was busiest."""
        return max(self.busy, key=self.busy.__getitem__)


class _Clock:
    """Events in the order of their time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), action))

    def run(self) -> None:
        while self._events:
            self.now, _, action = heapq.heappop(self._events)
            action()


class _Resource:
    """So many servers, which take what waits in the order of its priority, then of its coming."""

    def __init__(self, clock: _Clock, servers: int) -> None:
        self._clock = clock
        self._servers = self._free = servers
        self._waiting: list[tuple[int, int, float, Callable[[], None]]] = []
        self._order = itertools.count()
        self._busy_s = self._since_s = self._before_s = 0.0

    def use(self, seconds: float, then: Callable[[], None], priority: int = 0) -> None:
        """Have a server for some seconds, then go on."""
        heapq.heappush(self._waiting, (priority, next(self._order), seconds, then))
        self._serve()

    def reset(self) -> None:
        """Count from here on."""
        self._since_s, self._busy_s = self._clock.now, 0.0

    @property
    def busy(self) -> float:
        """Share of the time at work since the last reset, of all servers."""
        elapsed = self._clock.now - self._since_s
        return min(1.0, self._busy_s / elapsed / self._servers) if elapsed else 0.0

    def _serve(self) -> None:
        while self._free and self._waiting:
            _, _, seconds, then = heapq.heappop(self._waiting)
            self._free -= 1
            self._busy_s += seconds

            def done(then: Callable[[], None] = then) -> None:
                self._free += 1
                self._serve()
                then()

            self._clock.after(seconds, done)


@dataclass
class _Round:
    """A round under way: the requests written, the queries that are in no block yet or not back, blocks that wait."""

    number: int
    written: int = 0
    to_judge: deque[int] = field(default_factory=deque)
    left: int = 0
    rest: int = 0


class _Run:
    """The loop."""

    def __init__(self, costs: Costs, cluster: Cluster, rounds: Rounds, num_rounds: int) -> None:
        self._costs, self._cluster, self._rounds, self._num_rounds = costs, cluster, rounds, num_rounds
        self.clock = _Clock()
        self.resources = {
            "cores": _Resource(self.clock, cluster.cores),
            "driver": _Resource(self.clock, 1),
            **({"models": _Resource(self.clock, cluster.calls)} if cluster.calls else {}),
        }
        self._critics = [_Resource(self.clock, 1) for _ in range(cluster.critics)]
        self._judged: _Round | None = None
        self._next: _Round | None = None
        self.first_s = 0.0

    def run(self) -> Outcome:
        self._judged = self._write(0)
        self._next = self._write(1)
        self.clock.run()
        queries = (self._num_rounds - 1) * self._rounds.requests * self._rounds.queries
        busy = {name: resource.busy for name, resource in self.resources.items()}
        busy["critics"] = max(critic.busy for critic in self._critics)
        return Outcome(queries / (self.clock.now - self.first_s), busy)

    def _write(self, number: int) -> _Round | None:
        if number >= self._num_rounds:
            return None
        round_ = _Round(number, left=self._rounds.requests * self._rounds.queries)
        self.clock.after(0.0, lambda: self._ask(round_))
        return round_

    def _ask(self, round_: _Round) -> None:
        queries = self._rounds.queries

        def read() -> None:
            self.resources["cores"].use(self._costs.write_s * queries, lambda: self._written(round_), round_.number)

        for _ in range(self._rounds.requests):
            if self._cluster.calls:
                self.resources["models"].use(self._cluster.call_s, read, round_.number)
            else:
                read()

    def _written(self, round_: _Round) -> None:
        round_.written += 1
        round_.rest += self._rounds.queries
        is_last = round_.written == self._rounds.requests
        while round_.rest >= self._rounds.block or (is_last and round_.rest):
            size = min(round_.rest, self._rounds.block)
            round_.rest -= size
            round_.to_judge.append(size)
        self._judge()

    def _judge(self) -> None:
        """Have the blocks judged that are there of the round that is judged."""
        round_ = self._judged
        while round_ is not None and round_.to_judge:
            self._judge_block(round_, round_.to_judge.popleft())

    def _judge_block(self, round_: _Round, size: int) -> None:
        waiting = len(self._critics)

        def compared() -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting:
                self.resources["driver"].use(self._costs.driver_s * size, collected)

        def collected() -> None:
            round_.left -= size
            if not round_.left:
                self._commit()

        def embedded() -> None:
            for critic in self._critics:
                critic.use(self._costs.retrieve_s * size / len(self._critics), compared)

        # One core does a whole block, where a run has several work on it in turns: the work is the same.
        self.resources["cores"].use(self._costs.judge_s * size, embedded, round_.number)

    def _commit(self) -> None:
        assert self._judged is not None
        if self._judged.number == 0:
            self.first_s = self.clock.now
            for resource in (*self.resources.values(), *self._critics):
                resource.reset()
        following = self._judged.number + 2
        self._judged, self._next = self._next, self._write(following)
        self._judge()


def simulate(costs: Costs, cluster: Cluster, rounds: Rounds, num_rounds: int = 12) -> Outcome:
    """Return what a run of some rounds would do.

    Args:
        costs: of the stages.
        cluster: what the run has.
        rounds: how it is cut.
        num_rounds: at least 2; the first is not counted.
    """
    return _Run(costs, cluster, rounds, num_rounds).run()
