"""What an endpoint says about batches: read where it can be, refused in one way where it cannot."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayfactory.config import ModelConfig
from rayfactory.models.batch_protocol import (
    Reply,
    at_batch_price,
    creation_body,
    read_batch,
    read_batches,
    read_file_id,
    read_reply,
    request_line,
)
from rayfactory.models.completion import Completion
from rayfactory.models.ledger import Usage, cost_usd
from rayfactory.models.protocol import ErrorReply

MODEL = ModelConfig(
    name="m", usd_per_million_in=2.0, usd_per_million_cached=1.0, usd_per_million_out=10.0, batch_price=0.5
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def objects(*names: str) -> st.SearchStrategy[bytes]:
    """Return objects in which some of the names stand for anything."""
    return st.dictionaries(st.sampled_from(names), JSON).map(lambda value: json.dumps(value).encode())


NONSENSE = st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode())
BATCHES = objects(
    "id", "status", "metadata", "created_at", "request_counts", "errors", "output_file_id", "error_file_id", "data"
)
REPLIES = objects("custom_id", "response", "error") | st.builds(
    lambda response, error: json.dumps({"custom_id": "7", "response": response, "error": error}).encode(),
    JSON | st.dictionaries(st.sampled_from(["status_code", "body"]), JSON),
    JSON | st.dictionaries(st.sampled_from(["code", "message"]), JSON),
)


@settings(deadline=None)
@given(content=NONSENSE | BATCHES)
def test_whatever_is_no_batch_is_a_value_error(content):
    """No answer about files and batches raises anything else."""
    for read in (read_file_id, read_batch, read_batches):
        try:
            read(content)
        except ValueError:
            continue


@settings(deadline=None)
@given(line=NONSENSE | REPLIES)
def test_whatever_is_no_reply_is_a_value_error_or_an_error_reply(line):
    """A line either names its attempt, or cannot be read."""
    try:
        reply = read_reply(line, MODEL)
    except ValueError:
        return
    assert isinstance(reply.result, Completion | ErrorReply)
    assert reply.attempt == int(json.loads(line)["custom_id"])


@settings(deadline=None)
@given(attempt=st.integers(0, 10**9), text=st.text())
def test_line_that_goes_up_is_one_line_and_names_its_attempt(attempt, text):
    """Whatever a prompt holds, a request stays on its line, and what answers it finds the attempt again."""
    line = request_line(attempt, {"messages": [text]})
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    sent = json.loads(line)
    assert (sent["method"], sent["url"], sent["body"]) == ("POST", "/v1/chat/completions", {"messages": [text]})
    answer = {"custom_id": sent["custom_id"], "response": None, "error": {"code": "batch_expired", "message": "late"}}
    reply = read_reply(json.dumps(answer).encode(), MODEL)
    assert reply == Reply(attempt, ErrorReply("failed", False, "late"))


@pytest.mark.parametrize(
    ("line", "lost"),
    [
        ({"response": None, "error": {"code": "batch_cancelled", "message": "m"}}, False),
        ({"response": None, "error": {"code": "server_error", "message": "m"}}, True),
        ({"response": None, "error": None}, True),
        ({"response": {"status_code": 400, "body": {"error": {"message": "m"}}}, "error": None}, False),
        ({"response": {"status_code": 504, "body": None}, "error": None}, True),
        ({"response": {"status_code": 200, "body": {"choices": []}}, "error": None}, True),
    ],
)
def test_error_is_booked_as_paid_unless_it_says_that_nothing_was_done(line, lost):
    """`lost` decides what the books say."""
    reply = read_reply(json.dumps({"custom_id": "3", **line}).encode(), MODEL)
    assert isinstance(reply.result, ErrorReply)
    assert (reply.attempt, reply.result.lost) == (3, lost)


def test_batch_is_read_as_the_reference_words_it():
    """The batch object of OpenAI's reference, shortened."""
    card = {
        "id": "batch_abc", "object": "batch", "endpoint": "/v1/chat/completions", "errors": None,
        "input_file_id": "file-1", "completion_window": "24h", "status": "completed", "output_file_id": "file-2",
        "error_file_id": "file-3", "created_at": 1711471533, "expires_at": 1711557933,
        "request_counts": {"total": 100, "completed": 95, "failed": 5},
        "metadata": creation_body("file-1", "name")["metadata"],
    }  # fmt: skip
    state = read_batch(json.dumps(card).encode())
    assert (state.endpoint_id, state.name, state.created_at) == ("batch_abc", "name", 1711471533)
    assert (state.has_ended, state.num_done, state.files) == (True, 100, ("file-2", "file-3"))
    failed = card | {"status": "failed", "errors": {"data": [{"code": "c", "message": "line 1 is bad"}]}}
    assert read_batch(json.dumps(failed).encode()).why == "line 1 is bad"
    page, has_more = read_batches(json.dumps({"data": [card, failed], "has_more": True}).encode())
    assert (page[0], len(page), has_more) == (state, 2, True)


@settings(deadline=None)
@given(
    tokens_in=st.integers(0, 10**6), cached=st.integers(0, 10**6), tokens_out=st.integers(0, 10**6),
    price=st.sampled_from([None, 0.0, 1.0, 5.0]),
)  # fmt: skip
def test_batch_costs_its_share_of_the_price_without_the_discount_on_cached_tokens(tokens_in, cached, tokens_out, price):
    """No discount is counted on that nobody promises: the books may be too high, never too low."""
    config = ModelConfig(**{**vars(MODEL), "usd_per_million_cached": price})
    usage = Usage(tokens_in, min(cached, tokens_in), tokens_out)
    ordinary, batch = cost_usd(usage, config), cost_usd(usage, at_batch_price(config))
    assert batch >= 0.5 * ordinary * (1 - 1e-12)
    without_cache = Usage(tokens_in, 0, tokens_out)
    assert cost_usd(without_cache, at_batch_price(config)) == pytest.approx(0.5 * cost_usd(without_cache, config))
