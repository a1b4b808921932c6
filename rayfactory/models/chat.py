"""Asks language models, over the OpenAI chat-completions protocol: each thing once, within the budget, in any weather.

One `Chat` serves a run. A completion that goes in no batch (see `batch`) goes

    journal (is it there?) -> gate (may a request leave?) -> ledger (can it be paid?) -> journal (it leaves)
        -> endpoint -> journal (it is there) -> ledger (what it took)

and comes back to whoever asked only once it is on disk. What goes wrong at an endpoint is waited for, tried again, or
told, as `protocol` classifies it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rayfactory.bucket.journal_copy import Mirror
from rayfactory.config import ModelConfig, Slot
from rayfactory.errors import CompletionError, EndpointError, EngineError, RayfactoryError, RunDirError
from rayfactory.models.batch import Batches, BatchLimits
from rayfactory.models.batch_calls import OpenBatches
from rayfactory.models.batch_endpoint import check_batches
from rayfactory.models.completion import PLANNERS, CallKey, Completion, Prompt
from rayfactory.models.endpoint import Endpoint, ErrorReplyError, SlotStatus
from rayfactory.models.journal import Done, Failed, Journal, Record, Sent
from rayfactory.models.ledger import Ledger, Usage, WorstCase, worst_case
from rayfactory.models.limits import Permit
from rayfactory.models.prompts import TEMPLATE_TOKENS
from rayfactory.models.schema_text import estimated_tokens

_LONGEST_BACKOFF_S = 60.0
_ROUNDS_KEPT = 8
"""A call tells that so many rounds before its own, and one more, are in the pool: fewer than four are under way."""

_CLOSE_GRACE_S = 5.0
"""What is in flight when a run ends has this long to arrive: it is paid for."""

_ENDING = "the run is ending; no more is asked of its models"

_TOO_MANY_PER_ATTEMPT = 10
"""So many times being told to ask less often count as one attempt: it costs nothing, and the gate learns from it."""


@dataclass(frozen=True, slots=True)
class ChatStatus:
    """How the models of a run are doing and what they cost.

    Attributes:
        ledger: as `Ledger.rows`.
        notices: what a person should know, each once, in the order in which it came up.
    """

    slots: tuple[SlotStatus, ...]
    ledger: tuple[dict[str, Any], ...]
    confirmed_usd: float
    unconfirmed_usd: float
    reserved_usd: float
    max_cost_usd: float | None
    notices: tuple[str, ...] = ()


class Chat:
    """The models of one run.

    Args:
        models: the slots in use.
        directory: of the journal; created where it does not exist.
        max_cost_usd: what the run may spend; None: no limit.
        backoff_s: bound of the first pause before another attempt; it doubles from one to the next.
        batch_limits: what a batch holds at most, where requests go in batches.
        mirror: where the journal's copy is kept in object storage; None: it has no copy.

    Raises:
        RunDirError: the journal cannot be read or written.
    """

    def __init__(
        self,
        models: Mapping[Slot, ModelConfig],
        directory: Path,
        max_cost_usd: float | None,
        *,
        backoff_s: float = 0.5,
        batch_limits: BatchLimits = BatchLimits(),  # noqa: B008 - it is frozen
        mirror: Mirror | None = None,
    ) -> None:
        self.ledger = Ledger(max_cost_usd)
        self._max_cost_usd = max_cost_usd
        self._backoff_s = backoff_s
        self._open_batches = OpenBatches()
        self._journal = Journal(directory, self._replay, mirror=mirror)
        self._endpoints = {slot: Endpoint(slot, config) for slot, config in models.items()}
        self._batches = {
            slot: Batches(
                endpoint,
                self._journal,
                self.ledger,
                self._open_batches.of(slot, endpoint.config),
                batch_limits,
                backoff_s,
            )
            for slot, endpoint in self._endpoints.items()
        }
        for attempt in self._open_batches.never_made():
            self.ledger.release(attempt)
        # A batch goes on without the process that sent it.
        self.ledger.lose_open(but=set().union(*(batches.attempts() for batches in self._batches.values())))
        self._running: dict[tuple[CallKey, str], asyncio.Task[Completion]] = {}
        self._attempting: set[asyncio.Task[Any]] = set()
        self._turn = asyncio.Lock()

    def find(self, slot: Slot, key: CallKey, prompt: Prompt) -> Completion | None:
        """Return the completion of a prompt if it is in the journal."""
        return self._journal.find(key, self._request(slot, prompt))

    def _request(self, slot: Slot, prompt: Prompt) -> str:
        """Return what the journal knows a prompt by, as it is put to a model."""
        config = self._endpoints[slot].config
        return prompt.sha256(config.name if config.chat else f"{config.name}, in plain text")

    async def complete(self, slot: Slot, key: CallKey, prompt: Prompt) -> Completion:
        """Return the completion of a prompt: from the journal, or asked for now. This is a `Complete`."""
        self._journal.forget_before(key.round - _ROUNDS_KEPT)
        found = self.find(slot, key, prompt)
        if found is not None:
            await self._journal.settle()  # a process before this one may have ended before it was
            return found
        request = self._request(slot, prompt)
        task = self._running.get((key, request))
        if task is None:
            task = asyncio.create_task(self._obtain(self._endpoints[slot], key, prompt, request))
            self._running[key, request] = task
            task.add_done_callback(lambda task: self._forget((key, request), task))
        # Whoever asked may go away; the request, once paid for, comes to its end.
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise EngineError(_ENDING) from None
            raise

    async def check(self) -> None:
        """See that every endpoint is there and will take requests, without paying for any.

        Raises:
            EndpointError: one will not.
        """
        for endpoint in self._endpoints.values():
            await endpoint.check()
            await check_batches(endpoint)

    def status(self) -> ChatStatus:
        """Return how the endpoints are doing and what they cost."""
        return ChatStatus(
            slots=tuple(map(self._slot_status, self._endpoints)),
            ledger=tuple(self.ledger.rows()),
            confirmed_usd=self.ledger.confirmed_usd,
            unconfirmed_usd=self.ledger.unconfirmed_usd,
            reserved_usd=self.ledger.reserved_usd,
            max_cost_usd=self._max_cost_usd,
        )

    async def close(self) -> None:
        """Send nothing more, wait a little for what is in flight, and let go of everything."""
        ending = EngineError(_ENDING)
        self._shut(ending)
        for batches in self._batches.values():
            await batches.close(ending)
        for task in set(self._running.values()) - self._attempting:
            task.cancel()
        if self._attempting:
            await asyncio.wait(self._attempting, timeout=_CLOSE_GRACE_S)
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for endpoint in self._endpoints.values():
            await endpoint.close()
        await self._journal.close()

    def _slot_status(self, slot: Slot) -> SlotStatus:
        status = self._endpoints[slot].status()
        waits = filter(None, (status.waits_for, self._batches[slot].waits_for()))
        return replace(status, waits_for="; ".join(waits))

    def _forget(self, call: tuple[CallKey, str], task: asyncio.Task[Completion]) -> None:
        del self._running[call]
        if not task.cancelled():
            # Nobody may be left to see it.
            task.exception()

    def _shut(self, error: RayfactoryError) -> None:
        for endpoint in self._endpoints.values():
            endpoint.gate.shut(error)

    async def _obtain(self, endpoint: Endpoint, key: CallKey, prompt: Prompt, request: str) -> Completion:
        """Ask until there is a reply, or no hope of one."""
        for batches in self._batches.values():
            batches.resume()
        in_batch = await self._batches[endpoint.slot].complete(key, prompt, request)
        if in_batch is not None:
            return in_batch
        worst = worst_case(prompt, endpoint.config)
        tokens = 0 if endpoint.config.tokens_per_minute is None else _counted_tokens(prompt)
        retries = num_failed = num_too_many = 0
        max_attempts = endpoint.config.max_attempts
        while True:
            # A round's many calls wait for its plan, and behind those of the round before.
            permit = await endpoint.gate.enter(tokens, urgent=key.agent in PLANNERS)
            try:
                return await self._attempt(endpoint, permit, key, prompt, request, worst)
            except ErrorReplyError as error:
                reply = error.reply
                what = f"{endpoint.name} did not answer {key.agent} call {key.round}.{key.ordinal}: {reply.text}"
                match reply.kind:
                    case "refused_all":
                        endpoint.gate.succeeded(permit)
                        refused_all = EndpointError(f"{endpoint.name}: {reply.text}; {reply.remedy}")
                        endpoint.gate.shut(refused_all)
                        raise refused_all from None
                    case "refused":
                        endpoint.gate.succeeded(permit)
                        refusal = endpoint.note_refusal(key.agent, reply.text)
                        if refusal is not None:
                            endpoint.gate.shut(refusal)
                            raise refusal from None
                        raise CompletionError(what) from None
                    case "too_many":
                        endpoint.gate.too_many(permit, error.retry_after_s)
                        num_too_many += 1
                    case "failed":
                        is_closed = endpoint.gate.failed(permit, reply.text, error.retry_after_s)
                        if is_closed and reply.away:
                            # It was no fault of this request, and is no attempt of it; the gate says when to go on.
                            continue
                        num_failed += 1
                if num_failed >= max_attempts or num_too_many >= max_attempts * _TOO_MANY_PER_ATTEMPT:
                    raise CompletionError(f"{what} ({num_failed + num_too_many} attempts)") from None
            bound_s = min(_LONGEST_BACKOFF_S, self._backoff_s * 2**retries)
            retries += 1
            await asyncio.sleep(random.uniform(0, bound_s))

    async def _attempt(
        self, endpoint: Endpoint, permit: Permit, key: CallKey, prompt: Prompt, request: str, worst: WorstCase
    ) -> Completion:
        """Ask once.

        Raises:
            ErrorReplyError: there is no completion; the permit is still out. After any other exception it is back.
        """
        task = asyncio.current_task()
        assert task is not None
        attempt = self._journal.new_attempt()
        config = endpoint.config
        try:
            await self.ledger.reserve(attempt, config.name, key.agent, worst)
        except BaseException:
            endpoint.gate.abandoned(permit)
            raise
        self._attempting.add(task)
        is_sent = False
        try:
            self._journal.append(Sent(attempt, key, request, config.name, worst))
            if worst.cost_usd:
                # What costs nothing need not outlive the machine before it is sent.
                await self._journal.sync()
            async with self._turn:
                # One request is made in each pass of the loop, so that no reply stays unread while many are made.
                await asyncio.sleep(0)
            is_sent = True
            completion, is_counted = await endpoint.ask(key, prompt)
            # No other task has run since the last byte was read.
            self._journal.append(Done(attempt, key, request, config.name, completion, is_counted))
        except ErrorReplyError as error:
            self._end(attempt, error.reply.lost, error.reply.text)
            raise
        except RunDirError as error:
            # Nothing can be written down any more, so nothing is sent.
            self.ledger.lose(attempt)
            endpoint.gate.abandoned(permit)
            self._shut(error)
            raise
        except BaseException as error:
            # An EndpointError from here is a key or an address that is missing.
            self._end(attempt, is_sent and not isinstance(error, EndpointError), type(error).__name__)
            endpoint.gate.abandoned(permit)
            raise
        finally:
            self._attempting.discard(task)
        if is_counted:
            usage = Usage(completion.tokens_in, completion.tokens_cached, completion.tokens_out)
            self.ledger.confirm(attempt, usage, completion.cost_usd)
        else:
            self.ledger.lose(attempt, replied=True)
        endpoint.note_reply(key.agent, completion, worst, is_counted=is_counted)
        endpoint.gate.succeeded(permit)
        await self._journal.sync()
        return completion

    def _end(self, attempt: int, lost: bool, why: str) -> None:
        if lost:
            self.ledger.lose(attempt)
        else:
            self.ledger.release(attempt)
        try:
            self._journal.append(Failed(attempt, lost, why))
        except RunDirError as error:
            # The next process will take the attempt for lost, which is safe; this one stops.
            self._shut(error)

    def _replay(self, record: Record) -> None:
        self._open_batches.replay(record)
        match record:
            case Sent(attempt, key, _, model, worst):
                self.ledger.enter(attempt, model, key.agent, worst)
            case Done(attempt, key, _, model, completion, is_counted):
                if not self.ledger.is_open(attempt):
                    self.ledger.enter(attempt, model, key.agent, WorstCase(0, 0, 0.0))
                usage = Usage(completion.tokens_in, completion.tokens_cached, completion.tokens_out)
                if is_counted:
                    self.ledger.confirm(attempt, usage, completion.cost_usd)
                else:
                    self.ledger.lose(attempt, replied=True)
            case Failed(attempt, lost, _) if self.ledger.is_open(attempt):
                if lost:
                    self.ledger.lose(attempt)
                else:
                    self.ledger.release(attempt)


def _counted_tokens(prompt: Prompt) -> int:
    """Return how many tokens an endpoint takes a request for, at most; a byte each would be several times as many."""
    return estimated_tokens(prompt.system) + estimated_tokens(prompt.user) + TEMPLATE_TOKENS + prompt.max_tokens


async def check_endpoints(models: Mapping[Slot, ModelConfig]) -> list[str]:
    """See that endpoints are there and will take requests, without a journal and without paying for any.

    Returns:
        What a person should know of them.

    Raises:
        EndpointError: one will not.
    """
    notes = []
    for slot, config in models.items():
        endpoint = Endpoint(slot, config)
        try:
            note = await endpoint.check()
            await check_batches(endpoint)
        finally:
            await endpoint.close()
        # Nobody's batches are shown to everyone.
        if note and not config.batch:
            notes.append(note)
    return notes


def read_books(directory: Path) -> list[dict[str, Any]]:
    """Return the ledger's rows of a run that no process works on, from its journal; none where it has no journal.

    Raises:
        RunDirError: the journal cannot be read.
    """
    if not directory.is_dir():
        return []

    async def read() -> list[dict[str, Any]]:
        chat = Chat({}, directory, None)
        try:
            return chat.ledger.rows()
        finally:
            await chat.close()

    return asyncio.run(read())
