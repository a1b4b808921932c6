"""When requests may leave, seen over minutes and hours of a clock that only exists here."""

from __future__ import annotations

import asyncio
import random
import re
import selectors
from collections.abc import Coroutine
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayfactory.config import ModelConfig
from rayfactory.errors import EndpointError, EngineError
from rayfactory.models.chat import Chat
from rayfactory.models.completion import CallKey, Prompt
from rayfactory.models.limits import Gate, Limits
from tests.models.endpoint_server import EndpointServer


class _Selector(selectors.SelectSelector):
    """Lets the loop's clock jump to the next timer instead of waiting for it."""

    def __init__(self, loop: VirtualLoop, patience_s: float) -> None:
        super().__init__()
        self._loop = loop
        self._patience_s = patience_s

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(self._patience_s if timeout is None else min(self._patience_s, timeout))
        if not events:
            assert timeout is not None or self._patience_s, "every task waits, and nothing will wake one"
            self._loop.now += timeout or 0.0
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps; sockets and threads get so many real seconds before it does."""

    def __init__(self, patience_s: float = 0.0) -> None:
        self.now = 0.0
        super().__init__(_Selector(self, patience_s))

    def time(self) -> float:
        return self.now


def run(coroutine: Coroutine[Any, Any, None], patience_s: float = 0.0) -> None:
    with asyncio.Runner(loop_factory=partial(VirtualLoop, patience_s)) as runner:
        runner.run(coroutine)


def now() -> float:
    return asyncio.get_running_loop().time()


def gate(**settings_of_the_model: Any) -> Gate:
    return Gate("the strong model", ModelConfig(**settings_of_the_model), now)


@settings(max_examples=40, deadline=None)
@given(per_minute=st.integers(1, 250), idle_s=st.floats(0, 100), seed=st.integers(0, 99))
def test_no_minute_has_more_requests_than_the_account_may_send(per_minute, idle_s, seed):
    """However requests come, none of the sixty seconds after any of them see more than requests_per_minute."""

    async def check():
        limited = gate(requests_per_minute=per_minute, max_in_flight=1_000)
        rng = random.Random(seed)
        sent: list[float] = []

        async def one():
            limited.succeeded(await limited.enter(1))
            sent.append(now())

        tasks = []
        for _ in range(3):
            tasks += [asyncio.create_task(one()) for _ in range(rng.randrange(2 * per_minute) + 1)]
            await asyncio.sleep(idle_s)
        await asyncio.gather(*tasks)
        for first, at in enumerate(sent):
            assert sum(later < at + 60 - 1e-6 for later in sent[first:]) <= per_minute

    run(check())


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 3_000), min_size=1, max_size=200), per_minute=st.integers(100, 20_000))
def test_no_minute_has_more_tokens_than_the_account_may_send(sizes, per_minute):
    """The tokens of any minute are at most tokens_per_minute and the request that came last."""

    async def check():
        limited = gate(tokens_per_minute=per_minute, max_in_flight=1_000)
        sent: list[tuple[float, int]] = []

        async def one(size):
            limited.succeeded(await limited.enter(size))
            sent.append((now(), size))

        await asyncio.gather(*(one(size) for size in sizes))
        for first, (at, _) in enumerate(sent):
            window = [size for later, size in sent[first:] if later < at + 60 - 1e-6]
            assert sum(window) <= per_minute + max(sizes)

    run(check())


def test_no_minute_has_more_tokens_than_the_account_may_send_by_the_endpoints_own_count(tmp_path, monkeypatch):
    """Digits and underscores, of which schemas are full, are tokens of their own to it; the client knows of none."""
    received: list[tuple[float, int]] = []

    def reply(messages):
        tokens = sum(len(re.findall(r"[A-Za-z]{1,5}|[^A-Za-z\s]", message["content"])) for message in messages)
        received.append((now(), tokens))
        return "SELECT 1"

    async def check():
        async with EndpointServer(reply=reply) as server:
            model = ModelConfig(name="test-model", base_url=server.base_url, tokens_per_minute=20_000)
            chat = Chat({"strong": model}, tmp_path, None)
            prompt = Prompt("col_1_23 INTEGER, " * 100, "x_1" * 50, 20, 0.8, 0.8)
            await asyncio.gather(*(chat.complete("strong", CallKey(0, "a", 0, i), prompt) for i in range(60)))
            await chat.close()

    monkeypatch.setattr("rayfactory.models.endpoint.time", SimpleNamespace(monotonic=now))
    run(check(), patience_s=0.02)
    assert len(received) == 60
    for first, (at, tokens) in enumerate(received):
        window = [more for later, more in received[first:] if later < at + 60 - 1e-6]
        assert sum(window) <= 20_000 + tokens
    assert received[-1][0] > 60


def test_what_the_account_may_send_is_nearly_used_up():
    """With enough to do, nine tenths of what is allowed leaves, for requests and for tokens."""

    async def check():
        limited = gate(requests_per_minute=300, tokens_per_minute=30_000, max_in_flight=1_000)
        for _ in range(1_500):
            limited.succeeded(await limited.enter(100))
        assert now() <= 5 * 60 / 0.9

    run(check())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), max_in_flight=st.integers(1, 20))
def test_never_too_many_in_flight_and_nobody_waits_for_ever(seed, max_in_flight):
    """Whatever the endpoint answers, and whoever gives up waiting, permits come back and the limit holds."""

    async def check():
        rng = random.Random(seed)
        limited = gate(max_in_flight=max_in_flight, max_pause_s=1e9)
        in_flight = 0
        finished = 0

        async def one():
            nonlocal in_flight, finished
            while True:
                permit = await limited.enter(1)
                in_flight += 1
                assert in_flight <= max_in_flight
                try:
                    await asyncio.sleep(rng.uniform(0.1, 2))
                except asyncio.CancelledError:
                    in_flight -= 1
                    limited.abandoned(permit)
                    raise
                in_flight -= 1
                match rng.randrange(5):
                    case 0:
                        limited.too_many(permit, rng.choice([None, 0.5, 3.0]))
                    case 1:
                        limited.failed(permit, "500")
                    case _:
                        limited.succeeded(permit)
                        finished += 1
                        return

        tasks = [asyncio.create_task(one()) for _ in range(60)]
        await asyncio.sleep(rng.uniform(0, 5))
        for task in rng.sample(tasks, 20):
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
        assert finished >= 40
        assert limited.limits.in_flight == limited.num_waiting == 0

    run(check())


def test_requests_leave_in_the_order_in_which_they_came():
    """Nobody overtakes."""

    async def check():
        limited = gate(max_in_flight=3)
        order = []

        async def one(number):
            permit = await limited.enter(1)
            order.append(number)
            await asyncio.sleep(1)
            limited.succeeded(permit)

        await asyncio.gather(*(one(number) for number in range(20)))
        assert order == list(range(20))
        assert now() == pytest.approx(7)

    run(check())


def test_a_burst_of_too_many_counts_once():
    """Requests that left before the limit came down do not bring it down again; later ones do."""
    limits = Limits(ModelConfig(max_in_flight=100), 0.0)
    burst = [limits.send(1, float(at)) for at in range(10)]
    for permit in burst:
        limits.too_many(permit, 20.0, None)
    assert limits.limit == 70
    limits.too_many(limits.send(1, 21.0), 22.0, None)
    assert limits.limit == 49


def test_limit_finds_what_the_endpoint_takes():
    """Before an endpoint that takes 20 at a time of the 100 allowed, most requests go through, and it is kept busy."""

    async def check():
        limited = gate(max_in_flight=100)
        at_work = refused = answered = 0

        async def one():
            nonlocal at_work, refused, answered
            while True:
                permit = await limited.enter(1)
                if at_work >= 20:
                    refused += 1
                    await asyncio.sleep(0.01)
                    limited.too_many(permit, None)
                    await asyncio.sleep(random.Random(refused).uniform(0, 1))
                    continue
                at_work += 1
                await asyncio.sleep(1)
                at_work -= 1
                answered += 1
                limited.succeeded(permit)
                return

        await asyncio.gather(*(one() for _ in range(4_000)))
        assert refused < 0.1 * answered
        assert answered / now() > 0.75 * 20

    run(check())


def test_limit_returns_to_the_most_that_is_allowed():
    """Successes raise the limit by one for every so many, up to max_in_flight."""
    limits = Limits(ModelConfig(max_in_flight=10), 0.0)
    limits.too_many(limits.send(1, 0.0), 1.0, None)
    assert limits.limit == 7
    for _ in range(7):
        limits.succeeded(limits.send(1, 2.0))
    assert limits.limit == 8
    for _ in range(100):
        limits.succeeded(limits.send(1, 3.0))
    assert limits.limit == 10


def test_retry_after_holds_for_everyone():
    """What one reply asks to wait, all requests wait, and no longer."""

    async def check():
        limited = gate(max_in_flight=10)
        limited.too_many(await limited.enter(1), 7.0)
        assert "wait for 7 s" in limited.limits.waits_for(now())
        await asyncio.gather(*(limited.enter(1) for _ in range(5)))
        assert now() == pytest.approx(7.0)

    run(check())


def test_closed_door_lets_probes_through_and_opens_with_the_first_success():
    """After failures in a row single requests leave after 1, 2, 4 .. 60 s; when one succeeds everyone goes."""

    async def check():
        limited = gate(max_in_flight=8, max_pause_s=3_600)
        left: list[float] = []
        answered: list[float] = []

        async def one():
            while True:
                permit = await limited.enter(1)
                left.append(now())
                if now() < 200:
                    limited.failed(permit, "503 Service Unavailable")
                    continue
                limited.succeeded(permit)
                answered.append(now())
                return

        tasks = [asyncio.create_task(one()) for _ in range(30)]
        await asyncio.sleep(10)
        assert "closed for 10 s: 503 Service Unavailable; next try in 5 s" in limited.limits.waits_for(now())
        await asyncio.gather(*tasks)
        assert left[:8] == [0.0] * 8
        assert left[8:16] == pytest.approx([1, 3, 7, 15, 31, 63, 123, 183])
        assert answered == pytest.approx([243] * 30)
        assert limited.limits.waits_for(now()) == ""

    run(check())


def test_endpoint_that_stays_away_ends_the_run():
    """After max_pause_s without one success everyone who waits is told so, with the last reason."""

    async def check():
        limited = gate(max_in_flight=8, max_pause_s=600)

        async def one():
            while True:
                limited.failed(await limited.enter(1), "ConnectError: refused")

        results = await asyncio.gather(*(one() for _ in range(20)), return_exceptions=True)
        assert all(isinstance(result, EngineError) for result in results)
        assert "600 s (max_pause_s)" in str(results[0])
        assert "ConnectError: refused" in str(results[0])
        assert 600 <= now() <= 660

    run(check())


def test_endpoint_that_only_ever_says_too_many_ends_the_run():
    """Being refused for max_pause_s is being away."""

    async def check():
        limited = gate(max_in_flight=8, max_pause_s=600)

        async def ask_for_ever():
            while True:
                limited.too_many(await limited.enter(1), 30.0)

        with pytest.raises(EngineError, match="429"):
            await ask_for_ever()

    run(check())


def test_urgent_tasks_go_first_and_each_kind_in_its_order():
    async def check():
        limited = gate(max_in_flight=1)
        under_way = await limited.enter(1)
        left: list[str] = []

        async def one(name: str, urgent: bool):
            permit = await limited.enter(1, urgent=urgent)
            left.append(name)
            limited.succeeded(permit)

        names = ("b", "A", "c", "B", "d")
        tasks = [asyncio.create_task(one(name, name.isupper())) for name in names]
        await asyncio.sleep(0)
        assert limited.num_waiting == len(names)
        limited.succeeded(under_way)
        await asyncio.gather(*tasks)
        assert left == ["A", "B", "b", "c", "d"]

    run(check())


def test_shut_gate_turns_everyone_away():
    """Who waits and who comes gets the error; each an exception of its own."""

    async def check():
        limited = gate(max_in_flight=1)
        await limited.enter(1)
        waiting = [asyncio.create_task(limited.enter(1, urgent=urgent)) for urgent in (False, True)]
        await asyncio.sleep(0)
        limited.shut(EndpointError("no such model"))
        for each in waiting:
            with pytest.raises(EndpointError, match="no such model"):
                await each
        with pytest.raises(EndpointError, match="no such model"):
            await limited.enter(1)

    run(check())
