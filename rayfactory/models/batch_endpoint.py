"""What is said to an endpoint about batches, again and again until it is heard."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import TypeVar
from urllib.parse import quote

from rayfactory.errors import EndpointError, EngineError
from rayfactory.models.batch_protocol import BatchState, creation_body, read_batch, read_batches, read_file_id
from rayfactory.models.endpoint import Endpoint, ErrorReplyError

T = TypeVar("T")

logger = logging.getLogger(__name__)

_LONGEST_BACKOFF_S = 60.0
_NUM_LOOKS = 3
"""A batch is looked for so many times before it is given up, and what it costs with it."""

_CLOCK_SKEW_S = 86_400.0
_MAX_PAGES = 100


class BatchEndpoint:
    """The side of an endpoint that takes batches.

    Every method waits out what passes. All raise

    - ErrorReplyError: this is refused, or is not there;
    - EndpointError: everything is refused, for a reason that the user can change;
    - EngineError: the endpoint has been away for `max_pause_s`.

    Args:
        backoff_s: bound of the first pause before another attempt; it doubles from one to the next.
    """

    def __init__(self, endpoint: Endpoint, backoff_s: float) -> None:
        self._endpoint = endpoint
        self._config = endpoint.config
        self._backoff_s = backoff_s

    async def upload(self, name: str, content: bytes) -> str:
        """Upload the requests of a batch; return what the endpoint calls the file."""
        return await self.persist(
            lambda: self._endpoint.upload(f"rayfactory-{name}.jsonl", content, "batch", read_file_id)
        )

    async def create(self, file_id: str, name: str, at: float) -> BatchState:
        """Have a batch made, once, whatever becomes of the answers.

        Args:
            name: what this program calls it.
            at: Unix time at which it is made first, in seconds.
        """
        is_first = True

        async def create() -> BatchState:
            nonlocal is_first
            if not is_first and (found := await self._find(name, at)) is not None:
                # The answer was lost, not the request.
                return found
            is_first = False
            return await self._endpoint.post("/batches", creation_body(file_id, name), read_batch)

        return await self.persist(create)

    async def look_for(self, name: str, at: float) -> BatchState | None:
        """Return a batch of which not even its id is sure; None: it is not there, however often it is looked for."""
        for look in range(_NUM_LOOKS):
            if look:
                await asyncio.sleep(self._config.batch_poll_s)
            found = await self.persist(partial(self._find, name, at))
            if found is not None:
                return found
        return None

    async def state(self, endpoint_id: str) -> BatchState:
        """Return how a batch is doing."""
        return await self.persist(
            lambda: self._endpoint.fetch(f"/batches/{quote(endpoint_id, safe='')}", read_batch),
        )

    def lines(self, file_id: str) -> AsyncGenerator[bytes, None]:
        """Return as `Endpoint.file_lines`: whoever reads a file has to persist himself."""
        return self._endpoint.file_lines(file_id)

    async def persist(self, request: Callable[[], Awaitable[T]]) -> T:
        """Make a request until it succeeds."""
        since, bound_s = time.monotonic(), self._backoff_s
        while True:
            try:
                return await request()
            except ErrorReplyError as error:
                reply = error.reply
                if reply.kind == "refused" or error.status == 404:
                    raise
                if reply.kind == "refused_all":
                    raise EndpointError(f"{self._endpoint.name}: {reply.text}; {reply.remedy}") from None
                if time.monotonic() - since >= self._config.max_pause_s:
                    raise EngineError(
                        f"{self._endpoint.name} has answered nothing about batches for {self._config.max_pause_s:g} s "
                        f"(max_pause_s); what came last: {reply.text}; the same command takes its batches up again"
                    ) from None
                wait_s = min(error.retry_after_s or 0.0, self._config.max_pause_s)
            await asyncio.sleep(wait_s + random.uniform(0, bound_s))
            bound_s = min(_LONGEST_BACKOFF_S, 2 * bound_s)

    async def _find(self, name: str, at: float) -> BatchState | None:
        """Return a batch among those at the endpoint, which come newest first."""
        after = ""
        for _ in range(_MAX_PAGES):
            page, has_more = await self._endpoint.fetch(f"/batches?limit=100{after}", read_batches)
            for state in page:
                if state.name == name:
                    return state
            oldest = page[-1].created_at if page else None
            if not has_more or not page or (oldest is not None and oldest < at - _CLOCK_SKEW_S):
                return None
            after = f"&after={quote(page[-1].endpoint_id, safe='')}"
        return None


async def check_batches(endpoint: Endpoint) -> None:
    """See that an endpoint takes batches, where they are asked for, without making one.

    Raises:
        EndpointError: it does not.
    """
    if not endpoint.config.batch:
        return
    try:
        await endpoint.fetch("/batches?limit=1", read_batches)
    except ErrorReplyError as error:
        if error.reply.kind in ("refused", "refused_all"):
            raise EndpointError(
                f"{endpoint.name} takes no batches ({error.reply.text}): set models.{endpoint.slot}.batch=false, or "
                "choose an endpoint and a key that do"
            ) from None
        logger.warning("%s is there, but answers %s; it is given time", endpoint.name, error.reply.text)
