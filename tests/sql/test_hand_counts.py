"""Counts of 77 queries that people wrote, made by hand before the code was asked: joins, predicates, nested queries,
aggregates, windows. The queries themselves are in the shared corpora, and TPC-DS's in DuckDB's extension.

A name in double quotes that SQLite takes for a text counts as the text that it is, GROUPING() as no aggregate.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.corpus import official_tpcds
from rayfactory import sql
from rayfactory.analysis.files import read_queries

Counts = tuple[int, int, int, int, int]

# fmt: off
SPIDER: dict[int, Counts] = {
    12: (0, 1, 1, 1, 0), 20: (0, 2, 0, 1, 0), 66: (4, 3, 1, 0, 0), 70: (0, 1, 0, 0, 0), 120: (0, 2, 0, 1, 0),
    170: (0, 2, 0, 1, 0), 220: (2, 2, 0, 1, 0), 238: (2, 2, 0, 0, 0), 270: (0, 0, 0, 0, 0), 320: (0, 0, 0, 0, 0),
    370: (1, 0, 0, 1, 0), 380: (0, 2, 0, 0, 0), 420: (1, 0, 0, 1, 0), 470: (1, 0, 0, 1, 0), 520: (0, 0, 0, 1, 0),
    570: (0, 0, 0, 0, 0), 575: (2, 2, 0, 0, 0), 620: (0, 1, 0, 0, 0), 670: (1, 1, 0, 1, 0), 720: (0, 1, 0, 0, 0),
    748: (2, 4, 0, 0, 0), 770: (1, 2, 0, 1, 0), 784: (2, 4, 1, 0, 0), 820: (0, 1, 0, 1, 0), 870: (0, 1, 0, 0, 0),
    916: (1, 1, 1, 1, 0), 920: (0, 1, 1, 1, 0), 960: (1, 1, 1, 1, 0), 970: (0, 1, 0, 0, 0), 1020: (1, 1, 0, 0, 0),
}
"""By the line of `dev_gold.sql`, from 0."""

BIRD: dict[int, Counts] = {
    10: (1, 0, 0, 0, 0), 85: (1, 1, 0, 0, 0), 160: (1, 2, 0, 1, 0), 235: (1, 2, 0, 1, 0), 310: (1, 2, 0, 2, 0),
    385: (1, 1, 0, 0, 0), 460: (0, 1, 0, 0, 0), 535: (0, 2, 0, 1, 0), 610: (1, 0, 0, 0, 0), 685: (2, 1, 0, 0, 0),
    760: (1, 2, 0, 2, 0), 835: (2, 2, 0, 2, 0), 910: (0, 1, 0, 0, 0), 985: (1, 2, 0, 0, 0), 1060: (0, 1, 0, 1, 0),
    1135: (0, 1, 0, 0, 0), 1210: (0, 1, 0, 1, 0), 1285: (1, 1, 0, 0, 0), 1360: (1, 2, 0, 2, 0),
    1435: (0, 3, 0, 0, 0), 1510: (1, 1, 0, 1, 0),
}
"""By the place in `dev.json`, from 0."""

TPCDS: dict[int, Counts] = {
    1: (3, 3, 1, 2, 0), 3: (2, 2, 0, 1, 0), 6: (4, 5, 2, 3, 0), 7: (4, 6, 0, 4, 0), 12: (2, 2, 0, 3, 1),
    15: (3, 5, 0, 1, 0), 16: (3, 6, 2, 4, 0), 19: (5, 4, 0, 1, 0), 20: (2, 2, 0, 3, 1), 22: (2, 1, 0, 1, 0),
    26: (4, 6, 0, 4, 0), 32: (3, 4, 1, 2, 0), 37: (3, 4, 0, 0, 0), 42: (2, 3, 0, 2, 0), 52: (2, 3, 0, 1, 0),
    55: (2, 3, 0, 1, 0), 82: (3, 4, 0, 0, 0), 84: (5, 3, 0, 0, 0), 86: (2, 3, 0, 2, 1), 89: (3, 7, 1, 2, 1),
    90: (7, 7, 2, 2, 0), 92: (3, 4, 1, 3, 0), 93: (2, 2, 1, 1, 0), 94: (3, 6, 2, 4, 0), 96: (3, 4, 0, 2, 0),
    98: (2, 2, 0, 3, 1),
}
"""By the number that TPC-DS gives each."""
# fmt: on


def counts_of(query: str, dialect: str) -> Counts:
    found = sql.features(sql.parse(query, dialect), query, dialect)
    return (found.num_joins, found.num_predicates, found.num_subqueries, found.num_aggregates, found.num_windows)


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "expected"), [("spider/dev_gold.sql", SPIDER), ("bird/dev.json", BIRD)])
def test_gold_queries(shared_data: Path, name: str, expected: dict[int, Counts]):
    queries = read_queries(shared_data / name, "sqlite")
    assert {place: counts_of(queries[place].sql, "sqlite") for place in expected} == expected


def test_official_queries_of_tpcds():
    queries = official_tpcds()
    assert {number: counts_of(queries[number - 1], "duckdb") for number in TPCDS} == TPCDS
