"""The hybrid similarity of two queries: words, structure and meaning, each in [0, 1].

This is the definition; `ranking` finds the nearest by it without working all of it out.

Letters for shapes: N vectors, D dimensions.

Source: SQL-Factory, equations 3 to 5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rayfactory.config import CriticConfig
from rayfactory.records import Tree
from rayfactory.tools import subsequence, tree_edit, vector_store
from rayfactory.tools.words import encode, sort_tokens


@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """What a query is compared by.

    Attributes:
        words: uint8[bytes], the words of the normalised text in ascending order, as UTF-8.
        tree: None where the query does not parse; its structural similarity to everything is 0.
        vector: float32[D], the embedding of the text.
    """

    words: npt.NDArray[np.uint8]
    tree: Tree | None
    vector: npt.NDArray[np.float32]

    @classmethod
    def of(cls, text: str, tree: Tree | None, vector: npt.NDArray[np.float32]) -> Signature:
        """Return the signature of a normalised text."""
        return cls(encode(sort_tokens(text)), tree, vector)


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
    return subsequence.ratio(a.words, b.words)


def ast_similarity(a: Signature, b: Signature) -> float:
    """Return the structural similarity, in [0, 1]; 0 where one of the two does not parse.

    1 - TED / max(size): 1.0 for identical trees, 0.0 where nothing can be kept (two trees of very different shape can
    be further apart than the larger one is big).

    Source: SQL-Factory, equation 4.
    """
    if a.tree is None or b.tree is None:
        return 0.0
    return max(0.0, 1.0 - tree_edit.distance(a.tree, b.tree) / max(a.tree.num_nodes, b.tree.num_nodes))


def embedding_similarity(a: Signature, b: Signature) -> float:
    """Return the cosine of the two vectors, in [0, 1]; negative ones count as 0."""
    return float(vector_store.cosines(a.vector, b.vector[np.newaxis])[0])
