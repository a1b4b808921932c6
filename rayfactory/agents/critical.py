"""The Critical Agent: who is admitted, and the evaluation E_t of a round (equations 2 and 6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rayfactory.config import CriticConfig
from rayfactory.records import DID_NOT_RUN, Evaluation, Origin, State, Verdict


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
