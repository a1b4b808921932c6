"""The Management Agent explores first, exploits then, and goes back to exploring when exploitation goes badly."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayfactory.agents.management import History, allocate_requests, decide_state, is_exhausted, is_saturated
from rayfactory.config import ManagementConfig
from rayfactory.records import Evaluation, State

CONFIG = ManagementConfig()


def evaluation(number, state, *, executability=1.0, similarity=0.4, admitted=10):
    return Evaluation(number, state, 10, executability, admitted / 10, similarity, {}, {"d": 1}, {"d": admitted})


def play(outcomes, config=CONFIG, lag=2):
    """Return the states of successive rounds; `outcomes[t]` overrides the evaluation of round t."""
    states: list[State] = []
    history = History(config.warmup_rounds)
    for number in range(12):
        if number >= lag:
            done = number - lag
            history.judge(evaluation(done, states[done], **outcomes.get(done, {})))
        states.append(decide_state(history.past(), config))
        history.plan(states[-1])
    return "".join("G" if state == "GEN" else "E" for state in states)


def test_good_rounds_are_exploited_for_ever():
    assert play({}) == "GGEEEEEEEEEE"


@pytest.mark.parametrize(
    "bad", [{"executability": 0.75}, {"similarity": 0.5}, {"similarity": 0.8}], ids=["fails", "rises", "repeats"]
)
def test_a_bad_round_is_answered_by_one_round_of_exploration(bad):
    """Round 4 is bad; round 5 is under way by then; round 6 explores, once."""
    assert play({4: bad}) == "GGEEEEGEEEEE"


def test_neighbouring_bad_rounds_are_answered_together():
    """Rounds 4 and 5 are bad, and both were planned before anyone knew: one exploration answers them."""
    assert play({4: {"similarity": 0.9}, 5: {"similarity": 0.9}}) == "GGEEEEGEEEEE"


def test_bad_rounds_of_exploration_change_nothing():
    assert play({0: {"executability": 0.1}, 1: {"similarity": 0.99}}) == "GGEEEEEEEEEE"


def test_exploration_may_last_longer():
    assert play({4: {"executability": 0.5}}, ManagementConfig(exploration_rounds=2)) == "GGEEEEGGEEEE"


def test_history_of_a_warm_up_without_end_stays_small():
    """As of the methods of others, which only explore: what is kept of a thousand rounds is what is kept of fifty."""
    sizes, history = [], History(1_000_000)
    for number in range(1_000):
        history.plan("GEN")
        history.judge(evaluation(number, "GEN", similarity=number / 1_000))
        sizes.append(len(pickle.dumps(history.past())))
    assert sizes[-1] <= sizes[50] + 50
    assert history.past().warmup_similarity == pytest.approx(0.4995)
    assert [e.round for e in history.past().newest] == list(range(988, 1_000))


def test_databases_with_the_fewest_rows_for_their_tables_come_first():
    chosen = allocate_requests(4, {"a": 10, "b": 5, "c": 5}, {"a": 100, "b": 10, "c": 60}, {}, 10)
    assert chosen == ["b", "b", "b", "b"]


def test_a_database_that_yields_nothing_does_not_hold_up_the_others():
    """Sixty queries were asked of `a` and none was admitted: it counts as thirty."""
    chosen = allocate_requests(4, {"a": 1, "b": 1}, {"a": 0, "b": 10}, {"a": 60, "b": 10}, 10)
    assert chosen == ["a", "b", "b", "b"]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(0, 400))
def test_requests_follow_the_number_of_tables(num_tables, num_requests):
    """From an empty pool, no database is more than one request away from its share."""
    tables = {f"d{i}": n for i, n in enumerate(num_tables)}
    chosen = allocate_requests(num_requests, tables, {}, {}, 10)
    assert len(chosen) == num_requests
    levels = [chosen.count(name) / count for name, count in tables.items()]
    for (name, count), level in zip(tables.items(), levels, strict=True):
        assert level <= min(levels) + 1 / count + 1e-9, name


def test_exhaustion_takes_rounds_in_a_row_without_a_single_row():
    nothing = [evaluation(i, "EXP", admitted=0) for i in range(8)]
    assert is_exhausted(nothing, CONFIG)
    assert not is_exhausted(nothing[:7], CONFIG)
    assert not is_exhausted([*nothing[:7], evaluation(7, "EXP", admitted=1)], CONFIG)


def test_saturation_takes_expansion_and_rising_similarity():
    rising = [0.40 + 0.01 * i for i in range(8)]
    assert is_saturated(0.8, rising, CONFIG)
    assert not is_saturated(0.79, rising, CONFIG)
    assert not is_saturated(0.9, rising[::-1], CONFIG)
    assert not is_saturated(0.9, [0.5] * 8, CONFIG)
    assert not is_saturated(0.9, rising[:7], CONFIG)
