"""The embeddings of one database's queries: which are nearest to a vector by cosine.

FAISS finds them in float32; the cosine that counts is worked out in float64 from the stored vectors.

Letters for shapes: N vectors, D dimensions, B vectors searched for at once, C found for each.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import types

from rayfactory.tools.compiled import READ_F32, ROWS_F32, compiled


def cosines(vector_D: npt.NDArray[np.float32], vectors_ND: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return float64[N], the cosine of one vector with each of N, clipped to [0, 1]; 0 for a zero vector.

    Equal rows give equal bits wherever they stand, so ties stay ties.
    """
    result: npt.NDArray[np.float64] = _cosines(np.ascontiguousarray(vector_D), np.ascontiguousarray(vectors_ND))
    return result


# Sums in any order, so that they are worked out several at a time: the same order for every row.
@compiled(types.float64[::1](READ_F32, ROWS_F32), fastmath={"reassoc", "contract"})
def _cosines(vector_D, vectors_ND):
    cosines_N = np.zeros(len(vectors_ND), dtype=np.float64)
    for i in range(len(vectors_ND)):
        dot = norm = other = 0.0
        for j in range(len(vector_D)):
            a, b = np.float64(vector_D[j]), np.float64(vectors_ND[i, j])
            dot += a * b
            norm += a * a
            other += b * b
        if dot > 0.0:
            cosines_N[i] = min(1.0, dot / np.sqrt(norm * other))
    return cosines_N


class VectorIndex:
    """Vectors in the order in which they came, and the nearest of them.

    What a search returns depends on the vectors alone, not on threads or on what is searched for beside it: FAISS is
    asked for some more than are wanted, so that its rounding does not decide which are among them.

    Args:
        dimension: D.
    """

    MARGIN = 16
    """Found beyond those that are wanted."""

    def __init__(self, dimension: int) -> None:
        import faiss

        # Process-wide: each process is one worker on one core.
        faiss.omp_set_num_threads(1)
        self._index = faiss.IndexFlatIP(dimension)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def extend(self, vectors_ND: npt.NDArray[np.float32]) -> None:
        """Add vectors at the end."""
        self._index.add(np.ascontiguousarray(vectors_ND))

    def nearest(self, vectors_BD: npt.NDArray[np.float32], count: int) -> list[npt.NDArray[np.int64]]:
        """Return the positions of at least the `count` nearest to each vector, fewer only where there are not as many.

        A vector that holds a NaN finds nothing.
        """
        wanted = min(count + self.MARGIN, len(self))
        if wanted == 0:
            return [np.empty(0, np.int64)] * len(vectors_BD)
        _, positions_BC = self._index.search(np.ascontiguousarray(vectors_BD), wanted)
        return [positions_C[positions_C >= 0] for positions_C in positions_BC]

    def take(self, positions_C: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return float32[C, D], the vectors at some positions."""
        if len(positions_C) == 0:
            return np.empty((0, self._index.d), np.float32)
        vectors_CD: npt.NDArray[np.float32] = self._index.reconstruct_batch(positions_C)
        return vectors_CD
