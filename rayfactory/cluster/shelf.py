"""What a critic holds of one database: the index of its queries, with their ids and canonical forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayfactory.cluster.vector_actor import RemoteStore
from rayfactory.config import Config
from rayfactory.records import Execution
from rayfactory.tools.columns import Column
from rayfactory.tools.retrieval import QueryIndex
from rayfactory.tools.similarity import Signature
from rayfactory.tools.vector_store import VectorStore
from rayfactory.tools.vectors import Store, VectorIndex
from rayfactory.tools.words import encode

_DIGEST = np.dtype("V16")


@dataclass
class Shelf:
    """What a critic holds of one database.

    Attributes:
        index: its queries, by position.
        ids: of the pool, or provisional ones of the round under way, in the order of the index.
        digests: of the canonical form of each entry, in the same order; `known` has the same ones.
    """

    index: QueryIndex
    ids: Column = field(default_factory=lambda: Column(np.int64))
    digests: Column = field(default_factory=lambda: Column(_DIGEST))
    known: set[bytes] = field(default_factory=set)

    def load(self, rows: pa.Table, vectors_ND: npt.NDArray[np.float32]) -> None:
        """Take committed rows of S, with their vectors."""
        words, labels, leftmost = (rows[name].combine_chunks() for name in ("words", "labels", "leftmost"))
        self.index.load(words, labels, leftmost, vectors_ND)
        digests = rows["canonical_digest"].to_pylist()
        self.ids.extend(rows["query_id"].to_numpy())
        self.digests.extend(np.array(digests, _DIGEST))
        self.known.update(digests)

    @staticmethod
    def signature(execution: Execution, vector: npt.NDArray[np.float32]) -> Signature:
        """Return what a candidate that ran is compared by."""
        return Signature(encode(execution.words), execution.tree, vector)

    def add(self, entry_id: int, signature: Signature, digest: bytes) -> None:
        """Take a candidate of the round under way, with the provisional id that it has."""
        self.index.add(signature)
        self.ids.extend(np.array([entry_id]))
        self.digests.extend(np.array([digest], _DIGEST))
        self.known.add(digest)

    def commit(self, ids: Mapping[int, int]) -> None:
        """Give the provisional entries their lasting ids; those without one, which come last, are dropped."""
        num_committed = self.index.num_committed
        kept = [ids[entry_id] for entry_id in self.ids.values[num_committed:].tolist() if entry_id in ids]
        num_kept = num_committed + len(kept)
        assert all(entry_id in ids for entry_id in self.ids.values[num_committed:num_kept].tolist())
        self.index.commit(num_kept)
        self.ids.cut(num_committed)
        self.ids.extend(np.array(kept, np.int64))
        self.known.difference_update(digest.tobytes() for digest in self.digests.values[num_kept:])
        self.digests.cut(num_kept)


def new_shelf(config: Config, num_databases: int, dimension: int) -> Shelf:
    """Return an empty shelf.

    Args:
        config: of the run.
        num_databases: that share what its critic may have of a GPU.
        dimension: D, of its vectors.
    """

    def new_store() -> Store:
        # The first is here; those of a database that outgrows it are actors of their own.
        if len(vectors):
            return RemoteStore(dimension, config.cluster)
        return VectorStore(dimension, config.cluster.index_gpu_memory_gb / num_databases)

    vectors = VectorIndex(new_store, config.cluster.vectors_per_actor)
    return Shelf(QueryIndex(dimension, config.critic, vectors))
