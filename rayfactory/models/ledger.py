"""What a run has spent on models, what it may have spent, and what it is about to: never more than allowed.

Every attempt at a completion is entered before it is sent, at the worst that it can cost, and leaves in one of three
ways:

- confirmed: the reply is there and says what it took;
- unconfirmed: the reply was lost, but the model may have been at work; it stays booked at its worst;
- released: the endpoint said that it did nothing.

An attempt is entered only while confirmed + unconfirmed + reserved stay within the budget. Sums are whole
picodollars (a token at 0.075 dollars for a million is 75,000 of them), so that they do not drift.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from rayfactory.config import ModelConfig
from rayfactory.errors import BudgetReachedError
from rayfactory.models.completion import Prompt

_PICO = 10**12

_TEMPLATE_TOKENS = 256
"""What an endpoint's chat template may add to the messages: role marks, a date, a default system text."""


@dataclass(frozen=True, slots=True)
class WorstCase:
    """The most that one attempt can take."""

    tokens_in: int
    tokens_out: int
    cost_usd: float


@dataclass(frozen=True, slots=True)
class Usage:
    """What a reply says it took; cached tokens are among those in."""

    tokens_in: int
    tokens_cached: int
    tokens_out: int


@dataclass(slots=True)
class _Account:
    """The sums of one model and agent; money in picodollars."""

    requests: int = 0
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    cost: int = 0
    unconfirmed_attempts: int = 0
    unconfirmed_tokens_in: int = 0
    unconfirmed_tokens_out: int = 0
    unconfirmed: int = 0


@dataclass(frozen=True, slots=True)
class _Attempt:
    model: str
    agent: str
    worst: WorstCase


def worst_case(prompt: Prompt, config: ModelConfig) -> WorstCase:
    """Return the most that an attempt at a prompt can take.

    A token of a byte-level vocabulary, or of one that falls back on bytes, stands for a byte at least.
    """
    tokens_in = len((prompt.system + prompt.user).encode("utf-8", "replace")) + _TEMPLATE_TOKENS
    dearest_in = max(config.usd_per_million_in, _cached_price(config))
    return WorstCase(
        tokens_in,
        prompt.max_tokens,
        (tokens_in * dearest_in + prompt.max_tokens * config.usd_per_million_out) / 1e6,
    )


def cost_usd(usage: Usage, config: ModelConfig) -> float:
    """Return the price of a reply, in US dollars."""
    fresh = usage.tokens_in - usage.tokens_cached
    return (
        fresh * config.usd_per_million_in
        + usage.tokens_cached * _cached_price(config)
        + usage.tokens_out * config.usd_per_million_out
    ) / 1e6


def _cached_price(config: ModelConfig) -> float:
    return config.usd_per_million_in if config.usd_per_million_cached is None else config.usd_per_million_cached


class Ledger:
    """The books of a run.

    Args:
        max_cost_usd: what the run may spend; None: no limit.
    """

    def __init__(self, max_cost_usd: float | None = None) -> None:
        self._max = None if max_cost_usd is None else math.floor(max_cost_usd * _PICO)
        self._accounts: dict[tuple[str, str], _Account] = {}
        self._open: dict[int, _Attempt] = {}
        self._confirmed = 0
        self._unconfirmed = 0
        self._reserved = 0
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def confirmed_usd(self) -> float:
        """Dollars for replies that arrived."""
        return self._confirmed / _PICO

    @property
    def unconfirmed_usd(self) -> float:
        """Dollars that attempts without a reply have cost at most."""
        return self._unconfirmed / _PICO

    @property
    def reserved_usd(self) -> float:
        """Dollars that the attempts now in flight can cost at most."""
        return self._reserved / _PICO

    def rows(self) -> list[dict[str, Any]]:
        """Return one JSON-compatible row for each model and agent, in their order.

        `requests` counts replies, `tokens_cached` is among `tokens_in`; what `unconfirmed_` precedes belongs to
        attempts without a reply, at most.
        """
        return [
            {
                "model": model,
                "agent": agent,
                "requests": account.requests,
                "tokens_in": account.tokens_in,
                "tokens_cached": account.tokens_cached,
                "tokens_out": account.tokens_out,
                "cost_usd": account.cost / _PICO,
                "unconfirmed_attempts": account.unconfirmed_attempts,
                "unconfirmed_tokens_in": account.unconfirmed_tokens_in,
                "unconfirmed_tokens_out": account.unconfirmed_tokens_out,
                "unconfirmed_usd": account.unconfirmed / _PICO,
            }
            for (model, agent), account in sorted(self._accounts.items())
        ]

    async def reserve(self, attempt: int, model: str, agent: str, worst: WorstCase) -> None:
        """Enter an attempt as soon as it fits, those that asked earlier first.

        Raises:
            BudgetReachedError: it would not fit even if all that is in flight cost nothing.
        """
        amount = _pico(worst.cost_usd)
        self._check_possible(amount)
        if amount and (self._waiters or not self._fits(amount)):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append((amount, waiter))
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                    # It was let in and is gone before it could enter.
                    self._reserved -= amount
                self._let_in()
                raise
            # `_let_in` has counted it already, so that nobody else took its room in between; `enter` counts it now.
            self._reserved -= amount
        self.enter(attempt, model, agent, worst)

    def enter(self, attempt: int, model: str, agent: str, worst: WorstCase) -> None:
        """Enter an attempt that is on its way already, whatever the budget: one that a journal tells of."""
        self._open[attempt] = _Attempt(model, agent, worst)
        self._reserved += _pico(worst.cost_usd)

    def is_open(self, attempt: int) -> bool:
        """Return whether an attempt is entered and has no end yet."""
        return attempt in self._open

    def confirm(self, attempt: int, usage: Usage, cost_usd: float) -> None:
        """Book a reply that arrived."""
        entry = self._leave(attempt)
        account = self._account(entry)
        account.requests += 1
        account.tokens_in += usage.tokens_in
        account.tokens_cached += usage.tokens_cached
        account.tokens_out += usage.tokens_out
        account.cost += _pico(cost_usd)
        self._confirmed += _pico(cost_usd)
        self._let_in()

    def lose(self, attempt: int, *, replied: bool = False) -> None:
        """Book an attempt at its worst: nobody knows what it took. `replied`: there was a reply, without its usage."""
        entry = self._leave(attempt)
        account = self._account(entry)
        account.requests += replied
        account.unconfirmed_attempts += 1
        account.unconfirmed_tokens_in += entry.worst.tokens_in
        account.unconfirmed_tokens_out += entry.worst.tokens_out
        account.unconfirmed += _pico(entry.worst.cost_usd)
        self._unconfirmed += _pico(entry.worst.cost_usd)
        self._let_in()

    def release(self, attempt: int) -> None:
        """Strike out an attempt that cost nothing."""
        self._leave(attempt)
        self._let_in()

    def lose_open(self, but: Collection[int] = ()) -> None:
        """Book every attempt without an end at its worst, save some: the process that sent them is no more."""
        for attempt in self._open.keys() - but:
            self.lose(attempt)

    def _leave(self, attempt: int) -> _Attempt:
        entry = self._open.pop(attempt)
        self._reserved -= _pico(entry.worst.cost_usd)
        return entry

    def _account(self, entry: _Attempt) -> _Account:
        return self._accounts.setdefault((entry.model, entry.agent), _Account())

    def _fits(self, amount: int) -> bool:
        return (
            self._max is None
            or amount == 0
            or self._confirmed + self._unconfirmed + self._reserved + amount <= self._max
        )

    def _check_possible(self, amount: int) -> None:
        if self._max is not None and amount and self._confirmed + self._unconfirmed + amount > self._max:
            raise BudgetReachedError(
                f"of {self._max / _PICO:g} US dollars (max_cost_usd), {self.confirmed_usd:.6g} are spent and "
                f"{self.unconfirmed_usd:.6g} may be; another request could cost {amount / _PICO:.6g}; "
                "a larger max_cost_usd goes on from here"
            )

    def _let_in(self) -> None:
        """Let in whoever fits now, in the order in which they asked, and turn away those who never will."""
        while self._waiters:
            amount, waiter = self._waiters[0]
            if not waiter.done():
                try:
                    self._check_possible(amount)
                except BudgetReachedError as error:
                    waiter.set_exception(error)
                else:
                    if not self._fits(amount):
                        return
                    self._reserved += amount
                    waiter.set_result(None)
            self._waiters.popleft()


def _pico(usd: float) -> int:
    """Return whole picodollars; rounded, since a price times a count of tokens is a whole number of them."""
    return round(usd * _PICO)
