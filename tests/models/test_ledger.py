"""The ledger: no order of events takes it over the budget, and its sums are what happened."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayfactory.config import ModelConfig
from rayfactory.errors import BudgetReachedError
from rayfactory.models.completion import Prompt
from rayfactory.models.ledger import Ledger, Usage, WorstCase, cost_usd, worst_case

PRICES = ModelConfig(usd_per_million_in=2.5, usd_per_million_cached=1.25, usd_per_million_out=10.0)
NOTHING = Usage(0, 0, 0)


def spent(ledger: Ledger) -> float:
    return ledger.confirmed_usd + ledger.unconfirmed_usd + ledger.reserved_usd


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


@settings(deadline=None)
@given(
    budget=st.floats(0.0, 2.0),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["ask", "confirm", "lose", "release", "cancel"]), st.floats(0, 0.7), st.integers(0, 10)
        ),
        max_size=60,
    ),
)
def test_budget_is_never_passed(budget, steps):
    """Whatever is asked for, confirmed, lost, released and given up, in any order, the sum stays within the budget."""

    async def run():
        ledger = Ledger(budget)
        waiting: list[tuple[int, float, asyncio.Task[None]]] = []
        entered: list[tuple[int, float]] = []
        for number, (step, amount, which) in enumerate(steps):
            if step == "ask":
                task = asyncio.create_task(ledger.reserve(number, "m", "a", WorstCase(1, 1, amount)))
                waiting.append((number, amount, task))
            elif step == "cancel" and waiting:
                waiting[which % len(waiting)][2].cancel()
            elif entered:
                attempt, worst = entered.pop(which % len(entered))
                if step == "confirm":
                    ledger.confirm(attempt, NOTHING, min(amount, worst))
                elif step == "lose":
                    ledger.lose(attempt)
                else:
                    ledger.release(attempt)
            assert spent(ledger) <= budget + 1e-11
            await settle()
            assert spent(ledger) <= budget + 1e-11
            for entry in [entry for entry in waiting if entry[2].done()]:
                waiting.remove(entry)
                if entry[2].cancelled():
                    continue
                if entry[2].exception() is None:
                    entered.append(entry[:2])
                else:
                    assert isinstance(entry[2].exception(), BudgetReachedError)
                    assert ledger.confirmed_usd + ledger.unconfirmed_usd + entry[1] > budget - 1e-11
        # With everything back, nobody is left waiting: each either fits or never will.
        while entered or any(not task.done() for _, _, task in waiting):
            if entered:
                ledger.release(entered.pop()[0])
            await settle()
            for entry in [entry for entry in waiting if entry[2].done()]:
                waiting.remove(entry)
                if not entry[2].cancelled() and entry[2].exception() is None:
                    entered.append(entry[:2])
            assert entered or not waiting
        assert ledger.reserved_usd == 0

    asyncio.run(run())


@given(st.lists(st.integers(0, 100_000), max_size=30))
def test_free_model_never_meets_the_budget(tokens):
    """Tokens of a model without a price are booked, whatever the budget."""

    async def run():
        ledger = Ledger(0.0)
        for number, amount in enumerate(tokens):
            await ledger.reserve(number, "free", "a", WorstCase(amount, amount, 0.0))
            ledger.confirm(number, Usage(amount, amount // 2, amount), 0.0)
        rows = ledger.rows()
        assert sum(row["tokens_out"] for row in rows) == sum(tokens)
        assert sum(row["requests"] for row in rows) == len(tokens)

    asyncio.run(run())


def test_those_who_wait_are_let_in_in_order_and_others_are_turned_away():
    """A request waits for room while what is in flight could make it; the first to ask is the first to go."""

    async def run():
        ledger = Ledger(1.0)
        await ledger.reserve(0, "m", "a", WorstCase(1, 1, 0.9))
        large = asyncio.create_task(ledger.reserve(1, "m", "a", WorstCase(1, 1, 0.6)))
        await settle()
        small = asyncio.create_task(ledger.reserve(2, "m", "a", WorstCase(1, 1, 0.1)))
        await settle()
        assert not large.done()
        assert not small.done()
        ledger.confirm(0, NOTHING, 0.35)
        await settle()
        assert large.done()
        assert not small.done()
        with pytest.raises(BudgetReachedError, match=r"1 US dollars \(max_cost_usd\).*0\.35 are spent"):
            await ledger.reserve(3, "m", "a", WorstCase(1, 1, 0.7))
        ledger.lose(1)
        with pytest.raises(BudgetReachedError):
            await small
        assert ledger.unconfirmed_usd == 0.6

    asyncio.run(run())


def test_rows_tell_confirmed_from_unconfirmed():
    """What arrived and what was lost are booked apart, by model and agent."""
    ledger = Ledger()
    worst = WorstCase(100, 50, 0.5)
    for number, agent in enumerate(["generation", "generation", "critical", "generation"]):
        ledger.enter(number, "m", agent, worst)
    ledger.confirm(0, Usage(40, 10, 20), 0.125)
    ledger.lose(1)
    ledger.lose(2, replied=True)
    ledger.release(3)
    critical, generation = ledger.rows()
    assert critical["agent"] == "critical"
    assert (critical["requests"], critical["tokens_out"], critical["unconfirmed_tokens_out"]) == (1, 0, 50)
    assert generation == {
        "model": "m", "agent": "generation", "requests": 1, "tokens_in": 40, "tokens_cached": 10, "tokens_out": 20,
        "cost_usd": 0.125, "unconfirmed_attempts": 1, "unconfirmed_tokens_in": 100, "unconfirmed_tokens_out": 50,
        "unconfirmed_usd": 0.5,
    }  # fmt: skip


@given(st.text(), st.text(), st.integers(1, 5_000))
def test_worst_case_covers_every_usage_that_fits_a_request(system, user, max_tokens):
    """No count of tokens up to the bytes of the messages and the reply's bound costs more than the worst case."""
    prompt = Prompt(system, user, max_tokens, 0.8, 0.8)
    worst = worst_case(prompt, PRICES)
    num_bytes = len((system + user).encode())
    assert worst.tokens_in >= num_bytes
    assert cost_usd(Usage(num_bytes, 0, max_tokens), PRICES) <= worst.cost_usd
    assert cost_usd(Usage(num_bytes, num_bytes, max_tokens), PRICES) <= worst.cost_usd


def test_price_of_a_reply():
    """Fresh, cached and written tokens each have their price."""
    assert cost_usd(Usage(1_000_000, 400_000, 100_000), PRICES) == pytest.approx(0.6 * 2.5 + 0.4 * 1.25 + 1.0)
