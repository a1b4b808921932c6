"""Keys, addresses and models are looked at before anything is paid, and keys are shown nowhere."""

from __future__ import annotations

import asyncio
import json
import logging
import socket

import pytest

from rayfactory.errors import CompletionError, EndpointError
from rayfactory.models.chat import check_endpoints
from rayfactory.models.journal import FILE_NAME
from tests.models.chats import PROMPT, SECRET, key, model, unconfirmed, with_chat
from tests.models.endpoint_server import EndpointServer


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


class PublicList(EndpointServer):
    """Shows its models to everyone, and answers those that have the key."""

    def _refusal(self, request):
        return None if request.method == "GET" else super()._refusal(request)


@pytest.mark.parametrize(
    ("server", "changes", "is_told"),
    [
        (PublicList(api_key=SECRET), {"api_key_env": "SOME_KEY"}, True),
        (EndpointServer(api_key=SECRET), {"api_key_env": "SOME_KEY"}, False),
        (EndpointServer(), {}, False),
    ],
)
def test_key_that_cannot_be_checked_for_nothing_is_told(server, changes, is_told, monkeypatch):
    """An endpoint that lists its models whatever the key does not show a wrong one before it is asked."""
    monkeypatch.setenv("SOME_KEY", SECRET)

    async def check():
        async with server:
            return await check_endpoints({"strong": model(server, **changes)})

    notes = asyncio.run(check())
    assert len(notes) == is_told
    assert server.num_requests == 0
    assert all("the one in SOME_KEY is not checked before the first completion" in note for note in notes)
    assert SECRET not in str(notes)


def test_check_names_an_address_where_nothing_answers(tmp_path):
    """A port that nobody listens on."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://me:pass@127.0.0.1:{unused.getsockname()[1]}/v1"

    async def body(chat, server):
        with pytest.raises(
            EndpointError, match=r"nothing answers at 'http://\*\*\*@127\.0\.0\.1:\d+/v1'.*start the server"
        ):
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
