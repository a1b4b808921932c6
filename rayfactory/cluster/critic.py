"""The Critical Agent as an actor: the index of the pool, and who is admitted to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayfactory.agents.critical import reject
from rayfactory.config import Config
from rayfactory.errors import StatementError
from rayfactory.records import Candidate, Execution
from rayfactory.sql import canonical, normalise, parse
from rayfactory.tools.retrieval import QueryIndex
from rayfactory.tools.similarity import Signature
from rayfactory.tools.tree_edit import Tree, flatten


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
        index: its queries; an id there is a position in `ids`.
        ids: of the pool, or provisional ones of the round under way, in the order of the index.
        forms: canonical form of each entry, in the same order; `known` has the same ones.
        num_committed: entries that are in the pool.
    """

    index: QueryIndex
    ids: list[int] = field(default_factory=list)
    forms: list[str] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    num_committed: int = 0

    def add(self, entry_id: int, signature: Signature, form: str) -> None:
        self.index.add(len(self.ids), signature)
        self.ids.append(entry_id)
        self.forms.append(form)
        self.known.add(form)

    def commit(self, ids: Mapping[int, int]) -> None:
        """Give the provisional entries their lasting ids; those without one, which come last, are dropped."""
        kept = [ids[entry_id] for entry_id in self.ids[self.num_committed :] if entry_id in ids]
        self.ids[self.num_committed :] = kept
        self.index.remove_from(len(self.ids))
        self.known.difference_update(self.forms[len(self.ids) :])
        del self.forms[len(self.ids) :]
        self.num_committed = len(self.ids)


class CriticalAgent:
    """The Critical Agent with the Retrieval Tool, for some of the databases.

    It holds, of each of its databases, an index of what the pool has and the canonical forms. Ids are those of the
    pool; a candidate of the round under way has the id `first_id + position` until the round is committed.
    """

    def __init__(self, config: Config, dialects: Mapping[str, str]) -> None:
        self._config = config.critic
        self._dialects = dialects
        self._shelves: dict[str, _Shelf] = {}

    def load(self, rows: pa.Table, vectors: pa.Table) -> int:
        """Take committed rows of R and E into the index; return how many were of this agent's databases."""
        count = 0
        for query_id, database, sql, vector in zip(
            rows["query_id"].to_pylist(),
            rows["database"].to_pylist(),
            rows["sql"].to_pylist(),
            vectors["vector"].to_pylist(),
            strict=True,
        ):
            if database not in self._dialects:
                continue
            dialect = self._dialects[database]
            tree = parse(sql, dialect)
            vector_D = np.asarray(vector, dtype=np.float32)
            shelf = self._shelf(database, len(vector_D))
            signature = Signature(normalise(tree, dialect), flatten(tree), vector_D)
            shelf.add(query_id, signature, canonical(tree, dialect))
            shelf.num_committed += 1
            count += 1
        return count

    def admit(self, contenders: Sequence[Contender], first_id: int) -> list[Decision]:
        """Decide about candidates of the round under way, in order; what is admitted is compared with from then on.

        Args:
            contenders: in the order of their positions, later ones than in earlier calls for this round.
            first_id: id of position 0; greater than every id of the pool.
        """
        return [self._admit(contender, first_id) for contender in contenders]

    def commit(self, ids: Mapping[int, int]) -> None:
        """Give what the round under way admitted its lasting ids, and drop what the pool did not take.

        Args:
            ids: query_id for the id of each position of the round that is in the pool.
        """
        for shelf in self._shelves.values():
            shelf.commit(ids)

    def _admit(self, contender: Contender, first_id: int) -> Decision:
        candidate, execution = contender.candidate, contender.execution
        shelf = self._shelf(candidate.database, len(contender.vector))
        signature = Signature(execution.text, _tree(candidate), contender.vector)
        neighbours = shelf.index.search(signature)
        nearest = neighbours[0] if neighbours else None
        similarity = sum(n.similarity for n in neighbours) / len(neighbours) if neighbours else None
        refusal = reject(
            candidate.origin,
            len(execution.tables),
            candidate.num_request_tables,
            execution.canonical in shelf.known,
            nearest.similarity if nearest else None,
            self._config,
        )
        if refusal is None:
            shelf.add(first_id + contender.position, signature, execution.canonical)
        reason, detail = refusal or (None, "")
        return Decision(
            reason,
            detail,
            similarity,
            shelf.ids[nearest.id] if nearest else None,
            nearest.similarity if nearest else None,
        )

    def _shelf(self, database: str, dimension: int) -> _Shelf:
        if database not in self._shelves:
            self._shelves[database] = _Shelf(QueryIndex(dimension, self._config))
        return self._shelves[database]


def _tree(candidate: Candidate) -> Tree | None:
    try:
        return flatten(parse(candidate.sql, candidate.dialect))
    except StatementError:
        return None
