"""What travels between rooms: requests, candidates, verdicts, and the rows of the pool.

A record is a value. It is made once and never changed; a later stage wraps or replaces it.
The Arrow schemas at the end are the columns of the pool's tables, which other programs read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

State = Literal["GEN", "EXP"]
"""The state of the system in a round (equation 1): exploring or exploiting."""

Origin = Literal["generation", "expansion"]
"""Which team wrote a query."""

REJECT_REASONS: dict[str, str] = {
    "parse": "the text is not one statement of the dialect",
    "refused": "the statement is not a SELECT made of known-safe parts",
    "error": "the database refused the statement",
    "timeout": "the statement ran longer than execution.timeout_s",
    "memory": "the statement needed more than execution.memory_mb",
    "crashed": "the statement ended the process that it ran in",
    "too_many_rows": "the result has more than execution.max_rows rows, or more than execution.max_cells values",
    "single_table": "a generation query references one table where more were asked for",
    "duplicate": "a query with the same canonical form is in the pool",
    "similar": "an expansion query is nearer than critic.max_similarity to a query of the pool",
    "surplus": "the target was reached by an earlier query of the same round",
}
"""Every reason for which a candidate is not admitted, with what it means."""

DID_NOT_RUN = frozenset({"parse", "refused", "error", "timeout", "memory", "crashed", "too_many_rows"})
"""The reasons that count against executability."""

NEVER_AGAIN = frozenset({"timeout", "memory", "crashed"})
"""The reasons of statements that are a burden to who runs them: one of them is not run a second time."""


@dataclass(frozen=True, slots=True)
class Seed:
    """One pool query that an expansion request builds on."""

    query_id: int
    sql: str


@dataclass(frozen=True, slots=True)
class Request:
    """One unit of work for an author: write some queries for one database.

    Attributes:
        round: number of the round, from 0.
        index: position of the request within its round, from 0.
        origin: which team answers it.
        database: name of the database.
        tables: base tables to write about, connected by foreign keys where they can be (generation); those of the seeds
            (expansion).
        seeds: pool queries to build on; empty for generation.
        table_use: rows of the pool that reference each table of the database, as (table, rows): where an author may
            choose between tables, the less used one is better.
        num_queries: how many queries are asked for.
        rng_seed: seed of every random choice made in answering, a 64-bit integer.
        advice: what the Critical Agent learned from the failures of earlier rounds, for a model's prompt; may be empty.
    """

    round: int
    index: int
    origin: Origin
    database: str
    tables: tuple[str, ...]
    seeds: tuple[Seed, ...]
    table_use: tuple[tuple[str, int], ...]
    num_queries: int
    rng_seed: int
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One query that an author wrote, before it is judged.

    Candidates of a round are ordered by (request, ordinal); that order decides who is admitted first.

    Attributes:
        ended: reason and detail of the one time that it ran, where it is not to run again (`NEVER_AGAIN`).
    """

    round: int
    request: int
    ordinal: int
    origin: Origin
    database: str
    dialect: str
    sql: str
    num_request_tables: int
    seed_ids: tuple[int, ...]
    model: str
    prompt_sha256: str
    ended: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """What happened between an agent and its model, counted.

    Attributes:
        agent: as in `models.completion.CallKey`.
        replies: completions that were read.
        unusable: replies without anything that could be used.
        repeated: queries that a reply had already, word for word; they go no further.
        fallbacks: times that the agent's rule answered instead.
        corrected: candidates that went back with their error.
        mended: of these, the ones that ran afterwards.
        cost_usd: what the replies cost.
    """

    agent: str
    replies: int = 0
    unusable: int = 0
    fallbacks: int = 0
    corrected: int = 0
    mended: int = 0
    repeated: int = 0
    cost_usd: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        """Return both counted together; the agent is this one's."""
        counts = (getattr(self, name) + getattr(other, name) for name in self.__slots__[1:])
        return Tally(self.agent, *counts)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an author gives back for one request.

    Attributes:
        candidates: ordered; fewer than asked for where the author had no more to say.
        tallies: what happened on the way.
        out_of_budget: whether the budget ended before the request was answered in full.
    """

    candidates: tuple[Candidate, ...]
    tallies: tuple[Tally, ...] = ()
    out_of_budget: bool = False

    @property
    def cost_usd(self) -> float:
        """What the replies cost that the answer comes from."""
        return sum(tally.cost_usd for tally in self.tallies)


def add_tallies(tallies: Iterable[Tally]) -> tuple[Tally, ...]:
    """Return one tally for each agent, sorted by name."""
    sums: dict[str, Tally] = {}
    for tally in tallies:
        sums[tally.agent] = sums[tally.agent] + tally if tally.agent in sums else tally
    return tuple(sums[agent] for agent in sorted(sums))


@dataclass(frozen=True, slots=True)
class Features:
    """Counts over one query, as the pool's table R carries them (`sql.features` defines each)."""

    num_joins: int
    num_predicates: int
    num_subqueries: int
    num_aggregates: int
    num_windows: int
    num_tokens: int
    ast_nodes: int


@dataclass(frozen=True, slots=True)
class Tree:
    """The shape and the labels of one syntax tree, nodes numbered from 0 in postorder (`tools.trees.flatten`).

    Attributes:
        labels: int64[N], a hash of each node's label, the same in every process.
        leftmost: int32[N], the first leaf below each node.
    """

    labels: npt.NDArray[np.int64]
    leftmost: npt.NDArray[np.int32]

    @property
    def num_nodes(self) -> int:
        """N."""
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Execution:
    """What came of parsing and running one candidate (the Execution Tool's answer).

    Attributes:
        reason: why it did not run, one of `DID_NOT_RUN`; None where it ran. The fields below hold
            as far as it came.
        detail: what was wrong, in one line.
        text: normalised text; the candidate's own text where it does not parse.
        canonical: canonical form; empty where it does not parse.
        words: the words of `text` in ascending order (`tools.words.sort_tokens`); empty where it does not parse.
        tree: flattened once, for every comparison to come; None where it does not parse.
        tables: base tables, sorted, as the schema spells them.
        features: counts over the tree; None where it does not parse.
        row_count: rows of the result.
        execution_ms: wall time of the database, in milliseconds.
    """

    reason: str | None
    detail: str
    text: str
    canonical: str = ""
    words: str = ""
    tree: Tree | None = None
    tables: tuple[str, ...] = ()
    features: Features | None = None
    row_count: int = 0
    execution_ms: float = 0.0


def canonical_digest(canonical: str) -> bytes:
    """Return 16 bytes that stand for a canonical form."""
    return blake2b(canonical.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the Critical Agent found of one candidate.

    Attributes:
        reason: why it is not admitted, a key of `REJECT_REASONS`; None where it is.
        detail: the particulars, in one line.
        execution: what came of running it.
        vector: unit embedding, float32 of the encoder's dimension; None where it did not run.
        similarity: mean Sim of its nearest neighbours at admission, in [0, 1]; None where it has none.
        nearest: its nearest neighbour: a query_id of an earlier round, or the position of an
            earlier candidate of the same round (see `nearest_in_round`).
        nearest_in_round: whether `nearest` is a position in this round.
        nearest_similarity: Sim to that neighbour.
    """

    candidate: Candidate
    reason: str | None
    detail: str
    execution: Execution
    vector: npt.NDArray[np.float32] | None = None
    similarity: float | None = None
    nearest: int | None = None
    nearest_in_round: bool = False
    nearest_similarity: float | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A candidate that did not run, with why; `reason` is one of `DID_NOT_RUN`."""

    database: str
    sql: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """E_t, what the Critical Agent computes from the verdicts of one round (equations 2 and 6).

    Attributes:
        round: number of the round.
        state: GEN or EXP, as the Management Agent decided.
        candidates: candidates judged.
        executability: share of the candidates that ran, in [0, 1]; 0 where there were none.
        admission_rate: admitted / candidates, in [0, 1]; 0 where there were none.
        mean_similarity: mean similarity at admission of the candidates that ran and had at least one
            neighbour, in [0, 1]; None where there is none.
        reasons: number of rejected candidates for each reason.
        requests: number of requests for each database.
        admitted: rows admitted for each database.
    """

    round: int
    state: State
    candidates: int
    executability: float
    admission_rate: float
    mean_similarity: float | None
    reasons: dict[str, int]
    requests: dict[str, int]
    admitted: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as JSON-compatible values."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Evaluation:
        """Read what `to_json` wrote."""
        return cls(**{name: data[name] for name in cls.__slots__})


R_SCHEMA = pa.schema(
    [
        pa.field("query_id", pa.int64(), nullable=False),
        pa.field("database", pa.string(), nullable=False),
        pa.field("dialect", pa.string(), nullable=False),
        pa.field("sql", pa.string(), nullable=False),
        pa.field("tables", pa.list_(pa.string()), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("round", pa.int32(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("prompt_sha256", pa.string(), nullable=False),
        pa.field("seed_ids", pa.list_(pa.int64()), nullable=False),
        pa.field("row_count", pa.int64(), nullable=False),
        pa.field("execution_ms", pa.float64(), nullable=False),
        pa.field("similarity", pa.float64()),
        pa.field("nearest_id", pa.int64()),
        pa.field("nearest_similarity", pa.float64()),
        pa.field("num_joins", pa.int32(), nullable=False),
        pa.field("num_predicates", pa.int32(), nullable=False),
        pa.field("num_subqueries", pa.int32(), nullable=False),
        pa.field("num_aggregates", pa.int32(), nullable=False),
        pa.field("num_windows", pa.int32(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("ast_nodes", pa.int32(), nullable=False),
        pa.field("cost_usd", pa.float64(), nullable=False),
    ]
)
"""Table R, one row for each admitted query."""

E_SCHEMA = pa.schema(
    [
        pa.field("query_id", pa.int64(), nullable=False),
        pa.field("database", pa.string(), nullable=False),
        pa.field("vector", pa.list_(pa.float32()), nullable=False),
    ]
)
"""Table E, the embedding of each row of R."""

S_SCHEMA = pa.schema(
    [
        pa.field("query_id", pa.int64(), nullable=False),
        pa.field("database", pa.string(), nullable=False),
        pa.field("words", pa.large_string(), nullable=False),
        pa.field("labels", pa.large_list(pa.int64()), nullable=False),
        pa.field("leftmost", pa.large_list(pa.int32()), nullable=False),
        pa.field("canonical_digest", pa.binary(16), nullable=False),
    ]
)
"""Table S, what each row of R is compared by beside its vector (see `Execution`): an index is built from it without
parsing. It is for the run itself; another release may have it otherwise."""

REJECTS_SCHEMA = pa.schema(
    [
        pa.field("database", pa.string(), nullable=False),
        pa.field("sql", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("round", pa.int32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
    ]
)
"""The candidates that were not admitted, with why."""
