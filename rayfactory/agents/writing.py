"""What the two authors have in common when a model plays them: ask, read, correct, fall back on the rule, book."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from rayfactory.agents.player import Player
from rayfactory.databases.engine import Engine
from rayfactory.databases.schema import Schema
from rayfactory.errors import BudgetReachedError, ConfigError
from rayfactory.models import replies
from rayfactory.models.completion import Completion, Prompt
from rayfactory.models.grammar import draw_grammar
from rayfactory.models.schema_text import query_text, quoted
from rayfactory.records import NEVER_AGAIN, Answer, Candidate, Execution, Request, Tally
from rayfactory.tools.execution import Connections, ExecutionTool, examine

CALLS_PER_REQUEST = 1_000
"""Call i of request n has the ordinal n x 1000 + i where a request takes one call a query."""

CORRECTION_TEMPERATURE = 0.3
"""As of the agents that do not invent. Source: SQL-Factory, section 5.1.4."""

MAX_FAILED_CHARACTERS = 3_000
"""A query that goes back is cut to this."""

NUM_EMPHASISED = 3

_CONSTRUCTS = (
    "CASE WHEN", "RANK or DENSE_RANK", "ROW_NUMBER with PARTITION BY", "LAG or LEAD",
    "a running total with a window frame", "NTILE or PERCENT_RANK", "a common table expression that is used twice",
    "two levels of aggregation", "a correlated subquery", "EXISTS or NOT EXISTS", "a scalar subquery in SELECT",
    "a subquery in FROM", "UNION ALL", "INTERSECT or EXCEPT", "a self-join", "LEFT JOIN for what is missing",
    "GROUP BY with HAVING", "COUNT(DISTINCT ...)", "a share of the total", "conditional aggregation",
    "date arithmetic", "text functions", "IN with a subquery", "a comparison with an average",
    "top rows of each group", "several predicates joined by AND and OR", "BETWEEN", "LIKE",
)  # fmt: skip
"""Every request is nudged towards a few of these, so that equal tables do not get the same ten queries every time."""

Rule = Callable[[Request, Schema, Engine | None], list[Candidate]]
"""The rule of an author: `agents.generation.generate` or `agents.expansion.expand`."""

MakePrompt = Callable[[Request, Player, Mapping[str, Schema]], Prompt]
"""Gives the prompt of a request; a ConfigError where it does not fit into the model's context window."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Craft:
    """How an author answers: by its rule, or with a model that a prompt asks.

    Attributes:
        looks: whether the rule is given the database, to look at rows.
    """

    rule: Rule
    prompt: MakePrompt
    looks: bool = True

    def by_rule(self, request: Request, desk: Desk) -> list[Candidate]:
        """Answer a request by the rule. For the desk's thread."""
        engine = desk.connections.get(request.database) if self.looks else None
        return self.rule(request, desk.schemas[request.database], engine)


@dataclass(frozen=True, slots=True)
class Desk:
    """What an author works with, and the thread in which databases are used.

    Attributes:
        schemas: of the run, by database name.
        connections: for looking things up; opened and used in the thread.
        execution: for trying what was written, with the bounds of judging; opened and used in the thread.
        thread: an executor with one thread, so that the event loop stays free for replies.
    """

    schemas: Mapping[str, Schema]
    connections: Connections
    execution: ExecutionTool
    thread: Executor

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, done in the thread."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, work)

    def run(self, database: str, sql: str) -> Execution:
        """Examine a query and run it where that is allowed. For the thread."""
        return self.execution.run(database, sql, examine(sql, self.schemas[database].dialect))


@dataclass(frozen=True, slots=True)
class _Draft:
    """One query of a request, before it becomes a candidate."""

    sql: str
    model: str
    prompt_sha256: str
    by_rule: bool = False
    ended: tuple[str, str] | None = None


@dataclass
class _Book:
    """What answering one request has come to so far."""

    cost_usd: float = 0.0
    replies: int = 0
    unusable: int = 0
    fallbacks: int = 0
    repeated: int = 0
    out_of_budget: bool = False

    def take(self, completion: Completion) -> None:
        self.replies += 1
        self.cost_usd += completion.cost_usd


def emphasis(request: Request) -> list[str]:
    """Return the constructs that a request is nudged towards."""
    return random.Random(request.rng_seed).sample(_CONSTRUCTS, NUM_EMPHASISED)


async def write(request: Request, craft: Craft, player: Player, desk: Desk, *, self_correction: bool) -> Answer:
    """Answer a request with a model: one call, or one call a query where decoding follows a grammar.

    What the model does not answer, or has no room for, the rule does. Once the budget is reached, what is there is the
    answer.

    Args:
        request: with its tables, or its seeds.
        craft: its prompt is for all queries of the request, or for one of them where decoding follows a grammar.
        player: the model.
        desk: the databases.
        self_correction: whether what fails goes back to the model once.

    Raises:
        UserError: the endpoint refuses for a reason that the user can change.
        EngineError: the endpoint has been away for too long.
    """
    book = _Book()
    try:
        prompt = craft.prompt(request, player, desk.schemas)
    except ConfigError as error:
        # Its advice or its seed is longer than could be known before the run, which need not end for it.
        player.prompts.tell_rule(request.origin, request.database, error)
        book.fallbacks += 1
        drafts: list[_Draft | None] = [None] * request.num_queries
    else:
        if player.model.constrained:
            drafts = await _one_call_a_query(request, prompt, player, craft, desk, book)
        else:
            drafts = await _one_call(request, prompt, player, book)
    missing = [place for place, draft in enumerate(drafts) if draft is None]
    if missing and not book.out_of_budget:
        asked = replace(request, num_queries=len(missing))
        own = await desk.in_thread(partial(craft.by_rule, asked, desk))
        for place, candidate in zip(missing, own, strict=False):
            drafts[place] = _Draft(candidate.sql, candidate.model, candidate.prompt_sha256, by_rule=True)
    tallies = [
        Tally(
            request.origin,
            replies=book.replies,
            unusable=book.unusable,
            fallbacks=book.fallbacks,
            repeated=book.repeated,
            cost_usd=book.cost_usd,
        )
    ]
    written = [draft for draft in drafts if draft is not None]
    if self_correction and not book.out_of_budget:
        written, tally = await _corrected(request, written, player, desk, book)
        tallies += [tally] if tally else []
    return Answer(_as_candidates(request, desk, written), tuple(tallies), book.out_of_budget)


async def _one_call(request: Request, prompt: Prompt, player: Player, book: _Book) -> list[_Draft | None]:
    """Return the queries of one reply; nothing but gaps where there are none in it."""
    try:
        completion = await player.ask(request.origin, request.round, request.index, prompt)
    except BudgetReachedError:
        book.out_of_budget = True
        return []
    found: list[str] = []
    if completion is not None:
        book.take(completion)
        found = replies.queries(completion.text, truncated=completion.finish_reason == "length")
        book.unusable += not found
    if completion is None or not found:
        book.fallbacks += 1
        return [None] * request.num_queries
    digest = prompt.sha256(player.model.name)
    different = list(dict.fromkeys(found))
    book.repeated += len(found) - len(different)
    return [_Draft(sql, completion.model, digest) for sql in different[: request.num_queries]]


async def _one_call_a_query(
    request: Request, common: Prompt, player: Player, craft: Craft, desk: Desk, book: _Book
) -> list[_Draft | None]:
    """Return one query for each call, decoded by a grammar of its own; a gap where a reply cannot be used."""
    schema = desk.schemas[request.database]

    def draw(place: int) -> str:
        rng = random.Random(f"{request.rng_seed}/{place}")
        engine = desk.connections.get(request.database) if craft.looks else None
        return draw_grammar(schema, request.tables, rng, engine, max_tokens=player.model.max_output_tokens).ebnf()

    async def ask(place: int) -> _Draft | None:
        if book.out_of_budget:
            return None
        try:
            prompt = replace(common, grammar=await desk.in_thread(lambda: draw(place)))
        except ConfigError as error:
            # A query that may not end is paid for and lost.
            player.prompts.tell_rule(request.origin, request.database, error)
            book.fallbacks += 1
            return None
        try:
            ordinal = request.index * CALLS_PER_REQUEST + place
            completion = await player.ask(request.origin, request.round, ordinal, prompt)
        except BudgetReachedError:
            book.out_of_budget = True
            return None
        sql = ""
        if completion is not None:
            book.take(completion)
            sql = replies.one_query(completion.text, truncated=completion.finish_reason == "length")
            book.unusable += not sql
        if completion is None or not sql:
            book.fallbacks += 1
            return None
        return _Draft(sql, completion.model, prompt.sha256(player.model.name))

    calls = [asyncio.ensure_future(ask(place)) for place in range(request.num_queries)]
    try:
        return list(await asyncio.gather(*calls))
    finally:
        for call in calls:
            call.cancel()


async def _corrected(
    request: Request, drafts: Sequence[_Draft], player: Player, desk: Desk, book: _Book
) -> tuple[list[_Draft], Tally | None]:
    """Return the queries with those that failed corrected, where the model can; and what came of it."""
    kept = list(drafts)
    failed: list[tuple[int, Execution]] = []
    by_model = [(place, draft) for place, draft in enumerate(drafts) if not draft.by_rule]

    def run_all() -> list[Execution]:
        return [desk.run(request.database, draft.sql) for _, draft in by_model]

    # In one go: where requests take turns with each query, all of them are answered at the end, and judging waits for
    # the first.
    executions = await desk.in_thread(run_all) if by_model else []
    for (place, draft), execution in zip(by_model, executions, strict=True):
        if execution.reason is not None:
            failed.append((place, execution))
        if execution.reason in NEVER_AGAIN:
            kept[place] = replace(draft, ended=(execution.reason, execution.detail))
    prompt = _correction_prompt(request, drafts, failed, player, desk)
    if prompt is None:
        return kept, None
    try:
        completion = await player.ask("correction", request.round, request.index, prompt)
    except BudgetReachedError:
        book.out_of_budget = True
        return kept, None
    if completion is None:
        return kept, Tally("correction", corrected=len(failed))
    found = replies.corrections(completion.text, len(failed), truncated=completion.finish_reason == "length")
    mended = 0
    for position, sql in sorted(found.items()):
        place, _ = failed[position]
        if sql == drafts[place].sql:
            continue
        execution = await desk.in_thread(partial(desk.run, request.database, sql))
        if execution.reason is None:
            kept[place] = _Draft(sql, completion.model, prompt.sha256(player.model.name))
            mended += 1
    return kept, Tally(
        "correction",
        replies=1,
        unusable=int(not found),
        corrected=len(failed),
        mended=mended,
        cost_usd=completion.cost_usd,
    )


def _correction_prompt(
    request: Request, drafts: Sequence[_Draft], failed: list[tuple[int, Execution]], player: Player, desk: Desk
) -> Prompt | None:
    """Return the prompt that takes the failed queries back; those that do not fit are taken off `failed`, and told."""
    size = len(failed)
    prompt: Prompt | None = None
    agent = replace(player.agent, temperature=min(player.agent.temperature, CORRECTION_TEMPERATURE))
    while failed:
        shown = [
            {
                "sql": query_text(drafts[place].sql, MAX_FAILED_CHARACTERS),
                "reason": execution.reason,
                "detail": quoted(execution.detail, MAX_FAILED_CHARACTERS),
            }
            for place, execution in failed
        ]
        try:
            schema = desk.schemas[request.database]
            values = {"failed": shown}
            prompt = player.prompts.about_tables("correction", schema, request.tables, player.model, agent, values)
            break
        except ConfigError:
            failed.pop()
    if left_out := size - len(failed):
        cut = f"{left_out} of {size} failed queries"
        player.prompts.tell_cut("correction", player.model, request.database, "failed", cut)
    return prompt


def _as_candidates(request: Request, desk: Desk, drafts: Sequence[_Draft]) -> tuple[Candidate, ...]:
    """Return the queries of a request as candidates, in order."""
    return tuple(
        Candidate(
            round=request.round,
            request=request.index,
            ordinal=ordinal,
            origin=request.origin,
            database=request.database,
            dialect=desk.schemas[request.database].dialect,
            sql=draft.sql,
            num_request_tables=len(request.tables),
            seed_ids=tuple(seed.query_id for seed in request.seeds),
            model=draft.model,
            prompt_sha256=draft.prompt_sha256,
            ended=draft.ended,
        )
        for ordinal, draft in enumerate(drafts)
    )
