"""The model that plays an agent: which one, how it is asked, and what becomes of a request that it cannot answer."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

from rayfactory.config import AgentConfig, Config, ModelConfig, Slot
from rayfactory.errors import BudgetReachedError, CompletionError, ConfigError
from rayfactory.models.completion import CallKey, Complete, Completion, Prompt
from rayfactory.models.prompts import TEMPLATE_TOKENS, Prompts
from rayfactory.models.schema_text import estimated_tokens

logger = logging.getLogger("rayfactory.agents")

MAX_DECISION_TOKENS = 1_024
"""Tokens of a reply that decides or advises: a few lines, with room for a model that thinks before it speaks."""


@dataclass(frozen=True, slots=True)
class Player:
    """A model in the part of an agent.

    Attributes:
        complete: the way to the model.
        slot: which of the run's two models it is.
        model: its settings.
        agent: how the agent samples.
        seed: of the run.
        prompts: the templates.
    """

    complete: Complete
    slot: Slot
    model: ModelConfig
    agent: AgentConfig
    seed: int
    prompts: Prompts

    async def ask(self, agent: str, round_number: int, ordinal: int, prompt: Prompt) -> Completion | None:
        """Return the completion of a prompt, or None where it cannot be had.

        Args:
            agent: who asks, as the ledger books it.
            ordinal: place among the calls of that agent in that round.

        Raises:
            BudgetReachedError: it could cost more than is left.
            UserError: the endpoint refuses for a reason that the user can change.
            EngineError: the endpoint has been away for too long.
        """
        try:
            return await self.complete(self.slot, CallKey(self.seed, agent, round_number, ordinal), prompt)
        except CompletionError as error:
            logger.info("%s %d of round %d: %s", agent, ordinal, round_number, error)
            return None

    async def decide(self, agent: str, round_number: int, ordinal: int, prompt: Prompt) -> Completion | None:
        """Return the completion of a decision, or None where it cannot be had or paid: its rule then decides.

        Where the authors cost money too, the run ends with the budget. Where they do not, it goes on, and that is told.
        """
        try:
            return await self.ask(agent, round_number, ordinal, prompt)
        except BudgetReachedError:
            logger.warning(
                "max_cost_usd is reached: what would cost more than is left of it is decided by rules from here on; a "
                "larger max_cost_usd has the models decide again"
            )
            return None

    def decision_prompt(self, template: str, dialect: str | None, values: dict[str, Any]) -> Prompt:
        """Return a prompt for a decision or advice.

        Raises:
            ConfigError: it does not fit into the model's context window.
        """
        system, user = self.prompts.render(template, dialect, values)
        max_tokens = min(self.model.max_output_tokens, MAX_DECISION_TOKENS)
        needed = estimated_tokens(system) + estimated_tokens(user) + TEMPLATE_TOKENS + max_tokens
        if needed > self.model.context_tokens:
            raise ConfigError(
                f"the {template} prompt takes up to {needed} tokens with its reply, more than context_tokens="
                f"{self.model.context_tokens} of model {self.model.name!r}. Use a model with a larger context window"
            )
        return Prompt(system, user, max_tokens, self.agent.temperature, self.agent.top_p)


def player_of(config: Config, agent: str, complete: Complete, prompts: Prompts) -> Player | None:
    """Return the model that plays an agent of the run, or None where the agent keeps to its rule.

    Args:
        agent: one of `config.AGENTS`.
    """
    settings: AgentConfig = getattr(config.models, agent)
    if settings.model == "rule":
        return None
    slot: Slot = "strong" if settings.model == "strong" else "local"
    return Player(complete, slot, getattr(config.models, slot), settings, config.seed, prompts)


def stand_in_of(config: Config, player: Player) -> Player | None:
    """Return the local model in the part of the Generation Agent, where it answers a share of that one's requests."""
    return replace(player, slot="local", model=config.models.local) if config.models.local_share else None
