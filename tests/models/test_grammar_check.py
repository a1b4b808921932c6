"""An endpoint that does not decode by a grammar is found by one small question, which is paid for once and booked."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from rayfactory.errors import EndpointError
from rayfactory.models.chat import read_books
from rayfactory.models.grammar_check import WORD, check_grammars, check_prompt
from rayfactory.models.ledger import worst_case
from tests.models.chats import model
from tests.models.endpoint_server import EndpointServer

REMEDY = r"set models\.strong\.constrained=false, or use an endpoint .* vLLM"


def check(directory, server, *, max_cost_usd=None, times=1, **changes):
    """Check a model at a server, so many times; return what was said of it."""
    said: list[str] = []

    async def run() -> None:
        async with server:
            config = model(server, constrained=True, **changes)
            for _ in range(times):
                await check_grammars({"strong": config}, directory, max_cost_usd, 1, said.append)

    asyncio.run(run())
    return said


def test_endpoint_that_honours_a_grammar_is_asked_once(tmp_path):
    """It is told to write another word; the question is in the books, and not asked again when the run goes on."""
    server = EndpointServer()
    (said,) = check(tmp_path, server, times=2)
    assert "strong model 'test-model'" in said
    (body,) = [request["body"] for request in server.requests]
    assert WORD in body["structured_outputs"]["grammar"]
    assert WORD not in str(body["messages"])
    (row,) = read_books(tmp_path)
    assert (row["agent"], row["requests"], row["tokens_out"]) == ("check", 1, server.billed["tokens_out"])
    assert row["cost_usd"] > 0


def test_endpoint_that_ignores_a_grammar_is_found(tmp_path):
    """As many do with a field that they do not know. It was paid for, so it is booked."""
    server = EndpointServer(grammars="ignore", reply=lambda messages: "Yes.\n")
    with pytest.raises(EndpointError, match=rf"does not decode by a grammar.* was 'Yes\.'; {REMEDY}"):
        check(tmp_path, server)
    (row,) = read_books(tmp_path)
    assert (row["agent"], row["requests"]) == ("check", 1)
    assert row["tokens_in"] == server.billed["tokens_in"]


def test_endpoint_that_refuses_a_grammar_is_found(tmp_path):
    """In its own words; it costs nothing."""
    server = EndpointServer(grammars="refuse")
    with pytest.raises(EndpointError, match=rf"400 Unrecognized .*structured_outputs.* by a grammar; {REMEDY}"):
        check(tmp_path, server)
    assert server.num_requests == 1
    assert read_books(tmp_path) == []


def test_check_leaves_out_what_the_run_does(tmp_path):
    """A refusal of a field of the sampling is none of grammars: the message has that remedy too."""

    def refuse(body):
        return "seed is not permitted" if "seed" in body else None

    with pytest.raises(EndpointError, match=r"seed, temperature, top_p can be left out with models\.strong\.omit="):
        check(tmp_path, EndpointServer(refuse=refuse))
    check(tmp_path, EndpointServer(refuse=refuse), omit=["seed"])


def test_what_was_mended_is_asked_again(tmp_path):
    """A reply that was wrong does not stand for ever; neither does that of another address."""
    server = EndpointServer(grammars="ignore")

    async def run() -> None:
        async with server:
            here = model(server, constrained=True)
            elsewhere = model(server, constrained=True, base_url=server.base_url + "/")
            for is_mended, config, num_requests in (
                (False, here, 1),
                (False, here, 2),
                (True, here, 3),
                (True, here, 3),
                (True, elsewhere, 4),
            ):
                server.grammars = "honour" if is_mended else "ignore"
                with suppress(EndpointError):
                    await check_grammars({"strong": config}, tmp_path, None, 1, lambda text: None)
                assert server.num_requests == num_requests

    asyncio.run(run())


def test_check_keeps_to_the_budget(tmp_path):
    """Where it could cost more than is left it is not made; the run ends by its budget."""
    server = EndpointServer(grammars="ignore")
    config = model(server)
    worst_usd = worst_case(check_prompt(config), config).cost_usd
    check(tmp_path, server, max_cost_usd=worst_usd * 0.99)
    assert server.num_requests == 0
    with pytest.raises(EndpointError, match="does not decode by a grammar"):
        check(tmp_path, server, max_cost_usd=worst_usd)
