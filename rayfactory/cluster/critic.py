"""The Critical Agent as an actor: the index of the pool, and who is admitted to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayfactory.agents.critical import reject
from rayfactory.cluster.vector_actor import RemoteStore
from rayfactory.config import Config
from rayfactory.records import Candidate, Execution, canonical_digest
from rayfactory.tools.columns import Column
from rayfactory.tools.retrieval import QueryIndex
from rayfactory.tools.similarity import Signature
from rayfactory.tools.vector_store import Nearest, VectorStore
from rayfactory.tools.vectors import Store, VectorIndex
from rayfactory.tools.words import encode

_DIGEST = np.dtype("V16")


@dataclass(frozen=True, slots=True)
class Contender:
    """A candidate that ran, on its way to admission.

    Attributes:
        position: place within its round; decides who is compared with whom.
    """

    position: int
    candidate: Candidate
    execution: Execution
    vector: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Decision:
    """The Critical Agent's answer for one contender; `nearest` is an id of `CriticalAgent.admit`."""

    reason: str | None
    detail: str
    similarity: float | None
    nearest: int | None
    nearest_similarity: float | None


@dataclass
class _Shelf:
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

    def add(self, entry_id: int, signature: Signature, digest: bytes) -> None:
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


class CriticalAgent:
    """The Critical Agent with the Retrieval Tool, for some of the databases.

    It holds, of each of its databases, an index of what the pool has and the canonical forms. Ids are those of the
    pool; a candidate of the round under way has the id `first_id + position` until the round is committed.
    """

    def __init__(self, config: Config, dialects: Mapping[str, str]) -> None:
        self._config = config.critic
        self._cluster = config.cluster
        self._dialects = dialects
        self._shelves: dict[str, _Shelf] = {}

    def load(self, rows: pa.Table, vectors: pa.Table) -> int:
        """Take committed rows of S and E, the same ones in the same order, into the index.

        Returns:
            How many were of this agent's databases.
        """
        count = 0
        for database in pc.unique(rows["database"]).to_pylist():
            if database not in self._dialects:
                continue
            mine = pc.equal(rows["database"], database)
            own = rows.filter(mine)
            lists = vectors["vector"].filter(mine).combine_chunks()
            vectors_ND = lists.flatten().to_numpy().reshape(len(own), -1)
            self._shelf(database, vectors_ND.shape[1]).load(own, vectors_ND)
            count += len(own)
        return count

    def admit(self, contenders: Sequence[Contender], first_id: int) -> list[Decision]:
        """Decide about candidates of the round under way, in order; what is admitted is compared with from then on.

        Args:
            contenders: in the order of their positions, later ones than in earlier calls for this round.
            first_id: id of position 0; greater than every id of the pool.
        """
        # What the pool has is the same for all of them, so it is searched for all at once.
        committed: dict[int, Nearest] = {}
        by_database: dict[str, list[int]] = {}
        for i, contender in enumerate(contenders):
            by_database.setdefault(contender.candidate.database, []).append(i)
        for database, places in by_database.items():
            vectors_BD = np.stack([contenders[i].vector for i in places])
            nearest = self._shelf(database, vectors_BD.shape[1]).index.nearest_committed(vectors_BD)
            committed.update(zip(places, nearest, strict=True))
        return [self._admit(contender, first_id, committed[i]) for i, contender in enumerate(contenders)]

    def commit(self, ids: Mapping[int, int]) -> None:
        """Give what the round under way admitted its lasting ids, and drop what the pool did not take.

        Args:
            ids: query_id for the id of each position of the round that is in the pool.
        """
        for shelf in self._shelves.values():
            shelf.commit(ids)

    def _admit(self, contender: Contender, first_id: int, committed: Nearest) -> Decision:
        candidate, execution = contender.candidate, contender.execution
        shelf = self._shelf(candidate.database, len(contender.vector))
        signature = Signature(encode(execution.words), execution.tree, contender.vector)
        digest = canonical_digest(execution.canonical)
        neighbours = shelf.index.search(signature, committed)
        nearest = neighbours[0] if neighbours else None
        similarity = sum(n.similarity for n in neighbours) / len(neighbours) if neighbours else None
        refusal = reject(
            candidate.origin,
            len(execution.tables),
            candidate.num_request_tables,
            digest in shelf.known,
            nearest.similarity if nearest else None,
            self._config,
        )
        if refusal is None:
            shelf.add(first_id + contender.position, signature, digest)
        reason, detail = refusal or (None, "")
        return Decision(
            reason,
            detail,
            similarity,
            int(shelf.ids.values[nearest.position]) if nearest else None,
            nearest.similarity if nearest else None,
        )

    def _shelf(self, database: str, dimension: int) -> _Shelf:
        if database not in self._shelves:

            def new_store() -> Store:
                # The first is here; those of a database that outgrows it are actors of their own.
                if len(vectors):
                    return RemoteStore(dimension, self._cluster)
                return VectorStore(dimension, self._cluster.index_gpu_memory_gb / len(self._dialects))

            vectors = VectorIndex(new_store, self._cluster.vectors_per_actor)
            self._shelves[database] = _Shelf(QueryIndex(dimension, self._config, vectors))
        return self._shelves[database]
