"""Queries written otherwise: the same rows, in other words."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from random import Random

import pytest
from sqlglot import exp

from rayfactory import sql
from rayfactory.downstream.written_otherwise import written_otherwise
from rayfactory.pool import connect
from tests.downstream.pools import make_pool

FORMS = [
    ("SELECT a.x FROM a JOIN b ON a.i = b.i WHERE a.y > 1", "FROM a, b WHERE"),
    ("SELECT x FROM a WHERE y BETWEEN 1 AND 2", "y >= 1 AND y <= 2"),
    ("SELECT x FROM a WHERE NOT y IN (1, 2)", "(y = 1 OR y = 2)"),
    (
        "SELECT a.x FROM a WHERE a.i IN (SELECT b.i FROM b WHERE b.z = 1)",
        "EXISTS(SELECT 1 FROM b WHERE b.z = 1 AND b.i = a.i)",
    ),
    ("SELECT d.x FROM (SELECT x FROM a) AS d", "WITH d AS ("),
    ("SELECT p.x FROM a AS p WHERE p.y = 1", "SELECT a.x FROM a WHERE a.y = 1"),
    ("SELECT p.x FROM a AS p WHERE p.y = 1", "SELECT t1.x FROM a AS t1 WHERE t1.y = 1"),
    ("SELECT x FROM a WHERE y = 1 AND z = 2", "z = 2 AND y = 1"),
]

STAYS = [
    "SELECT p.x FROM a AS p LEFT JOIN b ON p.i = b.i",
    "SELECT p.x FROM a AS p JOIN b USING (i)",
    "SELECT p.x FROM a AS p CROSS JOIN b",
]


@pytest.mark.parametrize(("query", "form"), FORMS)
def test_forms_that_others_use_are_found(query, form):
    trees = [written_otherwise(sql.parse(query, "sqlite"), Random(seed)) for seed in range(60)]
    assert any(form in tree.sql("sqlite") for tree in trees)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT a.x FROM a WHERE NOT a.i IN (SELECT b.i FROM b)",
        "SELECT x FROM a WHERE i IN (SELECT b.i FROM b)",
        "SELECT a.x FROM a WHERE a.i IN (SELECT a.i FROM a WHERE a.y = 1)",
        "SELECT a.x FROM a WHERE a.i IN (SELECT MAX(b.i) FROM b)",
        "SELECT a.x FROM a WHERE a.i IN (SELECT b.i FROM b GROUP BY b.i HAVING COUNT(*) > 1)",
        "SELECT a.x FROM a WHERE a.i IN (SELECT b.i FROM b ORDER BY b.i LIMIT 3)",
        "SELECT a.x FROM a WHERE a.i IN (SELECT b.i FROM b UNION SELECT c.i FROM c)",
        "SELECT a.i IN (SELECT b.i FROM b) FROM a",
    ],
)
def test_membership_that_exists_is_not_stays(query):
    for seed in range(20):
        assert " IN (" in written_otherwise(sql.parse(query, "sqlite"), Random(seed)).sql("sqlite")


@pytest.mark.parametrize("query", STAYS)
def test_joins_that_a_comma_is_not_stay(query):
    for seed in range(20):
        assert " JOIN b" in written_otherwise(sql.parse(query, "sqlite"), Random(seed)).sql("sqlite")


@pytest.mark.realdata
def test_gold_queries_of_spider_give_the_same_rows(shared_data):
    """Also those that others have written, with a correlated query, a set operation or a name in quotes."""
    folder = shared_data / "spider"
    lines = [line.split("\t") for line in (folder / "dev_gold.sql").read_text(encoding="utf-8").splitlines() if line]
    num_other = 0
    for number, (query, database) in enumerate(lines):
        path = folder / "database" / database / f"{database}.sqlite"
        if not path.is_file():
            continue
        num_other += same_rows(path, query, Random(number))
    assert num_other > 300


def test_queries_of_the_rules_give_the_same_rows(tmp_path):
    make_pool(tmp_path, 200)
    rows = connect(tmp_path / "run").sql("SELECT sql FROM R ORDER BY query_id").fetchall()
    assert sum(same_rows(tmp_path / "shop.sqlite", query, Random(n)) for n, (query,) in enumerate(rows)) > 150


def same_rows(path, query, rng):
    """Return whether a query has been written otherwise, once its rows are seen to be the same."""
    tree = sql.parse(query, "sqlite")
    before = tree.sql("sqlite")
    other = written_otherwise(tree, rng)
    assert tree.sql("sqlite") == before
    with closing(sqlite3.connect(path)) as database:
        database.text_factory = bytes
        # As it was parsed: what the parser makes of a query is not what is looked at.
        found = [database.execute(text).fetchall() for text in (before, other.sql("sqlite"))]
    # Rows that ORDER BY leaves equal, and those that LIMIT takes of them, may be others.
    if not tree.find(exp.Limit):
        assert Counter(found[0]) == Counter(found[1]), (before, other.sql("sqlite"))
    assert len(found[0]) == len(found[1])
    return sql.normalise(other, "sqlite") != sql.normalise(tree, "sqlite")
