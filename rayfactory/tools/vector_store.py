"""A stock of vectors in FAISS, and the nearest of them by cosine.

FAISS finds them in float32; the cosine that counts is worked out in float64 from the stored vectors.

Letters for shapes: N vectors, D dimensions, B vectors searched for at once, C found for each.

Source: Douze et al. 2024, The Faiss library.
"""

from __future__ import annotations

from collections.abc import Callable
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


MARGIN = 16
"""Vectors that FAISS is asked for beyond those that are wanted, so that its rounding does not decide which they are."""

_ROUNDING = 1e-6
"""How much FAISS may be off: where more vectors than the margin are as near as the last one, it is asked for more."""

_TRAINING_SEED = 1234
_TRAINING_STEPS = 10
_MOVED_AT_ONCE = 16_384
_GPU_SCRATCH_BYTES = 512 * 2**20
_GPU_MOST_FOUND = 2048


class VectorStore:
    """Vectors in the order in which they came.

    It takes 4 D bytes a vector, and twice that while they are moved.

    Args:
        dimension: D.
        gpu_memory_gb: of a GPU that searches; as long as the vectors fit in, a copy of them is there. 0: the CPU does.
    """

    def __init__(self, dimension: int, gpu_memory_gb: float = 0) -> None:
        import faiss

        # Of this thread, which is the one that searches: each process is one worker on one core.
        faiss.omp_set_num_threads(1)
        self._index: Any = faiss.IndexFlatIP(dimension)
        self._gpu_bytes = gpu_memory_gb * 1e9
        self._on_gpu: Any = None

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, vectors_ND: npt.NDArray[np.float32]) -> None:
        """Add vectors at the end."""
        vectors_ND = np.ascontiguousarray(vectors_ND, np.float32)
        self._index.add(vectors_ND)
        if self._on_gpu is not None and self._has_gpu_room():
            self._on_gpu.add(vectors_ND)
        self._copy_to_gpu()

    def nearest(self, vectors_BD: npt.NDArray[np.float32], count: int) -> Callable[[], list[Nearest]]:
        """Return what gives at least the `count` nearest to each vector, in no certain order.

        There are fewer only where no more are found; a vector that holds a NaN finds nothing. What a vector finds does
        not depend on those that are searched for beside it.
        """
        return lambda: self.search(vectors_BD, count)

    def search(self, vectors_BD: npt.NDArray[np.float32], count: int) -> list[Nearest]:
        """Return what `nearest` promises."""
        wanted = min(count + MARGIN, len(self))
        if wanted == 0:
            return [(np.empty(0, np.int64), np.empty(0, np.float64))] * len(vectors_BD)
        return [
            self._all_as_near(vector_D, places_C, count)
            for vector_D, places_C in zip(vectors_BD, self._found(vectors_BD, wanted), strict=True)
        ]

    def _found(self, vectors_BD: npt.NDArray[np.float32], wanted: int) -> npt.NDArray[np.int64]:
        """Return int64[B, wanted], what FAISS finds for each vector; -1 where that is not as many."""
        index = self._index if self._on_gpu is None or wanted > _GPU_MOST_FOUND else self._on_gpu
        places_BC: npt.NDArray[np.int64] = index.search(np.ascontiguousarray(vectors_BD), wanted)[1]
        return places_BC

    def _all_as_near(self, vector_D: npt.NDArray[np.float32], places_C: npt.NDArray[np.int64], count: int) -> Nearest:
        """Return what was found for one vector, and more of it until no other is as near as the last that is wanted."""
        while True:
            known_C = places_C[places_C >= 0]
            found_C = cosines(vector_D, self.take(known_C))
            is_all = len(known_C) < len(places_C) or len(places_C) == len(self)
            if is_all or -np.partition(-found_C, count - 1)[count - 1] - found_C.min() > _ROUNDING:
                return known_C, found_C
            (places_C,) = self._found(vector_D[np.newaxis], min(2 * len(places_C), len(self)))

    def take(self, places_C: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return float32[C, D], the vectors at some places."""
        if len(places_C) == 0:
            return np.empty((0, self._index.d), np.float32)
        vectors_CD: npt.NDArray[np.float32] = self._index.reconstruct_batch(places_C)
        return vectors_CD

    def move(self, inverted_file: npt.NDArray[np.uint8]) -> None:
        """Move all vectors into an inverted file, as `inverted_file` gives it."""
        import faiss

        index: Any = faiss.deserialize_index(inverted_file)
        # Where each vector is, so that it can be had by its place.
        index.make_direct_map()
        for start in range(0, len(self), _MOVED_AT_ONCE):
            index.add(self._index.reconstruct_n(start, min(_MOVED_AT_ONCE, len(self) - start)))
        self._index, self._on_gpu = index, None
        self._copy_to_gpu()

    def _copy_to_gpu(self) -> None:
        """Have a GPU search, if one is to and has room; each process sees the one that it was given."""
        if not self._has_gpu_room():
            self._on_gpu = None
        elif self._on_gpu is None:
            import faiss

            resources = faiss.StandardGpuResources()
            resources.setTempMemory(_GPU_SCRATCH_BYTES)
            self._on_gpu = faiss.index_cpu_to_gpu(resources, 0, self._index)

    def _has_gpu_room(self) -> bool:
        # Half as much again for what FAISS puts beside the vectors: their places, and room in the lists.
        return bool(1.5 * len(self) * self._index.d * 4 + _GPU_SCRATCH_BYTES < self._gpu_bytes)


def can_use_gpus() -> bool:
    """Return whether the FAISS that is installed is one for GPUs."""
    import faiss

    return hasattr(faiss, "StandardGpuResources")


def inverted_file(vectors_ND: npt.NDArray[np.float32], num_lists: int, num_probes: int) -> npt.NDArray[np.uint8]:
    """Return an inverted file without vectors, as bytes; its centroids are those of k-means from a fixed seed.

    Args:
        vectors_ND: what the centroids are made from.
        num_lists: centroids.
        num_probes: lists that are looked through for one vector.
    """
    import faiss

    faiss.omp_set_num_threads(1)  # of this thread
    dimension = vectors_ND.shape[1]
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimension), dimension, num_lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.spherical, index.cp.niter = _TRAINING_SEED, True, _TRAINING_STEPS
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, len(vectors_ND)
    index.train(vectors_ND)
    index.nprobe = num_probes
    found: npt.NDArray[np.uint8] = faiss.serialize_index(index)
    return found
