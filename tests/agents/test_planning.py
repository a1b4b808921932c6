"""A plan asks for as much as the target needs, as far as can be known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayfactory.agents.management import History
from rayfactory.agents.planning import Knowledge, queries_missing
from rayfactory.records import Evaluation


def judged(knowledge, evaluation):
    knowledge.history.plan(evaluation.state)
    knowledge.history.judge(evaluation)


def knowing(candidates, rows, under_way=0, surplus=0):
    knowledge = Knowledge(History(2))
    knowledge.statistics.rows["d"] = rows
    if candidates:
        reasons = {"surplus": surplus} if surplus else {}
        judged(knowledge, Evaluation(0, "GEN", candidates, 1.0, 1.0, None, reasons, {"d": 1}, {"d": rows}))
    knowledge.under_way = [("d", (), under_way)]
    return knowledge


@pytest.mark.parametrize(
    ("knowledge", "target", "num_rows", "missing"),
    [
        (knowing(0, 0), 100, None, 105),
        (knowing(0, 0, under_way=100), 100, None, 0),
        (knowing(200, 200, under_way=200), 1000, None, 630),
        (knowing(200, 100), 200, None, 229),
        (knowing(200, 100, under_way=200), 200, None, 0),
        (knowing(200, 100, under_way=200), 200, 190, 29),
        (knowing(200, 100, surplus=100), 200, None, 105),
        (knowing(200, 0), 10, None, 160),
    ],
)
def test_what_is_missing_counts_by_the_share_that_is_admitted(knowledge, target, num_rows, missing):
    assert queries_missing(knowledge, target, num_rows) == missing


@given(st.integers(1, 500), st.integers(0, 500), st.integers(0, 500), st.integers(1, 2000))
def test_with_nothing_under_way_something_is_asked_for_until_the_target_is_there(candidates, rows, under_way, target):
    knowledge = knowing(candidates, min(rows, candidates), under_way)
    for num_rows in {0, target - 1}:
        assert queries_missing(knowledge, target, num_rows) >= target - num_rows
    assert queries_missing(knowledge, target, target) == 0


def test_newest_rounds_tell_what_is_admitted():
    """A pool that fills admits less and less: what the first rounds had is no guide to the last."""
    knowledge = knowing(200, 200)
    before = queries_missing(knowledge, 400, 300)
    judged(knowledge, Evaluation(1, "EXP", 200, 1.0, 0.5, None, {"similar": 100}, {"d": 1}, {"d": 100}))
    assert queries_missing(knowledge, 400, 300) > 2 * 100 > before
