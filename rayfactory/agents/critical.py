"""The Critical Agent: who is admitted, and the evaluation E_t of a round (equations 2 and 6)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from rayfactory.agents.player import Player
from rayfactory.config import CriticConfig
from rayfactory.databases.schema import Schema
from rayfactory.errors import ConfigError
from rayfactory.models import replies
from rayfactory.models.completion import Prompt
from rayfactory.models.schema_text import quoted
from rayfactory.records import DID_NOT_RUN, REJECT_REASONS, Evaluation, Failure, Origin, State, Tally, Verdict

MAX_EXAMPLES = 8
"""Failures that a model reads for its advice."""

MAX_EXAMPLE_CHARACTERS = 600
MAX_DETAIL_CHARACTERS = 300

_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")


def reject(
    origin: Origin,
    num_tables: int,
    num_request_tables: int,
    is_duplicate: bool,
    nearest_similarity: float | None,
    config: CriticConfig,
) -> tuple[str, str] | None:
    """Return why a query that ran is not admitted, as (reason, detail), or None where it is.

    Args:
        origin: which team wrote it; expansion is held to a stricter measure.
        num_tables: base tables that it references.
        num_request_tables: tables that its request was about.
        is_duplicate: whether the pool has a query with its canonical form.
        nearest_similarity: Sim to its nearest neighbour, in [0, 1]; None where it has none.
        config: thresholds.
    """
    if config.admit_all:
        return None
    if origin == "generation" and num_request_tables > 1 and num_tables < 2:
        return "single_table", f"references {num_tables} of {num_request_tables} tables"
    if is_duplicate:
        return "duplicate", "equals a query of the pool"
    if origin == "expansion" and nearest_similarity is not None and nearest_similarity > config.max_similarity:
        return "similar", f"similarity {nearest_similarity:.3f} exceeds {config.max_similarity}"
    return None


def evaluate(round_number: int, state: State, requests: Sequence[str], verdicts: Sequence[Verdict]) -> Evaluation:
    """Return E_t from the verdicts of a round.

    Args:
        round_number: of the round.
        state: its state.
        requests: the database of each request.
        verdicts: one for each candidate.
    """
    reasons = Counter(verdict.reason for verdict in verdicts if verdict.reason is not None)
    failed = sum(count for reason, count in reasons.items() if reason in DID_NOT_RUN)
    admitted = Counter(verdict.candidate.database for verdict in verdicts if verdict.reason is None)
    similarities = [verdict.similarity for verdict in verdicts if verdict.similarity is not None]
    total = len(verdicts)
    return Evaluation(
        round=round_number,
        state=state,
        candidates=total,
        executability=(total - failed) / total if total else 0.0,
        admission_rate=admitted.total() / total if total else 0.0,
        mean_similarity=sum(similarities) / len(similarities) if similarities else None,
        reasons=dict(sorted(reasons.items())),
        requests=dict(sorted(Counter(requests).items())),
        admitted=dict(sorted(admitted.items())),
    )


async def advise(
    number: int, failures: Sequence[Failure], schemas: Mapping[str, Schema], player: Player
) -> tuple[str, Tally]:
    """Return a few sentences that a model writes for the authors from the failures of a round, and what came of it.

    Without failures nothing is asked, and the advice is empty; so it is where no reply can be had.

    Args:
        number: of the round that failed.
        failures: of that round, all of them.
        schemas: of the run, by database name.

    Raises:
        UserError: the endpoint refuses for a reason that the user can change.
        EngineError: the endpoint has been away for too long.
    """
    if not failures:
        return "", Tally("critical")
    try:
        prompt = critical_prompt(failures, schemas, player)
    except ConfigError as error:
        player.prompts.tell_rule("critical", None, error)
        return "", Tally("critical", fallbacks=1)
    completion = await player.decide("critical", number, 0, prompt)
    if completion is None:
        return "", Tally("critical", fallbacks=1)
    advice = replies.advice(completion.text)
    return advice, Tally(
        "critical", replies=1, unusable=int(not advice), fallbacks=int(not advice), cost_usd=completion.cost_usd
    )


def critical_prompt(failures: Sequence[Failure], schemas: Mapping[str, Schema], player: Player) -> Prompt:
    """Return the prompt for advice: the reasons with computed counts, and as many examples as fit. No scores.

    By design it shows `MAX_EXAMPLES` failures, cut to their lengths; those that are left out for want of room are told.

    Args:
        failures: at least one.

    Raises:
        ConfigError: it does not fit into the model's context window even with a single example.
    """
    counts = Counter(failure.reason for failure in failures)
    examples = _examples(failures)
    size = len(examples)
    while True:
        values = {
            "reasons": [(reason, REJECT_REASONS[reason], count) for reason, count in counts.most_common()],
            "examples": [
                {
                    "sql": quoted(failure.sql, MAX_EXAMPLE_CHARACTERS),
                    "reason": failure.reason,
                    "detail": quoted(failure.detail, MAX_DETAIL_CHARACTERS),
                }
                for failure in examples
            ],
        }
        try:
            prompt = player.decision_prompt("critical", schemas[failures[0].database].dialect, values)
        except ConfigError:
            if len(examples) <= 1:
                raise
            examples.pop()
            continue
        if left_out := size - len(examples):
            player.prompts.tell_cut("critical", player.model, None, "examples", f"{left_out} of {size} examples")
        return prompt


def _examples(failures: Sequence[Failure]) -> list[Failure]:
    """Return failures that differ: first one of each kind, the most frequent kind first, then others.

    Messages of a kind begin with the same three words; names in quotes make no difference.
    """
    kinds: dict[tuple[str, ...], list[Failure]] = {}
    for failure in failures:
        kinds.setdefault((failure.reason, *_QUOTED.sub("?", failure.detail).split()[:3]), []).append(failure)
    frequent_first = sorted(kinds.values(), key=len, reverse=True)
    most = len(frequent_first[0])
    in_turn = [kind[place] for place in range(min(most, MAX_EXAMPLES)) for kind in frequent_first if place < len(kind)]
    return in_turn[:MAX_EXAMPLES]
