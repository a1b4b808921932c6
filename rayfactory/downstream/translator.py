"""What becomes of one query of a pool: a question is found, and the pair is verified; where it does not hold, the query
is cut down to what the question asks, and the pair verified again.

Source: SQL-Factory, section 5.3.1.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any

from rayfactory.config import Slot, TranslationConfig
from rayfactory.databases.schema import Schema
from rayfactory.downstream.control import pairs_over
from rayfactory.downstream.dialogue import Asking, Verdict, review_in, verdict_in, wording_in
from rayfactory.downstream.questions import Question
from rayfactory.downstream.realiser import Wording, realise
from rayfactory.errors import CompletionError, ConfigError, StatementError
from rayfactory.models import replies
from rayfactory.models.completion import CallKey, Complete, Prompt
from rayfactory.records import Execution
from rayfactory.tools.execution import examine
from rayfactory.translation import OF_THE_QUERY, Q_SCHEMA

QUERIES_IN_A_ROUND = 8_192
"""Queries whose calls count as one round, as the journal is read: it keeps those of the last rounds at hand."""

ALWAYS_CONTROLLED = 64
"""Queries at the beginning of a pool that are all controlled, so that a verifier's fault is known early."""

MAX_DETAIL_CHARACTERS = 400
RULES = "rules"
"""What stands for the model where the rules write."""

RunSQL = Callable[[str, str, Execution], Awaitable[Execution]]
"""Runs (database, sql, examined), and returns what came of it."""


@dataclass(frozen=True, slots=True)
class Query:
    """One query of the pool.

    Attributes:
        values: its columns of table R that table Q has too.
        examples: questions with similar queries, the most similar first.
    """

    values: Mapping[str, Any]
    examples: Sequence[Question]

    @property
    def query_id(self) -> int:
        """As in the pool."""
        return int(self.values["query_id"])


@dataclass(frozen=True, slots=True)
class Voice:
    """A model in the part of a writer or a verifier."""

    slot: Slot
    asking: Asking


class _Left(Exception):  # noqa: N818 - it is no error, but how the translation of one query ends
    """A query has no question, for a reason of `translation.REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(slots=True)
class _Case:
    """One query under way, and what it has cost."""

    query: Query
    schema: Schema
    cost_usd: float = 0.0
    values: dict[str, Any] = field(default_factory=dict)
    is_simplified: bool = False

    def __post_init__(self) -> None:
        self.values = dict(self.query.values)


class Translator:
    """Finds questions for queries.

    Args:
        settings: how.
        seed: of the run.
        schemas: by database.
        writer: who writes; None: the rules.
        verifier: who verifies; None: the rules, which let through what they would write.
        complete: the way to the models.
        run_sql: runs a query that was cut down.
    """

    def __init__(
        self,
        settings: TranslationConfig,
        seed: int,
        schemas: Mapping[str, Schema],
        writer: Voice | None,
        verifier: Voice | None,
        complete: Complete,
        run_sql: RunSQL,
    ) -> None:
        self._settings = settings
        self._seed = seed
        self._schemas = schemas
        self._writer = writer
        self._verifier = verifier
        self._complete = complete
        self._run_sql = run_sql

    async def translate(self, query: Query) -> dict[str, Any]:
        """Return what becomes of a query, as a row of table Q.

        Raises:
            BudgetReachedError: asking could cost more than is left.
            UserError: an endpoint refuses for a reason that the user can change.
            EngineError: an endpoint has been away for too long.
        """
        case = _Case(query, self._schemas[query.values["database"]])
        wording, reason, detail = Wording("", ""), None, ""
        try:
            wording = await self._worded(case)
            verdict, review = await self._verified(case, wording)
            if verdict == "no" and self._settings.simplify and self._writer is not None:
                verdict, review = await self._simplified(case, wording, review)
            if verdict != "yes":
                raise _Left("not_aligned" if verdict == "no" else "no_verdict", review)
        except _Left as left:
            reason, detail = left.reason, left.detail[:MAX_DETAIL_CHARACTERS]
        right, wrong = await self._controlled(case)
        # What did not hold is told of the pool's own query.
        told = case.values if reason is None else query.values
        row = {
            "query_id": query.query_id,
            "reason": reason,
            "detail": detail,
            "question": wording.text,
            "evidence": wording.evidence,
            "is_simplified": case.is_simplified and reason is None,
            "model": _name(self._writer),
            "verifier": _name(self._verifier),
            "control_right": right,
            "control_wrong": wrong,
            "cost_usd": case.cost_usd,
        }
        return {name: row[name] if name in row else told[name] for name in Q_SCHEMA.names}

    async def _worded(self, case: _Case) -> Wording:
        values = case.query.values
        if self._writer is None:
            try:
                return realise(values["sql"], case.schema, self._seed_of(case))
            except StatementError as error:
                raise _Left("unsupported", str(error)) from None
        prompt = _fitting(
            lambda asking: asking.question(case.schema, values["tables"], values["sql"], case.query.examples),
            self._writer,
        )
        # A reply without a question is not the end: the second one is another.
        for attempt in range(2):
            wording = wording_in(await self._ask(case, self._writer, "translation", prompt, attempt))
            if wording is not None:
                return wording
        raise _Left("unreadable", "")

    async def _verified(self, case: _Case, wording: Wording, attempt: int = 0) -> tuple[Verdict, str]:
        """Return whether question and query belong together, and what the verifier says of it."""
        if self._verifier is None:
            return self._by_rule(case, wording), "the rules would write another question"
        sql, tables = case.values["sql"], case.values["tables"]
        reply = await self._judged(case, self._verifier, "verification", (sql, tables, wording), attempt)
        return verdict_in(reply), review_in(reply)

    async def _judged(
        self, case: _Case, verifier: Voice, agent: str, pair: tuple[str, Sequence[str], Wording], attempt: int
    ) -> str:
        sql, tables, wording = pair
        prompt = _fitting(lambda asking: asking.verdict(case.schema, tables, sql, wording), verifier)
        return await self._ask(case, verifier, agent, prompt, attempt)

    def _by_rule(self, case: _Case, wording: Wording) -> Verdict:
        try:
            return "yes" if realise(case.values["sql"], case.schema, self._seed_of(case)) == wording else "no"
        except StatementError:
            return "unclear"

    async def _simplified(self, case: _Case, wording: Wording, review: str) -> tuple[Verdict, str]:
        """Cut the query down to its question; return the verdict on what came of it, or that of before."""
        assert self._writer is not None
        values = case.query.values
        prompt = _fitting(
            lambda asking: asking.simpler(case.schema, values["tables"], values["sql"], wording, review), self._writer
        )
        found = replies.queries(await self._ask(case, self._writer, "simplification", prompt))
        if not found:
            return "no", review
        examined = examine(found[0], values["dialect"])
        if examined.reason is not None or examined.canonical == examine(values["sql"], values["dialect"]).canonical:
            return "no", review
        if {name.casefold() for name in examined.tables} - {name.casefold() for name in values["tables"]}:
            return "no", review  # it is to do less
        executed = await self._run_sql(values["database"], found[0], examined)
        if executed.reason is not None:
            return "no", review
        case.values |= _of(found[0], executed)
        case.is_simplified = True
        return await self._verified(case, wording, 1)

    async def _controlled(self, case: _Case) -> tuple[Verdict | None, Verdict | None]:
        """Return what the verifier says of a right and of a wrong pair over the query; None where it is not asked."""
        query_id, values = case.query.query_id, case.query.values
        if query_id >= ALWAYS_CONTROLLED and not self._is_drawn(query_id):
            return None, None
        pairs = pairs_over(values["sql"], case.schema, self._seed_of(case))
        if pairs is None:
            return None, None
        verdicts: list[Verdict] = []
        for attempt, wording in enumerate(pairs):
            if self._verifier is None:
                verdicts.append(self._by_rule(_Case(case.query, case.schema), wording))
                continue
            pair = values["sql"], values["tables"], wording
            try:
                verdicts.append(verdict_in(await self._judged(case, self._verifier, "control", pair, attempt)))
            except _Left:
                return None, None
        return verdicts[0], verdicts[1]

    def _is_drawn(self, query_id: int) -> bool:
        digest = blake2b(f"{self._seed} {query_id}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self._settings.control_share * 2**64

    def _seed_of(self, case: _Case) -> int:
        # Not 0, with which all questions are worded alike.
        return 1 + (self._seed * 1_000_003 + case.query.query_id) % (2**31 - 1)

    async def _ask(self, case: _Case, voice: Voice, agent: str, prompt: Prompt, attempt: int = 0) -> str:
        query_id = case.query.query_id
        key = CallKey(self._seed, agent, query_id // QUERIES_IN_A_ROUND, query_id, attempt)
        try:
            completion = await self._complete(voice.slot, key, prompt)
        except CompletionError as error:
            raise _Left("unanswered", str(error)) from None
        case.cost_usd += completion.cost_usd
        return completion.text


def _fitting(make: Callable[[Asking], Prompt], voice: Voice) -> Prompt:
    try:
        return make(voice.asking)
    except ConfigError as error:
        raise _Left("too_long", str(error)) from None


def _name(voice: Voice | None) -> str:
    return RULES if voice is None else voice.asking.model.name


def _of(sql: str, executed: Execution) -> dict[str, Any]:
    """Return the columns that table Q has of a query anew."""
    assert executed.features is not None
    known = {
        "sql": sql,
        "tables": list(executed.tables),
        "row_count": executed.row_count,
        "execution_ms": executed.execution_ms,
        **asdict(executed.features),
    }
    return {name: known[name] for name in OF_THE_QUERY}
