"""What a person is shown: inert on a terminal, and without keys."""

from __future__ import annotations

import unicodedata
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rayfactory.shown import (
    HIDDEN,
    KEY_NAMES,
    address_variable,
    full_address,
    has_key,
    hidden_address,
    inert,
    named_secrets,
    secrets_of,
    shown,
    shown_url,
    url_secrets,
    without,
)

KEY = "sk-very/secret+key"

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=80)
"""Every code point there is, halves of surrogate pairs included."""


def obeyed(text: str) -> list[str]:
    """Return what of a text a terminal may obey, or nobody can see."""
    return [
        char for char in text if char != "\n" and unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    ]


@given(ANY_TEXT)
@example("\x1b]0;title\x07\x1b[2J\x9b31m\x7f\r\b")
@example("\u202egnp.exe\u202c\u2066\u200b\u200d\ufeff\U000e0041\u2028\ud800\ue000")
def test_nothing_is_left_for_a_terminal_to_obey(text):
    """No control character, no change of direction, nothing without width: and it can be written anywhere."""
    made = inert(text)
    assert not obeyed(made)
    made.encode("utf-8")
    assert made.count("\n") == text.count("\n")
    assert inert(made) == made


@given(st.text(st.characters(categories=("L", "N", "P", "S"), max_codepoint=0x10FF), max_size=80))
def test_harmless_text_stays_as_it_is(text):
    assert inert(text) == text


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("\x9b2J", "\\x9b2J"),
        ("in\u202eout", "in\\u202eout"),
        ("ze\u200bro", "ze\\u200bro"),
        ("a\tb\u00a0c\u3000d", "a b c d"),
        ("\u3164\u2800\ufe0f", "\\u3164\\u2800\\ufe0f"),
        ("one\ntwo\r\nthree", "one\ntwo\\r\nthree"),
        ("naïve 中文 ✓ …", "naïve 中文 ✓ …"),
    ],
)
def test_what_is_taken_out_can_be_read(text, made):
    """An escape tells what was there."""
    assert inert(text) == made


@given(st.text(min_size=4, max_size=40), ANY_TEXT, ANY_TEXT)
def test_secret_is_in_no_text_in_any_spelling(secret, before, after):
    """Plain, as in an address, as in JSON."""
    for spelling in (secret, quote(secret, safe="")):
        assert secret not in without(f"{before}{spelling}{after}", [secret]).replace(HIDDEN, "\0")


@pytest.mark.parametrize(
    "text",
    [
        f"Incorrect API key provided: {KEY}.",
        "Incorrect API key provided: sk-ve**************+key. You can find it ..",
        "no such key: 'sk-very/sec ..",
        '{"error": "sk-very\\/secret+key"}',
        "Authorization: Basic " + "c2stdmVyeS9zZWNyZXQra2V5",
        "GET /v1?key=sk-very%2Fsecret%2Bkey",
    ],
)
def test_key_that_is_said_back_is_starred_out(text):
    """Whole, masked as servers do it, cut off, escaped, encoded."""
    made = without(text, [KEY])
    assert HIDDEN in made
    assert "secret" not in made
    assert "sk-ve" not in made
    assert "c2st" not in made


def test_text_without_a_secret_stays_as_it_is():
    assert without("the user's quota is used up", [KEY, "abc", ""]) == "the user's quota is used up"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://host:8000/v1", "http://host:8000/v1"),
        ("https://me:secret@host:1/v1", "https://***@host:1/v1"),
        ("https://token@host/v1", "https://***@host/v1"),
        ("me:secret@host/v1", "***@host/v1"),
        ("http://me:se/c?r#et@host/v1", "http://***@host/v1"),
        ("http://host/v1?key=secret&api-version=1", "http://host/v1?key=***&api-version=***"),
        ("http://host/v1?secret", "http://host/v1?=***"),
        ("http://host/v1#secret", "http://host/v1"),
        ("", ""),
        ("host", "host"),
    ],
)
def test_address_is_shown_without_what_opens_a_door(url, told):
    """Stars stand for it; an address without is shown as it is."""
    assert shown_url(url) == told
    assert has_key(url) == (url != told)
    assert shown_url(told) == told
    assert not url_secrets(told)


@given(st.text(), st.text())
def test_no_address_shows_its_user_or_query(user, value):
    """Whatever signs somebody has in a password."""
    told = shown_url(f"http://{user}@host/v1?key={value.replace('&', '')}")
    assert told.startswith("http://***@")
    assert set(told.removeprefix("http://***@").partition("?")[2].replace("***", "")) <= set("key=&") or "@" in value


def test_key_of_an_address_goes_to_the_environment_and_comes_back():
    """The settings hold the address with stars; whoever has the environment has all of it."""
    environment: dict[str, str] = {}
    url = "http://me:secret-password@host/v1?key=another-secret"
    told = hidden_address("strong", url, environment)
    assert told == "http://***@host/v1?key=***"
    assert environment == {address_variable("strong"): url}
    assert full_address("strong", told, environment) == url
    assert full_address("local", told, environment) == told
    assert full_address("strong", "http://***@other/v1", environment) == "http://***@other/v1"
    assert hidden_address("strong", "http://host/v1", {}) == "http://host/v1"


def test_secrets_of_an_environment_are_known_by_their_names():
    """Names that speak for themselves, those that settings name, and what addresses hold; no path, nothing short."""
    environment = {
        "OPENAI_API_KEY": "value-of-a-key", "HF_TOKEN": "value-of-a-token", "ODD": "value-of-an-odd-one", KEY_NAMES: "ODD,X",
        "PATH": "value-of-a-path", "SSL_KEY": "/etc/ssl/private.pem", "SHORT_KEY": "none",
        address_variable("strong"): "http://me:long-password@host/v1",
    }  # fmt: skip
    found = secrets_of(environment)
    assert set(found) == {
        "value-of-a-key", "value-of-a-token", "value-of-an-odd-one", "me:long-password", "long-password",
    }  # fmt: skip
    assert set(named_secrets(environment)) == set(found) - {"value-of-a-key"}


@pytest.mark.parametrize("key", ["sk-proj-abcDEF0123456789abcd", "hf_abcDEFghiJKLmnoPQRstu", "AIza" + "x" * 35])
def test_what_is_a_key_by_its_form_is_never_shown(key, monkeypatch):
    """Wherever somebody has put it by mistake; and so is what the environment holds."""
    monkeypatch.setenv("SOME_KEY", "held-by-the-environment")
    told = shown(f"seed is a whole number, not '{key}' or 'held-by-the-environment'\x1b[2J")
    assert told == "seed is a whole number, not '***' or '***'\\x1b[2J"


def test_names_and_paths_are_no_keys():
    text = "runs/sk-2/ss_sold_date_sk_0123456789 task-0123456789abcdefghij"
    assert shown(text) == text
