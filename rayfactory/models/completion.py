"""What is asked of a language model and what comes back, whoever carries it.

An agent makes a `Prompt` and calls a `Complete`; behind that stands `models.chat` with its journal and its
ledger, in the same process or on another node.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import astuple, dataclass

from rayfactory.config import Slot

PLANNERS = frozenset({"management", "table_selection", "seed_selection", "critical"})
"""Agents whose calls the plan of a round waits for."""


@dataclass(frozen=True, slots=True)
class CallKey:
    """Which completion of a run this is: it is asked for once, and equal prompts still get replies of their own.

    Attributes:
        seed: of the run.
        agent: who asks, as the ledger books it: ``generation``, ``expansion``, ``table_selection``, ``seed_selection``,
            ``management``, ``critical``; ``correction`` for a query that goes back with its error; ``check`` before the
            run.
        round: number of the round.
        ordinal: place among the calls of that agent in that round.
        attempt: 0, and one more for each time that the agent asks again for the same thing.
    """

    seed: int
    agent: str
    round: int
    ordinal: int
    attempt: int = 0

    def sampling_seed(self) -> int:
        """Return the seed that the endpoint is asked to sample with: 31 bits that differ from key to key."""
        return int.from_bytes(hashlib.blake2b(repr(astuple(self)).encode(), digest_size=4).digest(), "big") >> 1


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request for a completion.

    Attributes:
        system: what the agent is and knows; what many prompts have in common stands first, so that an
            endpoint can keep it.
        user: what is asked.
        max_tokens: tokens of the reply, at most.
        temperature, top_p: of the sampling.
        grammar: EBNF that the reply has to follow; empty: anything goes.
    """

    system: str
    user: str
    max_tokens: int
    temperature: float
    top_p: float
    grammar: str = ""

    def sha256(self, model: str) -> str:
        """Return the digest, in hexadecimal, of this prompt as it is put to a model."""
        return hashlib.sha256(json.dumps([model, *astuple(self)]).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Completion:
    """A reply that was paid for and is on disk.

    Attributes:
        text: what the model wrote; may be empty.
        model: what wrote it, as the endpoint names it.
        finish_reason: ``stop``, or ``length`` where `max_tokens` cut it off, or what else the endpoint says.
        tokens_in: tokens of the prompt, those in `tokens_cached` included.
        tokens_cached: prompt tokens that the endpoint had before.
        tokens_out: tokens of the reply.
        cost_usd: by the prices of the settings.
    """

    text: str
    model: str
    finish_reason: str
    tokens_in: int
    tokens_cached: int
    tokens_out: int
    cost_usd: float


Complete = Callable[[Slot, CallKey, Prompt], Awaitable[Completion]]
"""Gets the completion of a prompt.

Raises:
    CompletionError: this one cannot be had; the agent falls back on its rule.
    BudgetReachedError: asking could cost more than `max_cost_usd` leaves.
    UserError: the endpoint refuses for a reason that the user can change (key, model, quota).
    EngineError: the endpoint has been away for longer than `max_pause_s`.
"""
