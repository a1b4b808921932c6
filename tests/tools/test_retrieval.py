from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlglot import exp

from rayfactory.config import CriticConfig
from rayfactory.errors import StatementError
from rayfactory.sql import normalise, parse
from rayfactory.tools.retrieval import Neighbour, QueryIndex
from rayfactory.tools.similarity import Signature, similarity
from rayfactory.tools.trees import flatten
from rayfactory.tools.vector_store import MARGIN, cosines

DIMENSION = 16

Score = Callable[[Signature, Signature, CriticConfig], float]


def unit_vectors(num_vectors: int, seed: int = 0) -> np.ndarray:
    vectors_ND = np.random.default_rng(seed).normal(size=(num_vectors, DIMENSION)).astype(np.float32)
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return vectors_ND


def signatures(trees: list[exp.Expr], dialect: str, seed: int = 0) -> list[Signature]:
    return [
        Signature.of(normalise(tree, dialect), flatten(tree), vector)
        for tree, vector in zip(trees, unit_vectors(len(trees), seed), strict=True)
    ]


def vector_of_words(text: str) -> np.ndarray:
    """Return a unit vector: each word of a text adds a direction of its own."""
    directions = [np.random.default_rng(zlib.crc32(word.encode())).normal(size=DIMENSION) for word in text.split()]
    vector_D: np.ndarray = np.sum(directions, axis=0)
    return np.asarray(vector_D / np.linalg.norm(vector_D), np.float32)


def brute_force(
    entries: list[Signature], query: Signature, config: CriticConfig, score: Score = similarity
) -> list[Neighbour]:
    """Score every one of the nearest by cosine."""
    if not entries:
        return []
    found_N = cosines(query.vector, np.array([entry.vector for entry in entries]))
    candidates = np.argsort(-found_N, kind="stable")[: config.k * config.candidates_per_neighbour].tolist()
    scored = [Neighbour(position, score(query, entries[position], config)) for position in candidates]
    return sorted(scored, key=lambda neighbour: (-neighbour.similarity, neighbour.position))[: config.k]


class ScoredOnce:
    """The similarity of two queries, which is the same either way, worked out once for each two."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], float] = {}

    def __call__(self, a: Signature, b: Signature, config: CriticConfig) -> float:
        pair = min(id(a), id(b)), max(id(a), id(b))
        found = self._known.get(pair)
        if found is None:
            found = self._known[pair] = similarity(a, b, config)
        return found


def filled(entries: list[Signature], config: CriticConfig, num_committed: int | None = None) -> QueryIndex:
    """Return an index of some entries, of which the first are committed: half of them unless it is said."""
    index = QueryIndex(DIMENSION, config)
    committed = len(entries) // 2 if num_committed is None else num_committed
    for position, signature in enumerate(entries):
        if position == committed:
            index.commit(committed)
        assert index.add(signature) == position
    return index


@pytest.mark.parametrize(("k", "candidates_per_neighbour"), [(10, 20), (3, 5), (1, 1), (40, 2)])
def test_search_is_exact_on_official_queries(official_trees: list[exp.Expr], k: int, candidates_per_neighbour: int):
    config = CriticConfig(k=k, candidates_per_neighbour=candidates_per_neighbour)
    entries = signatures(official_trees, "duckdb")
    index = filled(entries, config)
    for query in entries[:: 99 // 7]:
        assert index.search(query) == brute_force(entries, query, config)


@pytest.mark.realdata
def test_search_is_exact_on_gold_queries(shared_data: Path):
    """Every query of every corpus, with the vectors that their words have: alike queries have alike ones.

    Some of the students' queries do not parse, and are compared without a tree.
    """
    config = CriticConfig()
    bird = [question["sql"] for question in json.loads((shared_data / "bird" / "dev.json").read_text(encoding="utf-8"))]
    spider = [line.split("\t")[0] for line in (shared_data / "spider" / "dev_gold.sql").read_text().splitlines()]
    corpora = [bird, spider]
    for name in ("bombay", "ub", "googleplus"):
        lines = (shared_data / "clustering" / f"{name}.csv").read_text(encoding="utf-8").splitlines()
        corpora.append([line.split("\t", 2)[2] for line in lines[1:] if line.count("\t") >= 2])
    num_treeless = 0
    for corpus in corpora:
        entries = []
        for query in corpus:
            tree = None
            try:
                parsed = parse(query, "sqlite")
                text, tree = normalise(parsed, "sqlite"), flatten(parsed)
            except StatementError:
                text = " ".join(query.lower().split())
            num_treeless += tree is None
            entries.append(Signature.of(text, tree, vector_of_words(text)))
        assert len(entries) > 100
        index, score = filled(entries, config), ScoredOnce()
        for query in entries:
            assert index.search(query) == brute_force(entries, query, config, score)
    assert num_treeless > 50


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
@given(
    st.lists(st.tuples(QUERIES, st.integers(0, 3), st.booleans()), max_size=30),
    QUERIES,
    st.integers(1, 12),
    st.integers(1, 3),
    st.integers(0, 30),
)
def test_search_is_exact_where_entries_repeat(
    drawn: list[tuple[str, int, bool]], query: str, k: int, candidates_per_neighbour: int, num_committed: int
):
    """Equal vectors and equal queries: ties go to the lower position, among the candidates and among the neighbours."""
    vectors_ND = unit_vectors(4)
    entries = [
        Signature.of(text, flatten(parse(text, "sqlite")) if parses else None, vectors_ND[vector])
        for text, vector, parses in drawn
    ]
    config = CriticConfig(k=k, candidates_per_neighbour=candidates_per_neighbour)
    wanted = Signature.of(query, flatten(parse(query, "sqlite")), vectors_ND[0])
    index = filled(entries, config, num_committed)
    if len(entries) <= k * candidates_per_neighbour + MARGIN:
        assert index.search(wanted) == brute_force(entries, wanted, config)


def test_ties_go_to_the_lower_position():
    (one,) = signatures([parse("SELECT a FROM t", "sqlite")], "sqlite")
    index = filled([one] * 4, CriticConfig(k=3))
    assert [neighbour.position for neighbour in index.search(one)] == [0, 1, 2]


def test_an_index_with_fewer_than_k_returns_all_and_an_empty_one_nothing():
    entries = signatures([parse("SELECT a FROM t", "sqlite"), parse("SELECT 1", "sqlite")], "sqlite")
    index = QueryIndex(DIMENSION, CriticConfig())
    assert index.search(entries[0]) == []
    for signature in entries:
        index.add(signature)
    assert [neighbour.position for neighbour in index.search(entries[1])] == [1, 0]


def test_what_a_round_does_not_keep_leaves_no_trace(official_trees: list[exp.Expr]):
    config = CriticConfig(k=4, candidates_per_neighbour=5)
    before = signatures(official_trees[:40], "duckdb")
    discarded = signatures(official_trees[40:70], "duckdb", seed=1)
    after = signatures(official_trees[70:], "duckdb", seed=2)
    index = filled(before + discarded, config)
    index.commit(40)
    assert len(index) == index.num_committed == 40
    for signature in after:
        index.add(signature)
    fresh = filled(before + after, config)
    for query in [*before, *discarded][::9]:
        assert index.search(query) == fresh.search(query)


def test_commit_changes_no_answer(official_trees: list[exp.Expr]):
    """Whether an entry is of the pool or of the round under way, and for how many it was looked up, makes no odds."""
    config = CriticConfig(k=4, candidates_per_neighbour=5)
    entries = signatures(official_trees, "duckdb")
    indices = [filled(entries, config, num_committed) for num_committed in (0, 1, 50, 98, 99)]
    wanted = entries[::9]
    expected = [indices[0].search(query) for query in wanted]
    for index in indices:
        together = index.nearest_committed(np.array([query.vector for query in wanted]))
        assert [index.search(query, committed) for query, committed in zip(wanted, together, strict=True)] == expected


def test_an_index_that_is_loaded_is_as_one_that_was_filled(official_trees: list[exp.Expr]):
    """From the columns of the pool, in several pieces, one of them a part of a larger table."""
    entries = signatures(official_trees, "duckdb")
    rows = pa.table(
        {
            "words": pa.array([bytes(entry.words).decode() for entry in entries], pa.large_string()),
            "labels": pa.array([entry.tree.labels for entry in entries if entry.tree], pa.large_list(pa.int64())),
            "leftmost": pa.array([entry.tree.leftmost for entry in entries if entry.tree], pa.large_list(pa.int32())),
        }
    ).combine_chunks()
    vectors_ND = np.array([entry.vector for entry in entries])
    index = QueryIndex(DIMENSION, CriticConfig())
    for start, end in ((0, 30), (30, 30), (30, 99)):
        words, labels, leftmost = (rows[name].chunk(0)[start:end] for name in ("words", "labels", "leftmost"))
        index.load(words, labels, leftmost, vectors_ND[start:end])
    assert index.num_committed == 99
    expected = filled(entries, CriticConfig())
    for query in entries[::7]:
        assert index.search(query) == expected.search(query)


def test_nothing_is_loaded_beside_a_round_that_is_under_way():
    (one,) = signatures([parse("SELECT a FROM t", "sqlite")], "sqlite")
    index = QueryIndex(DIMENSION, CriticConfig())
    index.add(one)
    texts, lists = pa.array([], pa.large_string()), pa.array([], pa.large_list(pa.int64()))
    with pytest.raises(ValueError, match="under way"):
        index.load(texts, lists, lists, np.empty((0, DIMENSION), np.float32))


def test_arrays_that_cannot_be_written_to_are_taken():
    vector = unit_vectors(1)[0]
    vector.flags.writeable = False
    one = Signature.of("select 1", None, vector)
    index = filled([one], CriticConfig())
    assert index.search(one) == [Neighbour(0, similarity(one, one, CriticConfig()))]


def test_bounds_spare_most_distances(official_trees: list[exp.Expr]):
    """Of 99 candidates few need one; without bounds it would be all of them."""
    entries = signatures(official_trees, "duckdb")
    index = filled(entries, CriticConfig())
    for query in entries:
        index.search(query)
    assert index.num_distances < 40 * len(entries)
