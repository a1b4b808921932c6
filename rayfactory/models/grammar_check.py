"""Whether an endpoint decodes by a grammar: found out by asking for one word, before a run starts.

An endpoint that knows nothing of grammars leaves the field out of account as a rule, and answers all the same: nothing
that is free tells. So it is asked for one word by a grammar that allows only another one. That may have a price; the
question goes through a `Chat` like any other, with the agent name ``check``: within the budget, in the books, and not
again when the run goes on.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from rayfactory.bucket.journal_copy import Mirror
from rayfactory.config import OMITTABLE, ModelConfig, Slot
from rayfactory.errors import BudgetReachedError, CompletionError, EndpointError
from rayfactory.models.chat import Chat
from rayfactory.models.completion import CallKey, Prompt
from rayfactory.models.protocol import quoted
from rayfactory.shown import shown_url

WORD = "quincunx"
"""What the grammar allows: a word that no model comes up with when it is asked for another."""

_MAX_TOKENS = 512
"""Room for a model that thinks first, which a grammar does not shorten."""


async def check_grammars(
    models: Mapping[Slot, ModelConfig],
    directory: Path,
    max_cost_usd: float | None,
    seed: int,
    say: Callable[[str], None],
    mirror: Mirror | None = None,
) -> None:
    """See that the models which are to decode by a grammar do.

    Where the budget does not reach for the question it is not asked: the run will not get far either.

    Args:
        models: all have `constrained`.
        directory: of the run's journal, which nobody else has open.
        max_cost_usd: what the run may spend; None: no limit.
        seed: of the run.
        say: tells a person that an endpoint is asked.
        mirror: as of `Chat`.

    Raises:
        EndpointError: one refuses the grammar, or leaves it out of account.
        EngineError: one has been away for too long.
    """
    chat = Chat(models, directory, max_cost_usd, mirror=mirror)
    try:
        for slot, config in models.items():
            try:
                await _check(chat, slot, config, seed, say)
            except BudgetReachedError:
                return
    finally:
        await chat.close()


async def _check(chat: Chat, slot: Slot, config: ModelConfig, seed: int, say: Callable[[str], None]) -> None:
    prompt = check_prompt(config)
    # Another address is another endpoint, though the model has the same name.
    ordinal, attempt = zlib.crc32(shown_url(config.base_url).encode()) % 10_000, 0
    while (known := chat.find(slot, CallKey(seed, "check", 0, ordinal, attempt), prompt)) is not None:
        if known.text.strip() == WORD:
            return
        # What was wrong then may have been mended.
        attempt += 1
    who = f"the {slot} model {config.name!r} at {shown_url(config.base_url)!r}"
    remedy = (
        f"set models.{slot}.constrained=false, or use an endpoint that takes structured_outputs with a grammar, as "
        "vLLM does from 0.11 on"
    )
    say(f"Asking {who} for one word by a grammar, to see that it keeps to it.")
    try:
        completion = await chat.complete(slot, CallKey(seed, "check", 0, ordinal, attempt), prompt)
    except CompletionError as error:
        remedy += f"; what it refuses of {', '.join(OMITTABLE)} can be left out with models.{slot}.omit=[..]"
        raise EndpointError(f"{error}, where it was asked for a word by a grammar; {remedy}") from None
    if completion.text.strip() != WORD:
        raise EndpointError(
            f"{who} does not decode by a grammar: where it allowed only {WORD!r}, the reply was "
            f"{quoted(completion.text)!r}; {remedy}"
        )


def check_prompt(config: ModelConfig) -> Prompt:
    """Return the question: one word, and a grammar that allows only another."""
    return Prompt(
        "You answer with a single word.",
        "Write the word yes.",
        min(_MAX_TOKENS, config.max_output_tokens),
        # What every endpoint takes.
        temperature=1.0,
        top_p=1.0,
        grammar=f'root ::= "{WORD}"\n',
    )
