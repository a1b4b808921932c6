"""How diverse a set of queries is: mean pairwise similarity and Vendi score.

Neither tells the whole: a low similarity alone rewards nonsense, so look at both, and at the queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from rayfactory.config import CriticConfig
from rayfactory.tools.similarity import Signature, similarity


def mean_pairwise_similarity(signatures: Sequence[Signature], weights: CriticConfig) -> float:
    """Return the mean hybrid similarity over all unordered pairs, in [0, 1].

    It takes N (N - 1) / 2 tree distances: draw a sample from a large corpus.

    Raises:
        ValueError: fewer than two queries have no pair.
    """
    if len(signatures) < 2:
        raise ValueError(f"mean pairwise similarity needs at least two queries, got {len(signatures)}")
    return float(np.mean([similarity(a, b, weights) for a, b in combinations(signatures, 2)]))


def vendi_score(vectors_ND: npt.NDArray[np.floating], q: float = 1) -> float:
    """Return the Vendi score of unit vectors: the effective number of different ones, in [1, N].

    exp of the Rényi entropy of order `q` (Shannon's at 1) of the eigenvalues of the mean outer product; the D x D
    dual form, so that N may be large.

    Raises:
        ValueError: there is no vector.

    Source: Friedman and Dieng 2023, The Vendi Score; Pasarkar and Dieng 2024 for other orders than 1.
    """
    if len(vectors_ND) == 0:
        raise ValueError("the Vendi score needs at least one vector")
    vectors_ND = vectors_ND.astype(np.float64)
    eigenvalues_D = np.linalg.eigvalsh(vectors_ND.T @ vectors_ND / len(vectors_ND))
    shares = eigenvalues_D[eigenvalues_D > 0]
    if q == 1:
        return float(np.exp(-(shares * np.log(shares)).sum()))
    if np.isinf(q):
        return float(1 / shares.max())
    return float((shares**q).sum() ** (1 / (1 - q)))
