"""The embeddings of one database's queries: which are nearest to a vector by cosine.

FAISS finds them in float32; the cosine that counts is worked out in float64 from the stored vectors. Up to some number
of vectors every one is looked at; beyond it only the lists of an inverted file whose centroids are nearest. Which of
the two, and with which centroids, is a function of how many vectors there are and of the first of them: so it is the
same in a run that was interrupted.

Letters for shapes: N vectors, D dimensions, B vectors searched for at once, C found for each.

Source: Douze et al. 2024, The Faiss library.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types

from rayfactory.tools.compiled import READ_F32, ROWS_F32, compiled

Nearest = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""int64[C], positions; float64[C], their cosines to what was searched for."""


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


@dataclass(frozen=True, slots=True)
class Level:
    """An inverted file, and from how many vectors on it is used.

    Attributes:
        num_vectors: with this many it takes the place of what was before.
        num_trained: the first of them, from which its centroids are made while the others come in.
        num_lists: centroids.
        num_probes: lists that are looked through for one vector.
    """

    num_vectors: int
    num_trained: int
    num_lists: int
    num_probes: int


LEVELS = (
    Level(100_000, 90_000, 1024, 32),
    Level(400_000, 360_000, 2048, 40),
    Level(1_600_000, 1_440_000, 4096, 48),
    Level(6_400_000, 5_760_000, 8192, 64),
)
"""Lists grow as the square root of the vectors, so that what a search looks through grows as slowly."""

_TRAINING_SEED = 1234
_TRAINING_STEPS = 10
_POINTS_PER_CENTROID = 64
_MOVED_AT_ONCE = 16_384
_GPU_SCRATCH_BYTES = 512 * 2**20


class VectorIndex:
    """Vectors in the order in which they came, and the nearest of them.

    What a search returns depends on the vectors alone, not on threads, on what is searched for beside it, or on how
    they came: FAISS is asked for some more than are wanted, so that its rounding does not decide which are among them.

    It takes 4 D bytes a vector, and twice that while an inverted file takes the place of what was before.

    Args:
        dimension: D.
        levels: inverted files, by ascending number of vectors.
        gpu_memory_gb: of a GPU that searches; as long as the vectors fit in, a copy of them is there. 0: the CPU does.
    """

    MARGIN = 16
    """Found beyond those that are wanted."""

    def __init__(self, dimension: int, levels: Sequence[Level] = LEVELS, gpu_memory_gb: float = 0) -> None:
        import faiss

        # Process-wide: each process is one worker on one core.
        faiss.omp_set_num_threads(1)
        self._index: Any = faiss.IndexFlatIP(dimension)
        self._levels = list(levels)
        # The one that is made for the next level, while this one is searched.
        self._coming: Future[Any] | None = None
        self._trainer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="centroids")
        self._gpu_bytes = gpu_memory_gb * 1e9
        self._on_gpu: Any = None

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def extend(self, vectors_ND: npt.NDArray[np.float32]) -> None:
        """Add vectors at the end."""
        vectors_ND = np.ascontiguousarray(vectors_ND, np.float32)
        size = len(self) + len(vectors_ND)
        # Levels that are passed in one go are never made.
        while len(self._levels) > 1 and self._levels[1].num_vectors <= size and self._coming is None:
            del self._levels[0]
        self._index.add(vectors_ND)
        if self._on_gpu is not None:
            self._on_gpu.add(vectors_ND)
        while self._levels and self._levels[0].num_trained <= size:
            level = self._levels[0]
            if self._coming is None:
                self._coming = self._trainer.submit(_trained, level, self._sample(level))
            if size < level.num_vectors:
                break
            coming, self._coming = self._coming.result(), None
            for vectors in self._pieces():
                coming.add(vectors)
            self._index, self._on_gpu = coming, None
            del self._levels[0]
        self._copy_to_gpu()

    def nearest(self, vectors_BD: npt.NDArray[np.float32], count: int) -> list[Nearest]:
        """Return at least the `count` nearest to each vector, in no certain order; fewer only where no more are found.

        A vector that holds a NaN finds nothing.
        """
        wanted = min(count + self.MARGIN, len(self))
        if wanted == 0:
            return [(np.empty(0, np.int64), np.empty(0, np.float64))] * len(vectors_BD)
        index = self._index if self._on_gpu is None else self._on_gpu
        _, positions_BC = index.search(np.ascontiguousarray(vectors_BD), wanted)
        found = []
        for vector_D, positions_C in zip(vectors_BD, positions_BC, strict=True):
            known_C = positions_C[positions_C >= 0]
            found.append((known_C, cosines(vector_D, self._take(known_C))))
        return found

    def _take(self, positions_C: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return float32[C, D], the vectors at some positions."""
        if len(positions_C) == 0:
            return np.empty((0, self._index.d), np.float32)
        vectors_CD: npt.NDArray[np.float32] = self._index.reconstruct_batch(positions_C)
        return vectors_CD

    def _copy_to_gpu(self) -> None:
        """Have a GPU search, if one is to and has room; each process sees the one that it was given."""
        import faiss

        # Half as much again for what FAISS puts beside the vectors: their positions, and room in the lists.
        has_room = 1.5 * len(self) * self._index.d * 4 + _GPU_SCRATCH_BYTES < self._gpu_bytes
        if not has_room:
            self._on_gpu = None
        elif self._on_gpu is None:
            resources = faiss.StandardGpuResources()
            resources.setTempMemory(_GPU_SCRATCH_BYTES)
            self._on_gpu = faiss.index_cpu_to_gpu(resources, 0, self._index)

    def _sample(self, level: Level) -> npt.NDArray[np.float32]:
        """Return a copy of those of the first vectors that centroids are made from."""
        count = min(level.num_trained, level.num_lists * _POINTS_PER_CENTROID)
        places = np.linspace(0, level.num_trained - 1, count).astype(np.int64)
        return self._take(places)

    def _pieces(self) -> Iterator[npt.NDArray[np.float32]]:
        """Yield all vectors in order, some at a time."""
        for start in range(0, len(self), _MOVED_AT_ONCE):
            yield self._index.reconstruct_n(start, min(_MOVED_AT_ONCE, len(self) - start))


def _trained(level: Level, vectors_ND: npt.NDArray[np.float32]) -> Any:
    """Return an inverted file without vectors; its centroids are those of k-means from a fixed seed."""
    import faiss

    dimension = vectors_ND.shape[1]
    quantizer = faiss.IndexFlatIP(dimension)
    index = faiss.IndexIVFFlat(quantizer, dimension, level.num_lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.spherical, index.cp.niter = _TRAINING_SEED, True, _TRAINING_STEPS
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, _POINTS_PER_CENTROID
    index.train(vectors_ND)
    index.nprobe = level.num_probes
    # Where each vector is, so that it can be had by its position.
    index.make_direct_map()
    return index
