from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import sqlglot
import zss
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein
from sqlglot import exp

from rayfactory.errors import StatementError
from rayfactory.records import Tree
from rayfactory.sql import parse
from rayfactory.tools.tree_edit import distance, label_bound, lower_bound
from rayfactory.tools.trees import flatten, label


def reference_distance(a: exp.Expr, b: exp.Expr) -> float:
    return float(zss.simple_distance(a, b, lambda node: list(node.iter_expressions()), label, lambda x, y: x != y))


def node(name: str, children: list[exp.Expr]) -> exp.Expr:
    return exp.Anonymous(this=name, expressions=children)


def expressions(max_leaves: int = 12) -> st.SearchStrategy[exp.Expr]:
    names = st.sampled_from("abc")
    leaves = st.builds(node, names, st.just([]))
    return st.recursive(
        leaves, lambda inner: st.builds(node, names, st.lists(inner, max_size=4)), max_leaves=max_leaves
    )


@settings(deadline=None)
@given(expressions(), expressions())
def test_distance_is_that_of_the_reference_implementation(a: exp.Expr, b: exp.Expr):
    assert distance(flatten(a), flatten(b)) == reference_distance(a, b)


@settings(deadline=None)
@given(expressions(), expressions(), expressions())
def test_distance_is_a_metric(a: exp.Expr, b: exp.Expr, c: exp.Expr):
    x, y, z = flatten(a), flatten(b), flatten(c)
    assert distance(x, x) == 0
    assert distance(x, y) == distance(y, x)
    assert distance(x, z) <= distance(x, y) + distance(y, z)
    if distance(x, y) == 0:
        assert a == b


@settings(deadline=None)
@given(expressions(90), expressions(90))
def test_bounds_are_ordered_and_never_above_the_distance(a: exp.Expr, b: exp.Expr):
    x, y = flatten(a), flatten(b)
    assert abs(x.num_nodes - y.num_nodes) <= label_bound(x, y) <= lower_bound(x, y) <= distance(x, y)
    common = Counter(x.labels.tolist()) & Counter(y.labels.tolist())
    assert label_bound(x, y) == max(x.num_nodes, y.num_nodes) - common.total()
    orders = [[label(node) for node in tree.dfs()] for tree in (a, b)], [x.labels.tolist(), y.labels.tolist()]
    assert lower_bound(x, y) == max(label_bound(x, y), *(Levenshtein.distance(*pair) for pair in orders))


@settings(deadline=None)
@given(expressions(30))
def test_flatten_numbers_the_nodes_in_postorder(root: exp.Expr):
    postorder: list[exp.Expr] = []

    def visit(here: exp.Expr) -> int:
        first = min((visit(child) for child in list(here.iter_expressions())), default=len(postorder))
        leftmost.append(first)
        postorder.append(here)
        return first

    leftmost: list[int] = []
    visit(root)
    tree = flatten(root)
    assert tree.leftmost.tolist() == leftmost
    assert tree.labels.tolist() == [flatten(exp.Anonymous(this=one.name)).labels[-1] for one in postorder]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ('SELECT "a" FROM t', "SELECT a FROM t"),
        ("SELECT a /* why */ FROM t -- so", "SELECT a FROM t"),
        ("SELECT a FROM t ORDER BY a ASC", "SELECT a FROM t ORDER BY a"),
        ("SELECT CAST(a AS INT) FROM t", "SELECT CAST(a AS INTEGER) FROM t"),
    ],
)
def test_spelling_does_not_count(left: str, right: str):
    assert distance(flatten(parse(left, "duckdb")), flatten(parse(right, "duckdb"))) == 0


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("SELECT a FROM t", "SELECT b FROM t", 1),
        ("SELECT 1 FROM t", "SELECT 2 FROM t", 1),
        ("SELECT 1 FROM t", "SELECT '1' FROM t", 1),
        ("SELECT a FROM t LEFT JOIN u ON x = y", "SELECT a FROM t INNER JOIN u ON x = y", 1),
        ("SELECT a FROM t ORDER BY a DESC", "SELECT a FROM t ORDER BY a ASC", 1),
        ("SELECT a FROM t UNION SELECT b FROM t", "SELECT a FROM t UNION ALL SELECT b FROM t", 1),
        ("SELECT MIN(a) FROM t", "SELECT MAX(a) FROM t", 1),
        ("SELECT f(a) FROM t", "SELECT g(a) FROM t", 1),
        ("SELECT a < 1 FROM t", "SELECT a > 1 FROM t", 1),
        ("SELECT CAST(a AS INT) FROM t", "SELECT CAST(a AS TEXT) FROM t", 1),
        ("SELECT a FROM t", "SELECT a, b FROM t", 2),
        ("SELECT a FROM t", "SELECT a FROM t WHERE b = 1", 5),
        ("SELECT a FROM t", "SELECT DISTINCT a FROM t", 1),
    ],
)
def test_what_a_reader_would_count_as_steps(left: str, right: str, expected: int):
    assert distance(flatten(parse(left, "sqlite")), flatten(parse(right, "sqlite"))) == expected


def test_distance_of_official_queries_is_that_of_the_reference_implementation(official_trees: list[exp.Expr]):
    shortest = sorted(official_trees, key=lambda tree: len(list(tree.walk())))[:6]
    for a, b in pairwise(shortest):
        assert distance(flatten(a), flatten(b)) == reference_distance(a, b)


def test_distance_of_official_queries_is_symmetric_and_above_its_bounds(official_trees: list[exp.Expr]):
    trees = [flatten(tree) for tree in official_trees]
    for a, b in zip(trees, trees[7:], strict=False):
        assert label_bound(a, b) <= lower_bound(a, b) <= distance(a, b) == distance(b, a)


def parsed(queries: list[str]) -> list[exp.Expr]:
    """Return the trees of the queries that parse."""
    trees = []
    for query in queries:
        try:
            trees.append(parse(query, "sqlite"))
        except StatementError:
            continue
    return trees


@pytest.mark.realdata
def test_distance_of_gold_queries_is_that_of_the_reference_implementation(shared_data: Path):
    questions = json.loads((shared_data / "bird" / "dev.json").read_text(encoding="utf-8"))
    gold = [question["sql"] for question in questions[::40]]
    gold += [line.split("\t")[0] for line in (shared_data / "spider" / "dev_gold.sql").read_text().splitlines()[::20]]
    trees = parsed(gold)
    assert len(trees) > 60
    for a, b in pairwise(trees):
        assert distance(flatten(a), flatten(b)) == reference_distance(a, b)


@pytest.mark.slow
@pytest.mark.realdata
def test_distance_of_ten_thousand_pairs_of_gold_queries_is_that_of_the_reference_implementation(shared_data: Path):
    lines = (shared_data / "spider" / "dev_gold.sql").read_text().splitlines()
    gold = [question["sql"] for question in json.loads((shared_data / "bird" / "dev.json").read_text(encoding="utf-8"))]
    trees = parsed(gold + [line.split("\t")[0] for line in lines])
    rng = random.Random(0)
    for _ in range(10_000):
        a, b = rng.choice(trees), rng.choice(trees)
        assert distance(flatten(a), flatten(b)) == reference_distance(a, b)


def test_a_tree_may_be_deeper_than_the_interpreter_recurses():
    root: exp.Expr = exp.Literal.number(1)
    for _ in range(20_000):
        root = exp.Paren(this=root)
    tree = flatten(root)
    assert tree.num_nodes == 20_001
    assert not tree.leftmost.any()
    while (child := root.this) and isinstance(child, exp.Paren):  # take it apart without recursion
        root.set("this", None)
        root = child


def test_arrays_that_cannot_be_written_to_are_taken():
    a, b = flatten(sqlglot.parse_one("SELECT 1")), flatten(sqlglot.parse_one("SELECT a FROM t"))
    frozen = Tree(labels=_frozen(a.labels), leftmost=_frozen(a.leftmost))
    assert distance(frozen, b) == distance(a, b)
    assert distance(b, frozen) == distance(b, a)
    assert lower_bound(frozen, b) == lower_bound(a, b)


def _frozen(array: np.ndarray) -> np.ndarray:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def test_labels_are_the_same_in_every_process():
    program = (
        "import sqlglot; from rayfactory.tools.trees import flatten;"
        "print(flatten(sqlglot.parse_one('SELECT a, 1 FROM t')).labels.tolist())"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(root)}
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert json.loads(printed.stdout) == flatten(sqlglot.parse_one("SELECT a, 1 FROM t")).labels.tolist()
