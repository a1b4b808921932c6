"""A chat before a real server: what each kind of weather does to a completion, its books and its journal."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from rayfactory.config import ModelConfig
from rayfactory.errors import BudgetReachedError, CompletionError, EndpointError, EngineError, RunDirError
from rayfactory.models.chat import Chat
from rayfactory.models.completion import CallKey, Prompt
from rayfactory.models.journal import FILE_NAME
from rayfactory.models.ledger import worst_case
from tests.models.endpoint_server import EndpointServer, echo
from tests.models.http_messages import HttpReply, HttpRequest

SECRET = "sk-very/secret+key"
PROMPT = Prompt("You write SQL.", "How many?", max_tokens=100, temperature=0.8, top_p=0.8)


def key(ordinal: int, attempt: int = 0) -> CallKey:
    return CallKey(1, "generation", 0, ordinal, attempt)


def model(server: EndpointServer, **changes: Any) -> ModelConfig:
    return ModelConfig(
        **{
            "name": "test-model",
            "base_url": server.base_url,
            "usd_per_million_in": 2.5,
            "usd_per_million_cached": 1.25,
            "usd_per_million_out": 10.0,
            "timeout_s": 5.0,
            **changes,
        }
    )


def with_chat(
    directory: Path,
    body: Callable[[Chat, EndpointServer], Awaitable[None]],
    *,
    max_cost_usd: float | None = None,
    server: EndpointServer | None = None,
    **changes: Any,
) -> EndpointServer:
    """Run a test with a server and a chat in one loop."""
    server = server or EndpointServer()

    async def run() -> None:
        async with server:
            chat = Chat({"strong": model(server, **changes)}, directory, max_cost_usd, backoff_s=0.01)
            try:
                await body(chat, server)
            finally:
                await chat.close()

    asyncio.run(run())
    return server


def journal(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / FILE_NAME).read_text().splitlines()]


def unconfirmed(chat: Chat) -> int:
    return sum(row["unconfirmed_attempts"] for row in chat.ledger.rows())


def test_completion_is_asked_for_once_and_read_from_the_journal_ever_after(tmp_path):
    """The same call again, in this process and the next, costs no request and gives the same completion."""
    first = []

    async def body(chat, server):
        first.append(await chat.complete("strong", key(0), PROMPT))
        assert await chat.complete("strong", key(0), PROMPT) == first[0]

    server = with_chat(tmp_path, body)
    assert server.num_requests == 1
    assert first[0].text == echo(
        [{"role": "system", "content": PROMPT.system}, {"role": "user", "content": PROMPT.user}]
    )
    assert first[0].model == "test-model"
    assert first[0].finish_reason == "stop"
    sent = server.requests[0]["body"]
    assert (sent["seed"], sent["max_tokens"], sent["temperature"]) == (key(0).sampling_seed(), 100, 0.8)

    async def again(chat, server):
        assert await chat.complete("strong", key(0), PROMPT) == first[0]
        assert chat.ledger.rows()[0]["requests"] == 1
        assert chat.ledger.confirmed_usd == pytest.approx(first[0].cost_usd)

    assert with_chat(tmp_path, again).num_requests == 0


def test_equal_prompts_with_other_keys_get_replies_of_their_own(tmp_path):
    """The key, the attempt and the prompt each make another call."""

    async def body(chat, server):
        await chat.complete("strong", key(0), PROMPT)
        await chat.complete("strong", key(1), PROMPT)
        await chat.complete("strong", key(0, attempt=1), PROMPT)
        await chat.complete("strong", key(0), Prompt("other", "", 100, 0.8, 0.8))

    assert with_chat(tmp_path, body).num_requests == 4


def test_concurrent_calls_share_a_request_and_a_caller_may_leave(tmp_path):
    """Two who ask for the same share one request; it comes to its end and into the journal though all have gone."""

    async def body(chat, server):
        calls = [asyncio.create_task(chat.complete("strong", key(0), PROMPT)) for _ in range(3)]
        await asyncio.sleep(0.1)
        calls[0].cancel()
        assert (await calls[1]) == (await calls[2])
        alone = asyncio.create_task(chat.complete("strong", key(1), PROMPT))
        await asyncio.sleep(0.1)
        alone.cancel()
        await asyncio.sleep(0.3)
        assert sum(row["requests"] for row in chat.ledger.rows()) == 2
        await chat.complete("strong", key(1), PROMPT)

    assert with_chat(tmp_path, body, server=EndpointServer(delay_s=0.2)).num_requests == 2


@pytest.mark.parametrize(
    ("fault", "num_unconfirmed"),
    [
        ("429", 0), ("429_retry_after=0.05", 0), ("500", 0), ("503", 0), ("504", 1), ("drop_before_headers", 1),
        ("drop_mid_body", 1), ("malformed", 1), ("truncated", 1), ("empty_body", 1), ("no_choices", 1), ("gzip", 1),
    ],
)  # fmt: skip
def test_fault_is_tried_again_and_booked(fault, num_unconfirmed, tmp_path):
    """After one fault the completion is obtained; the lost attempt is booked at its worst where it may have been billed."""

    async def body(chat, server):
        server.enqueue(fault)
        completion = await chat.complete("strong", key(0), PROMPT)
        assert completion.text.startswith("word")
        (row,) = chat.ledger.rows()
        worst = worst_case(PROMPT, model(server))
        assert row["unconfirmed_attempts"] == num_unconfirmed
        assert row["unconfirmed_tokens_in"] == num_unconfirmed * worst.tokens_in
        assert row["unconfirmed_usd"] == pytest.approx(num_unconfirmed * worst.cost_usd)
        assert row["tokens_in"] <= server.billed["tokens_in"] <= row["tokens_in"] + row["unconfirmed_tokens_in"]

    assert with_chat(tmp_path, body).num_requests == 2
    assert [next(iter(record)) for record in journal(tmp_path)] == ["sent", "failed", "sent", "done"]


@pytest.mark.parametrize("fault", ["endless", "flood", "endless_error"])
def test_endless_reply_ends(fault, tmp_path):
    """A reply without end is cut off by its size or by the clock, and counts as lost."""

    async def body(chat, server):
        server.enqueue(fault)
        await chat.complete("strong", key(0), PROMPT)
        assert unconfirmed(chat) == 1

    with_chat(tmp_path, body, timeout_s=0.8)


def test_empty_text_and_slow_replies_are_completions(tmp_path):
    """What is unusual about them is nobody's business here."""

    async def body(chat, server):
        server.enqueue("empty_text", "slow", "delay")
        assert (await chat.complete("strong", key(0), PROMPT)).text == ""
        assert (await chat.complete("strong", key(1), PROMPT)).text.startswith("word")
        assert (await chat.complete("strong", key(2), PROMPT)).text.startswith("word")

    assert with_chat(tmp_path, body).num_requests == 3


def test_reply_without_usage_is_booked_at_its_worst_and_told_once(tmp_path, caplog):
    """Nobody knows what it took."""

    async def body(chat, server):
        server.enqueue("no_usage", "no_usage")
        await chat.complete("strong", key(0), PROMPT)
        await chat.complete("strong", key(1), PROMPT)
        (row,) = chat.ledger.rows()
        assert (row["requests"], row["tokens_out"], row["unconfirmed_attempts"]) == (2, 0, 2)

    with caplog.at_level(logging.WARNING):
        with_chat(tmp_path, body)
    assert sum("does not say how many tokens" in record.getMessage() for record in caplog.records) == 1

    async def again(chat, server):
        assert chat.ledger.rows()[0]["unconfirmed_attempts"] == 2

    with_chat(tmp_path, again)


@pytest.mark.parametrize("value", ["0.6", "date", "ms"])
def test_retry_after_is_waited_for_by_all_requests(value, tmp_path):
    """Seconds, milliseconds or a date: nothing is sent before."""

    async def body(chat, server):
        seconds = 0.6
        if value == "date":
            # A date has no fractions: it is between one and two seconds away.
            seconds = 0.9
            server.enqueue(f"429_retry_after={format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)}")
        else:
            server.enqueue("429_retry_after_ms=600" if value == "ms" else "429_retry_after=0.6")
        loop = asyncio.get_running_loop()
        started = loop.time()
        first = asyncio.create_task(chat.complete("strong", key(0), PROMPT))
        await asyncio.sleep(0.3)
        assert server.num_requests == 1
        assert "asks to wait" in chat.status().slots[0].waits_for
        await asyncio.gather(first, chat.complete("strong", key(1), PROMPT))
        assert loop.time() - started >= seconds

    with_chat(tmp_path, body)


def test_model_that_refuses_every_request_ends_the_run(tmp_path):
    """Else its part would be written by rules, to the end, and nobody would know why."""

    async def body(chat, server):
        for i in range(4):
            server.enqueue("content_filter")
            with pytest.raises(CompletionError, match="filtered"):
                await chat.complete("strong", key(i), PROMPT)
        server.enqueue("content_filter")
        with pytest.raises(EndpointError, match=r"refused 5 requests in a row .*filtered.*models\.strong\.constrained"):
            await chat.complete("strong", key(4), PROMPT)
        with pytest.raises(EndpointError, match="refused 5 requests"):
            await chat.complete("strong", key(5), PROMPT)

    with_chat(tmp_path, body)


def test_model_that_has_replied_may_refuse_more(tmp_path):
    async def body(chat, server):
        await chat.complete("strong", key(0), PROMPT)
        for i in range(1, 20):
            server.enqueue("content_filter")
            with pytest.raises(CompletionError, match="filtered"):
                await chat.complete("strong", key(i), PROMPT)
        assert await chat.complete("strong", key(20), PROMPT)

    with_chat(tmp_path, body)


def test_request_that_is_refused_fails_alone(tmp_path):
    """A filtered prompt, or one too long, is a CompletionError; the next is answered; nothing is booked."""

    async def body(chat, server):
        server.enqueue("content_filter")
        with pytest.raises(CompletionError, match="filtered"):
            await chat.complete("strong", key(0), PROMPT)
        with pytest.raises(CompletionError, match="maximum context length is 32768"):
            await chat.complete("strong", key(1), Prompt("s", "u", 40_000, 0.8, 0.8))
        await chat.complete("strong", key(2), PROMPT)
        assert unconfirmed(chat) == 0
        assert chat.ledger.reserved_usd == 0

    assert with_chat(tmp_path, body).num_requests == 3


def test_request_that_always_fails_is_given_up(tmp_path):
    """After max_attempts it is a CompletionError, which says why."""

    async def body(chat, server):
        server.enqueue("malformed", "500", "malformed")
        with pytest.raises(CompletionError, match=r"no completion in a reply.*3 attempts"):
            await chat.complete("strong", key(0), PROMPT)

    assert with_chat(tmp_path, body, max_attempts=3).num_requests == 3


@pytest.mark.parametrize(
    ("fault", "changes", "words"),
    [
        ("insufficient_quota", {}, "quota"),
        ("redirect", {}, "base_url"),
        ("ok", {"name": "absent"}, "model 'absent'"),
        ("401", {}, "check the key"),
        ("403", {}, "check the key"),
    ],
)
def test_refusal_of_everything_ends_the_run_at_once(fault, changes, words, tmp_path):
    """A wrong key, a model that is not there, an empty account: EndpointError with its remedy, and no further request."""

    async def body(chat, server):
        server.enqueue(fault)
        with pytest.raises(EndpointError, match=words):
            await chat.complete("strong", key(0), PROMPT)
        with pytest.raises(EndpointError, match=words):
            await chat.complete("strong", key(1), PROMPT)

    assert with_chat(tmp_path, body, **changes).num_requests == 1


def test_door_closes_and_opens_without_burning_attempts(tmp_path):
    """An endpoint that is down is probed, not hammered; the status says why; when it is back all is obtained."""

    async def body(chat, server):
        server.enqueue(*["503"] * 9)
        call = asyncio.create_task(chat.complete("strong", key(0), PROMPT))
        while not chat.status().slots[0].waits_for:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        status = pickle.loads(pickle.dumps(chat.status()))
        assert "503 fault 503" in status.slots[0].waits_for
        assert "next try in" in status.slots[0].waits_for
        assert (status.slots[0].waiting, status.slots[0].in_flight) == (1, 0)
        # Seven failures are attempts; the one that closes the door is none, nor is the first probe. The second succeeds.
        assert (await call).text.startswith("word")

    assert with_chat(tmp_path, body, max_attempts=8).num_requests == 10


def test_requests_that_break_the_endpoint_do_not_end_the_run(tmp_path):
    """When all that is left to ask is answered with 500, each is given up after its attempts: the endpoint is there."""

    async def body(chat, server):
        server.enqueue(*["500"] * 9)
        calls = [chat.complete("strong", key(i), PROMPT) for i in range(3)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, CompletionError) for result in results)
        await chat.complete("strong", key(3), PROMPT)

    assert with_chat(tmp_path, body, max_attempts=3).num_requests == 10


def test_endpoint_that_stays_away_ends_the_run(tmp_path):
    """Refused connections cost nothing, and after max_pause_s the run ends with the reason."""

    async def body(chat, server):
        await server.stop()
        calls = [chat.complete("strong", key(i), PROMPT) for i in range(10)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, EngineError) for result in results)
        assert "ConnectError" in str(results[0])
        assert unconfirmed(chat) == 0

    with_chat(tmp_path, body, max_pause_s=1.0)


def test_budget_is_never_passed_and_ends_with_its_error(tmp_path):
    """Requests go on while their worst case fits what is left; then BudgetReachedError; a larger budget goes on."""
    budget = 0.02

    async def body(chat, server):
        results = await asyncio.gather(
            *(chat.complete("strong", key(i), PROMPT) for i in range(200)), return_exceptions=True
        )
        refused = [result for result in results if isinstance(result, BaseException)]
        assert refused
        assert all(isinstance(result, BudgetReachedError) for result in refused)
        status = chat.status()
        assert status.reserved_usd == 0
        assert 0.8 * budget < status.confirmed_usd + status.unconfirmed_usd <= budget
        obtained.append(200 - len(refused))

    obtained: list[int] = []
    server = with_chat(
        tmp_path,
        body,
        max_cost_usd=budget,
        server=EndpointServer(delay_s=0.01, fault_share=0.1, faults=["503", "truncated"]),
    )
    bill = server.billed
    assert (bill["tokens_in"] * 1.25 + bill["tokens_out"] * 10) / 1e6 <= budget

    async def more(chat, server):
        await asyncio.gather(*(chat.complete("strong", key(i), PROMPT) for i in range(200)))

    assert with_chat(tmp_path, more, max_cost_usd=1.0).num_requests == 200 - obtained[0]


def test_journal_that_cannot_be_written_stops_everything(tmp_path):
    """A full disk is a RunDirError with a remedy, and no request leaves after it."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")

    async def body(chat, server):
        await chat.complete("strong", key(0), PROMPT)
        device = os.open(full, os.O_WRONLY)
        os.dup2(device, chat._journal._fd)
        os.close(device)
        with pytest.raises(RunDirError, match=r"No space left.*make room"):
            await chat.complete("strong", key(1), PROMPT)
        with pytest.raises(RunDirError):
            await chat.complete("strong", key(2), PROMPT)
        assert server.num_requests == 1

    with_chat(tmp_path, body)


def test_key_is_sent_and_shown_nowhere(tmp_path, monkeypatch, caplog):
    """It goes out in its header alone: no error, log, status, file or representation has it, though the endpoint echoes it."""
    monkeypatch.setenv("SOME_KEY", f" {SECRET}\n")
    shown = []

    async def body(chat, server):
        await chat.check()
        server.enqueue("500", "ok", "content_filter", "401")
        await chat.complete("strong", key(0), PROMPT)
        for ordinal in (1, 2):
            with pytest.raises((CompletionError, EndpointError)) as caught:
                await chat.complete("strong", key(ordinal), PROMPT)
            shown.append(repr(caught.value))
        shown.extend([repr(chat.status()), repr(vars(chat))])

    with caplog.at_level(logging.DEBUG):
        server = with_chat(tmp_path, body, server=EndpointServer(api_key=SECRET), api_key_env="SOME_KEY")
    assert server.requests[0]["headers"]["authorization"] == f"Bearer {SECRET}"
    assert "***" in shown[1]
    shown += [record.getMessage() for record in caplog.records] + [(tmp_path / FILE_NAME).read_text()]
    assert not any(SECRET in text for text in shown)


def test_missing_key_costs_nothing(tmp_path, monkeypatch):
    """A request that could not be sent is no request."""
    monkeypatch.delenv("SOME_KEY", raising=False)

    async def body(chat, server):
        with pytest.raises(EndpointError, match="SOME_KEY"):
            await chat.complete("strong", key(0), PROMPT)
        assert unconfirmed(chat) == 0
        assert chat.ledger.reserved_usd == 0
        assert chat.status().slots[0].in_flight == 0

    with_chat(tmp_path, body, api_key_env="SOME_KEY")


def test_key_of_another_endpoint_is_not_shown_to_this_one(tmp_path, monkeypatch):
    """An endpoint that asks for no key does not get the one that is in OPENAI_API_KEY."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)

    async def body(chat, server):
        await chat.check()
        await chat.complete("strong", key(0), PROMPT)

    assert SECRET not in json.dumps(with_chat(tmp_path, body).requests)


@pytest.mark.parametrize(
    ("changes", "value", "words"),
    [
        ({"api_key_env": "SOME_KEY"}, None, "SOME_KEY is not set: export SOME_KEY="),
        ({"api_key_env": "SOME_KEY"}, "sk-wrong", "check the key"),
        ({"api_key_env": "SOME_KEY"}, "sk-wi th\nblank", "holds a blank"),
        (
            {"api_key_env": "SOME_KEY", "name": "gpt-17"},
            SECRET,
            r"models.strong.name to one of its models \(test-model\)",
        ),
        ({"api_key_env": "SOME_KEY", "context_tokens": 40_000}, SECRET, "takes 32768 tokens, not the 40000"),
        ({"base_url": ""}, None, "models.strong.base_url is ''"),
        ({"base_url": "localhost:8000"}, None, "models.strong.base_url is 'localhost:8000'"),
    ],
)
def test_check_finds_what_a_user_can_mend_before_anything_is_paid(changes, value, words, tmp_path, monkeypatch):
    """No key, a wrong key, a model that is not there, too small a window, no address: each with its remedy."""
    monkeypatch.delenv("SOME_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("SOME_KEY", value)

    async def body(chat, server):
        with pytest.raises(EndpointError, match=words) as caught:
            await chat.check()
        assert value is None or value not in str(caught.value)

    assert with_chat(tmp_path, body, server=EndpointServer(api_key=SECRET), **changes).num_requests == 0


def test_check_names_an_address_where_nothing_answers(tmp_path):
    """A port that nobody listens on."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://me:pass@127.0.0.1:{unused.getsockname()[1]}/v1"

    async def body(chat, server):
        with pytest.raises(EndpointError, match=r"nothing answers at 'http://127\.0\.0\.1:\d+/v1'.*start the server"):
            await chat.check()

    with_chat(tmp_path, body, base_url=address)


def test_check_passes_what_an_endpoint_does_not_tell(tmp_path):
    """An endpoint without a list of models, and one that only lists them, and one that has all there is to know."""

    async def body(chat, server):
        await chat.check()

    silent = EndpointServer()
    del silent.routes["GET", "/v1/models"]
    with_chat(tmp_path / "silent", body, server=silent)
    with_chat(tmp_path / "untold", body, server=EndpointServer(max_model_len=None))
    with_chat(tmp_path / "slash", body, server=EndpointServer(models=("a/b c",)), name="a/b c")
    with_chat(tmp_path / "whole", body)


def test_close_waits_for_what_is_paid_for(tmp_path):
    """A reply in flight arrives and is kept; what was not sent yet is not sent."""

    async def body(chat, server):
        calls = [asyncio.create_task(chat.complete("strong", key(i), PROMPT)) for i in range(5)]
        await asyncio.sleep(0.15)
        await chat.close()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(result, EngineError) for result in results) == 3

    async def run() -> None:
        async with EndpointServer(delay_s=0.4) as server:
            chat = Chat({"strong": model(server, max_in_flight=2)}, tmp_path, None)
            await body(chat, server)
            assert server.num_requests == 2

    asyncio.run(run())
    assert sum("done" in record for record in journal(tmp_path)) == 2


def test_limit_comes_down_to_what_the_endpoint_takes(tmp_path):
    """An endpoint that takes four at a time is soon asked for little more, and all is obtained."""

    async def body(chat, server):
        await asyncio.gather(*(chat.complete("strong", key(i), PROMPT) for i in range(150)))
        assert chat.status().slots[0].limit <= 12

    server = with_chat(tmp_path, body, server=EndpointServer(delay_s=0.05, max_concurrent=4), max_in_flight=32)
    assert server.num_requests < 2 * 150


def test_a_thousand_at_once(tmp_path):
    """A thousand requests are in flight together on one loop, and all come back."""

    async def body(chat, server):
        completions = await asyncio.gather(*(chat.complete("strong", key(i), PROMPT) for i in range(1_000)))
        assert len({completion.text for completion in completions}) == 1

    class Patient(EndpointServer):
        """Answers nobody before all are there."""

        async def _completion(self, request: HttpRequest, fault: str) -> HttpReply:
            if self.num_concurrent == 1_000:
                everyone.set()
            await everyone.wait()
            return await super()._completion(request, fault)

    everyone = asyncio.Event()
    server = with_chat(tmp_path, body, server=Patient(), max_in_flight=1_000, timeout_s=60)
    assert server.max_seen_concurrent == 1_000
