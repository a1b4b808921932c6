"""A language model that says what a test has it say: the other side of `models.completion.Complete`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rayfactory.agents.player import Player
from rayfactory.config import AgentConfig, ModelConfig, Slot
from rayfactory.models.completion import CallKey, Completion, Prompt
from rayfactory.models.prompts import Prompts
from rayfactory.records import Tally

COST_USD = 0.25


def costed(agent: str, replies: int = 0, **counts: int) -> Tally:
    """Return the tally of an agent whose every reply came from a scripted model."""
    return Tally(agent, replies=replies, cost_usd=replies * COST_USD, **counts)


@dataclass
class ScriptedModel:
    """Answers each call with what `say` returns, or raises it where it is an exception.

    Attributes:
        calls: everything it was asked, in order.
    """

    say: Callable[[CallKey, Prompt], str | Exception]
    finish_reason: str = "stop"
    calls: list[tuple[Slot, CallKey, Prompt]] = field(default_factory=list)

    async def __call__(self, slot: Slot, key: CallKey, prompt: Prompt) -> Completion:
        self.calls.append((slot, key, prompt))
        said = self.say(key, prompt)
        if isinstance(said, Exception):
            raise said
        return Completion(said, "scripted-1", self.finish_reason, 100, 0, 50, COST_USD)

    def player(self, model: ModelConfig | None = None) -> Player:
        """Return this model in the part of an agent."""
        return Player(self, "strong", model or ModelConfig(name="scripted"), AgentConfig(), 7, Prompts())


def says(*replies: str | Exception) -> ScriptedModel:
    """Return a model with these replies, in order."""
    queue = list(replies)
    return ScriptedModel(lambda key, prompt: queue.pop(0))
