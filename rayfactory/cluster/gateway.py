"""The language models of a run behind one actor: one journal, one ledger, one client for each model.

It stays on the node of the process that started the run, where the run directory is. The keys are those in that
process's environment, whoever started Ray: each question for the status brings them along. A method's argument is in
the memory of the two processes alone; a constructor's, and a runtime environment, would be kept by the cluster.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rayfactory.agents.player import Player, player_of
from rayfactory.bucket.journal_copy import Mirror
from rayfactory.bucket.store import take_variables, variables
from rayfactory.cluster.losses import as_own
from rayfactory.config import Config, ModelConfig, Slot
from rayfactory.errors import RayfactoryError
from rayfactory.models.chat import Chat, ChatStatus
from rayfactory.models.completion import CallKey, Complete, Completion, Prompt
from rayfactory.models.endpoint import keys_at_hand, needs_key, take_keys
from rayfactory.models.prompts import Prompts

CALLS_AT_ONCE = 1_000_000
"""More than an actor that asks models ever has in hand. Ray's default of 1,000 would keep the rest of a batch back."""

_NAME = "models"

_MAX_NOTICES = 100
_MORE = f"there is more to tell of the models than these {_MAX_NOTICES} notes"


class _Relay(logging.Handler):
    """Hands warnings on, since what an actor logs is seen by nobody."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.getMessage())


def _relay_warnings(tell: Callable[[str], object]) -> None:
    log = logging.getLogger("rayfactory")
    if not any(isinstance(handler, _Relay) for handler in log.handlers):
        log.addHandler(_Relay(tell))


class Gateway:
    """One `Chat` for all agents.

    A gateway that is started again reads its journal, and asks for nothing twice. It has no keys then: what wants a
    completion waits until it is asked for its status, which is about twice a second.
    """

    def __init__(
        self, models: Mapping[Slot, ModelConfig], journal: str, max_cost_usd: float | None, mirror: Mirror | None = None
    ) -> None:
        self._notices: dict[str, None] = {}
        _relay_warnings(self._note)
        self._chat = Chat(models, Path(journal), max_cost_usd, mirror=mirror)
        self._has_mirror = mirror is not None
        self._has_keys = asyncio.Event()
        if not self._has_mirror and not any(map(needs_key, models.values())):
            self._has_keys.set()

    async def complete(self, slot: Slot, key: CallKey, prompt: Prompt) -> Completion:
        """As `models.completion.Complete`."""
        await self._has_keys.wait()
        return await self._chat.complete(slot, key, prompt)

    async def status(self, keys: Mapping[str, str] | None = None) -> ChatStatus:
        """Return what the models are doing and what they have cost.

        Args:
            keys: those that the process which started the run has at hand; None: whoever asks does not bring them.
        """
        if keys is not None:
            self._take(keys)
        return replace(self._chat.status(), notices=tuple(self._notices))

    async def tell(self, notice: str) -> None:
        """Take a warning from an agent, for the person who follows the run."""
        self._note(notice)

    def _note(self, notice: str) -> None:
        if notice not in self._notices:
            self._notices[notice if len(self._notices) < _MAX_NOTICES else _MORE] = None

    def _take(self, keys: Mapping[str, str]) -> None:
        take_keys(keys)
        if self._has_mirror:
            take_variables(keys)
        self._has_keys.set()

    async def close(self, keys: Mapping[str, str] | None = None) -> ChatStatus:
        """Write what is still open to the journal; return the last status.

        Args:
            keys: as of `status`.
        """
        if keys is not None:
            self._take(keys)
        await self._chat.close()
        return await self.status()


def start_gateway(
    models: Mapping[Slot, ModelConfig], journal: Path, max_cost_usd: float | None, mirror: Mirror | None = None
) -> Any:
    """Start the gateway on this node, with the keys of this process; return its handle."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    gateway: Any = (
        ray.remote(Gateway)
        .options(
            name=_NAME,
            # Ray would ask for one to start it with, and the head of a cluster often has none.
            num_cpus=0,
            max_restarts=-1,
            # A completion whose body arrived is in the journal, so a call may be made again.
            max_task_retries=-1,
            max_concurrency=CALLS_AT_ONCE,
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
        )
        .remote(dict(models), str(journal), max_cost_usd, mirror)
    )
    ask_status(gateway, models, mirror)
    return gateway


def ask_status(gateway: Any, models: Mapping[Slot, ModelConfig], mirror: Mirror | None = None) -> Any:
    """Ask the gateway for its status, and bring it the keys that this process has; return the reference."""
    return gateway.status.remote(_keys(models, mirror))


def close_gateway(gateway: Any, models: Mapping[Slot, ModelConfig], mirror: Mirror | None = None) -> Any:
    """Have the gateway write what is open to the journal; return the reference to its last status."""
    return gateway.close.remote(_keys(models, mirror))


def _keys(models: Mapping[Slot, ModelConfig], mirror: Mirror | None) -> dict[str, str]:
    """Return what the gateway needs of this process's environment."""
    return keys_at_hand(models) | (variables() if mirror is not None else {})


def player(config: Config, agent: str) -> Player | None:
    """Return the model that plays an agent, behind this run's gateway, or None where the agent keeps to its rule."""
    if getattr(config.models, agent).model == "rule":
        return None
    return player_of(config, agent, through_gateway(), Prompts())


def through_gateway() -> Complete:
    """Return the gateway of this run as agents know it: a function.

    The gateway is found by its name; a handle among an actor's arguments would have to be kept for its restarts.
    """
    import ray

    gateway: Any = ray.get_actor(_NAME)
    _relay_warnings(gateway.tell.remote)

    async def complete(slot: Slot, key: CallKey, prompt: Prompt) -> Completion:
        try:
            completion: Completion = await gateway.complete.remote(slot, key, prompt)
        except RayfactoryError as error:
            # Ray's own form of it has a traceback for a message.
            raise as_own(error, "a model could not be asked") from None
        return completion

    return complete
