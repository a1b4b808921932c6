"""What comes of a prediction: by the definitions of the benchmarks, with everything that can go wrong told apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayfactory.config import ExecutionConfig
from rayfactory.databases.engine import Database
from rayfactory.downstream.questions import Question
from rayfactory.downstream.scoring import KINDS, NOT_RUN, Scored, figures, score_all
from tests.shop import make_shop

GOLD = "SELECT title, list_price FROM product ORDER BY list_price DESC, title"
NAMES = "SELECT title FROM product WHERE list_price > 5"


@pytest.fixture(scope="module")
def databases(tmp_path_factory):
    path = tmp_path_factory.mktemp("databases") / "shop.sqlite"
    make_shop(path)
    return {"shop": Database("shop", "sqlite", str(path))}


def scored(databases, rule, pairs, **limits):
    questions = [Question("shop", "?", "", gold, "") for gold, _ in pairs]
    predictions = [prediction for _, prediction in pairs]
    return score_all(databases, ExecutionConfig(timeout_s=2.0, **limits), rule, questions, predictions)


@pytest.mark.parametrize(
    ("prediction", "bird", "spider"),
    [
        (GOLD, "right", "right"),
        ("SELECT p.title, p.list_price FROM product AS p ORDER BY 2 DESC, 1", "right", "right"),
        ("SELECT title, list_price FROM product ORDER BY title", "right", "other order"),
        ("SELECT list_price, title FROM product ORDER BY list_price DESC, title", "other values", "right"),
        (
            "SELECT title, list_price FROM product UNION ALL SELECT title, list_price FROM product",
            "right",
            "other number of rows",
        ),
        ("SELECT title FROM product", "other columns", "other columns"),
        ("SELECT title, list_price FROM product WHERE list_price < 0", "no rows", "no rows"),
        ("SELECT title, list_price FROM product LIMIT 2", "other number of rows", "other number of rows"),
        ("SELECT title, list_price + 1 FROM product ORDER BY list_price DESC, title", "other values", "other values"),
        ("", "empty", "empty"),
        ("I cannot say.", "syntax", "syntax"),
        ("SELECT name FROM", "syntax", "syntax"),
        ("SELECT title FROM products", "table", "table"),
        ("SELECT titel FROM product", "column", "column"),
        ("SELECT title FROM product a, product b", "ambiguous", "ambiguous"),
        ("SELECT median_of(list_price) FROM product", "function", "function"),
        ("SELECT title FROM product WHERE sum(list_price) > 3", "aggregate", "aggregate"),
        ("DELETE FROM product", "error", "error"),
        ("SELECT 1; SELECT 2", "syntax", "other columns"),
        ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n", "timeout", "timeout"),
    ],
)
def test_prediction_by_both_definitions(databases, prediction, bird, spider):
    assert [each.kind for each in scored(databases, "bird", [(GOLD, prediction)])] == [bird]
    assert [each.kind for each in scored(databases, "spider", [(GOLD, prediction)])] == [spider]


def test_distinct_counts_for_bird_alone(databases):
    """Spider's evaluation leaves DISTINCT out of both queries; to BIRD's, as a set of rows, it makes no difference."""
    gold, prediction = "SELECT DISTINCT channel FROM sale", "SELECT channel FROM sale"
    for rule in ("bird", "spider"):
        assert scored(databases, rule, [(gold, prediction)])[0].is_right


def test_results_that_are_too_large_and_gold_that_does_not_run(databases):
    many = "SELECT a.title FROM product a, product b, product c"
    found = scored(databases, "bird", [(NAMES, many), ("SELECT absent FROM product", NAMES)], max_rows=50)
    assert [each.kind for each in found] == ["too_many_rows", "gold"]
    assert "no such column" in found[1].detail
    assert not found[1].ran


def test_each_prediction_is_scored_in_its_place(databases):
    pairs = [(NAMES, NAMES if i % 3 else "SELECT x FROM product") for i in range(30)]
    assert [each.is_right for each in scored(databases, "bird", pairs)] == [bool(i % 3) for i in range(30)]


def test_database_that_a_prediction_writes_to_stays_as_it_is(databases):
    before = Path(databases["shop"].path).read_bytes()
    scored(databases, "bird", [(NAMES, "DROP TABLE product"), (NAMES, "INSERT INTO product SELECT * FROM product")])
    assert Path(databases["shop"].path).read_bytes() == before


def test_figures():
    questions = [Question("shop", "?", "", NAMES, level) for level in ("moderate", "simple", "simple", "")]
    found = figures(questions, [Scored("right"), Scored("syntax"), Scored("other values"), Scored("gold")])
    assert (found["questions"], found["executability"], found["execution_accuracy"]) == (4, 0.5, 0.25)
    assert list(found["by_difficulty"]) == ["simple", "moderate"]
    assert found["by_difficulty"]["simple"] == {"questions": 2, "executability": 0.5, "execution_accuracy": 0.0}
    assert found["kinds"] == {"right": 1, "gold": 1, "syntax": 1, "other values": 1}


def test_kinds_that_do_not_run_are_those_of_the_database():
    assert NOT_RUN[0] == "empty"
    assert NOT_RUN[-1] == "error"
    assert set(NOT_RUN) < set(KINDS)
