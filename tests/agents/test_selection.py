"""Tables and seeds are chosen so that the pool uses the schema evenly."""

import random
from collections import Counter

import pyarrow as pa
import pytest

from rayfactory.agents.seed_selection import (
    MAX_SEEDS_PER_DATABASE,
    Scoring,
    SeedSelectionAgent,
    SeedShelf,
    select_seeds,
)
from rayfactory.agents.table_selection import TableSelectionAgent, select_tables
from rayfactory.config import SeedSelectionConfig, TableSelectionConfig
from rayfactory.databases.schema import Column, ColumnProfile, ForeignKey, Schema, Table
from rayfactory.records import R_SCHEMA
from rayfactory.tools.statistics import gini

PROFILE = ColumnProfile(num_sampled=10, null_fraction=0.0, num_distinct=5)


def table(name, num_columns=3, num_rows=10):
    columns = tuple(Column(f"c{i}", "INTEGER", "integer", "measure", True, PROFILE) for i in range(num_columns))
    return Table(name, columns, ("c0",), num_rows)


def key(child, parent):
    return ForeignKey(child, ("c1",), parent, ("c0",))


STAR = Schema(
    "star",
    "duckdb",
    (table("fact", 12), table("a"), table("b"), table("c"), table("d"), table("empty", num_rows=0), table("island")),
    (key("fact", "a"), key("fact", "b"), key("fact", "c"), key("c", "d"), key("fact", "empty")),
)


def row(query_id, tables, *, database="star", row_count=1, num_tokens=50, **counts):
    return dict.fromkeys(R_SCHEMA.names, 0) | {
        "query_id": query_id, "database": database, "dialect": "duckdb", "sql": f"SELECT {query_id}", "tables": tables,
        "origin": "generation", "model": "m", "prompt_sha256": "", "seed_ids": [], "row_count": row_count,
        "num_tokens": num_tokens, **counts,
    }  # fmt: skip


def rows(*values):
    return pa.Table.from_pylist(list(values), schema=R_SCHEMA)


def test_tables_of_a_request_are_connected_and_have_rows():
    for seed in range(200):
        chosen = select_tables(STAR, {}, 8, random.Random(seed))
        assert len(set(chosen)) == len(chosen) <= 6
        assert "empty" not in chosen
        if "island" not in chosen:
            linked = {chosen[0]}
            for name in chosen[1:]:
                assert any(
                    {k.table, k.referenced_table} == {name, other} for k in STAR.foreign_keys for other in linked
                )
                linked.add(name)


def test_table_without_foreign_keys_gets_company():
    """There is nothing to join with, but a second table to compare with in a subquery or a set operation."""
    use = dict.fromkeys(["fact", "a", "b", "c", "d"], 1000.0)
    sizes = Counter(len(select_tables(STAR, use, 8, random.Random(seed))) for seed in range(100))
    assert set(sizes) == {1, 2}


def test_number_of_tables_is_bounded():
    assert all(len(select_tables(STAR, {}, 1, random.Random(seed))) == 1 for seed in range(50))


def test_use_becomes_even():
    """Requests that count for those after them spread over the tables, with more for the complex one."""
    agent = TableSelectionAgent(TableSelectionConfig(), {"star": STAR})
    chosen = agent.select([("star", 10, seed) for seed in range(300)], {})
    use = Counter(name for tables in chosen for name in tables)
    assert set(use) == {"fact", "a", "b", "c", "d", "island"}
    assert gini(use.values()) < 0.15
    assert use["fact"] == max(use.values())


def test_selection_is_a_function_of_its_arguments():
    agent = TableSelectionAgent(TableSelectionConfig(), {"star": STAR})
    use = {"star": {"fact": 3.0}}
    first = agent.select([("star", 10, 1), ("star", 10, 2)], use)
    assert use == {"star": {"fact": 3.0}}
    assert first == agent.select([("star", 10, 1), ("star", 10, 2)], use)


def test_seeds_return_rows_and_are_not_too_long():
    shelf = SeedShelf()
    shelf.add(
        rows(row(0, ["a"]), row(1, ["a"], row_count=0), row(2, ["b"], num_tokens=5000), row(3, ["b"], database="x"))
    )
    assert [seed.query_id for seed in shelf.of("star")] == [0]
    assert [seed.query_id for seed in shelf.of("x")] == [3]
    assert shelf.of("unknown") == ()


def test_shelf_keeps_the_newest():
    shelf = SeedShelf()
    for start in range(0, MAX_SEEDS_PER_DATABASE + 500, 500):
        shelf.add(rows(*(row(i, ["a"]) for i in range(start, start + 500))))
    ids = [seed.query_id for seed in shelf.of("star")]
    assert ids == list(range(500, MAX_SEEDS_PER_DATABASE + 500))


def test_many_databases_share_the_room_for_seeds():
    """It is as large as for forty databases; but each has some, however many there are."""
    for num_databases, room in ((1, 2_000), (32, 2_000), (100, 640), (10_000, 16)):
        shelf = SeedShelf(num_databases)
        shelf.add(rows(*(row(i, ["a"]) for i in range(2_100))))
        assert [seed.query_id for seed in shelf.of("star")] == list(range(2_100 - room, 2_100))


def test_seeds_prefer_tables_and_constructs_that_are_rare():
    shelf = SeedShelf()
    shelf.add(rows(*(row(i, ["a" if i % 2 else "b"], num_windows=int(i % 10 == 0)) for i in range(100))))
    use = {"a": 100.0, "b": 20.0}
    picked: Counter[str] = Counter()
    for seed in range(300):
        (chosen,) = select_seeds(Scoring(STAR, shelf.of("star")), use, 1, (), random.Random(seed))
        picked.update({chosen.tables[0]: 1, "window": chosen.constructs[-1]})
    assert picked["b"] > 5 * picked["a"]
    assert picked["window"] > 0.3 * 300


def test_seeds_are_drawn_by_their_scores():
    shelf = SeedShelf()
    shelf.add(rows(row(0, ["a"]), row(1, ["a", "b"], num_windows=1), row(2, ["b"]), row(3, ["fact"], num_joins=2)))
    shelf.add(rows(row(4, ["a"])))
    scoring, use, num_draws = Scoring(STAR, shelf.of("star")), {"a": 3.0, "b": 1.0}, 4_000
    scores = scoring.scores(use)
    drawn = Counter(select_seeds(scoring, use, 1, (), random.Random(i))[0].query_id for i in range(num_draws))
    for place, share in enumerate(score / sum(scores) for score in scores):
        deviation = (num_draws * share * (1 - share)) ** 0.5
        assert abs(drawn[place] - num_draws * share) < 5 * deviation
    second = {select_seeds(scoring, use, 1, {0, 1, 2, 4}, random.Random(i))[0].query_id for i in range(50)}
    assert second == {3}


def test_no_seed_is_taken_twice_in_a_round_while_there_are_others():
    shelf = SeedShelf()
    shelf.add(rows(*(row(i, ["a"]) for i in range(12))))
    agent = SeedSelectionAgent(SeedSelectionConfig(num_seeds=3), {"star": STAR})
    chosen = agent.select([("star", 10, seed) for seed in range(5)], {"star": shelf.of("star")}, {})
    ids = [seed.query_id for seeds in chosen for seed in seeds]
    assert sorted(ids[:12]) == list(range(12))
    assert len(ids) == 15


@pytest.mark.parametrize(
    ("counts", "expected"), [([], 0), ([0, 0], 0), ([5, 5, 5], 0), ([0, 0, 0, 8], 0.75), ([1, 3], 0.25)]
)
def test_gini_by_hand(counts, expected):
    assert gini(counts) == pytest.approx(expected)
