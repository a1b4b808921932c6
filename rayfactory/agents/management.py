"""The Management Agent: explore or exploit, for which databases, and when to stop (equation 1, section 5.2.5).

The plan of round t rests on the evaluations of rounds up to t - 2, because round t - 1 is still being judged
when round t is planned; of round t - 1 only its plan is known. A run that resumes plans in the same way, so
it plans the same rounds.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayfactory.agents.player import Player
from rayfactory.config import ManagementConfig, RoundConfig
from rayfactory.errors import ConfigError
from rayfactory.models import replies
from rayfactory.models.completion import Prompt
from rayfactory.records import Evaluation, State, Tally

logger = logging.getLogger("rayfactory.agents")

LAG = 2
"""Round t is planned on the evaluations of rounds up to t - LAG."""

_TELLING_ROUNDS = 256
"""Of so many of the newest rounds the evaluations are kept: all that any decision looks at."""

MAX_ROUNDS_SHOWN = 12
"""Rounds that a model sees; what was before them has gone into the pool."""


@dataclass(frozen=True, slots=True)
class Past:
    """What a decision about the next round rests on, of those before it: as much after a million rounds as after ten.

    Attributes:
        num_planned: rounds planned so far, judged or not.
        under_way: states of those of them that are not judged, as far as the plan knows; in order.
        exploring: exploring rounds planned since the last exploiting one, the warm-up left out.
        warmup_similarity: mean of the mean similarities of the judged rounds of the warm-up; None where none has one.
        newest: evaluations of the newest judged rounds, in order; `MAX_ROUNDS_SHOWN` of them, if there are as many.
    """

    num_planned: int
    under_way: Sequence[State]
    exploring: int
    warmup_similarity: float | None
    newest: Sequence[Evaluation]


class History:
    """The rounds of a run as they are planned and judged, of which it keeps what decisions rest on.

    Args:
        warmup_rounds: rounds of the warm-up.

    Attributes:
        num_planned, num_judged: rounds so far.
        newest: evaluations of the newest judged rounds, in order: as many as say something of the next one.
    """

    def __init__(self, warmup_rounds: int) -> None:
        self._warmup_rounds = warmup_rounds
        self.num_planned = self.num_judged = 0
        self.newest: deque[Evaluation] = deque(maxlen=_TELLING_ROUNDS)
        self._similarity_sum, self._similarity_count = 0.0, 0
        self._under_way: deque[State] = deque()
        self._exploring = 0

    def plan(self, state: State) -> None:
        """Learn of a round that is planned."""
        is_exploring = state == "GEN" and self.num_planned >= self._warmup_rounds
        self._exploring = self._exploring + 1 if is_exploring else 0
        self._under_way.append(state)
        self.num_planned += 1

    def judge(self, evaluation: Evaluation) -> None:
        """Learn what became of the oldest round under way."""
        if self.num_judged < self._warmup_rounds and evaluation.mean_similarity is not None:
            self._similarity_sum += evaluation.mean_similarity
            self._similarity_count += 1
        self.newest.append(evaluation)
        self._under_way.popleft()
        self.num_judged += 1

    def past(self) -> Past:
        """Return what a decision rests on."""
        similarity = self._similarity_sum / self._similarity_count if self._similarity_count else None
        newest = tuple(self.newest)[-MAX_ROUNDS_SHOWN:]
        return Past(self.num_planned, tuple(self._under_way), self._exploring, similarity, newest)


@dataclass(frozen=True, slots=True)
class Situation:
    """What the Management Agent decides on.

    Attributes:
        past: the rounds before.
        num_tables: tables with rows, at least 1, of each database of the run.
        admitted: rows of each database in the judged rounds known to the plan.
        requested: queries asked for so far, of each database, rounds not yet judged included.
    """

    past: Past
    num_tables: Mapping[str, int]
    admitted: Mapping[str, int]
    requested: Mapping[str, int]


class ManagementAgent:
    """The rule behind one method, `decide`; it keeps nothing between calls."""

    def __init__(self, management: ManagementConfig, rounds: RoundConfig) -> None:
        self._management = management
        self._round = rounds

    def decide(self, num_requests: int, situation: Situation) -> tuple[State, list[str]]:
        """Return the state of the next round and the database of each of its requests."""
        state = decide_state(situation.past, self._management)
        databases = allocate_requests(
            num_requests,
            situation.num_tables,
            situation.admitted,
            situation.requested,
            self._round.queries_per_request,
        )
        return state, databases


async def decide_with_model(
    num_requests: int, situation: Situation, management: ManagementConfig, rounds: RoundConfig, player: Player
) -> tuple[tuple[State, list[str]], Tally]:
    """Return the state of the next round, as a model decides it, and the database of each request; and what came of it.

    The warm-up is explored without asking. The databases follow from the numbers alone.

    Raises:
        ConfigError: the prompt does not fit into the model's context window.
        UserError: the endpoint refuses for a reason that the user can change.
        EngineError: the endpoint has been away for too long.
    """
    state, databases = ManagementAgent(management, rounds).decide(num_requests, situation)
    number = situation.past.num_planned
    if number < management.warmup_rounds or not management.switch or not situation.past.newest:
        return (state, databases), Tally("management")
    completion = await player.decide("management", number, 0, management_prompt(situation.past, player))
    if completion is None:
        return (state, databases), Tally("management", fallbacks=1)
    decided = replies.state(completion.text)
    if decided is None:
        return (state, databases), Tally("management", replies=1, unusable=1, fallbacks=1, cost_usd=completion.cost_usd)
    logger.info("round %d: %s, %s", number, decided, replies.advice(completion.text))
    return (decided, databases), Tally("management", replies=1, cost_usd=completion.cost_usd)


def management_prompt(past: Past, player: Player) -> Prompt:
    """Return the prompt for the state of the next round: as many of the last rounds as fit, in computed numbers.

    By design it shows `MAX_ROUNDS_SHOWN` rounds; those that are left out for want of room are told.

    Raises:
        ConfigError: it does not fit into the model's context window.
    """
    rows = [_row(evaluation) for evaluation in past.newest]
    size, first = len(rows), past.num_planned - len(past.under_way)
    while True:
        values = {
            "rounds": rows,
            "warmup_similarity": "not known" if past.warmup_similarity is None else f"{past.warmup_similarity:.3f}",
            "under_way": [f"round {number} {state}" for number, state in enumerate(past.under_way, first)],
            "number": past.num_planned,
        }
        try:
            prompt = player.decision_prompt("management", None, values)
        except ConfigError:
            if len(rows) <= 1:
                raise
            rows = rows[1:]
            continue
        if left_out := size - len(rows):
            player.prompts.tell_cut("management", player.model, None, "rounds", f"{left_out} of the last {size} rounds")
        return prompt


def _row(evaluation: Evaluation) -> list[str]:
    similarity = evaluation.mean_similarity
    return [
        str(evaluation.round),
        evaluation.state,
        f"{evaluation.executability:.3f}",
        "-" if similarity is None else f"{similarity:.3f}",
        f"{evaluation.admission_rate:.3f}",
        ", ".join(f"{reason} {count}" for reason, count in evaluation.reasons.items()) or "none",
    ]


def decide_state(past: Past, config: ManagementConfig) -> State:
    """Return the state of the next round, S_{t+1} of equation 1.

    Exploration during the warm-up; then exploitation, until a round of it runs badly or repeats the pool, which
    is answered by `exploration_rounds` rounds of exploration.
    """
    if past.num_planned < config.warmup_rounds:
        return "GEN"
    if not config.switch:
        return "EXP"
    if past.exploring:
        return "GEN" if past.exploring < config.exploration_rounds else "EXP"
    newest = past.newest[-1] if past.newest else None
    # An exploitation round that was answered already must not be answered again while its successors are being judged.
    if newest is None or newest.state == "GEN" or "GEN" in past.under_way:
        return "EXP"
    if newest.executability <= config.min_executability:
        return "GEN"
    if newest.mean_similarity is not None:
        limit = config.max_mean_similarity
        if past.warmup_similarity is not None:
            limit = min(limit, past.warmup_similarity + config.max_similarity_rise)
        if newest.mean_similarity >= limit:
            return "GEN"
    return "EXP"


def allocate_requests(
    num_requests: int,
    num_tables: Mapping[str, int],
    admitted: Mapping[str, int],
    requested: Mapping[str, int],
    queries_per_request: int,
) -> list[str]:
    """Return the database of each request: those with the fewest rows for each of their tables come first.

    A database counts at least half of what was asked of it, so that one which yields little cannot hold up
    the others.

    Args:
        num_requests: requests of the round.
        num_tables: tables with rows, at least 1, of each database of the run.
        admitted: rows of each database that the plan knows of.
        requested: queries asked for so far, of each database, rounds not yet judged included.
        queries_per_request: queries that a request asks for.
    """
    order = {database: position for position, database in enumerate(num_tables)}
    expected = {database: max(admitted.get(database, 0), 0.5 * requested.get(database, 0)) for database in num_tables}
    heap = [(expected[database] / num_tables[database], order[database], database) for database in num_tables]
    heapq.heapify(heap)
    chosen = []
    for _ in range(num_requests):
        _, position, database = heap[0]
        chosen.append(database)
        expected[database] += queries_per_request
        heapq.heapreplace(heap, (expected[database] / num_tables[database], position, database))
    # Requests for one database stand together, so that what is cached of it is used while it is warm.
    return sorted(chosen, key=order.__getitem__)


def is_exhausted(evaluations: Sequence[Evaluation], config: ManagementConfig) -> bool:
    """Return whether the last `exhausted_rounds` rounds admitted nothing at all."""
    last = evaluations[-config.exhausted_rounds :]
    return len(last) == config.exhausted_rounds and all(sum(e.admitted.values()) == 0 for e in last)


def is_saturated(expansion_ratio: float, pool_similarities: Sequence[float], config: ManagementConfig) -> bool:
    """Return whether the pool is saturated (paper, section 5.2.5).

    Expansion has written most of it, and its mean similarity has been rising: the least-squares slope over the
    last `saturation_rounds` rounds is positive and the last value exceeds the first.

    Args:
        expansion_ratio: rows from expansion over all rows, in [0, 1].
        pool_similarities: the pool-wide mean similarity after each round so far.
        config: thresholds.
    """
    window = pool_similarities[-config.saturation_rounds :]
    if expansion_ratio < config.saturation_expansion_ratio or len(window) < max(2, config.saturation_rounds):
        return False
    middle = (len(window) - 1) / 2
    slope = sum((position - middle) * value for position, value in enumerate(window))
    return slope > 0 and window[-1] > window[0]
