"""What tests of one client need: a model at a server of theirs, and a chat with it in one event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from rayfactory.config import ModelConfig
from rayfactory.models.chat import Chat
from rayfactory.models.completion import CallKey, Prompt
from rayfactory.models.journal import FILE_NAME
from tests.models.endpoint_server import EndpointServer

SECRET = "sk-very/secret+key"
PROMPT = Prompt("You write SQL.", "How many?", max_tokens=100, temperature=0.8, top_p=0.8)


def key(ordinal: int, attempt: int = 0) -> CallKey:
    return CallKey(1, "generation", 0, ordinal, attempt)


def model(server: EndpointServer, **changes: Any) -> ModelConfig:
    return ModelConfig(
        **{
            "name": "test-model",
            "base_url": server.base_url,
            "usd_per_million_in": 2.5,
            "usd_per_million_cached": 1.25,
            "usd_per_million_out": 10.0,
            "timeout_s": 5.0,
            **changes,
        }
    )


def with_chat(
    directory: Path,
    body: Callable[[Chat, EndpointServer], Awaitable[None]],
    *,
    max_cost_usd: float | None = None,
    server: EndpointServer | None = None,
    **changes: Any,
) -> EndpointServer:
    """Run a test with a server and a chat in one loop."""
    server = server or EndpointServer()

    async def run() -> None:
        async with server:
            chat = Chat({"strong": model(server, **changes)}, directory, max_cost_usd, backoff_s=0.01)
            try:
                await body(chat, server)
            finally:
                await chat.close()

    asyncio.run(run())
    return server


def journal(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / FILE_NAME).read_text().splitlines()]


def unconfirmed(chat: Chat) -> int:
    return sum(row["unconfirmed_attempts"] for row in chat.ledger.rows())
