from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from rayfactory.tools.vector_store import VectorStore, cosines
from rayfactory.tools.vectors import LEVELS, Level, VectorIndex

DIMENSION = 24
# The first looks through all of its lists, so that it is exact; the second through a part.
SMALL = (Level(300, 200, 8, 8), Level(1200, 900, 32, 6))


def alike_vectors(num_vectors: int, seed: int = 0) -> np.ndarray:
    """Return unit vectors that lie in groups, as those of queries do."""
    rng = np.random.default_rng(seed)
    groups = np.random.default_rng(1).normal(size=(40, DIMENSION))
    vectors_ND = groups[rng.integers(0, 40, num_vectors)] + 0.8 * rng.normal(size=(num_vectors, DIMENSION))
    return np.asarray(vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True), np.float32)


def empty(levels: Sequence[Level] = SMALL, store_size: int = 10_000, gpu_memory_gb: float = 0) -> VectorIndex:
    return VectorIndex(lambda: VectorStore(DIMENSION, gpu_memory_gb), store_size, levels)


def filled(vectors_ND: np.ndarray, piece: int, store_size: int = 10_000) -> VectorIndex:
    index = empty(store_size=store_size)
    for start in range(0, len(vectors_ND), piece):
        index.extend(vectors_ND[start : start + piece])
    return index


def found(index: VectorIndex, vectors_BD: np.ndarray, count: int) -> list[list[int]]:
    """Return the positions of the `count` nearest, nearest first."""
    return [
        positions[np.lexsort((positions, -cosine))][:count].tolist()
        for positions, cosine in index.nearest(vectors_BD, count)
    ]


def brute_force(vectors_ND: np.ndarray, vectors_BD: np.ndarray, count: int) -> list[list[int]]:
    return [np.argsort(-cosines(vector, vectors_ND), kind="stable")[:count].tolist() for vector in vectors_BD]


@pytest.mark.parametrize("num_vectors", [1, 40, 199, 200, 299, 300, 700, 1199])
def test_search_is_exact_up_to_the_first_level_and_where_every_list_is_looked_through(num_vectors: int):
    vectors_ND, wanted = alike_vectors(num_vectors), alike_vectors(20, seed=2)
    assert found(filled(vectors_ND, 64), wanted, 30) == brute_force(vectors_ND, wanted, 30)


@pytest.mark.parametrize("num_vectors", [250, 300, 1000, 1300])
def test_how_vectors_came_makes_no_odds(num_vectors: int):
    """In pieces of any size, or all at once as in a run that goes on: the same centroids, the same answer."""
    vectors_ND, wanted = alike_vectors(num_vectors), alike_vectors(20, seed=2)
    expected = found(filled(vectors_ND, 7), wanted, 30)
    for piece in (100, 299, num_vectors):
        index = filled(vectors_ND, piece)
        assert len(index) == num_vectors
        assert found(index, wanted, 30) == expected


@pytest.mark.parametrize("num_vectors", [250, 300, 301, 1000, 1300])
@pytest.mark.parametrize("store_size", [1300, 300, 64, 7])
def test_number_of_stores_makes_no_odds(num_vectors: int, store_size: int):
    """All of them have the same centroids, and each looks through the lists that one store would."""
    vectors_ND, wanted = alike_vectors(num_vectors), alike_vectors(20, seed=2)
    expected = found(filled(vectors_ND, 100), wanted, 30)
    assert found(filled(vectors_ND, 100, store_size), wanted, 30) == expected


def test_what_is_searched_for_beside_a_vector_makes_no_odds():
    """FAISS works in another way for one vector than for many, which rounds differently."""
    vectors_ND, wanted = alike_vectors(280), alike_vectors(64, seed=2)
    index = filled(vectors_ND, 280)
    assert found(index, wanted, 30) == [found(index, one[np.newaxis], 30)[0] for one in wanted]


@pytest.mark.parametrize("store_size", [10_000, 64])
def test_equal_vectors_are_told_apart_by_their_positions_alone(store_size: int):
    """More of them than FAISS is asked for beyond those that are wanted, so that it would choose."""
    vectors_ND, wanted = alike_vectors(290), alike_vectors(20, seed=2)
    wanted[0] = vectors_ND[7]
    vectors_ND[np.random.default_rng(5).permutation(290)[:120]] = vectors_ND[7]
    assert found(filled(vectors_ND, 100, store_size), wanted, 30) == brute_force(vectors_ND, wanted, 30)


def test_inverted_file_finds_nearly_all_of_the_nearest():
    vectors_ND, wanted = alike_vectors(3000), alike_vectors(50, seed=2)
    ours, expected = found(filled(vectors_ND, 500), wanted, 30), brute_force(vectors_ND, wanted, 30)
    assert ours != expected
    shares = [len(set(a) & set(b)) / 30 for a, b in zip(ours, expected, strict=True)]
    assert np.mean(shares) >= 0.95


def test_fewer_than_wanted_are_all_found_and_a_vector_of_nans_finds_nothing():
    vectors_ND = alike_vectors(5)
    index = filled(vectors_ND, 5)
    assert sorted(found(index, vectors_ND[:1], 30)[0]) == [0, 1, 2, 3, 4]
    assert found(index, np.full((1, DIMENSION), np.nan, np.float32), 30) == [[]]
    assert found(empty(), vectors_ND, 30) == [[]] * 5


def test_levels_are_in_order():
    """Each has its centroids before it is needed, and takes the place of a smaller one; up to 100,000 search is exact."""
    assert LEVELS[0].num_vectors == 100_000
    for level in LEVELS:
        assert level.num_probes < level.num_lists < level.num_trained < level.num_vectors
    for smaller, larger in pairwise(LEVELS):
        assert smaller.num_vectors < larger.num_trained


@pytest.mark.gpu
def test_gpu_finds_what_the_cpu_finds():
    """And where its memory does not reach, the CPU does."""
    vectors_ND, wanted = alike_vectors(1000), alike_vectors(20, seed=2)
    expected = found(filled(vectors_ND, 100), wanted, 30)
    for memory_gb in (2.0, 0.000_1):
        index = empty(gpu_memory_gb=memory_gb)
        for start in range(0, 1000, 100):
            index.extend(vectors_ND[start : start + 100])
        assert found(index, wanted, 30) == expected
