"""The embeddings of one database's queries: which are nearest to a vector by cosine, however many they are.

Up to some number of vectors every one is looked at; beyond it only the lists of an inverted file whose centroids are
nearest. Which of the two, and with which centroids, is a function of how many vectors there are and of the first of
them: so it is the same in a run that was interrupted, and in however many stores they are.

Letters for shapes: N vectors, D dimensions, B vectors searched for at once, C found for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rayfactory.tools.vector_store import Nearest, inverted_file


class Store(Protocol):
    """What a part of the vectors is in, wherever it is; `vector_store.VectorStore` has the meaning of each."""

    def add(self, vectors_ND: npt.NDArray[np.float32]) -> None:
        """Add vectors at the end."""

    def nearest(self, vectors_BD: npt.NDArray[np.float32], count: int) -> Callable[[], list[Nearest]]:
        """Begin a search, and return what waits for its result."""

    def take(self, places_C: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the vectors at some places."""

    def move(self, inverted_file: npt.NDArray[np.uint8]) -> None:
        """Move all vectors into an inverted file."""


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

_POINTS_PER_CENTROID = 64


class VectorIndex:
    """Vectors in the order in which they came, and the nearest of them.

    What a search returns depends on the vectors alone, not on what is searched for beside it, on how they came, or on
    how many stores they are in.

    Args:
        new_store: gives an empty store.
        store_size: vectors in a store, at most.
        levels: inverted files, by ascending number of vectors.
    """

    def __init__(
        self, new_store: Callable[[], Store], store_size: int = 2**62, levels: Sequence[Level] = LEVELS
    ) -> None:
        self._new_store = new_store
        self._store_size = store_size
        self._stores: list[Store] = []
        self._size = 0
        self._levels = list(levels)
        # The inverted file of the level that is reached, and that of the next one, made while this one is searched.
        self._file: npt.NDArray[np.uint8] | None = None
        self._next_file: Future[npt.NDArray[np.uint8]] | None = None
        self._trainer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="centroids")

    def __len__(self) -> int:
        return self._size

    def extend(self, vectors_ND: npt.NDArray[np.float32]) -> None:
        """Add vectors at the end."""
        size = self._size + len(vectors_ND)
        # Levels that are passed in one go are never made.
        while len(self._levels) > 1 and self._levels[1].num_vectors <= size and self._next_file is None:
            del self._levels[0]
        while len(vectors_ND):
            place = self._size % self._store_size
            if place == 0:
                self._stores.append(self._new_store())
                if self._file is not None:
                    self._stores[-1].move(self._file)
            part_ND = vectors_ND[: self._store_size - place]
            self._stores[-1].add(part_ND)
            self._size += len(part_ND)
            vectors_ND = vectors_ND[len(part_ND) :]
        while self._levels and self._levels[0].num_trained <= size:
            level = self._levels[0]
            if self._next_file is None:
                sample = self._sample(level)
                self._next_file = self._trainer.submit(inverted_file, sample, level.num_lists, level.num_probes)
            if size < level.num_vectors:
                break
            self._file, self._next_file = self._next_file.result(), None
            for store in self._stores:
                store.move(self._file)
            del self._levels[0]

    def nearest(self, vectors_BD: npt.NDArray[np.float32], count: int) -> list[Nearest]:
        """Return at least the `count` nearest to each vector, in no certain order; fewer only where no more are found.

        A vector that holds a NaN finds nothing.
        """
        waiting = [store.nearest(vectors_BD, count) for store in self._stores]
        found: list[list[Nearest]] = [[] for _ in vectors_BD]
        for number, result in enumerate(waiting):
            for parts, (places, cosines) in zip(found, result(), strict=True):
                parts.append((places + number * self._store_size, cosines))
        return [_joined(parts) for parts in found]

    def _sample(self, level: Level) -> npt.NDArray[np.float32]:
        """Return a copy of those of the first vectors that centroids are made from."""
        count = min(level.num_trained, level.num_lists * _POINTS_PER_CENTROID)
        places = np.linspace(0, level.num_trained - 1, count).astype(np.int64)
        return np.concatenate(
            [
                store.take(places[places // self._store_size == number] % self._store_size)
                for number, store in enumerate(self._stores)
            ]
        )


def _joined(parts: Sequence[Nearest]) -> Nearest:
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.float64)
    return np.concatenate([places for places, _ in parts]), np.concatenate([cosines for _, cosines in parts])
