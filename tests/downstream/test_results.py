"""When two results are the same: BIRD's and Spider's definitions, against plain readings of them."""

from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayfactory.databases.engine import Result
from rayfactory.databases.results import RULES, difference, for_spider, is_ordered, same_sets, same_tables


def plain_tables(gold, predicted, ordered):
    """Try every order of the columns, after Spider's first look at each row's sorted values."""
    if not gold and not predicted:
        return True
    if len(gold) != len(predicted) or len(gold[0]) != len(predicted[0]):
        return False
    looks = [[tuple(sorted(row, key=lambda v: str(v) + str(type(v)))) for row in rows] for rows in (gold, predicted)]
    if looks[0] != looks[1] if ordered else set(looks[0]) != set(looks[1]):
        return False
    for order in permutations(range(len(gold[0]))):
        put = [tuple(row[column] for column in order) for row in predicted]
        if gold == put if ordered else Counter(gold) == Counter(put):
            return True
    return False


VALUES = st.sampled_from([0, 1, 1.0, 5, 5.0, 5.5, "1", "a", "", None, b"a"])


@st.composite
def pairs(draw):
    """Draw two results that have much in common: one is often the other with columns and rows put otherwise."""
    width = draw(st.integers(1, 4))
    rows = st.lists(st.tuples(*[VALUES] * width), max_size=5)
    gold = draw(rows)
    if draw(st.booleans()):
        return gold, draw(st.lists(st.tuples(*[VALUES] * draw(st.integers(1, 4))), max_size=5))
    order = draw(st.permutations(range(width)))
    predicted = [tuple(row[column] for column in order) for row in gold]
    if draw(st.booleans()):
        predicted = draw(st.permutations(predicted))
    if predicted and draw(st.booleans()):
        place, column = draw(st.integers(0, len(predicted) - 1)), draw(st.integers(0, width - 1))
        row = list(predicted[place])
        row[column] = draw(VALUES)
        predicted = [*predicted[:place], tuple(row), *predicted[place + 1 :]]
    return gold, list(predicted)


@given(pairs(), st.booleans())
def test_spiders_definition_is_that_of_trying_every_order_of_columns(pair, ordered):
    gold, predicted = pair
    assert same_tables(gold, predicted, ordered=ordered) == plain_tables(gold, predicted, ordered)


@given(pairs())
def test_birds_definition_is_that_of_equal_sets(pair):
    gold, predicted = pair
    assert same_sets(gold, predicted) == (set(gold) == set(predicted))


def test_duplicates_and_order_of_columns_count_for_one_and_not_for_the_other():
    assert same_sets([(1, 2), (1, 2)], [(1, 2)])
    assert not same_tables([(1, 2), (1, 2)], [(1, 2)], ordered=False)
    assert same_tables([(1, "a"), (2, "b")], [("b", 2), ("a", 1)], ordered=False)
    assert not same_tables([(1, "a"), (2, "b")], [("b", 2), ("a", 1)], ordered=True)
    assert not same_sets([(1, "a")], [("a", 1)])


def test_columns_that_are_equal_each_are_not_so_together():
    """Every column of the one has the values of one of the other, and no order makes the rows equal."""
    assert not same_tables([(1, 2, 1), (2, 1, 1)], [(1, 1, 1), (2, 2, 1)], ordered=False)


def test_result_with_many_equal_columns_takes_no_time_for_each_of_their_orders():
    """Twelve columns have 479 million orders."""
    rows = [tuple([i % 2] * 12) for i in range(10)]
    assert same_tables(rows, rows, ordered=True)
    last = [*rows[:-1], (*rows[-1][:-1], 7)]
    other = [*rows[:-1], (*rows[-1][:-1], 8)]
    assert not same_tables(last, other, ordered=False)


@pytest.mark.parametrize(
    ("query", "run"),
    [
        ("SELECT DISTINCT a FROM t", "SELECT  a FROM t"),
        ("SELECT count(distinct a) FROM t", "SELECT count( a) FROM t"),
        ("SELECT 'distinct', \"distinct\", distinctive FROM t", "SELECT 'distinct', \"distinct\", distinctive FROM t"),
        ("SELECT a FROM t WHERE b > = 3 AND c ! = 4", "SELECT a FROM t WHERE b >= 3 AND c != 4"),
        ("SELECT YEAR ( CURDATE() ) - a FROM t", "SELECT 2020- a FROM t"),
        ("SELECT ';' FROM t; DROP TABLE t", "SELECT ';' FROM t;"),
        ("SELECT 1 -- distinct; more", "SELECT 1 -- distinct; more"),
        ("SELECT [distinct] FROM `distinct`", "SELECT [distinct] FROM `distinct`"),
        ("", ""),
    ],
)
def test_queries_are_run_as_spider_does(query, run):
    assert for_spider(query) == run


def test_order_counts_where_the_gold_query_has_one():
    assert is_ordered("SELECT a FROM t Order By b")
    assert not is_ordered("SELECT a FROM t")


def result(columns, rows):
    return Result(columns, rows, len(rows), 0.0)


@pytest.mark.parametrize(
    ("rule", "predicted", "what"),
    [
        *((rule, result(("a", "b"), ((1, "x"), (2, "y"))), "") for rule in RULES),
        ("bird", result(("a", "b"), ((2, "y"), (1, "x"))), ""),
        ("spider, ordered", result(("a", "b"), ((2, "y"), (1, "x"))), "other order"),
        ("bird", result(("b", "a"), (("x", 1), ("y", 2))), "other values"),
        ("spider", result(("b", "a"), (("x", 1), ("y", 2))), ""),
        ("spider", result(("a",), ((1,), (2,))), "other columns"),
        ("spider", result(("a", "b"), ()), "no rows"),
        ("bird", result(("a", "b"), ((1, "x"),)), "other number of rows"),
        ("bird", result(("a", "b"), ((1, "x"), (2, "z"))), "other values"),
    ],
)
def test_difference_is_told(rule, predicted, what):
    assert difference(rule, result(("a", "b"), ((1, "x"), (2, "y"))), predicted) == what


def test_rows_that_were_not_kept_are_not_compared():
    with pytest.raises(ValueError, match="not kept"):
        difference("bird", Result(("a",), (), 3, 0.0), Result(("a",), (), 3, 0.0))
