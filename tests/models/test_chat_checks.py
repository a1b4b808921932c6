"""Keys, addresses and models are looked at before anything is paid, and keys are shown nowhere."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
import traceback

import openai
import pytest

from rayfactory.errors import CompletionError, EndpointError, EngineError
from rayfactory.models.chat import check_endpoints
from rayfactory.models.journal import FILE_NAME
from rayfactory.shown import address_variable
from tests.models.chats import PROMPT, SECRET, key, model, unconfirmed, with_chat
from tests.models.endpoint_server import EndpointServer
from tests.models.http_messages import HttpRequest


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


def test_error_of_the_client_itself_names_no_key(tmp_path, monkeypatch):
    """What nobody has foreseen ends the run, and whoever writes its causes down finds no key in them."""
    monkeypatch.setenv("SOME_KEY", SECRET)

    async def broken(*_args, **_options):
        raise RuntimeError(f"cannot send Bearer {SECRET}")

    async def body(chat, server):
        await chat.check()
        monkeypatch.setattr(openai.AsyncOpenAI, "post", broken)
        with pytest.raises(EngineError, match=r"could not be asked: RuntimeError: cannot send Bearer \*\*\*") as caught:
            await chat.complete("strong", key(0), PROMPT)
        told = "".join(traceback.format_exception(caught.value))
        assert SECRET not in told
        assert unconfirmed(chat) == 1

    with_chat(tmp_path, body, server=EndpointServer(api_key=SECRET), api_key_env="SOME_KEY")
    assert SECRET not in (tmp_path / FILE_NAME).read_text()


def test_address_whose_key_is_not_at_hand_is_told(tmp_path, monkeypatch):
    """As when a command is repeated as it was shown: the stars are no key, and are not sent."""
    monkeypatch.delenv(address_variable("strong"), raising=False)

    async def body(chat, server):
        with pytest.raises(EndpointError, match=r"'http://\*\*\*@127.*stands for a key that is not at hand"):
            await chat.check()
        assert server.num_requests == 0

    with_chat(tmp_path, body, base_url="http://***@127.0.0.1:9/v1")


def test_keys_of_an_address_are_sent_as_they_are_meant(tmp_path):
    """A password with signs that belong into no address, and every value of a query, also where a path has one."""
    seen = []

    class Noting(EndpointServer):
        async def _route(self, request):
            seen.append((request.path, request.headers["authorization"]))
            return await super()._route(
                HttpRequest(request.method, request.path.partition("?")[0], request.headers, b"")
            )

    async def body(chat, server):
        chat._endpoints[
            "strong"
        ].config.base_url = f"http://me:p@ss/w?rd#1@127.0.0.1:{server.port}/v1?key=a%2Fb&version=1"
        await chat.check()

    with_chat(tmp_path, body, server=Noting())
    basic = base64.b64encode(b"me:p@ss/w?rd#1").decode()
    assert seen == [("/v1/models/test-model?key=a%2Fb&version=1", f"Basic {basic}")]


@pytest.mark.parametrize(("secret", "is_starred"), [("EMPTY", False), ("0123456789ab", True)])
def test_key_that_a_reply_says_back_is_starred(secret, is_starred, tmp_path, monkeypatch):
    """Unless it is so short that it may be a word of a query: a reply is not changed for that."""
    monkeypatch.setenv("SOME_KEY", secret)

    async def body(chat, server):
        completion = await chat.complete("strong", key(0), PROMPT)
        assert completion.text == f"SELECT '{'***' if is_starred else secret}'"

    server = EndpointServer(reply=lambda messages: f"SELECT '{secret}'", api_key=secret)
    with_chat(tmp_path, body, server=server, api_key_env="SOME_KEY")
