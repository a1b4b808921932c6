"""Requests in batch files before a real server: what comes back, what it costs, and what is left after a kill."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path

import pytest

from rayfactory.errors import BudgetReachedError, EndpointError, EngineError
from rayfactory.models.batch import BatchLimits
from rayfactory.models.batch_protocol import at_batch_price
from rayfactory.models.chat import Chat, check_endpoints, read_books
from rayfactory.models.completion import CallKey, Prompt
from rayfactory.models.journal import FILE_NAME
from rayfactory.models.ledger import worst_case
from rayfactory.models.protocol import request_body
from tests.models import batch_client
from tests.models.batch_chats import model, obtain, until, with_chat
from tests.models.batch_client import expected
from tests.models.batch_server import BatchServer
from tests.models.chat_client import call


def records(directory: Path) -> list[str]:
    """Return the kinds of the journal's records, in order."""
    return [next(iter(json.loads(line))) for line in (directory / FILE_NAME).read_text().splitlines()]


def test_generation_requests_of_a_round_go_as_one_file_at_half_the_price(tmp_path):
    """All replies come back to their own calls, are billed once, and cost what the settings say of a batch."""

    async def body(chat, server):
        assert await obtain(chat, range(20)) == expected(range(20))
        assert server.calls["create"] == 1
        assert server.num_requests == 0
        priced = at_batch_price(model(server))
        (row,) = chat.ledger.rows()
        assert (row["requests"], row["unconfirmed_attempts"]) == (20, 0)
        assert (row["tokens_in"], row["tokens_out"]) == (server.billed["tokens_in"], server.billed["tokens_out"])
        price = row["tokens_in"] * priced.usd_per_million_in + row["tokens_out"] * priced.usd_per_million_out
        assert row["cost_usd"] == pytest.approx(price / 1e6)
        assert priced.usd_per_million_out == pytest.approx(model(server).usd_per_million_out / 2)
        assert chat.ledger.reserved_usd == 0
        (batch,) = server.batches.values()
        first = json.loads(server.files[batch["input_file_id"]].splitlines()[0])
        assert first["body"] == request_body(model(server), *call(0))

    server = with_chat(tmp_path, body)
    assert set(server.answers.values()) == {1}

    async def again(chat, server):
        assert await obtain(chat, range(20)) == expected(range(20))
        assert (chat.ledger.rows()[0]["requests"], chat.ledger.unconfirmed_usd) == (20, 0)

    assert with_chat(tmp_path, again).calls.total() == 0


def test_other_agents_and_corrections_do_not_wait_for_a_batch(tmp_path):
    """Only what the agent `generation` asks is collected."""

    async def body(chat, server):
        prompt = call(0)[1]
        await chat.complete("strong", CallKey(1, "correction", 0, 0), prompt)
        await chat.complete("strong", CallKey(1, "management", 0, 0), prompt)

    server = with_chat(tmp_path, body)
    assert (server.num_requests, server.calls.total()) == (2, 0)


def test_full_batch_leaves_at_once_and_the_rest_in_another(tmp_path):
    """Neither the number of requests nor the bytes of a file pass their bound."""

    async def body(chat, server):
        assert await obtain(chat, range(20)) == expected(range(20))

    server = with_chat(tmp_path, body, limits=BatchLimits(max_requests=8))
    assert sorted(batch["request_counts"]["total"] for batch in server.batches.values()) == [4, 8, 8]
    assert set(server.answers.values()) == {1}
    server = with_chat(tmp_path / "bytes", body, limits=BatchLimits(max_bytes=2_000))
    inputs = [server.files[batch["input_file_id"]] for batch in server.batches.values()]
    assert len(inputs) > 1
    assert all(len(content) <= 2_000 for content in inputs)
    assert set(server.answers.values()) == {1}


def test_text_with_unusual_line_breaks_comes_back_whole(tmp_path):
    """Only a line feed ends a line of a file."""
    text = "SELECT '\u2028 \x85 \u2029 é' -- 💠\n, 1"

    async def body(chat, server):
        assert await obtain(chat, range(3)) == [text] * 3

    with_chat(tmp_path, body, server=BatchServer(reply=lambda _: text, content_pieces=40))


def test_requests_that_a_batch_answers_with_errors_go_the_ordinary_way(tmp_path, caplog):
    """They are obtained at the full price, released where the endpoint did nothing, and it is said once, with why."""

    async def body(chat, server):
        assert await obtain(chat, range(10)) == expected(range(10))
        (row,) = chat.ledger.rows()
        assert (row["requests"], row["unconfirmed_attempts"]) == (10, 1)

    server = BatchServer(line_faults={2: "400", 3: "500", 7: "no_choices"})
    with caplog.at_level(logging.WARNING):
        with_chat(tmp_path, body, server=server)
    assert server.num_requests == 3
    assert sorted(server.answers.values()) == [1] * 9 + [2]
    (said,) = [record.getMessage() for record in caplog.records]
    assert "3 of a batch's 10 requests go the ordinary way" in said


@pytest.mark.parametrize("ends_as", ["expired", "cancelled"])
def test_what_a_batch_leaves_undone_goes_the_ordinary_way(ends_as, tmp_path, caplog):
    """What it did is taken; the rest was not paid for."""

    async def body(chat, server):
        assert await obtain(chat, range(10)) == expected(range(10))
        assert chat.ledger.unconfirmed_usd == 0

    with caplog.at_level(logging.WARNING):
        server = with_chat(tmp_path, body, server=BatchServer(ends_after=4, ends_as=ends_as))
    assert server.num_requests == 6
    assert set(server.answers.values()) == {1}
    assert ends_as in caplog.text


def test_batch_that_fails_its_validation_costs_nothing_and_says_why(tmp_path, caplog):
    """Its calls go the ordinary way."""

    async def body(chat, server):
        assert await obtain(chat, range(4)) == expected(range(4))
        assert chat.ledger.unconfirmed_usd == 0

    with caplog.at_level(logging.WARNING):
        server = with_chat(tmp_path, body, server=BatchServer(invalid="line 1 is no JSON"))
    assert server.num_requests == 4
    assert "the batch failed (line 1 is no JSON)" in caplog.text


@pytest.mark.parametrize("what", ["upload", "create", "list", "state", "content"])
@pytest.mark.parametrize("fault", ["500", "429", "500_after", "drop_after", "cut", "torn"])
def test_weather_is_waited_out(what, fault, tmp_path):
    """Whatever request about a batch meets a fault, there is one batch, and each call is billed once."""

    async def body(chat, server):
        server.weather[what].extend([fault, fault])
        if what == "list":
            server.weather["create"].append("500_after")
        assert await obtain(chat, range(5)) == expected(range(5))
        assert chat.ledger.unconfirmed_usd == 0

    server = with_chat(tmp_path, body)
    assert len(server.batches) == 1
    assert set(server.answers.values()) == {1}


def test_file_with_torn_lines_is_read_again_and_then_given_up(tmp_path, caplog):
    """What cannot be read may have been paid for: it is booked so, and asked for the ordinary way."""

    async def body(chat, server):
        server.always["content"] = "torn"
        assert await obtain(chat, range(6)) == expected(range(6))
        (row,) = chat.ledger.rows()
        assert row["requests"] == 6
        assert row["unconfirmed_attempts"] == server.num_requests > 0
        assert row["tokens_out"] <= server.billed["tokens_out"] <= row["tokens_out"] + row["unconfirmed_tokens_out"]

    server = with_chat(tmp_path, body)
    assert server.calls["content"] == 3


def test_batch_that_nobody_knows_any_more_is_booked_as_paid(tmp_path):
    """Its calls go the ordinary way, and its worst case stays in the books."""

    async def body(chat, server):
        server.step_s = 0.1
        task = asyncio.create_task(obtain(chat, range(3)))
        await until(lambda: server.calls["state"] > 2)
        server.batches.clear()
        assert await task == expected(range(3))
        (row,) = chat.ledger.rows()
        assert (row["requests"], row["unconfirmed_attempts"]) == (3, 3)

    with_chat(tmp_path, body)


def test_budget_bounds_what_batches_may_cost_and_what_does_not_fit_waits(tmp_path):
    """Reservations at the batch's price go before the batch; later calls leave once there is room, or never."""
    worst = max(worst_case(call(i)[1], at_batch_price(batch_client.model(""))).cost_usd for i in range(8))
    budget = 4.5 * worst

    async def body(chat, server):
        tasks = [asyncio.create_task(chat.complete("strong", *call(i))) for i in range(8)]
        await until(lambda: server.batches)
        assert chat.ledger.reserved_usd <= budget
        completions = await asyncio.gather(*tasks)
        assert [completion.text for completion in completions] == expected(range(8))
        first, *_ = server.batches.values()
        assert first["request_counts"]["total"] == 4
        assert chat.ledger.confirmed_usd <= budget
        results = await asyncio.gather(
            *(chat.complete("strong", *call(i)) for i in range(8, 40)), return_exceptions=True
        )
        assert any(isinstance(result, BudgetReachedError) for result in results)
        assert chat.ledger.confirmed_usd + chat.ledger.unconfirmed_usd <= budget

    with_chat(tmp_path, body, max_cost_usd=budget)


def test_status_says_what_a_person_wants_to_know(tmp_path):
    """How many requests are in the batch, since when, and how many are done."""
    seen = set()

    async def body(chat, server):
        task = asyncio.create_task(obtain(chat, range(6)))
        while not task.done():
            seen.add(chat.status().slots[0].waits_for)
            await asyncio.sleep(0.005)
        await task
        assert chat.status().slots[0].waits_for == ""

    with_chat(tmp_path, body, server=BatchServer(step_s=0.06))
    since = {text.partition(" since ")[2][:5] for text in seen if " since " in text}
    assert all(time.strptime(clock, "%H:%M") for clock in since)
    shapes = {text.replace(clock, "14:02") for text in seen for clock in since if clock in text} | seen
    assert "6 requests are collected for a batch" in shapes
    assert "batch of 6 requests since 14:02, validating, 0 of 6 done" in shapes
    assert "batch of 6 requests since 14:02, 3 of 6 done" in shapes


def test_close_leaves_a_batch_to_the_next_process(tmp_path, caplog):
    """It says so; the next one attaches the calls, keeps their worst case reserved meanwhile, and sends nothing again."""
    server = BatchServer(step_s=0.15)

    async def run() -> None:
        async with server:
            first = Chat({"strong": model(server)}, tmp_path, None)
            task = asyncio.create_task(obtain(first, range(5)))
            await until(lambda: server.calls["state"])
            await first.close()
            with pytest.raises(EngineError, match="ending"):
                await task
            with pytest.raises(EngineError, match="ending"):
                await first.complete("strong", *call(7))
            assert "goes on with a batch of 5 requests since" in caplog.text
            reserved_usd = first.ledger.reserved_usd
            # The books, without anybody to ask, call what is not known so.
            (row,) = await asyncio.to_thread(read_books, tmp_path)
            assert row["unconfirmed_attempts"] == 5
            caplog.clear()
            await Chat({"strong": model(server)}, tmp_path, None).close()
            assert "goes on with" not in caplog.text, "this one had not taken it up"

            second = Chat({"strong": model(server)}, tmp_path, None)
            assert second.ledger.unconfirmed_usd == 0
            assert reserved_usd > 0
            assert second.ledger.reserved_usd == reserved_usd
            # A call that was not in the batch goes in another; one of the batch may never come.
            assert await obtain(second, range(1, 6)) == expected(range(1, 6))
            await until(lambda: second.ledger.reserved_usd == 0)
            (row,) = second.ledger.rows()
            assert (row["requests"], row["unconfirmed_attempts"]) == (6, 0)
            await second.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert set(server.answers.values()) == {1}
    assert len(server.batches) == 2


def test_call_attaches_to_a_pending_batch_even_if_batches_are_off_now(tmp_path):
    """What is paid for is used, whatever the settings say of what comes next."""
    server = BatchServer(step_s=0.1)

    async def run() -> None:
        async with server:
            first = Chat({"strong": model(server)}, tmp_path, None)
            task = asyncio.create_task(obtain(first, range(3)))
            await until(lambda: server.calls["state"])
            await first.close()
            await asyncio.gather(task, return_exceptions=True)
            second = Chat({"strong": model(server, batch=False)}, tmp_path, None)
            assert await obtain(second, range(4)) == expected(range(4))
            await second.close()

    asyncio.run(run())
    assert server.num_requests == 1
    assert set(server.answers.values()) == {1}


def test_batch_that_is_gone_after_a_restart_is_booked_and_asked_for_again(tmp_path):
    """A batch that was about to be made, and is not there, counts as paid; its calls go in a new one."""
    server = BatchServer()

    async def run() -> None:
        async with server:
            server.always["create"] = "500"
            first = Chat({"strong": model(server)}, tmp_path, None, backoff_s=0.01)
            task = asyncio.create_task(obtain(first, range(3)))
            await until(lambda: server.calls["create"])
            await first.close()
            await asyncio.gather(task, return_exceptions=True)
            del server.always["create"]
            second = Chat({"strong": model(server)}, tmp_path, None, backoff_s=0.01)
            assert await obtain(second, range(3)) == expected(range(3))
            (row,) = second.ledger.rows()
            assert (row["requests"], row["unconfirmed_attempts"]) == (3, 3)
            await second.close()

    asyncio.run(run())
    assert server.num_requests == 0
    assert set(server.answers.values()) == {1}


def test_batch_is_found_on_a_later_page(tmp_path):
    """An endpoint lists the newest first, a page at a time."""
    server = BatchServer(page_size=2)

    async def run() -> None:
        async with server:
            server.weather["create"].append("silence_after")
            first = Chat({"strong": model(server)}, tmp_path, None)
            task = asyncio.create_task(obtain(first, range(3)))
            await until(lambda: server.batches)
            await first.close()
            await asyncio.gather(task, return_exceptions=True)
            for number in range(7):
                server.batches[f"other_{number}"] = {"id": f"other_{number}", "status": "completed", "metadata": None}
            second = Chat({"strong": model(server)}, tmp_path, None)
            assert await obtain(second, range(3)) == expected(range(3))
            await second.close()

    asyncio.run(run())
    assert server.calls["list"] == 4
    assert set(server.answers.values()) == {1}


@pytest.mark.parametrize(("what", "status"), [("upload", "401"), ("create", "401"), ("state", "403")])
def test_refused_key_ends_the_run(what, status, tmp_path):
    """Nothing gets through any more, so everyone is told, with the remedy."""

    async def body(chat, server):
        server.always[what] = status
        results = await asyncio.gather(*(chat.complete("strong", *call(i)) for i in range(3)), return_exceptions=True)
        assert all(isinstance(result, EndpointError) and "key" in str(result) for result in results)
        with pytest.raises(EndpointError):
            await chat.complete("strong", CallKey(1, "management", 0, 0), Prompt("", "", 10, 0.3, 1.0))

    with_chat(tmp_path, body)


def test_endpoint_away_for_too_long_ends_the_run_and_the_next_takes_up_the_batch(tmp_path):
    """Nothing is booked as lost on the way."""
    server = BatchServer(step_s=0.1)

    async def first(chat, server):
        server.always["state"] = "503"
        with pytest.raises(EngineError, match="max_pause_s"):
            await obtain(chat, range(2))
        del server.always["state"]

    async def second(chat, server):
        assert await obtain(chat, range(2)) == expected(range(2))
        assert chat.ledger.unconfirmed_usd == 0

    async def run() -> None:
        async with server:
            for body, changes in ((first, {"max_pause_s": 0.3}), (second, {})):
                chat = Chat({"strong": model(server, **changes)}, tmp_path, None, backoff_s=0.01)
                await body(chat, server)
                await chat.close()

    asyncio.run(run())
    assert set(server.answers.values()) == {1}


def test_endpoint_without_batches_is_found_before_anything_is_paid():
    """The message says what to set."""
    server = BatchServer()
    server.always["list"] = "404"

    async def run() -> None:
        async with server:
            with pytest.raises(EndpointError, match=r"takes no batches .*set models\.strong\.batch=false"):
                await check_endpoints({"strong": model(server)})
            await check_endpoints({"strong": model(server, batch=False)})
            server.always["list"] = "500"
            await check_endpoints({"strong": model(server)})

    asyncio.run(run())
    assert server.billed["replies"] == 0
