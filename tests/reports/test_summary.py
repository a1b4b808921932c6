"""What a person is told at the end of a run."""

import pytest

from rayfactory.reports.summary import farewell

SUMMARY = {
    "stop_reason": "interrupted", "candidates": 20, "admitted": 12, "rejected": {"error": 8}, "executability": 0.6,
    "non_empty_rate": 0.9, "mean_similarity": 0.3, "tables": 6, "tables_covered": 5, "table_gini": 0.2, "wall_s": 31.0,
    "cost_usd": 0.5, "agents": [],
}  # fmt: skip


def test_empty_pool_has_no_quality():
    """A rate of nothing would read like a verdict."""
    told = farewell("runs/x", {**SUMMARY, "candidates": 0, "admitted": 0, "rejected": {}, "executability": 0.0})
    assert "The pool is empty: a round is in it when all of it is judged; 31 s, $0.50" in told
    assert "executability" not in told


@pytest.mark.parametrize(
    ("replies", "fallbacks", "repeated", "said"),
    [
        (7, 2, 0, "7 replies of models read; a rule answered instead 2 times"),
        (7, 0, 3, "3 queries stood in one reply more than once and were left out"),
        (0, 4, 0, "No reply of a model could be had; a rule answered instead 4 times"),
    ],
)
def test_part_that_models_had_is_told(replies, fallbacks, repeated, said):
    agents = [{"agent": "generation", "replies": replies, "fallbacks": fallbacks, "repeated": repeated}]
    told = farewell("runs/x", {**SUMMARY, "agents": agents})
    assert said in told
    assert "executability 0.600" in told
