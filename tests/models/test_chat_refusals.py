"""What an endpoint will not do: refuse one request or all, break, close its door, stay away."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import replace

import pytest

from rayfactory.errors import CompletionError, EndpointError, EngineError
from rayfactory.models.completion import Prompt
from tests.models.chats import PROMPT, key, unconfirmed, with_chat
from tests.models.endpoint_server import EndpointServer


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


@pytest.mark.parametrize("omit", [[], ["seed"]])
def test_field_that_an_endpoint_refuses_can_be_left_out(omit, tmp_path):
    """The message that ends the run names it; with it left out every request is answered."""

    async def body(chat, server):
        if omit:
            assert await chat.complete("strong", key(0), PROMPT)
            return
        calls = [chat.complete("strong", key(i), PROMPT) for i in range(5)]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        (told,) = [str(error) for error in errors if isinstance(error, EndpointError)]
        assert "leave out of requests what it does not take (models.strong.omit=[seed], any of seed, " in told

    server = EndpointServer(refuse=lambda body: "extra field: seed" if "seed" in body else None)
    with_chat(tmp_path, body, server=server, omit=omit)


def test_agent_whose_every_request_is_refused_is_told_of(tmp_path, caplog):
    """Once, with the remedy: the others are answered, so that the run goes on as if all were well."""

    async def body(chat, server):
        corrections = replace(PROMPT, temperature=0.3)
        for i in range(6):
            await chat.complete("strong", key(i), PROMPT)
            with pytest.raises(CompletionError, match="does not support"):
                await chat.complete("strong", replace(key(i), agent="correction"), corrections)

    server = EndpointServer(
        refuse=lambda body: "'temperature' does not support 3 %d" if body["temperature"] < 0.8 else None
    )
    with_chat(tmp_path, body, server=server)
    (notice,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "refused every request of the agent 'correction'" in notice
    assert "models.strong.omit=[temperature]" in notice

    async def omitting(chat, server):
        await chat.complete("strong", replace(key(0), agent="correction"), replace(PROMPT, temperature=0.3))

    takes_default = EndpointServer(refuse=lambda body: "only the default" if "temperature" in body else None)
    with_chat(tmp_path / "omitting", omitting, server=takes_default, omit=["temperature"])


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
