"""What becomes of one query of a pool: a question is found, and the pair is verified; where it does not hold, the query
is cut down to what the question asks, and the pair verified again.

Source: SQL-Factory, section 5.3.1.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
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
from rayfactory.models.completion import CallKey, Complete, Completion, Prompt
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
        values: Mapping[str, Any] = query.values
        try:
            wording = await self._worded(case)
            verdict, review = await self._verified(case, query.values, wording)
            if verdict == "no" and self._settings.simplify and self._writer is not None:
                # What does not hold in the end is told of the pool's own query.
                simpler = await self._simplified(case, wording, review)
                values, verdict = (simpler, "yes") if simpler is not None else (values, verdict)
            if verdict != "yes":
                raise _Left("not_aligned" if verdict == "no" else "no_verdict", review)
        except _Left as left:
            reason, detail = left.reason, left.detail[:MAX_DETAIL_CHARACTERS]
        right, wrong = await self._controlled(case)
        row = {
            "query_id": query.query_id,
            "reason": reason,
            "detail": detail,
            "question": wording.text,
            "evidence": wording.evidence,
            "is_simplified": values is not query.values,
            "model": _name(self._writer),
            "verifier": _name(self._verifier),
            "control_right": right,
            "control_wrong": wrong,
            "cost_usd": case.cost_usd,
        }
        return {name: row[name] if name in row else values[name] for name in Q_SCHEMA.names}

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
            reply = await self._ask(case, self._writer, "translation", prompt, attempt)
            wording = wording_in(reply.text, truncated=_is_cut(reply))
            if wording is not None:
                return wording
        raise _Left("unreadable", reply.text.strip())

    async def _verified(
        self, case: _Case, values: Mapping[str, Any], wording: Wording, attempt: int = 0, agent: str = "verification"
    ) -> tuple[Verdict, str]:
        """Return whether question and query belong together, and what the verifier says of it.

        Args:
            case: that it is about.
            values: of the query.
            wording: the question.
            attempt: which one it is of this agent in this case.
            agent: who asks, as the ledger books it.
        """
        if self._verifier is None:
            try:
                holds = realise(values["sql"], case.schema, self._seed_of(case)) == wording
            except StatementError as error:
                return "unclear", str(error)
            return ("yes", "") if holds else ("no", "the rules would write another question")
        prompt = _fitting(
            lambda asking: asking.verdict(case.schema, values["tables"], values["sql"], wording), self._verifier
        )
        reply = (await self._ask(case, self._verifier, agent, prompt, attempt)).text
        return verdict_in(reply), review_in(reply)

    async def _simplified(self, case: _Case, wording: Wording, review: str) -> Mapping[str, Any] | None:
        """Cut a query down to its question; return the values of what came of it, or None where that does not hold."""
        assert self._writer is not None
        values = case.query.values
        try:
            prompt = _fitting(
                lambda asking: asking.simpler(case.schema, values["tables"], values["sql"], wording, review),
                self._writer,
            )
            reply = await self._ask(case, self._writer, "simplification", prompt)
            found = replies.queries(reply.text, truncated=_is_cut(reply))
            if not found:
                return None
            examined = examine(found[0], values["dialect"])
            if examined.reason is not None or examined.canonical == examine(values["sql"], values["dialect"]).canonical:
                return None
            if {name.casefold() for name in examined.tables} - {name.casefold() for name in values["tables"]}:
                return None  # it is to do less
            executed = await self._run_sql(values["database"], found[0], examined)
            if executed.reason is not None:
                return None
            simpler = {**values, **_of(found[0], executed)}
            verdict, _ = await self._verified(case, simpler, wording, 1)
        except _Left:
            # That the query as it is does not hold is known, whatever could not be asked.
            return None
        return simpler if verdict == "yes" else None

    async def _controlled(self, case: _Case) -> tuple[Verdict | None, Verdict | None]:
        """Return what the verifier says of a right and of a wrong pair over the query; None where it is not asked."""
        query = case.query
        if query.query_id >= ALWAYS_CONTROLLED and not self._is_drawn(query.query_id):
            return None, None
        pairs = pairs_over(query.values["sql"], case.schema, self._seed_of(case))
        if pairs is None:
            return None, None
        verdicts: list[Verdict | None] = []
        for attempt, wording in enumerate(pairs):
            try:
                verdicts.append((await self._verified(case, query.values, wording, attempt, "control"))[0])
            except _Left:
                verdicts.append(None)
        return verdicts[0], verdicts[1]

    def _is_drawn(self, query_id: int) -> bool:
        digest = blake2b(f"{self._seed} {query_id}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self._settings.control_share * 2**64

    def _seed_of(self, case: _Case) -> int:
        # Not 0, with which all questions are worded alike.
        return 1 + (self._seed * 1_000_003 + case.query.query_id) % (2**31 - 1)

    async def _ask(self, case: _Case, voice: Voice, agent: str, prompt: Prompt, attempt: int = 0) -> Completion:
        query_id = case.query.query_id
        key = CallKey(self._seed, agent, query_id // QUERIES_IN_A_ROUND, query_id, attempt)
        try:
            completion = await self._complete(voice.slot, key, prompt)
        except CompletionError as error:
            raise _Left("unanswered", str(error)) from None
        case.cost_usd += completion.cost_usd
        return completion


def _is_cut(reply: Completion) -> bool:
    return reply.finish_reason == "length"


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
