"""The hybrid similarity of two queries: words, structure and meaning, each in [0, 1].

Source: SQL-Factory, equations 3 to 5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rapidfuzz import fuzz

from rayfactory.config import CriticConfig
from rayfactory.tools import tree_edit
from rayfactory.tools.tree_edit import Tree

_LATIN_WORD = re.compile(r"[^\t-\r\x1c-\x20]+")


@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """What a query is compared by.

    Attributes:
        text: normalised text.
        tree: None where the query does not parse; its structural similarity to everything is 0.
        vector: float32[D], the embedding of the text.
    """

    text: str
    tree: Tree | None
    vector: npt.NDArray[np.float32]


def similarity(a: Signature, b: Signature, weights: CriticConfig) -> float:
    """Return the hybrid similarity of two queries of one database, in [0, 1]; it is symmetric.

    Source: SQL-Factory, equation 3.
    """
    return combine(token_similarity(a, b), ast_similarity(a, b), embedding_similarity(a, b), weights)


def combine(token: float, ast: float, embedding: float, weights: CriticConfig) -> float:
    """Return the weighted sum of the three similarities.

    It grows with each of them, rounding included, so an upper bound of one gives an upper bound of the sum.
    """
    return weights.token_weight * token + weights.ast_weight * ast + weights.embedding_weight * embedding


def token_similarity(a: Signature, b: Signature) -> float:
    """Return how alike the sorted words of the two texts are, in [0, 1].

    Source: rapidfuzz's token_sort_ratio / 100.
    """
    return fuzz.ratio(sort_tokens(a.text), sort_tokens(b.text)) / 100


def sort_tokens(text: str) -> str:
    """Return the words of a text in ascending order: token_sort_ratio is the plain ratio of two of these."""
    # In a text of Latin-1 alone, RapidFuzz does not take these two for spaces; in any other it does, as Python.
    if ("\x85" in text or "\xa0" in text) and max(text) <= "\xff":
        words = _LATIN_WORD.findall(text)
    else:
        words = text.split()
    return " ".join(sorted(words))


def ast_similarity(a: Signature, b: Signature) -> float:
    """Return the structural similarity, in [0, 1]; 0 where one of the two does not parse."""
    if a.tree is None or b.tree is None:
        return 0.0
    return tree_similarity(tree_edit.distance(a.tree, b.tree), a.tree, b.tree)


def tree_similarity(distance: int, a: Tree, b: Tree) -> float:
    """Return the structural similarity of two trees at a distance (or at a lower bound of it, for an upper bound).

    1 - TED / max(size): 1.0 for identical trees, 0.0 where nothing can be kept (two trees of very different shape can
    be further apart than the larger one is big).

    Source: SQL-Factory, equation 4.
    """
    return max(0.0, 1.0 - distance / max(a.num_nodes, b.num_nodes))


def embedding_similarity(a: Signature, b: Signature) -> float:
    """Return the cosine of the two vectors, in [0, 1]; negative ones count as 0."""
    return float(cosines(a.vector, b.vector[np.newaxis])[0])


def cosines(vector_D: npt.NDArray[np.float32], vectors_ND: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return float64[N], the cosine of one vector with each of N, clipped to [0, 1]; 0 for a zero vector."""
    query_D = vector_D.astype(np.float64)
    others_ND = vectors_ND.astype(np.float64)
    # Sums along rows, not a matrix product: equal rows give equal bits wherever they stand, so ties stay ties.
    dots_N = (others_ND * query_D).sum(axis=1)
    norms_N = np.sqrt((others_ND**2).sum(axis=1) * (query_D**2).sum())
    cosines_N: npt.NDArray[np.float64] = np.divide(dots_N, norms_N, out=np.zeros_like(dots_N), where=norms_N > 0)
    return np.clip(cosines_N, 0.0, 1.0)
