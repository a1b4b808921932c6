"""LearnedSQLGen: its automaton makes queries that run, and its policy learns what is rewarded."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayfactory.config import ExecutionConfig
from rayfactory.databases.engine import connect
from rayfactory.models.baselines.learnedsqlgen import Policy, trained
from rayfactory.models.baselines.learnedsqlgen.automaton import MAX_CONDITIONS, MAX_ITEMS, MAX_TABLES, Automaton, Walk
from rayfactory.models.baselines.learnedsqlgen.policy import reward
from rayfactory.sql.safety import check_safe
from rayfactory.sql.statement import parse
from tests.models.store import make_store


@pytest.fixture(scope="module", params=["duckdb", "sqlite"])
def store(request, tmp_path_factory):
    database, schema = make_store(tmp_path_factory.mktemp("store"), request.param)
    engine = connect(database, ExecutionConfig())
    yield schema, engine
    engine.close()


def walked(automaton, rng):
    """Take legal tokens by chance to the end; return the query."""
    walk = Walk(automaton)
    while not walk.is_done:
        assert walk.sql() is None
        walk.take(rng.choice(list(walk.legal())))
    return walk.sql()


def test_every_walk_ends_in_a_query_that_runs(store):
    schema, engine = store
    automaton, rng = Automaton(schema), Random(1)
    written = [walked(automaton, rng) for _ in range(300)]
    for sql in written:
        tree = parse(sql, schema.dialect)
        check_safe(tree, schema.dialect)
        engine.run(sql)
    for word in (" JOIN ", " WHERE ", " IN (SELECT ", " GROUP BY ", " HAVING ", " ORDER BY "):
        assert any(word in sql for sql in written), word


@given(seed=st.integers(0, 2**32))
def test_the_bounds_of_a_query_are_kept(store, seed):
    sql = walked(Automaton(store[0]), Random(seed))
    head, _, tail = sql.partition(" WHERE ")
    assert head.count(" JOIN ") < MAX_TABLES
    assert head.partition(" FROM ")[0].count(", ") < MAX_ITEMS
    assert tail.count(" AND ") < MAX_CONDITIONS + 1


@pytest.mark.parametrize(
    ("num_rows", "worth"), [(0, 0.0), (10, 1.0), (100, 1.0), (55, 1.0), (5, 0.5), (200, 0.5), (1, 0.1), (1_000, 0.1)]
)
def test_reward_falls_with_the_distance_from_the_range(num_rows, worth):
    assert reward(num_rows, 10, 100) == pytest.approx(worth)


def test_policy_learns_what_is_rewarded(store):
    """Subqueries become the rule where they alone are worth something."""
    automaton = Automaton(store[0])
    policy = Policy(automaton, seed=0)
    means = policy.train(1_600, lambda sql: float(" IN (SELECT " in sql))
    assert means[0] < 0.5
    assert sum(means[-5:]) / 5 > 0.9


def test_training_repeats_itself_and_its_policy_writes_what_runs(store):
    schema, engine = store
    first, again = (trained(schema, engine, (1, 50), 64, seed=5) for _ in range(2))
    written = [first.write(Random(i)) for i in range(5)]
    assert written == [again.write(Random(i)) for i in range(5)]
    for sql in written:
        engine.run(sql)
