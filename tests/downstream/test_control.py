"""A verifier's faults are told from bad luck; pairs that are to be wrong are."""

from __future__ import annotations

import random
import sqlite3

import pytest

from rayfactory.compose import compose
from rayfactory.downstream.control import MIN_PAIRS, MIN_SKILL, Z_95, Control, damages, pairs_over
from rayfactory.downstream.realiser import realise
from rayfactory.runs import open_databases
from tests.downstream.pools import words
from tests.shop import make_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    make_shop(folder / "shop.sqlite")
    _, schemas = open_databases(compose(words(folder)))
    return schemas["shop"], sqlite3.connect(folder / "shop.sqlite")


QUERIES = [
    "SELECT title FROM product WHERE category = 'toys' AND list_price > 10",
    "SELECT channel, SUM(total_amount) FROM sale GROUP BY channel",
    "SELECT name FROM customer ORDER BY birth_year DESC LIMIT 3",
    "SELECT AVG(list_price) FROM product",
    "SELECT name, country FROM region",
    "SELECT c.name FROM customer AS c JOIN sale AS s ON s.customer_id = c.customer_id WHERE s.total_amount BETWEEN 5 AND 90",
]  # fmt: skip


@pytest.mark.parametrize("sql", QUERIES)
def test_damaged_queries_run_and_ask_for_something_else(shop, sql):
    schema, connection = shop
    assert list(damages(sql, "sqlite", 1)) == list(damages(sql, "sqlite", 1))
    before = connection.execute(sql).fetchall()
    found = list(damages(sql, "sqlite", 1))
    assert found
    assert any(connection.execute(each).fetchall() != before for each in found)
    pairs = pairs_over(sql, schema, 1)
    assert pairs is not None
    right, wrong = pairs
    assert right == realise(sql, schema, 1)
    assert wrong.text in {realise(each, schema, 1).text for each in found} - {right.text}


@pytest.mark.parametrize("constant", ["1e5", "1E-3", "1e400", "0.10", "12345678901234567890"])
def test_any_constant_may_be_damaged(shop, constant):
    pairs_over(f"SELECT title FROM product WHERE list_price > {constant}", shop[0], 1)
    assert all(
        "1 = 2" not in each for each in damages(f"SELECT 1 FROM product WHERE list_price > {constant}", "sqlite", 1)
    )


@pytest.mark.parametrize("dialect", ["duckdb", "sqlite", "postgres", "mysql"])
def test_other_direction_says_nothing_of_missing_values(dialect):
    found = list(damages("SELECT name FROM customer ORDER BY birth_year DESC LIMIT 3", dialect, 1))
    assert "SELECT name FROM customer ORDER BY birth_year LIMIT 3" in found


def test_query_that_the_rules_have_no_words_for_gives_no_pairs(shop):
    assert pairs_over("SELECT nobody FROM nowhere", shop[0], 1) is None


def control(right, wrong):
    found = Control()
    for verdict, counts in (
        ("yes", (right[0], wrong[0])),
        ("no", (right[1], wrong[1])),
        ("unclear", (right[2], wrong[2])),
    ):
        found.right[verdict], found.wrong[verdict] = counts
    return found


@pytest.mark.parametrize(
    ("right", "wrong", "fault"),
    [
        ((30, 0, 0), (30, 0, 0), "says yes whatever"),
        ((0, 30, 0), (0, 30, 0), "says no whatever"),
        ((0, 0, 30), (0, 0, 30), "neither yes nor no in 60 of 60"),
        ((40, 40, 0), (40, 40, 0), "cannot tell"),
        ((20, 0, 0), (0, 20, 0), ""),
        ((28, 2, 0), (6, 24, 0), ""),
        # Too few to tell.
        ((MIN_PAIRS - 1, 0, 0), (MIN_PAIRS - 1, 0, 0), ""),
        # Poor, but not surely below what is needed.
        ((15, 15, 0), (8, 22, 0), ""),
    ],
)
def test_faults_have_names(right, wrong, fault):
    found = control(right, wrong).fault()
    assert (fault in found) if fault else found == ""


def test_fair_verifiers_are_rarely_accused_and_guessing_ones_are_found():
    """Of a thousand verifiers each, drawn, with 60 pairs of a kind: those just good enough, and those that guess."""
    rng = random.Random(4)

    def accused(yes_of_right, yes_of_wrong):
        count = 0
        for _ in range(1_000):
            found = Control()
            for _ in range(60):
                found.add(
                    "yes" if rng.random() < yes_of_right else "no", "yes" if rng.random() < yes_of_wrong else "no"
                )
            count += bool(found.fault())
        return count

    assert accused(0.8, 0.8 - MIN_SKILL) <= 5
    assert accused(0.95, 0.25) == 0
    assert accused(0.5, 0.5) >= 450
    assert accused(1.0, 1.0) == 1_000


def test_interval_is_newcombes():
    """Against an example in his paper: 56 of 70 less 48 of 80 is 0.2, and from 0.0524 to 0.3339."""
    found = control((56, 14, 0), (48, 32, 0))
    assert found.skill_interval(Z_95) == pytest.approx((0.0524, 0.3339), abs=1e-4)
