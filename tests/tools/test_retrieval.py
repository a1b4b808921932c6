from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlglot import exp

from rayfactory.config import CriticConfig
from rayfactory.errors import StatementError
from rayfactory.sql import normalise, parse
from rayfactory.tools.retrieval import Neighbour, QueryIndex
from rayfactory.tools.similarity import Signature, similarity
from rayfactory.tools.tree_edit import flatten

DIMENSION = 16


def unit_vectors(num_vectors: int, seed: int = 0) -> np.ndarray:
    vectors_ND = np.random.default_rng(seed).normal(size=(num_vectors, DIMENSION)).astype(np.float32)
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return vectors_ND


def signatures(trees: list[exp.Expr], dialect: str, seed: int = 0) -> list[Signature]:
    return [
        Signature(normalise(tree, dialect), flatten(tree), vector)
        for tree, vector in zip(trees, unit_vectors(len(trees), seed), strict=True)
    ]


def brute_force(entries: dict[int, Signature], query: Signature, config: CriticConfig) -> list[Neighbour]:
    """Score every one of the nearest by cosine."""
    by_cosine = sorted(entries, key=lambda query_id: -float(entries[query_id].vector @ query.vector))
    candidates = by_cosine[: config.k * config.candidates_per_neighbour]
    scored = [Neighbour(query_id, similarity(query, entries[query_id], config)) for query_id in candidates]
    return sorted(scored, key=lambda neighbour: (-neighbour.similarity, neighbour.id))[: config.k]


def filled(entries: dict[int, Signature], config: CriticConfig) -> QueryIndex:
    index = QueryIndex(DIMENSION, config)
    for query_id, signature in entries.items():
        index.add(query_id, signature)
    return index


@pytest.mark.parametrize(("k", "candidates_per_neighbour"), [(10, 20), (3, 5), (1, 1), (40, 2)])
def test_search_is_exact_on_official_queries(official_trees: list[exp.Expr], k: int, candidates_per_neighbour: int):
    config = CriticConfig(k=k, candidates_per_neighbour=candidates_per_neighbour)
    entries = dict(enumerate(signatures(official_trees, "duckdb"), start=5))
    index = filled(entries, config)
    for query in list(entries.values())[:: 99 // 7]:
        assert index.search(query) == brute_force(entries, query, config)


@pytest.mark.realdata
def test_search_is_exact_on_gold_queries(shared_data: Path):
    config = CriticConfig()
    trees = []
    for question in json.loads((shared_data / "bird" / "dev.json").read_text(encoding="utf-8"))[:600]:
        try:
            trees.append(parse(question["sql"], "sqlite"))
        except StatementError:
            continue
    entries = dict(enumerate(signatures(trees, "sqlite")))
    index = filled(entries, config)
    for query in list(entries.values())[::20]:
        assert index.search(query) == brute_force(entries, query, config)


QUERIES = st.sampled_from(
    [
        "SELECT a FROM t",
        "SELECT a, b FROM t",
        "SELECT a FROM t WHERE b = 1",
        "SELECT b FROM t WHERE a = 1",
        "SELECT count(*) FROM t GROUP BY a",
        "SELECT a FROM t JOIN u ON t.x = u.x",
        "SELECT a FROM t UNION SELECT a FROM u",
    ]
)


@settings(deadline=None)
@given(st.lists(st.tuples(QUERIES, st.integers(0, 3), st.booleans()), max_size=30), QUERIES, st.integers(1, 12))
def test_search_is_exact_where_entries_repeat(drawn: list[tuple[str, int, bool]], query: str, k: int):
    """Every entry is a candidate here: which of several equal vectors are is for the vector index to choose."""
    vectors_ND = unit_vectors(4)
    entries = {
        query_id: Signature(text, flatten(parse(text, "sqlite")) if parses else None, vectors_ND[vector])
        for query_id, (text, vector, parses) in enumerate(drawn)
    }
    config = CriticConfig(k=k, candidates_per_neighbour=30)
    wanted = Signature(query, flatten(parse(query, "sqlite")), vectors_ND[0])
    assert filled(entries, config).search(wanted) == brute_force(entries, wanted, config)


def test_ties_go_to_the_lower_id():
    (one,) = signatures([parse("SELECT a FROM t", "sqlite")], "sqlite")
    index = filled(dict.fromkeys((3, 8, 9, 20), one), CriticConfig(k=3))
    assert [neighbour.id for neighbour in index.search(one)] == [3, 8, 9]


def test_an_index_with_fewer_than_k_returns_all_and_an_empty_one_nothing():
    entries = dict(enumerate(signatures([parse("SELECT a FROM t", "sqlite"), parse("SELECT 1", "sqlite")], "sqlite")))
    index = QueryIndex(DIMENSION, CriticConfig())
    assert index.search(entries[0]) == []
    for query_id, signature in entries.items():
        index.add(query_id, signature)
    assert [neighbour.id for neighbour in index.search(entries[1])] == [1, 0]


def test_a_removed_round_leaves_no_trace(official_trees: list[exp.Expr]):
    config = CriticConfig(k=4, candidates_per_neighbour=5)
    before = dict(enumerate(signatures(official_trees[:40], "duckdb")))
    discarded = dict(enumerate(signatures(official_trees[40:70], "duckdb", seed=1), start=40))
    after = dict(enumerate(signatures(official_trees[70:], "duckdb", seed=2), start=40))
    index = filled(before | discarded, config)
    index.remove_from(40)
    assert len(index) == 40
    for query_id, signature in after.items():
        index.add(query_id, signature)
    fresh = filled(before | after, config)
    for query in [*before.values(), *discarded.values()][::9]:
        assert index.search(query) == fresh.search(query)
    index.remove_from(0)
    assert len(index) == 0
    assert index.search(before[0]) == []


def test_ids_ascend():
    (one,) = signatures([parse("SELECT a FROM t", "sqlite")], "sqlite")
    index = filled({4: one}, CriticConfig())
    with pytest.raises(ValueError, match="id 4 does not follow 4"):
        index.add(4, one)
    assert len(index) == 1


def test_vectors_that_cannot_be_written_to_are_taken():
    vector = unit_vectors(1)[0]
    vector.flags.writeable = False
    one = Signature("select 1", None, vector)
    index = filled({0: one}, CriticConfig())
    assert index.search(one) == [Neighbour(0, similarity(one, one, CriticConfig()))]
