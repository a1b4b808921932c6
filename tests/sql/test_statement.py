"""A statement is read in the same way by every process, and bad texts are refused, whatever they are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayfactory.records import DID_NOT_RUN
from rayfactory.tools.execution import examine

QUERY = "SELECT a FROM t INTERSECT SELECT b FROM u ORDER BY 1 LIMIT 5 OFFSET 2"


def test_tree_does_not_depend_on_the_process():
    """Set operations get their ORDER BY and LIMIT in one order, whatever Python's hash seed is."""
    code = f"from rayfactory.sql import parse; print([type(n).__name__ for n in parse({QUERY!r}, 'duckdb').walk(bfs=False)])"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in range(1, 6)
    }
    assert len(printed) == 1


@pytest.mark.parametrize(
    "text",
    [
        "SELECT datetime(a) FROM t",
        f"SELECT {'abs(' * 500}a{')' * 500} FROM t",
        f"SELECT a FROM t WHERE {' AND '.join(f'a = {i}' for i in range(500))}",
        "SELECT a FROM t WHERE b IN QUALIFY (SELECT 1)",
        f"{'SELECT a FROM (' * 500}SELECT a FROM t{')' * 500}",
    ],
    ids=["generator", "depth", "conditions", "odd", "nesting"],
)
@pytest.mark.parametrize("dialect", ["duckdb", "sqlite"])
def test_text_that_sqlglot_trips_over_is_a_verdict(text, dialect):
    found = examine(text, dialect)
    assert found.reason is None or found.reason in DID_NOT_RUN


WORDS = [*QUERY.split(), "(", ")", ",", "WHERE", "NOT", "CASE", "'", '"', "IN", "OVER"]


@given(st.lists(st.sampled_from(WORDS), max_size=25))
def test_no_text_whatever_raises(words):
    found = examine(" ".join(words), "duckdb")
    assert found.reason is None or found.reason in DID_NOT_RUN
