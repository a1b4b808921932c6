"""Those of a crew who judge: tools, encoders and critics, over the blocks of a round; and the index that they share."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pyarrow as pa

from rayfactory.cluster.critic import Contender, CriticalAgent, Decision
from rayfactory.cluster.dataflow import Took, Workers, run_and_embed
from rayfactory.cluster.losses import Losses, as_own, brief, is_loss
from rayfactory.cluster.staff import Staff
from rayfactory.cluster.vector_actor import options_with_gpu
from rayfactory.config import Config
from rayfactory.records import Candidate, Execution, Verdict

LoadPool = Callable[[], Iterable[tuple[pa.Table, pa.Table]]]
"""Gives (S, E) of the committed rounds in order, some at a time, for an index that has to be built."""

_LOADS_AT_ONCE = 2
"""Of what a pool gives: what critics have in hand, while more is read."""

logger = logging.getLogger("rayfactory.cluster")


class Judges:
    """The judging actors of one run, and the critics among them, which it starts.

    Args:
        config: of the run.
        dialects: of its databases, by name.
        load_pool: reads the committed rounds.
        staff: that runs and encodes.
        took: told of each stage of each block.
    """

    def __init__(
        self,
        config: Config,
        dialects: Mapping[str, str],
        load_pool: LoadPool,
        staff: Staff,
        took: Took,
    ) -> None:
        import ray

        self._config = config
        self._dialects = dialects
        self._load_pool = load_pool
        self._staff = staff
        self._took = took
        self._shard_of = {name: i % config.cluster.index_shards for i, name in enumerate(dialects)}
        self._critics: list[Any] = []
        with suppress(ray.exceptions.RayError):  # a critic that is lost already is started again by the first round
            self._start_critics()

    def judge(
        self,
        chunks: Iterable[Sequence[Candidate]],
        first_id: int,
        on_verdicts: Callable[[Sequence[Verdict]], None],
    ) -> list[Verdict]:
        """Judge the candidates of one round; return a verdict for each, in order.

        Args:
            chunks: the candidates in order, some at a time: whole blocks of `embedding.batch_size`, but for the last.
            first_id: query_id that follows those of the pool.
            on_verdicts: called with verdicts as they come in; a round that is judged again starts over.

        Raises:
            EngineError: the round could not be judged although it was tried several times.
        """
        import ray

        coming, there = iter(chunks), list[Candidate]()

        def from_the_start() -> Iterator[Sequence[Candidate]]:
            yield list(there)
            for chunk in coming:
                there.extend(chunk)
                yield chunk

        losses = Losses()
        while True:
            try:
                if not self._critics:
                    self._start_critics()
                return self._judge(from_the_start(), first_id, on_verdicts)
            except ray.exceptions.RayError as error:
                pause_s = losses.pause_s(error)
                if pause_s is None:
                    raise as_own(error, "the round could not be judged") from error
                logger.warning("an actor was lost (%s); the round is judged again", brief(error))
                time.sleep(pause_s)
                self._forget_round()

    def _judge(
        self,
        chunks: Iterable[Sequence[Candidate]],
        first_id: int,
        on_verdicts: Callable[[Sequence[Verdict]], None],
    ) -> list[Verdict]:
        import ray

        candidates: list[Candidate] = []
        pending: list[tuple[list[int], list[Execution], list[Any], list[tuple[list[int], Any]]]] = []
        verdicts: list[Verdict] = []

        def collect() -> None:
            positions, executions, vectors, decisions = pending.pop(0)
            decided: dict[int, Decision] = {}
            for places, reference in decisions:
                decided.update(zip(places, ray.get(reference), strict=True))
            block = [
                as_verdict(candidates[position], execution, vector, decided.get(position), first_id)
                for position, execution, vector in zip(positions, executions, vectors, strict=True)
            ]
            verdicts.extend(block)
            on_verdicts(block)

        workers, block_size = (
            Workers(self._staff.actors("tools"), self._staff.homes()),
            self._config.embedding.batch_size,
        )

        def blocks() -> Iterator[tuple[list[int], list[Execution], list[Any]]]:
            for chunk in chunks:
                start = len(candidates)
                candidates.extend(chunk)
                yield from run_and_embed(chunk, start, workers, self._staff.encoders, block_size, self._took)

        for positions, executions, vectors in blocks():
            by_shard: dict[int, list[Contender]] = {}
            for position, execution, vector in zip(positions, executions, vectors, strict=True):
                if execution.reason is None:
                    assert vector is not None
                    contender = Contender(position, candidates[position], execution, vector)
                    by_shard.setdefault(self._shard_of[contender.candidate.database], []).append(contender)
            # A critic takes calls in the order in which they were made, so blocks meet the index in order.
            decisions = [
                ([c.position for c in contenders], self._critics[shard].admit.remote(contenders, first_id))
                for shard, contenders in by_shard.items()
            ]
            for _, reference in decisions:
                # When it is there, not when the driver comes to look.
                reference.future().add_done_callback(partial(self._admitted, time.monotonic()))
            pending.append((positions, executions, vectors, decisions))
            if len(pending) > 1:
                collect()
        while pending:
            collect()
        return verdicts

    def _admitted(self, began: float, _decisions: Any) -> None:
        self._took("admit", time.monotonic() - began)

    def commit(self, ids: Mapping[int, int]) -> None:
        """Tell the critics which query_id each admitted position of the round has got."""
        import ray

        try:
            ray.get([critic.commit.remote(dict(ids)) for critic in self._critics])
        except ray.exceptions.RayError as error:
            if not is_loss(error):
                raise as_own(error, "the round could not be taken into the index") from error
            logger.warning("a critic was lost (%s); its index is built again from the pool", brief(error))
            self._drop_critics()

    def _forget_round(self) -> None:
        """Have the critics forget the round under way; where one is lost, all are started again, with the pool."""
        import ray

        try:
            ray.get([critic.commit.remote({}) for critic in self._critics])
        except ray.exceptions.RayError:
            self._drop_critics()

    def _drop_critics(self) -> None:
        import ray

        for critic in self._critics:
            ray.kill(critic)
        self._critics = []

    def _start_critics(self) -> None:
        """Start the critics and give them what is committed. They are not restarted by Ray, which cannot do that."""
        import ray

        shards = range(self._config.cluster.index_shards)
        critics: list[Any] = [
            ray.remote(CriticalAgent)
            .options(**options_with_gpu(self._config.cluster))
            .remote(self._config, {name: self._dialects[name] for name, i in self._shard_of.items() if i == shard})
            for shard in shards
        ]
        loading: list[list[Any]] = []
        for rows, vectors in self._load_pool():
            tables = ray.put(rows), ray.put(vectors)
            loading.append([critic.load.remote(*tables) for critic in critics])
            if len(loading) == _LOADS_AT_ONCE:
                ray.get(loading.pop(0))
        for each in loading:
            ray.get(each)
        self._critics = critics


def as_verdict(
    candidate: Candidate, execution: Execution, vector: Any, decision: Decision | None, first_id: int
) -> Verdict:
    if decision is None:
        return Verdict(candidate, execution.reason, execution.detail, execution)
    in_round = decision.nearest is not None and decision.nearest >= first_id
    return Verdict(
        candidate,
        decision.reason,
        decision.detail,
        execution,
        vector,
        decision.similarity,
        decision.nearest - first_id if decision.nearest is not None and in_round else decision.nearest,
        in_round,
        decision.nearest_similarity,
    )
