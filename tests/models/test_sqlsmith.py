"""SQLsmith: types are minded, and nothing else."""

from __future__ import annotations

from random import Random

import pytest
from sqlglot import exp

from rayfactory.config import ExecutionConfig
from rayfactory.databases.engine import connect
from rayfactory.errors import StatementError
from rayfactory.models.baselines.sqlsmith import write_queries
from rayfactory.sql.statement import base_tables, parse
from tests.models.store import TABLES, make_store


@pytest.fixture(scope="module", params=["duckdb", "sqlite"])
def store(request, tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store"), request.param)


def test_every_query_parses_and_most_run(store):
    """What a database refuses is a matter of semantics, such as the place of a correlated subquery."""
    database, schema = store
    engine = connect(database, ExecutionConfig(timeout_s=2))
    queries = write_queries(schema, 60, Random(1))
    trees = [parse(sql, schema.dialect) for sql in queries]
    assert {name for tree in trees for name in base_tables(tree)} == set(TABLES)
    ran = 0
    for sql in queries:
        try:
            engine.run(sql)
        except StatementError:
            continue
        ran += 1
    engine.close()
    assert ran >= 0.5 * len(queries)


def test_productions_are_taken(store):
    """Each production of the walk stands in some query of a few hundred."""
    trees = [parse(sql, store[1].dialect) for sql in write_queries(store[1], 400, Random(2))]
    for kind in (
        exp.Join,
        exp.Subquery,
        exp.Case,
        exp.Window,
        exp.Exists,
        exp.Coalesce,
        exp.Nullif,
        exp.Limit,
        exp.Func,
    ):
        assert any(tree.find(kind) for tree in trees), kind
    sides = {join.side for tree in trees for join in tree.find_all(exp.Join)}
    assert {"LEFT", "RIGHT"} <= sides


def test_an_equal_seed_writes_the_same(store):
    first, again, other = (write_queries(store[1], 20, Random(seed)) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert len(set(first)) == 20
