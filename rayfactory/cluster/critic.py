"""The Critical Agent as an actor: the index of the pool, and who is admitted to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayfactory.agents.critical import reject
from rayfactory.config import Config
from rayfactory.records import Candidate, Execution, canonical_digest

if TYPE_CHECKING:
    from rayfactory.cluster.shelf import Shelf
    from rayfactory.tools.vector_store import Nearest


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


class CriticalAgent:
    """The Critical Agent with the Retrieval Tool, for some of the databases.

    It holds, of each of its databases, an index of what the pool has and the canonical forms. Ids are those of the
    pool; a candidate of the round under way has the id `first_id + position` until the round is committed.
    """

    def __init__(self, config: Config, dialects: Mapping[str, str]) -> None:
        # Not for the driver, which starts critics: the kernels that an index is searched with take a second to load.
        from rayfactory.cluster.shelf import new_shelf

        self._config = config.critic
        self._dialects = dialects
        self._new_shelf = partial(new_shelf, config, len(dialects))
        self._shelves: dict[str, Shelf] = {}

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
        signature = shelf.signature(execution, contender.vector)
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

    def _shelf(self, database: str, dimension: int) -> Shelf:
        if database not in self._shelves:
            self._shelves[database] = self._new_shelf(dimension)
        return self._shelves[database]
