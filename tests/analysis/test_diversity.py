from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vendi_score import vendi

from rayfactory.analysis.diversity import (
    Moments,
    distinct_ngrams,
    effective_number,
    mean_pairwise_similarity,
    pairs_of,
    sampled_similarity,
    vendi_score,
)
from rayfactory.config import CriticConfig
from rayfactory.tools.similarity import Signature, similarity


def unit_vectors(num_vectors: int, dimension: int, seed: int) -> np.ndarray:
    vectors_ND = np.random.default_rng(seed).normal(size=(num_vectors, dimension)).astype(np.float32)
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return vectors_ND


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(2, 40), st.integers(0, 2**32 - 1), st.sampled_from([0.5, 1, 2, np.inf]))
def test_vendi_score_is_that_of_the_reference_package(num_vectors: int, dimension: int, seed: int, q: float):
    vectors_ND = unit_vectors(num_vectors, dimension, seed).astype(np.float64)
    # Lengths that are off by float32's rounding count differently in the two.
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    expected = vendi.score_dual(vectors_ND, q="inf" if q == np.inf else q)
    # Below order 1, eigenvalues that are zero but for rounding count: the reference has its own rounding.
    assert vendi_score(vectors_ND, q) == pytest.approx(expected, abs=1e-6 if q >= 1 else 1e-3)


@given(st.integers(1, 30))
def test_vendi_score_of_copies_is_1_and_of_orthogonal_vectors_their_number(num_vectors: int):
    assert vendi_score(np.tile(unit_vectors(1, 8, 0), (num_vectors, 1))) == pytest.approx(1, abs=1e-5)
    assert vendi_score(np.eye(num_vectors, dtype=np.float32)) == pytest.approx(num_vectors, abs=1e-5)


@settings(deadline=None)
@given(st.integers(2, 20), st.integers(0, 1000))
def test_vendi_score_does_not_see_order_and_falls_with_q(num_vectors: int, seed: int):
    vectors_ND = unit_vectors(num_vectors, 8, seed)
    score = vendi_score(vectors_ND)
    assert vendi_score(vectors_ND[::-1]) == pytest.approx(score, abs=1e-9)
    assert 1 - 1e-6 <= vendi_score(vectors_ND, np.inf) <= vendi_score(vectors_ND, 2) <= score <= num_vectors + 1e-6


def test_mean_pairwise_similarity_is_the_mean_over_unordered_pairs():
    a, b, c = (
        Signature.of(text, None, vector)
        for text, vector in zip(("select a", "select b", "from t"), unit_vectors(3, 4, 0), strict=True)
    )
    weights = CriticConfig()
    expected = (similarity(a, b, weights) + similarity(a, c, weights) + similarity(b, c, weights)) / 3
    assert mean_pairwise_similarity([a, b, c], weights) == pytest.approx(expected)
    assert mean_pairwise_similarity([a, a], weights) == pytest.approx(similarity(a, a, weights))


def test_what_has_no_diversity_is_refused():
    with pytest.raises(ValueError, match="at least two queries, got 1"):
        mean_pairwise_similarity([Signature.of("", None, np.ones(1, dtype=np.float32))], CriticConfig())
    with pytest.raises(ValueError, match="at least one vector"):
        vendi_score(np.zeros((0, 3)))


def test_vendi_score_of_many_is_that_of_the_reference_package():
    """2,000 vectors of the encoder's size, taken some at a time."""
    vectors_ND = unit_vectors(2_000, 384, 5).astype(np.float64)
    vectors_ND[:1_000] += 3 * vectors_ND[:1]  # half of them alike
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    moments = Moments(384)
    for start in range(0, 2_000, 300):
        moments.add(vectors_ND[start : start + 300])
    assert moments.num_vectors == 2_000
    assert moments.vendi_score() == pytest.approx(vendi.score_dual(vectors_ND), abs=1e-6)
    assert moments.vendi_score() == pytest.approx(vendi.score_K(vectors_ND @ vectors_ND.T), abs=1e-6)


def test_interval_holds_the_mean_over_all_pairs_as_often_as_it_says():
    words = ["select", "from", "where", "join", "sum", "group", "order", "by", "limit", "having"]
    rng = np.random.default_rng(0)
    signatures = [Signature.of(" ".join(rng.choice(words, size=6)), None, vector) for vector in unit_vectors(60, 4, 1)]
    weights = CriticConfig()
    truth = mean_pairwise_similarity(signatures, weights)

    def signatures_of(places):
        return [signatures[place] for place in places]

    estimates = [sampled_similarity(60, signatures_of, weights, 150, seed) for seed in range(100)]
    assert 88 <= sum(each.low <= truth <= each.high for each in estimates) <= 100
    every = sampled_similarity(60, signatures_of, weights, 60 * 59 // 2, 0)
    assert every.mean == every.low == every.high == pytest.approx(truth)


@given(st.integers(2, 60), st.integers(1, 200), st.integers(0, 9))
def test_pairs_are_all_or_so_many(num_queries: int, num_pairs: int, seed: int):
    pairs = pairs_of(num_queries, num_pairs, seed)
    assert all(0 <= a < b < num_queries for a, b in pairs)
    total = num_queries * (num_queries - 1) // 2
    if total <= num_pairs:
        assert len(set(pairs)) == len(pairs) == total
    else:
        assert len(pairs) == num_pairs


def test_ngrams_and_groups_by_hand():
    found = distinct_ngrams([["select", "a", "from", "t"], ["select", "b", "from", "t"]])
    assert found == {1: 5 / 8, 2: 5 / 6, 3: 1.0, 4: 1.0}
    assert distinct_ngrams([]) == {1: 0.0, 2: 0.0, 3: 0.0, 4: 0.0}
    assert effective_number(["a", "b", "a", "b"]) == pytest.approx(2)
    assert effective_number(["a"]) == pytest.approx(1)
    assert effective_number([]) == 0
