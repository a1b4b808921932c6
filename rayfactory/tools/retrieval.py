"""The Retrieval Tool: the nearest neighbours of a query among those of its database, by hybrid similarity.

The nearest by cosine are the candidates; the best of them by Sim are the answer, exactly those that scoring every
candidate would give. Few need a tree distance: a candidate is first scored with a bound on it, and a better bound, and
the distance itself, are worked out only for the candidate that then stands first.

Source: SQL-Factory, figure 3.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rapidfuzz import fuzz, process

from rayfactory.config import CriticConfig
from rayfactory.tools import tree_edit
from rayfactory.tools.similarity import Signature, combine, cosines, sort_tokens, tree_similarity

# How far the distance to a candidate is known. At equal scores the vaguer comes first, so that a tie is broken among
# exact scores only.
_ROUGH, _CLOSE, _EXACT = range(3)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A query of the index, and its hybrid similarity to the one searched for, in [0, 1]."""

    id: int
    similarity: float


class QueryIndex:
    """The queries of one database, in ascending order of id.

    What a search returns depends on the entries alone, not on threads.

    Args:
        dimension: D, the length of a vector.
        config: number of neighbours, and the weights of the similarity.
    """

    def __init__(self, dimension: int, config: CriticConfig) -> None:
        import faiss

        # Process-wide: each process is one worker on one core.
        faiss.omp_set_num_threads(1)
        self._faiss = faiss
        self._config = config
        self._ids: list[int] = []
        self._signatures: list[Signature] = []
        self._sorted_texts: list[str] = []
        self._vectors = faiss.IndexFlatIP(dimension)

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, id: int, signature: Signature) -> None:  # noqa: A002 - the name that Neighbour has for it
        """Add a query.

        Raises:
            ValueError: the id is not above those in the index.
        """
        if self._ids and id <= self._ids[-1]:
            raise ValueError(f"id {id} does not follow {self._ids[-1]}, the last in the index")
        self._vectors.add(signature.vector[np.newaxis])
        self._ids.append(id)
        self._signatures.append(signature)
        self._sorted_texts.append(sort_tokens(signature.text))

    def remove_from(self, id: int) -> None:  # noqa: A002 - as above
        """Remove every query with this id or a higher one."""
        position = int(np.searchsorted(self._ids, id))
        self._vectors.remove_ids(self._faiss.IDSelectorRange(position, len(self)))
        del self._ids[position:]
        del self._signatures[position:]
        del self._sorted_texts[position:]

    def search(self, signature: Signature) -> list[Neighbour]:
        """Return the nearest neighbours of a query, most similar first, ties to the lower id.

        They are `critic.k` (fewer only where the index holds fewer) of the k x `critic.candidates_per_neighbour`
        nearest by cosine.
        """
        positions = self._nearest_by_cosine(signature.vector)
        candidates = [self._signatures[position] for position in positions]
        tokens = self._token_similarities(signature, positions)
        vectors_CD = np.array([candidate.vector for candidate in candidates]).reshape(-1, self._vectors.d)
        embeddings = cosines(signature.vector, vectors_CD).tolist()

        def score(i: int, precision: int) -> float:
            """Return Sim to candidate i, or an upper bound of it."""
            ast = _ast_similarity(signature, candidates[i], precision)
            return combine(tokens[i], ast, embeddings[i], self._config)

        queue = [(-score(i, _ROUGH), _ROUGH, position, i) for i, position in enumerate(positions)]
        heapq.heapify(queue)
        neighbours: list[Neighbour] = []
        while queue and len(neighbours) < self._config.k:
            negative, precision, position, i = queue[0]
            if precision == _EXACT:
                # Nothing else can score higher, whatever its distance.
                neighbours.append(Neighbour(self._ids[position], -negative))
                heapq.heappop(queue)
            else:
                heapq.heapreplace(queue, (-score(i, precision + 1), precision + 1, position, i))
        return neighbours

    def _nearest_by_cosine(self, vector_D: npt.NDArray[np.float32]) -> list[int]:
        """Return the positions of the candidates, ascending."""
        num_candidates = min(self._config.k * self._config.candidates_per_neighbour, len(self))
        if num_candidates == 0:
            return []
        _, positions_1C = self._vectors.search(vector_D[np.newaxis], num_candidates)
        # A vector that holds a NaN finds nothing: -1.
        return sorted(position for position in positions_1C[0].tolist() if position >= 0)

    def _token_similarities(self, signature: Signature, positions: list[int]) -> list[float]:
        texts = [self._sorted_texts[position] for position in positions]
        ratios_1C = process.cdist([sort_tokens(signature.text)], texts, scorer=fuzz.ratio, dtype=np.float64, workers=1)
        similarities: list[float] = (ratios_1C[0] / 100).tolist()
        return similarities


def _ast_similarity(a: Signature, b: Signature, precision: int) -> float:
    """Return the structural similarity of two queries, or an upper bound of it."""
    if a.tree is None or b.tree is None:
        return 0.0
    measure = (tree_edit.label_bound, tree_edit.lower_bound, tree_edit.distance)[precision]
    return tree_similarity(measure(a.tree, b.tree), a.tree, b.tree)
