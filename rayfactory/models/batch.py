"""Generation requests as batch files: half the price, within a day, and never paid for twice.

Calls are collected until no new one comes, and leave together:

    journal (these attempts leave in batch B) -> upload -> journal (B is about to be made) -> create -> journal (its id)
        -> poll -> read line by line: journal, ledger, and back to whoever asked

An account may have so many tokens waiting and no more. Once a batch was too much for it, one goes after the other:
half as large where not even one alone had room, twice as large where it had.

A process may end at any of these steps. The next one asks again for what was not made, looks for what may have been,
by the name that the batch carries, and waits for what was.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Literal

from rayfactory.errors import EngineError, RayfactoryError
from rayfactory.models.batch_calls import Batch, Call, shown
from rayfactory.models.batch_endpoint import BatchEndpoint
from rayfactory.models.batch_protocol import (
    MAX_FILE_BYTES,
    MAX_REQUESTS,
    BatchState,
    at_batch_price,
    read_reply,
    request_line,
)
from rayfactory.models.completion import CallKey, Completion, Prompt
from rayfactory.models.endpoint import Endpoint, ErrorReplyError
from rayfactory.models.journal import BatchSent, Done, Failed, Journal, Sent
from rayfactory.models.ledger import Ledger, Usage, worst_case
from rayfactory.models.protocol import ErrorReply, request_body

logger = logging.getLogger(__name__)

_PATIENCE_S = 24 * 3600.0
"""As long as a batch may take, requests wait for room in the account's queue before they go the ordinary way."""

_NUM_READS = 3
"""Files in which replies are missing are read so many times."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What a batch holds at most: one that is full leaves at once."""

    max_requests: int = MAX_REQUESTS
    max_bytes: int = MAX_FILE_BYTES


@dataclass(slots=True)
class _Crowd:
    """What is known while an account has no room for what was sent.

    Attributes:
        why: in the endpoint's words.
        since: time of the first refusal, on the monotonic clock.
        max_requests: what the next batch may hold.
        not_before: when it may leave, on the loop's clock.
    """

    why: str
    since: float
    max_requests: int
    not_before: float = 0.0


class Batches:
    """The batches of one endpoint.

    Args:
        pending: those that earlier processes sent.
        backoff_s: as of `Chat`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        journal: Journal,
        ledger: Ledger,
        pending: list[Batch],
        limits: BatchLimits,
        backoff_s: float,
    ) -> None:
        self._endpoint = endpoint
        self._config = endpoint.config
        self._priced = at_batch_price(endpoint.config)
        self._journal = journal
        self._ledger = ledger
        self._limits = limits
        self._backoff_s = backoff_s
        self._remote = BatchEndpoint(endpoint, backoff_s)
        self._batches = pending
        self._calls = {(c.key, c.request): c for batch in pending for c in batch.calls.values()}
        self._collected: list[Call] = []
        self._num_bytes = 0
        self._crowd: _Crowd | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_resumed = False
        self._closed: RayfactoryError | None = None

    def attempts(self) -> set[int]:
        """Return the attempts that are under way in batches."""
        return {attempt for batch in self._batches for attempt in batch.calls}

    def resume(self) -> None:
        """Follow the batches of earlier processes, from the first time on that this is called."""
        if not self._is_resumed:
            self._is_resumed = True
            for batch in self._batches:
                self._start(batch)

    async def complete(self, key: CallKey, prompt: Prompt, request: str) -> Completion | None:
        """Return the completion that a batch brings; None: the call has to go the ordinary way.

        Raises:
            as `models.completion.Complete`.
        """
        while True:
            call = self._calls.get((key, request))
            if call is None:
                if not self._config.batch or key.agent != "generation":
                    return None
                call = await self._collect(key, prompt, request)
            await call.ended.wait()
            match call.outcome:
                case Completion() as completion:
                    await self._journal.sync()
                    return completion
                case RayfactoryError() as error:
                    raise type(error)(*error.args)
                case Exception() as error:
                    raise EngineError(f"a batch of {self._endpoint.name} could not be followed: {error!r}") from error
                case "ordinary":
                    return None

    def waits_for(self) -> str:
        """Return what is under way, for a person; empty: nothing."""
        collected = []
        if self._collected:
            wait = (
                f"wait for room in the account's queue ({self._crowd.why})"
                if self._crowd
                else "are collected for a batch"
            )
            collected = [f"{len(self._collected)} requests {wait}"]
        return "; ".join([*map(shown, self._batches), *collected])

    async def close(self, error: RayfactoryError) -> None:
        """Send nothing more, and leave what is under way at the endpoint to the next process.

        Args:
            error: what calls get that come from now on.
        """
        self._closed = error
        if self._timer is not None:
            self._timer.cancel()
        for call in self._collected:
            self._ledger.release(call.attempt)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for batch in self._batches:
            # One that was not taken up is nothing that this process leaves.
            if self._is_resumed and batch.sent is not None and batch.calls:
                logger.warning(
                    "%s goes on with a %s; the same command takes it up again", self._endpoint.name, shown(batch)
                )

    # -- collecting -----------------------------------------------------------

    async def _collect(self, key: CallKey, prompt: Prompt, request: str) -> Call:
        attempt = self._journal.new_attempt()
        worst = worst_case(prompt, self._priced)
        await self._ledger.reserve(attempt, self._config.name, key.agent, worst)
        if self._closed is not None:
            self._ledger.release(attempt)
            raise self._closed
        line = request_line(attempt, request_body(self._config, key, prompt))
        is_full = len(self._collected) >= self._limits.max_requests
        if is_full or self._num_bytes + len(line) > self._limits.max_bytes:
            self._leave()
        call = self._calls[key, request] = Call(attempt, key, request, worst, line)
        self._collected.append(call)
        self._num_bytes += len(line)
        self._leave_in(self._config.batch_linger_s)
        return call

    def _leave_in(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._leave)

    def _leave(self) -> None:
        """Send what is collected; while the account has no room for more, only when nothing is under way."""
        if self._closed is not None:
            return
        now = asyncio.get_running_loop().time()
        if self._crowd is not None and now < self._crowd.not_before:
            self._leave_in(self._crowd.not_before - now)
            return
        while self._collected and not (self._crowd is not None and self._tasks):
            calls = self._next_calls()
            batch = Batch(uuid.uuid4().hex, calls, len(calls))
            self._batches.append(batch)
            self._start(batch)

    def _next_calls(self) -> dict[int, Call]:
        """Take as many of the collected calls as one batch may hold, at least one."""
        most = self._limits.max_requests if self._crowd is None else self._crowd.max_requests
        calls: dict[int, Call] = {}
        num_bytes = 0
        for call in self._collected[:most]:
            num_bytes += len(call.line)
            if calls and num_bytes > self._limits.max_bytes:
                break
            calls[call.attempt] = call
        del self._collected[: len(calls)]
        self._num_bytes = sum(len(call.line) for call in self._collected)
        return calls

    def _start(self, batch: Batch) -> None:
        task = asyncio.create_task(self._run(batch))
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._ended(batch, task))

    def _ended(self, batch: Batch, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        if batch.num_ordinary:
            logger.warning(
                "%s: %d of a batch's %d requests go the ordinary way, at the full price: %s",
                self._endpoint.name, batch.num_ordinary, batch.size, batch.why_ordinary,
            )  # fmt: skip
        error = task.exception()
        if isinstance(error, RayfactoryError):
            self._endpoint.gate.shut(error)
        if isinstance(error, Exception):
            # The calls stay without an end in the journal: the next process sees what has become of them.
            for call in list(batch.calls.values()):
                self._end(call, error)
        else:
            self._batches.remove(batch)
        if self._collected:
            # They may have waited for this one to end.
            self._leave_in(self._config.batch_linger_s)
        elif batch.state is not None and not batch.state.is_crowded:
            self._crowd = None

    # -- a batch --------------------------------------------------------------

    async def _run(self, batch: Batch) -> None:
        # One that an earlier process was about to have made may be there.
        may_be_made = batch.sent is not None
        try:
            if batch.sent is None:
                batch.state = await self._make(batch)
                self._note_sent(batch, batch.state)
                may_be_made = True
            elif not batch.sent.endpoint_id:
                batch.state = await self._remote.look_for(batch.name, batch.sent.at)
                if batch.state is None:
                    # It may be there, unseen, so it counts as paid for; but nothing can be had from it.
                    self._fail_all(batch, "again", "the batch was not found", lost=True)
                    return
                self._note_sent(batch, batch.state)
            state = await self._follow(batch)
        except ErrorReplyError as error:
            self._fail_all(batch, "ordinary", error.reply.text, lost=may_be_made)
            return
        if state.is_crowded and self._waits_for_room(batch, state):
            self._fail_all(batch, "again", state.why, lost=False)
            return
        if self._crowd is not None and state.status == "completed":
            self._crowd.since = time.monotonic()
            self._crowd.max_requests = min(self._limits.max_requests, 2 * max(self._crowd.max_requests, batch.size))
        await self._read(batch, state)
        why = f"the batch {state.status}" + (f" ({state.why})" if state.why else "")
        self._fail_all(batch, "ordinary", why, lost=state.status != "failed")

    async def _make(self, batch: Batch) -> BatchState:
        """Upload the calls and have a batch made of them.

        Raises:
            ErrorReplyError: the endpoint refuses; nothing is under way.
        """
        model = self._config.name
        for call in batch.calls.values():
            self._journal.append(Sent(call.attempt, call.key, call.request, model, call.worst, batch.name))
        content = b"".join(call.line for call in batch.calls.values())
        for call in batch.calls.values():
            call.line = b""
        file_id = await self._remote.upload(batch.name, content)
        batch.sent = BatchSent(batch.name, self._endpoint.slot, model, time.time())
        self._journal.append(batch.sent)
        await self._journal.sync()
        return await self._remote.create(file_id, batch.name, batch.sent.at)

    def _note_sent(self, batch: Batch, state: BatchState) -> None:
        assert batch.sent is not None
        batch.sent = BatchSent(batch.name, batch.sent.slot, batch.sent.model, batch.sent.at, state.endpoint_id)
        self._journal.append(batch.sent)

    async def _follow(self, batch: Batch) -> BatchState:
        """Return the state of a batch that has ended.

        Raises:
            ErrorReplyError: the endpoint does not know it any more.
        """
        assert batch.sent is not None
        while batch.state is None or not batch.state.has_ended:
            if batch.state is not None:
                await asyncio.sleep(self._config.batch_poll_s)
            try:
                batch.state = await self._remote.state(batch.sent.endpoint_id)
            except ErrorReplyError:
                # So much hangs on it that one answer is not enough.
                batch.state = await self._remote.look_for(batch.name, batch.sent.at)
                if batch.state is None:
                    raise
        return batch.state

    def _waits_for_room(self, batch: Batch, state: BatchState) -> bool:
        """Return whether the calls of a batch that was too much shall wait; not where they have waited for too long."""
        now = time.monotonic()
        if self._crowd is None:
            self._crowd = _Crowd(state.why, now, self._limits.max_requests)
            logger.warning(
                "%s has no room for a batch of %d requests (%s); they go as there is room, one batch after the other",
                self._endpoint.name, batch.size, state.why,
            )  # fmt: skip
        crowd = self._crowd
        if now - crowd.since >= _PATIENCE_S:
            self._crowd = None
            return False
        crowd.why = state.why
        # Another batch of ours may be what takes the room: then its end is waited for.
        if len(self._tasks) == 1:
            crowd.max_requests = max(1, min(crowd.max_requests, batch.size) // 2)
            if batch.size == 1:
                crowd.not_before = asyncio.get_running_loop().time() + self._config.batch_poll_s
        return True

    async def _read(self, batch: Batch, state: BatchState) -> None:
        """Take what came back; what is missing may be there when the files are read again."""
        for read in range(_NUM_READS):
            if read:
                await asyncio.sleep(self._backoff_s)
            for file_id in state.files:
                try:
                    await self._remote.persist(partial(self._read_file, batch, file_id))
                except ErrorReplyError as error:
                    batch.why_ordinary = batch.why_ordinary or error.reply.text
            if not batch.calls or not state.files:
                return

    async def _read_file(self, batch: Batch, file_id: str) -> None:
        async with aclosing(self._remote.lines(file_id)) as lines:
            async for line in lines:
                self._take(batch, line)

    def _take(self, batch: Batch, line: bytes) -> None:
        """Take one line: a reply is in the journal before any other task runs."""
        try:
            reply = read_reply(line, self._priced)
        except ValueError:
            return
        call = batch.calls.get(reply.attempt)
        if call is None:
            # It was read before, by this process or an earlier one.
            return
        if isinstance(reply.result, ErrorReply):
            self._fail(batch, call, "ordinary", reply.result.text, lost=reply.result.lost)
            return
        completion, attempt = reply.result, call.attempt
        self._journal.append(Done(attempt, call.key, call.request, self._config.name, completion, reply.is_counted))
        if reply.is_counted:
            usage = Usage(completion.tokens_in, completion.tokens_cached, completion.tokens_out)
            self._ledger.confirm(attempt, usage, completion.cost_usd)
        else:
            self._ledger.lose(attempt, replied=True)
        self._endpoint.note_reply(call.key.agent, completion, call.worst, is_counted=reply.is_counted)
        del batch.calls[attempt]
        self._end(call, completion)

    def _fail_all(self, batch: Batch, outcome: Literal["ordinary", "again"], why: str, *, lost: bool) -> None:
        for call in list(batch.calls.values()):
            self._fail(batch, call, outcome, why, lost=lost)

    def _fail(self, batch: Batch, call: Call, outcome: Literal["ordinary", "again"], why: str, *, lost: bool) -> None:
        self._journal.append(Failed(call.attempt, lost, why))
        if lost:
            self._ledger.lose(call.attempt)
        else:
            self._ledger.release(call.attempt)
        del batch.calls[call.attempt]
        if outcome == "ordinary":
            batch.num_ordinary += 1
            batch.why_ordinary = batch.why_ordinary or why
        self._end(call, outcome)

    def _end(self, call: Call, outcome: Completion | Exception | Literal["ordinary", "again"]) -> None:
        call.outcome = outcome
        self._calls.pop((call.key, call.request), None)
        call.ended.set()
