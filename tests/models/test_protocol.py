"""The protocol: whatever an endpoint sends is read or refused, never believed."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayfactory.config import ModelConfig
from rayfactory.models.completion import CallKey, Prompt
from rayfactory.models.protocol import quoted, read_completion, read_error, request_body, retry_after_s

MODEL = ModelConfig(name="m", base_url="http://host/v1", api_key_env="KEY", usd_per_million_out=10.0)
KEY = CallKey(1, "generation", 2, 3)
NOW = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from("choices message content usage model prompt_tokens completion_tokens error code type".split())
ODD = st.recursive(JSON, lambda inner: st.dictionaries(NAMES, inner | st.lists(inner, max_size=2)), max_leaves=12)


def reply(**changes) -> bytes:
    value = {
        "model": "m-2024",
        "choices": [{"message": {"content": "SELECT 1"}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 6}},
    }
    return json.dumps(value | changes).encode()


def test_whole_reply_is_read():
    """Text, model, reason and counts come through, with their price."""
    completion, is_counted = read_completion(reply(), MODEL)
    assert is_counted
    assert (completion.text, completion.model, completion.finish_reason) == ("SELECT 1", "m-2024", "length")
    assert (completion.tokens_in, completion.tokens_cached, completion.tokens_out) == (10, 6, 4)
    assert completion.cost_usd == pytest.approx(4 * 10 / 1e6)


@given(ODD | st.builds(lambda odd: json.loads(reply()) | odd, st.dictionaries(NAMES, ODD)))
def test_any_json_is_a_completion_or_a_value_error(value):
    """No shape of a reply raises anything else, and what is read can be written down."""
    try:
        completion, is_counted = read_completion(json.dumps(value).encode(), MODEL)
    except ValueError:
        return
    completion.text.encode()
    completion.model.encode()
    assert is_counted == (completion.tokens_in + completion.tokens_out > 0) or is_counted
    assert 0 <= completion.tokens_cached <= completion.tokens_in
    assert completion.cost_usd >= 0


@given(st.binary())
def test_any_bytes_are_a_completion_or_a_value_error(content):
    """Bytes that are no JSON are refused."""
    with pytest.raises(ValueError, match="no completion"):
        read_completion(content, MODEL)


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"choices": []}', b"null", b"", b'{"choices": [{"message": null}]}']
)
def test_body_without_a_completion_is_refused(content):
    """Deep nesting, empty choices and empty bodies included."""
    with pytest.raises(ValueError, match="no completion"):
        read_completion(content, MODEL)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, ""),
        ("", ""),
        ([{"type": "text", "text": "a"}, {"type": "image"}, {"text": "b"}], "ab"),
        ("\ud800x", "?x"),
    ],
)
def test_text_in_every_form_is_read(content, text):
    """A null, a list of parts and half a surrogate pair have a text."""
    completion, _ = read_completion(reply(choices=[{"message": {"content": content}}]), MODEL)
    assert completion.text == text


@pytest.mark.parametrize(
    "usage",
    [None, {}, [], {"prompt_tokens": -1, "completion_tokens": 2}, {"prompt_tokens": True, "completion_tokens": 2},
     {"prompt_tokens": 1e9, "completion_tokens": 2}, {"prompt_tokens": 10**30, "completion_tokens": 2}],
)  # fmt: skip
def test_usage_that_is_no_count_is_none(usage):
    """The reply counts, its usage does not."""
    completion, is_counted = read_completion(reply(usage=usage), MODEL)
    assert not is_counted
    assert completion.text == "SELECT 1"
    assert completion.cost_usd == 0


def test_what_an_endpoint_refuses_is_left_out_of_requests():
    """In completions and in the lines of batches, which have the same body; all else is as it was."""
    prompt = Prompt("s", "u", 10, 0.3, 0.9)
    whole = request_body(MODEL, KEY, prompt)
    assert {"seed", "temperature", "top_p"} < whole.keys()
    body = request_body(replace(MODEL, omit=["temperature", "seed", "seed"]), KEY, prompt)
    assert body == {name: value for name, value in whole.items() if name not in ("temperature", "seed")}


@pytest.mark.parametrize(
    ("status", "error", "kind", "lost"),
    [
        (401, {"message": "wrong"}, "refused_all", False),
        (403, {"message": "no"}, "refused_all", False),
        (404, {"message": "none", "code": "model_not_found"}, "refused_all", False),
        (307, {}, "refused_all", False),
        (402, {}, "refused_all", False),
        (429, {"message": "quota", "code": "insufficient_quota"}, "refused_all", False),
        (429, {"message": "quota", "type": "insufficient_quota", "code": None}, "refused_all", False),
        (429, {"message": "slow", "code": "rate_limit_exceeded"}, "too_many", False),
        (400, {"message": "long", "code": "context_length_exceeded"}, "refused", False),
        (422, {}, "refused", False),
        (413, {}, "refused", False),
        (500, {}, "failed", False),
        (503, {}, "failed", False),
        (504, {}, "failed", True),
        (502, {}, "failed", True),
    ],
)
def test_meaning_of_an_error(status, error, kind, lost):
    """Each status has its consequence; those that a user can mend have a remedy."""
    found = read_error(status, json.dumps({"error": error}).encode(), MODEL)
    assert (found.kind, found.lost) == (kind, lost)
    assert bool(found.remedy) == (kind == "refused_all")
    assert found.text.startswith(str(status))


@given(st.integers(300, 599), st.binary() | ODD.map(lambda value: json.dumps(value).encode()))
def test_any_error_body_is_told_in_one_line(status, body):
    """No body of an error raises; its words are one short, printable line."""
    text = read_error(status, body, MODEL).text
    assert text.isprintable()
    assert len(text) < 320


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": format_datetime(NOW + timedelta(seconds=90), usegmt=True)}, 90.0),
        ({"retry-after": format_datetime(NOW - timedelta(seconds=90), usegmt=True)}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9.0),
    ],
)
def test_retry_after_in_every_form(headers, seconds):
    """Milliseconds, seconds and dates; what is none of them is not there."""
    assert retry_after_s(headers, NOW) == seconds


@given(st.text())
def test_any_retry_after_is_seconds_or_nothing(value):
    """No value raises or gives a wait that is no number."""
    seconds = retry_after_s({"retry-after": value}, NOW)
    assert seconds is None or 0 <= seconds < float("inf")


def test_request_says_what_the_prompt_says():
    """Messages, sampling and seed go out under the names of the protocol."""
    prompt = Prompt("sys", "ask \ud800", 50, 0.8, 0.9, grammar="root ::= 'x'")
    body = request_body(MODEL, KEY, prompt)
    json.dumps(body, ensure_ascii=False).encode()
    assert body["messages"] == [{"role": "system", "content": "sys"}, {"role": "user", "content": "ask ?"}]
    assert (body["model"], body["max_tokens"], body["temperature"], body["top_p"]) == ("m", 50, 0.8, 0.9)
    assert body["seed"] == KEY.sampling_seed()
    assert "structured_outputs" not in body


def test_a_model_that_is_no_chat_goes_on_from_one_text():
    """Both parts of a prompt are sent as one, and the reply is where such endpoints have it."""
    plain = replace(MODEL, chat=False, max_tokens_field="max_completion_tokens")
    body = request_body(plain, KEY, Prompt("sys", "ask \ud800", 50, 0.8, 0.9))
    assert (body["prompt"], "messages" in body) == ("sys\n\nask ?\n", False)
    assert request_body(plain, KEY, Prompt("", "ask", 50, 0.8, 0.9))["prompt"] == "ask\n"
    assert (body["max_tokens"], "max_completion_tokens" in body) == (50, False)
    completion, _ = read_completion(reply(choices=[{"text": "SELECT 2", "finish_reason": "stop"}]), plain)
    assert (completion.text, completion.finish_reason) == ("SELECT 2", "stop")
    with pytest.raises(ValueError, match="no completion"):
        read_completion(reply(), plain)


def test_grammar_goes_out_only_where_it_is_used():
    """`constrained` and a grammar together; and the bound on the reply has the name that the endpoint knows."""
    constrained = ModelConfig(name="m", constrained=True, max_tokens_field="max_completion_tokens")
    body = request_body(constrained, KEY, Prompt("s", "u", 5, 0.8, 0.8, grammar="root ::= 'x'"))
    assert body["structured_outputs"] == {"grammar": "root ::= 'x'"}
    assert body["max_completion_tokens"] == 5
    assert "max_tokens" not in body
    assert "structured_outputs" not in request_body(constrained, KEY, Prompt("s", "u", 5, 0.8, 0.8))


def test_what_an_endpoint_says_stays_short():
    """A quotation has no line breaks, and a bound."""
    assert quoted("a\nb\x1b[2J" + "x" * 9_999).startswith("a b [2Jxx")
    assert len(quoted(b"\xff" * 10_000)) < 310
