from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayfactory.downstream.betacv import betacv


def on_a_line(*places: float) -> np.ndarray:
    line = np.array(places, dtype=np.float64)
    return np.abs(line[:, None] - line[None])


def reference(distances: np.ndarray, labels: list[int]) -> float:
    inside: list[float] = []
    between: list[float] = []
    for a, b in combinations(range(len(labels)), 2):
        (inside if labels[a] == labels[b] else between).append(distances[a, b])
    return float(np.mean(inside) / np.mean(between))


@st.composite
def clustered(draw: st.DrawFn) -> tuple[np.ndarray, list[int]]:
    """Return the distances and labels of points in a plane, of two clusters or more, of which one has two points."""
    labels = draw(st.permutations([0, 0, 1, *draw(st.lists(st.integers(0, 4), max_size=9))]))
    points = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).normal(size=(len(labels), 2))
    return np.linalg.norm(points[:, None] - points[None], axis=2), labels


def test_betacv_is_the_mean_inside_over_the_mean_between():
    """By hand: pairs inside at 1 and 2; pairs between at 10, 12, 9 and 11."""
    assert betacv(on_a_line(0, 1, 10, 12), ["a", "a", "b", "b"]) == pytest.approx(1.5 / 10.5)


def test_a_large_cluster_counts_by_its_pairs():
    """Three pairs at distance 0 and one at 1: their mean is a quarter, not a half."""
    assert betacv(on_a_line(0, 0, 0, 4, 5), [1, 1, 1, 2, 2]) == pytest.approx(0.25 / 4.5)


@given(clustered())
def test_betacv_is_that_of_all_pairs_one_by_one(case: tuple[np.ndarray, list[int]]):
    assert betacv(*case) == pytest.approx(reference(*case))


@given(clustered(), st.randoms(use_true_random=False), st.floats(1e-3, 1e3))
def test_order_unit_and_names_of_labels_do_not_matter(case, rng, unit: float):
    distances, labels = case
    order = list(range(len(labels)))
    rng.shuffle(order)
    renamed = [f"cluster {labels[i]}" for i in order]
    assert betacv(distances[np.ix_(order, order)] * unit, renamed) == pytest.approx(betacv(distances, labels))


def test_distances_that_know_nothing_of_the_labels_give_1():
    assert betacv(1 - np.eye(6), [0, 0, 0, 1, 1, 2]) == 1.0


def test_the_diagonal_is_not_looked_at():
    distances = on_a_line(0, 1, 10, 12)
    np.fill_diagonal(distances, np.nan)
    assert betacv(distances, ["a", "a", "b", "b"]) == pytest.approx(1.5 / 10.5)


def spoilt(value: float) -> np.ndarray:
    distances = on_a_line(0, 1, 2)
    distances[0, 2] = distances[2, 0] = value
    return distances


@pytest.mark.parametrize(
    ("distances", "labels", "message"),
    [
        (on_a_line(0, 1), [1, 1, 2], r"shape \(2, 2\) for 3 labels: expected \(3, 3\)"),
        (np.zeros(3), [1, 1, 2], r"shape \(3,\) for 3 labels"),
        (on_a_line(0, 1, 2), [1, 1, 1], "1 cluster among 3 labels"),
        (np.zeros((0, 0)), [], "0 cluster among 0 labels"),
        (on_a_line(0, 1, 2), [1, 2, 3], "3 clusters of one item each"),
        (spoilt(np.nan), [1, 1, 2], "items 0 and 2 is nan"),
        (spoilt(np.inf), [1, 1, 2], "items 0 and 2 is inf"),
        (spoilt(-1), [1, 1, 2], "items 0 and 2 is -1"),
        (np.triu(on_a_line(0, 1, 2)), [1, 1, 2], "not symmetric"),
        (np.zeros((3, 3)), [1, 1, 2], "all at distance 0"),
    ],
)
def test_what_has_no_betacv_is_refused_and_said(distances: np.ndarray, labels: list[int], message: str):
    with pytest.raises(ValueError, match=message):
        betacv(distances, labels)
