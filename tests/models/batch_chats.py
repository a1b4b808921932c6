"""As `chats`, with the requests in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rayfactory.config import ModelConfig
from rayfactory.models.batch import BatchLimits
from rayfactory.models.chat import Chat
from tests.models import batch_client
from tests.models.batch_server import BatchServer
from tests.models.chat_client import call


def model(server: BatchServer, **changes: Any) -> ModelConfig:
    return replace(batch_client.model(server.base_url), **changes)


def with_chat(
    directory: Path,
    body: Callable[[Chat, BatchServer], Awaitable[None]],
    *,
    server: BatchServer | None = None,
    max_cost_usd: float | None = None,
    limits: BatchLimits = BatchLimits(),  # noqa: B008 - it is frozen
    **changes: Any,
) -> BatchServer:
    """Run a test with a server and a chat in one loop."""
    server = server or BatchServer()

    async def run() -> None:
        async with server:
            chat = Chat(
                {"strong": model(server, **changes)}, directory, max_cost_usd, backoff_s=0.01, batch_limits=limits
            )
            try:
                await body(chat, server)
            finally:
                await chat.close()

    asyncio.run(run())
    return server


async def obtain(chat: Chat, indexes: range) -> list[str]:
    completions = await asyncio.gather(*(chat.complete("strong", *call(i)) for i in indexes))
    return [completion.text for completion in completions]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
