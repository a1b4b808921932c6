"""As `chat_client`, with the requests in batches.

python -m tests.models.batch_client DIRECTORY BASE_URL NUM_COMPLETIONS
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

from rayfactory.config import ModelConfig
from rayfactory.models.batch import BatchLimits
from rayfactory.models.chat import Chat
from tests.models import chat_client
from tests.models.endpoint_server import echo

LIMITS = BatchLimits(max_requests=25)


def model(base_url: str) -> ModelConfig:
    """Return a model whose batches leave soon and are looked after often."""
    ordinary = chat_client.model(base_url, 16)
    return replace(ordinary, batch=True, batch_price=0.5, batch_poll_s=0.05, batch_linger_s=0.1)


def expected(indexes: range) -> list[str]:
    """Return what the server of the tests replies to those calls."""
    prompts = [chat_client.call(i)[1] for i in indexes]
    return [echo([{"role": "system", "content": p.system}, {"role": "user", "content": p.user}]) for p in prompts]


async def obtain(directory: Path, base_url: str, num_completions: int) -> dict[str, object]:
    chat = Chat({"strong": model(base_url)}, directory, None, backoff_s=0.05, batch_limits=LIMITS)
    try:
        calls = [chat_client.call(i) for i in range(num_completions)]
        completions = await asyncio.gather(*(chat.complete("strong", *call) for call in calls))
        return {"texts": [completion.text for completion in completions], "ledger": chat.ledger.rows()}
    finally:
        await chat.close()


def main() -> None:
    directory, base_url, num_completions = sys.argv[1:]
    print(json.dumps(asyncio.run(obtain(Path(directory), base_url, int(num_completions)))))  # noqa: T201


if __name__ == "__main__":
    main()
