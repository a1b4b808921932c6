"""A chat before a real server: what each kind of weather does to a completion, its books and its journal."""

from __future__ import annotations

import asyncio
import logging
import os
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from rayfactory.errors import BudgetReachedError, EngineError, RunDirError
from rayfactory.models.chat import Chat
from rayfactory.models.completion import CallKey, Prompt
from rayfactory.models.ledger import worst_case
from tests.models.chats import PROMPT, journal, key, model, unconfirmed, with_chat
from tests.models.endpoint_server import EndpointServer, echo
from tests.models.http_messages import HttpReply, HttpRequest


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


def test_a_text_is_another_call_than_a_chat(tmp_path):
    """What a model was asked as a chat it is asked again as a text, in the same journal; each is there afterwards."""
    replies = []

    async def body(chat, server):
        replies.append((await chat.complete("strong", key(0), PROMPT)).text)

    for chat in (True, False, True, False):
        with_chat(tmp_path, body, chat=chat)
    assert replies[:2] == replies[2:]
    assert replies[1] == echo([{"role": "text", "content": f"{PROMPT.system}\n\n{PROMPT.user}\n"}]) != replies[0]


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
        while not chat.status().slots[0].waits_for:  # noqa: ASYNC110 - looked at from outside
            await asyncio.sleep(0.01)
        assert server.num_requests == 1
        assert "asks to wait" in chat.status().slots[0].waits_for
        await asyncio.gather(first, chat.complete("strong", key(1), PROMPT))
        assert loop.time() - started >= seconds

    with_chat(tmp_path, body)


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


@pytest.mark.parametrize("agent", ["management", "table_selection", "seed_selection", "critical"])
def test_plan_does_not_wait_behind_the_calls_of_another_round(agent, tmp_path):
    async def body(chat, server):
        writing = [asyncio.create_task(chat.complete("strong", key(i), PROMPT)) for i in range(20)]
        await asyncio.sleep(0)
        await chat.complete("strong", CallKey(1, agent, 1, 0), PROMPT)
        # Behind the others it would be one of the last two.
        assert sum(task.done() for task in writing) < len(writing) / 2
        await asyncio.gather(*writing)

    with_chat(tmp_path, body, server=EndpointServer(delay_s=0.05), max_in_flight=2)


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
