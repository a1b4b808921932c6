"""One round as values: what was planned and written, what each row of it cost, and its rows in the pool's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from rayfactory.agents import baselines, expansion, generation
from rayfactory.agents.planning import Plan
from rayfactory.records import (
    E_SCHEMA,
    R_SCHEMA,
    REJECTS_SCHEMA,
    S_SCHEMA,
    Answer,
    Candidate,
    Tally,
    Verdict,
    add_tallies,
    canonical_digest,
)

RULE_AUTHORS = frozenset({generation.OFFLINE_MODEL, expansion.OFFLINE_MODEL, *baselines.RULES})
"""What `model` says of a query that a rule wrote: it cost nothing."""


@dataclass(frozen=True, slots=True)
class Produced:
    """A round that is planned and written.

    Attributes:
        answers: one for each request, in order.
        planning: what happened between the planning agents and their models.
        phase_s: seconds that planning, writing, and either of them took.
    """

    plan: Plan
    answers: tuple[Answer, ...]
    planning: tuple[Tally, ...]
    phase_s: dict[str, float]

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """What was written, in order."""
        return tuple(candidate for answer in self.answers for candidate in answer.candidates)

    @property
    def tallies(self) -> tuple[Tally, ...]:
        """What happened between the agents and their models, one for each agent."""
        return add_tallies([*self.planning, *(tally for answer in self.answers for tally in answer.tallies)])

    @property
    def out_of_budget(self) -> bool:
        """Whether requests stayed unanswered because `max_cost_usd` was reached."""
        return any(answer.out_of_budget for answer in self.answers)


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


def row_costs(produced: Produced, verdicts: Sequence[Verdict]) -> dict[int, float]:
    """Return what each admitted position of a round cost, in US dollars: together, all that the round's replies cost.

    The admitted queries that a model wrote share what their request cost. What planning cost, and the requests of which
    nothing was admitted, all of them share; rows that rules wrote bear it only where there are no others.
    """
    admitted = [position for position, verdict in enumerate(verdicts) if verdict.reason is None]
    by_model = [position for position in admitted if verdicts[position].candidate.model not in RULE_AUTHORS]
    bearers = by_model or admitted
    of_request: dict[int, list[int]] = {}
    for position in by_model:
        of_request.setdefault(verdicts[position].candidate.request, []).append(position)
    costs = dict.fromkeys(admitted, 0.0)

    def share(cost_usd: float, positions: Sequence[int]) -> None:
        for position in positions:
            costs[position] += cost_usd / len(positions)

    share(sum(tally.cost_usd for tally in produced.planning), bearers)
    for request, answer in zip(produced.plan.requests, produced.answers, strict=True):
        share(answer.cost_usd, of_request.get(request.index, bearers))
    return costs


def round_tables(
    verdicts: Sequence[Verdict], ids: Mapping[int, int], costs: Mapping[int, float]
) -> dict[str, pa.Table]:
    """Return R, E, S and rejects of one round.

    Args:
        verdicts: one for each candidate, in order.
        ids: query_id of each position that is admitted.
        costs: as `row_costs` gives them.
    """
    rows, vectors, signatures, rejects = [], [], [], []
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
                "cost_usd": costs[position],
            }
        )
        assert execution.tree is not None
        signatures.append(
            {
                "query_id": ids[position],
                "database": candidate.database,
                "words": execution.words,
                "labels": execution.tree.labels,
                "leftmost": execution.tree.leftmost,
                "canonical_digest": canonical_digest(execution.canonical),
            }
        )
        vectors.append({"query_id": ids[position], "database": candidate.database, "vector": verdict.vector})
    return {
        "R": pa.Table.from_pylist(rows, schema=R_SCHEMA),
        "E": pa.Table.from_pylist(vectors, schema=E_SCHEMA),
        "S": pa.Table.from_pylist(signatures, schema=S_SCHEMA),
        "rejects": pa.Table.from_pylist(rejects, schema=REJECTS_SCHEMA),
    }
