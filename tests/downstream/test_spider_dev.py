"""Spider's dev queries: right as they are, right as other words for the same, and else as a plain reading has it.

The plain reading runs a prediction in SQLite by itself, and tries every order of columns.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import sqlglot
from sqlglot import exp

from rayfactory.compose import compose
from rayfactory.databases.benchmark import open_benchmark
from rayfactory.downstream.questions import read_questions
from rayfactory.downstream.scoring import figures, score_all
from tests.downstream.test_results import plain_tables

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def dev(shared_data: Path):
    """Return the databases, and the questions about them."""
    config = compose(["+benchmark=spider", f"benchmark.root={shared_data / 'spider'}"])
    databases = {each.name: each for each in open_benchmark(config.benchmark, Path(config.data_dir)).databases}
    questions = read_questions(shared_data / "spider" / "dev_gold.sql")
    return databases, [each for each in questions if each.database in databases], config.execution


def verdicts(dev, rule, predictions):
    databases, questions, limits = dev
    return score_all(databases, replace(limits, timeout_s=30.0), rule, questions, predictions)


@pytest.mark.parametrize("rule", ["bird", "spider"])
def test_gold_is_right(dev, rule):
    questions = dev[1]
    found = figures(questions, verdicts(dev, rule, [each.gold for each in questions]))
    assert found["kinds"] == {"right": 647}
    assert (found["executability"], found["execution_accuracy"]) == (1.0, 1.0)


def rewritten(gold):
    """Return a query that means the same, in other words: with names for its tables, around it where it has no order."""
    tree = sqlglot.parse_one(gold, dialect="sqlite")
    assert isinstance(tree, exp.Query)
    if tree.args.get("order") or tree.args.get("limit") or not all(each.alias_or_name for each in tree.selects):
        return tree.sql("sqlite", pretty=True)
    return exp.select("*").from_(tree.subquery("whole")).where("1 = 1").sql("sqlite")


@pytest.mark.parametrize("rule", ["bird", "spider"])
def test_rewritten_is_right(dev, rule):
    questions = dev[1]
    found = verdicts(dev, rule, [rewritten(each.gold) for each in questions])
    wrong = [(question.gold, each) for question, each in zip(questions, found, strict=True) if not each.is_right]
    assert wrong == []


def without(kind):
    def damage(tree):
        node = tree.find(kind)
        if node is not None:
            node.pop()

    return damage


def other_direction(tree):
    for node in tree.find_all(exp.Ordered):
        node.set("desc", not node.args.get("desc"))


def other_value(tree):
    for node in tree.find_all(exp.Literal):
        node.replace(exp.Literal.string(node.this + "x") if node.is_string else exp.Literal.number(7))


def columns_turned(tree):
    if isinstance(tree, exp.Select):
        tree.set("expressions", tree.expressions[::-1])


def one_column_less(tree):
    if isinstance(tree, exp.Select) and len(tree.expressions) > 1:
        tree.set("expressions", tree.expressions[1:])


def all_alike(tree):
    if isinstance(tree, exp.Select):
        tree.set("distinct", None if tree.args.get("distinct") else exp.Distinct())


def misspelled(tree):
    column = tree.find(exp.Column)
    if column is not None and not isinstance(column.this, exp.Star):
        column.this.set("this", column.name + "_")


DAMAGES = {
    "no condition": without(exp.Where),
    "no order": without(exp.Order),
    "no limit": without(exp.Limit),
    "no groups": without(exp.Group),
    "other direction": other_direction,
    "other value": other_value,
    "columns turned": columns_turned,
    "one column less": one_column_less,
    "distinct or not": all_alike,
    "misspelled": misspelled,
}


HARMLESS = {("columns turned", "spider"), ("distinct or not", "bird"), ("distinct or not", "spider")}
"""What the definitions do not look at: the order of columns, and whether rows come once."""


def plainly(path, gold, prediction, rule):
    """Return whether a prediction runs, and whether it is right, by a plain reading of the definition."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    connection.text_factory = lambda text: text.decode(errors="replace")
    try:
        if rule == "spider":
            gold, prediction = (re.sub(r"\bdistinct\b", "", query, flags=re.IGNORECASE) for query in (gold, prediction))
        wanted = connection.execute(gold).fetchall()
        try:
            found = connection.execute(prediction).fetchall()
        except sqlite3.Error:
            return False, False
    finally:
        connection.close()
    if rule == "bird":
        return True, set(wanted) == set(found)
    return True, plain_tables(wanted, found, "order by" in gold.lower())


@pytest.mark.parametrize("rule", ["bird", "spider"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_is_what_a_plain_reading_has_it(dev, rule, damage):
    """Prediction by prediction. Not every damage makes another result: that is part of it."""
    databases, questions, _ = dev
    predictions = []
    for question in questions:
        tree = sqlglot.parse_one(question.gold, dialect="sqlite")
        DAMAGES[damage](tree)
        predictions.append(tree.sql("sqlite"))
    found = verdicts(dev, rule, predictions)
    wanted = [
        plainly(databases[question.database].path, question.gold, prediction, rule)
        for question, prediction in zip(questions, predictions, strict=True)
    ]
    differ = [
        (question.gold, prediction, each, plain)
        for question, prediction, each, plain in zip(questions, predictions, found, wanted, strict=True)
        if (each.ran, each.is_right) != plain
    ]
    assert differ == []
    assert (len(Counter(wanted)) == 1) == ((damage, rule) in HARMLESS)
