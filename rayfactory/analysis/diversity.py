"""How diverse a set of queries is: similarity of pairs, Vendi score, n-grams and skeletons.

None tells the whole: a low similarity alone rewards nonsense. All but the mean similarity depend on how many queries
there are, so sets are compared at the same number.

Letters for shapes: N queries, D dimensions.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from rayfactory.config import CriticConfig
from rayfactory.tools.similarity import Signature, similarity

Z_95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""

NGRAMS = (1, 2, 3, 4)
"""Lengths of the sequences of tokens that are counted."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % confidence interval; the interval is the mean itself where every pair was looked at."""

    mean: float
    low: float
    high: float
    num_pairs: int

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-compatible values."""
        return asdict(self)


def mean_pairwise_similarity(signatures: Sequence[Signature], weights: CriticConfig) -> float:
    """Return the mean hybrid similarity over all unordered pairs, in [0, 1].

    It takes N (N - 1) / 2 tree distances: `sampled_similarity` is for a large corpus.

    Raises:
        ValueError: fewer than two queries have no pair.
    """
    if len(signatures) < 2:
        raise ValueError(f"mean pairwise similarity needs at least two queries, got {len(signatures)}")
    return float(np.mean([similarity(a, b, weights) for a, b in combinations(signatures, 2)]))


def pairs_of(num_queries: int, num_pairs: int, seed: int) -> list[tuple[int, int]]:
    """Return unordered pairs of places: all there are, in order, where that is no more; else drawn with replacement."""
    if num_queries * (num_queries - 1) // 2 <= num_pairs:
        return list(combinations(range(num_queries), 2))
    rng = random.Random(seed)
    return [tuple(sorted(rng.sample(range(num_queries), 2))) for _ in range(num_pairs)]  # type: ignore[misc]


def estimated(values: Sequence[float], *, all_pairs: bool) -> Estimate:
    """Return the mean of values that were drawn independently, or that are all there are.

    Raises:
        ValueError: there is no value.
    """
    if not values:
        raise ValueError("mean pairwise similarity needs at least two queries")
    mean = float(np.mean(values))
    if all_pairs or len(values) < 2:
        return Estimate(mean, mean, mean, len(values))
    margin = Z_95 * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Estimate(mean, max(0.0, mean - margin), min(1.0, mean + margin), len(values))


def sampled_similarity(
    num_queries: int,
    signatures_of: Callable[[Sequence[int]], Sequence[Signature]],
    weights: CriticConfig,
    num_pairs: int,
    seed: int,
) -> Estimate:
    """Return the mean hybrid similarity over all unordered pairs, estimated from pairs drawn independently.

    Args:
        num_queries: N, at least 2.
        signatures_of: gives the signatures at places in [0, N).
        weights: of the similarity.
        num_pairs: to be looked at, at most.
        seed: of the draw.

    Raises:
        ValueError: fewer than two queries have no pair.
    """
    pairs = pairs_of(num_queries, num_pairs, seed)
    places = sorted({place for pair in pairs for place in pair})
    signatures = dict(zip(places, signatures_of(places), strict=True))
    values = [similarity(signatures[a], signatures[b], weights) for a, b in pairs]
    return estimated(values, all_pairs=len(pairs) == num_queries * (num_queries - 1) // 2)


class Moments:
    """The mean outer product of unit vectors, from which the Vendi score is: D x D, however many vectors there are.

    Args:
        dimension: D.
    """

    def __init__(self, dimension: int) -> None:
        self._sum_DD = np.zeros((dimension, dimension))
        self.num_vectors = 0

    def add(self, vectors_ND: npt.NDArray[np.floating]) -> None:
        """Take unit vectors."""
        vectors_ND = vectors_ND.astype(np.float64)
        self._sum_DD += vectors_ND.T @ vectors_ND
        self.num_vectors += len(vectors_ND)

    def vendi_score(self, q: float = 1) -> float:
        """Return the Vendi score of the vectors: the effective number of different ones, in [1, N].

        exp of the Rényi entropy of order `q` (Shannon's at 1) of the eigenvalues of the mean outer product, which are
        those of the kernel of cosines divided by N (the dual form).

        Raises:
            ValueError: there is no vector.

        Source: Friedman and Dieng 2023, The Vendi Score; Pasarkar and Dieng 2024 for other orders than 1.
        """
        if self.num_vectors == 0:
            raise ValueError("the Vendi score needs at least one vector")
        eigenvalues_D = np.linalg.eigvalsh(self._sum_DD / self.num_vectors)
        shares = eigenvalues_D[eigenvalues_D > 0]
        if q == 1:
            return float(np.exp(-(shares * np.log(shares)).sum()))
        if np.isinf(q):
            return float(1 / shares.max())
        return float((shares**q).sum() ** (1 / (1 - q)))


def vendi_score(vectors_ND: npt.NDArray[np.floating], q: float = 1) -> float:
    """Return the Vendi score of unit vectors, see `Moments.vendi_score`.

    Raises:
        ValueError: there is no vector.
    """
    moments = Moments(vectors_ND.shape[1] if vectors_ND.ndim == 2 else 0)
    if len(vectors_ND):
        moments.add(vectors_ND)
    return moments.vendi_score(q)


def distinct_ngrams(queries: Iterable[Sequence[str]]) -> dict[int, float]:
    """Return, for each length in `NGRAMS`, the share of different ones among the sequences of tokens, in [0, 1].

    Args:
        queries: the tokens of each query.

    Source: Li et al. 2016, A Diversity-Promoting Objective Function for Neural Conversation Models (distinct-n).
    """
    seen: dict[int, set[tuple[str, ...]]] = {length: set() for length in NGRAMS}
    totals = dict.fromkeys(NGRAMS, 0)
    for tokens in queries:
        for length in NGRAMS:
            grams = [tuple(tokens[start : start + length]) for start in range(len(tokens) - length + 1)]
            seen[length].update(grams)
            totals[length] += len(grams)
    return {length: len(seen[length]) / totals[length] if totals[length] else 0.0 for length in NGRAMS}


def effective_number(groups: Iterable[str]) -> float:
    """Return how many equally frequent groups would be as diverse: exp of the Shannon entropy; 0 for no members."""
    counts = Counter(groups)
    total = counts.total()
    if not total:
        return 0.0
    return math.exp(-sum(count / total * math.log(count / total) for count in counts.values()))
