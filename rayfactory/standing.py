"""How a run stands: what is counted of its committed rounds, what a plan may know of them, whether they are enough."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping

import pyarrow as pa

from rayfactory.agents.management import LAG, History, is_exhausted, is_saturated
from rayfactory.agents.planning import Knowledge
from rayfactory.agents.seed_selection import SeedShelf
from rayfactory.config import Config
from rayfactory.databases.schema import Schema
from rayfactory.manifests import PlannedRequest
from rayfactory.pool import Pool
from rayfactory.records import Evaluation
from rayfactory.reports.summary import StopReason
from rayfactory.tools.statistics import Statistics


class Counted:
    """Counts over the committed rounds, for the stopping rules and the monitor; they are as large after any number.

    Args:
        config: of the run.

    Attributes:
        statistics: over the rows of R.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self.statistics = Statistics()
        self._pool_similarities: deque[float] = deque(maxlen=config.management.saturation_rounds)
        self._newest: deque[Evaluation] = deque(maxlen=config.management.exhausted_rounds)
        self._requested = 0

    def add(self, plan: Iterable[PlannedRequest], evaluation: Evaluation, rows: pa.Table | None = None) -> None:
        """Count a round.

        Args:
            plan: its requests.
            evaluation: of it.
            rows: of R, with `Statistics.COLUMNS`; None: they are not needed, since there is a target.
        """
        if rows is not None:
            self.statistics.add(rows)
            if self.statistics.mean_similarity is not None:
                self._pool_similarities.append(self.statistics.mean_similarity)
        self._newest.append(evaluation)
        self._requested += sum(request.num_queries for request in plan)

    @property
    def is_saturated(self) -> bool:
        """Whether new queries only repeat the pool."""
        ratio = self.statistics.expansion_ratio
        return is_saturated(ratio, list(self._pool_similarities), self._config.management)

    def reason_to_stop(self, num_rows: int) -> StopReason | None:
        """Return why the run is over with so many rows, or None where it goes on."""
        config = self._config
        if config.target is not None and num_rows >= config.target:
            return "target"
        if is_exhausted(list(self._newest), config.management):
            return "exhausted"
        if config.target is None and self.is_saturated:
            return "saturated"
        if config.max_candidates is not None and self._requested >= config.max_candidates:
            return "max_candidates"
        return None


def reason_to_stop(config: Config, pool: Pool) -> StopReason | None:
    """Return why a run needs no more rounds than are committed, or None where it goes on."""
    counted, manifests = Counted(config), iter(pool.manifests)
    # Where there is a target, what rows are like decides nothing, and a budget of candidates alone needs all rounds.
    rows = None if config.target is not None else pool.by_round("R", 0, pool.next_round - 1, Statistics.COLUMNS)
    if config.target is not None and config.max_candidates is None:
        manifests = iter(pool.manifests[-config.management.exhausted_rounds :])
    for manifest in manifests:
        counted.add(manifest.plan, manifest.evaluation, None if rows is None else next(rows))
    return counted.reason_to_stop(pool.num_rows)


def before(
    config: Config, schemas: Mapping[str, Schema], pool: Pool, seen: Callable[[Evaluation], None]
) -> tuple[Counted, Knowledge]:
    """Return how a run stands that is opened: the counts over all its rounds, and what its next plan rests on.

    Args:
        config: of the run.
        schemas: of its databases, by name.
        pool: of the run.
        seen: told the evaluation of each round.
    """
    counted = Counted(config)
    knowledge = Knowledge(History(config.management.warmup_rounds), shelf=SeedShelf(len(schemas)))
    num_learnt = pool.next_round - LAG + 1
    all_rows = pool.by_round("R", 0, pool.next_round - 1, Knowledge.COLUMNS)
    for manifest, rows in zip(pool.manifests, all_rows, strict=True):
        seen(manifest.evaluation)
        counted.add(manifest.plan, manifest.evaluation, rows)
        knowledge.plan(manifest.evaluation.state, manifest.plan)
        if manifest.round < num_learnt:
            knowledge.learn(rows, manifest.evaluation)
    if num_learnt > 0:
        knowledge.learn_failures(pool.rejects(num_learnt - 1))
    return counted, knowledge
