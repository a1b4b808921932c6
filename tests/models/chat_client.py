"""A process that obtains completions through a `Chat`, to be killed at any moment and started again.

    python -m tests.models.chat_client DIRECTORY BASE_URL NUM_COMPLETIONS IN_FLIGHT

It prints one JSON object when it has them all: their texts and what the books say.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from rayfactory.config import ModelConfig
from rayfactory.models.chat import Chat
from rayfactory.models.completion import CallKey, Prompt


def call(index: int) -> tuple[CallKey, Prompt]:
    """Return the index-th call: prompts repeat, keys do not."""
    key = CallKey(seed=1, agent="generation", round=index // 20, ordinal=index % 20)
    return key, Prompt("You write SQL.", f"Question {index % 7}.", max_tokens=200, temperature=0.8, top_p=0.8)


def model(base_url: str, in_flight: int) -> ModelConfig:
    """Return a model that costs money, and is tried often."""
    return ModelConfig(
        name="test-model",
        base_url=base_url,
        max_in_flight=in_flight,
        usd_per_million_in=2.5,
        usd_per_million_cached=1.25,
        usd_per_million_out=10.0,
        timeout_s=1.5,
        max_attempts=30,
    )


async def obtain(directory: Path, base_url: str, num_completions: int, in_flight: int) -> dict[str, object]:
    chat = Chat({"strong": model(base_url, in_flight)}, directory, None, backoff_s=0.05)
    try:
        completions = await asyncio.gather(*(chat.complete("strong", *call(i)) for i in range(num_completions)))
        return {"texts": [completion.text for completion in completions], "ledger": chat.ledger.rows()}
    finally:
        await chat.close()


def main() -> None:
    directory, base_url, num_completions, in_flight = sys.argv[1:]
    print(json.dumps(asyncio.run(obtain(Path(directory), base_url, int(num_completions), int(in_flight)))))  # noqa: T201


if __name__ == "__main__":
    main()
