"""The Retrieval Tool: the nearest neighbours of a query among those of its database, by hybrid similarity.

The nearest by cosine are the candidates; the best of them by Sim are the answer, exactly those that scoring every
candidate would give.

Letters for shapes: N queries, D dimensions, B queries searched for at once, C candidates, K neighbours.

Source: SQL-Factory, figure 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayfactory.config import CriticConfig
from rayfactory.tools import ranking
from rayfactory.tools.columns import Column, Ragged
from rayfactory.tools.similarity import Signature
from rayfactory.tools.vector_store import Nearest, VectorStore, cosines
from rayfactory.tools.vectors import VectorIndex

_T = TypeVar("_T", bound=np.generic)

_NO_LABELS, _NO_LEAVES = np.empty(0, np.int64), np.empty(0, np.int32)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A query of the index by its position there, and its hybrid similarity to the one searched for, in [0, 1]."""

    position: int
    similarity: float


class QueryIndex:
    """The queries of one database, by position: first those of the pool, then those of the round under way.

    What a search returns depends on the entries alone, not on threads or on when they were committed.

    Args:
        dimension: D, the length of a vector.
        config: number of neighbours, and the weights of the similarity.
        committed: an empty index for the vectors of the pool; one in this process where there is none.
    """

    def __init__(self, dimension: int, config: CriticConfig, committed: VectorIndex | None = None) -> None:
        self._k = config.k
        self._num_candidates = config.k * config.candidates_per_neighbour
        self._weights = np.array([config.token_weight, config.ast_weight, config.embedding_weight])
        self._words = Ragged(np.uint8)
        self._labels = Ragged(np.int64)
        self._leftmost = Column(np.int32)  # rows as in `_labels`
        self._committed = VectorIndex(lambda: VectorStore(dimension)) if committed is None else committed
        # Those of the round under way: a few, and some of them go again.
        self._fresh_ND = np.empty((64, dimension), np.float32)
        self.num_distances = 0

    def __len__(self) -> int:
        return len(self._words)

    @property
    def num_committed(self) -> int:
        """Entries that stay."""
        return len(self._committed)

    def add(self, signature: Signature) -> int:
        """Add a query of the round under way; return its position."""
        position = len(self)
        place = position - self.num_committed
        if place == len(self._fresh_ND):
            self._fresh_ND = np.concatenate([self._fresh_ND, np.empty_like(self._fresh_ND)])
        self._fresh_ND[place] = signature.vector
        self._words.append(signature.words)
        tree = signature.tree
        self._labels.append(_NO_LABELS if tree is None else tree.labels)
        self._leftmost.extend(_NO_LEAVES if tree is None else tree.leftmost)
        return position

    def load(self, words: pa.Array, labels: pa.Array, leftmost: pa.Array, vectors_ND: npt.NDArray[np.float32]) -> None:
        """Add committed queries, as the columns of the pool's tables S and E have them; before any is added.

        Raises:
            ValueError: queries of a round are under way.
        """
        if len(self) != self.num_committed:
            raise ValueError("queries of a round are under way")
        texts, lengths = _rows(words.cast(pa.large_binary()), np.uint8)
        self._words.extend(texts, lengths)
        self._labels.extend(*_rows(labels, np.int64))
        self._leftmost.extend(_rows(leftmost, np.int32)[0])
        self._committed.extend(vectors_ND)

    def commit(self, num_kept: int) -> None:
        """Keep the first of the entries for good, and remove the others.

        Args:
            num_kept: of all entries, those that were committed before included.
        """
        self._committed.extend(self._fresh_ND[: num_kept - self.num_committed])
        self._words.cut(num_kept)
        self._labels.cut(num_kept)
        self._leftmost.cut(len(self._labels.values))

    def nearest_committed(self, vectors_BD: npt.NDArray[np.float32]) -> list[Nearest]:
        """Return, for each vector, what `search` needs to know of the committed entries.

        For many vectors at once it is cheaper than for one after the other.
        """
        return self._committed.nearest(vectors_BD, self._num_candidates)

    def search(self, signature: Signature, committed: Nearest | None = None) -> list[Neighbour]:
        """Return the nearest neighbours of a query, most similar first, ties to the lower position.

        They are `critic.k` (fewer only where the index holds fewer) of the k x `critic.candidates_per_neighbour`
        nearest by cosine, where ties go to the lower position too.

        Args:
            signature: of the query.
            committed: as `nearest_committed` gives them for its vector; looked up where it is None.
        """
        positions_C, cosines_C = self._candidates(signature.vector, committed)
        places_K, scores_K = np.empty(self._k, np.int64), np.empty(self._k, np.float64)
        tree = signature.tree
        found, num_distances = ranking.rank(
            ranking.Query(
                _read_only(signature.words),
                _read_only(_NO_LABELS if tree is None else tree.labels),
                _read_only(_NO_LEAVES if tree is None else tree.leftmost),
            ),
            ranking.Entries(
                self._words.values, self._words.ends, self._labels.values, self._leftmost.values, self._labels.ends
            ),
            positions_C, cosines_C, self._weights, places_K, scores_K,
        )  # fmt: skip
        self.num_distances += num_distances
        return [
            Neighbour(position, score)
            for position, score in zip(positions_C[places_K[:found]].tolist(), scores_K[:found].tolist(), strict=True)
        ]

    def _candidates(self, vector_D: npt.NDArray[np.float32], committed: Nearest | None) -> Nearest:
        """Return the nearest entries by cosine: int64[C], ascending positions, and float64[C]."""
        if committed is None:
            (committed,) = self.nearest_committed(vector_D[np.newaxis])
        num_fresh = len(self) - self.num_committed
        positions = np.concatenate([committed[0], np.arange(self.num_committed, len(self))])
        found = np.concatenate([committed[1], cosines(vector_D, self._fresh_ND[:num_fresh])])
        chosen = np.lexsort((positions, -found))[: self._num_candidates]
        chosen = chosen[np.argsort(positions[chosen])]
        return positions[chosen], found[chosen]


def _read_only(array: npt.NDArray[_T]) -> npt.NDArray[_T]:
    """Return a view that cannot be written to: the one kind of array that the kernel takes."""
    view = array.view()
    view.flags.writeable = False
    return view


def _rows(column: pa.Array, dtype: npt.DTypeLike) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Return the values of a column of binaries or lists, one row behind the other, and the length of each row."""
    if pa.types.is_large_binary(column.type):
        _, ends, data = column.buffers()
        offsets = np.frombuffer(ends, np.int64)[column.offset : column.offset + len(column) + 1]
        values = np.frombuffer(data, dtype) if data is not None else np.empty(0, dtype)
    else:
        offsets, values = column.offsets.to_numpy(), column.values.to_numpy(zero_copy_only=False)
    if len(column) == 0:
        return np.empty(0, dtype), np.empty(0, np.int64)
    return values[offsets[0] : offsets[-1]], np.diff(offsets)
