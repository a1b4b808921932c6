"""The Critical Agent rejects for a reason, and its evaluation counts what came of every candidate."""

import pytest

from rayfactory.agents.critical import evaluate, reject
from rayfactory.config import CriticConfig
from rayfactory.records import REJECT_REASONS, Candidate, Execution, Verdict

CONFIG = CriticConfig(max_similarity=0.9)


@pytest.mark.parametrize(
    ("origin", "num_tables", "num_request_tables", "is_duplicate", "nearest", "reason"),
    [
        ("generation", 2, 3, False, 0.99, None),
        ("generation", 1, 1, False, None, None),
        ("generation", 1, 3, False, None, "single_table"),
        ("generation", 2, 3, True, 1.0, "duplicate"),
        ("expansion", 1, 3, False, 0.9, None),
        ("expansion", 1, 3, False, None, None),
        ("expansion", 1, 3, False, 0.901, "similar"),
        ("expansion", 2, 3, True, 1.0, "duplicate"),
    ],
)
def test_rejection(origin, num_tables, num_request_tables, is_duplicate, nearest, reason):
    """Expansion is held to distance from the pool, generation to more than one table; neither may repeat it."""
    found = reject(origin, num_tables, num_request_tables, is_duplicate, nearest, CONFIG)
    assert (found and found[0]) == reason
    assert reason is None or reason in REJECT_REASONS


def verdict(reason, similarity=None, database="d"):
    candidate = Candidate(3, 0, 0, "expansion", database, "duckdb", "SELECT 1", 1, (), "m", "")
    return Verdict(candidate, reason, "", Execution(None, "", ""), None, similarity)


def test_evaluation_by_hand():
    """Five candidates: two admitted, one too similar, one that failed, one that took too long."""
    found = evaluate(
        3,
        "EXP",
        ["d", "d", "e"],
        [verdict(None, 0.2), verdict("similar", 0.95), verdict("error"), verdict("timeout"), verdict(None, 0.5, "e")],
    )
    assert (found.round, found.state, found.candidates) == (3, "EXP", 5)
    assert found.executability == pytest.approx(3 / 5)
    assert found.admission_rate == pytest.approx(2 / 5)
    assert found.mean_similarity == pytest.approx((0.2 + 0.95 + 0.5) / 3)
    assert found.reasons == {"error": 1, "similar": 1, "timeout": 1}
    assert found.requests == {"d": 2, "e": 1}
    assert found.admitted == {"d": 1, "e": 1}
    assert type(found).from_json(found.to_json()) == found


def test_round_without_candidates():
    found = evaluate(0, "GEN", ["d"], [])
    assert (found.executability, found.admission_rate, found.mean_similarity) == (0.0, 0.0, None)
