"""What a person is shown: text that a terminal does not obey and that hides nothing, and none of the keys.

Names, values and messages come from databases, from model endpoints and from other people's files. Everything that is
written to a terminal goes through `shown`; what comes from an endpoint loses the keys (`without`) where it comes in.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, MutableMapping
from urllib.parse import quote, unquote

HIDDEN = "***"
"""What stands where a key stood."""

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""The variables of the environment that hold the key to the model hub."""

_SECRET_NAME = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_ADDRESS_NAME = re.compile(r"RAYFACTORY_[A-Z]+_ADDRESS")
# As providers issue them: they give themselves away, wherever they were put by mistake.
_KEY = re.compile(r"\b(?:(?:sk|xai|pplx|nvapi)-(?=[\w-]*\d)[\w-]{16,}|(?:hf|gsk)_[A-Za-z0-9]{20,}|AIza[\w-]{30,})")

_SHORTEST = 4
"""A key that is shorter than this is none: it would occur in any text by chance."""

_SHORTEST_OF_ALL = 8
"""As `_SHORTEST`, where any text may be searched for it and not only what an endpoint says."""

_FRAGMENT = 8
"""So many characters in a row of a key are as bad as all of it."""

KEY_NAMES = "RAYFACTORY_KEY_NAMES"
"""The variable that names, separated by commas, the variables that settings name for keys."""

_ADDRESS_VARIABLE = "RAYFACTORY_{}_ADDRESS"

# As servers show a key that they do not take: its beginning, stars, its end.
_MASKED = re.compile(r"[^\s\"'<>(){}\[\]:,=]*\*{3,}[^\s\"'<>(){}\[\]:,=]*")

# Default_Ignorable_Code_Point of Unicode, and the blank of Braille: printable by their category, and not to be seen.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)

_URL = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.-]*:)?//)?(?:(.*)@)?([^?#]*)(\?[^#]*)?(#.*)?", re.DOTALL)


def shown(text: str) -> str:
    """Return a text as a terminal may have it: `inert`, and without the keys of this process's environment."""
    return inert(_KEY.sub(HIDDEN, without(text, secrets_of(os.environ), fragments=False)))


def inert(text: str) -> str:
    r"""Return a text in which nothing but line breaks is left for a terminal to obey, and nothing that cannot be seen.

    Control characters (C0, C1 and DEL: all that escape sequences begin with), what turns the direction of writing
    about, what has no width, and halves of surrogate pairs stand as escapes, such as ``\x1b`` or ``\u202e``. A
    tabulator and blanks of any other width are a blank. Harmless text stays as it is.
    """
    if is_seen(text):
        return text
    return "".join(
        char
        if char == "\n" or is_seen(char)
        else " "
        if char == "\t" or (char.isspace() and char > "\x9f" and char not in "\u2028\u2029")
        else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def is_seen(text: str) -> bool:
    """Return whether every character of a text is printed where it stands, and can be seen."""
    return text.isprintable() and (text.isascii() or not _UNSEEN.search(text))


def without(text: str, secrets: Collection[str], *, fragments: bool = True) -> str:
    """Return a text with stars for secrets, in any spelling: plain, as in an address or JSON, as Basic auth has it.

    Args:
        secrets: what must not be seen; those of fewer than 4 characters are passed over.
        fragments: whether eight characters in a row of a secret are as bad as all of it, and so is what a server
            leaves of a key that it shows with stars. Not for text that is ours: a part of a key may be a common word.
    """
    for secret in sorted((form for each in secrets for form in _spellings(each)), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
        if fragments and len(secret) > _FRAGMENT:
            text = _without_fragments(text, secret)
    return _MASKED.sub(HIDDEN, text) if fragments and secrets else text


def _spellings(secret: str) -> Iterator[str]:
    if len(secret) >= _SHORTEST:
        yield from {
            secret,
            quote(secret, safe=""),
            base64.b64encode(secret.encode("utf-8", "replace")).decode(),
            json.dumps(secret)[1:-1],
            secret.replace("/", "\\/"),
        }


def _without_fragments(text: str, secret: str) -> str:
    """Return a text with stars for every run of characters that it shares with a secret, if it is long enough."""
    parts = {secret[i : i + _FRAGMENT] for i in range(len(secret) - _FRAGMENT + 1)}
    pieces: list[str] = []
    kept = position = 0
    while position + _FRAGMENT <= len(text):
        if text[position : position + _FRAGMENT] not in parts:
            position += 1
            continue
        end = position + _FRAGMENT
        while text[end - _FRAGMENT + 1 : end + 1] in parts:
            end += 1
        pieces += [text[kept:position], HIDDEN]
        kept = position = end
    return "".join([*pieces, text[kept:]])


def secrets_of(environment: Mapping[str, str]) -> list[str]:
    """Return the secrets that an environment holds: `named_secrets`, and those whose names speak for themselves."""
    speaking = [value.strip() for name, value in environment.items() if _SECRET_NAME.search(name)]
    # A path is no secret, though a variable may be called as if it were.
    found = [*named_secrets(environment), *(each for each in speaking if each[:1] not in ("/", ".", "~"))]
    return [each for each in dict.fromkeys(found) if len(each) >= _SHORTEST_OF_ALL]


def named_secrets(environment: Mapping[str, str]) -> list[str]:
    """Return the secrets that an environment holds for the models of a run: keys, addresses, the key to the hub."""
    found = [environment.get(name, "").strip() for name in (*environment.get(KEY_NAMES, "").split(","), *TOKENS)]
    for name, value in environment.items():
        if _ADDRESS_NAME.fullmatch(name):
            found += url_secrets(value)
    return [each for each in dict.fromkeys(found) if each]


def shown_url(url: str) -> str:
    """Return an address with stars for what opens a door in it: name and password, and the values of its query."""
    scheme, user, place, query = url_parts(url)
    stars = f"{HIDDEN}@" if user is not None else ""
    return f"{scheme}{stars}{place}" + "?" * bool(query) + re.sub(r"=[^&]*", f"={HIDDEN}", _named(query))


def has_key(url: str) -> bool:
    """Return whether an address carries what `shown_url` hides."""
    return shown_url(url) != url


def url_secrets(url: str) -> list[str]:
    """Return what `shown_url` hides of an address, each as it stands there and as it is meant."""
    _, user, _, query = url_parts(url)
    found = [value.partition("=")[2] for value in _named(query).split("&")]
    if user:
        # The name alone is no secret, unless it is all there is.
        found += [user, user.partition(":")[2]]
    return [each for value in dict.fromkeys(found) if value not in ("", HIDDEN) for each in (value, unquote(value))]


def hidden_address(slot: str, url: str, environment: MutableMapping[str, str]) -> str:
    """Return a model's address as settings may hold it, as `shown_url` has it; what it hides goes to the environment.

    Settings are shown, written down, and kept by Ray; a variable of the environment is none of these.

    Args:
        slot: which of the run's models is there.
        environment: of this process.
    """
    if has_key(url):
        environment[address_variable(slot)] = url
    return shown_url(url)


def full_address(slot: str, url: str, environment: Mapping[str, str]) -> str:
    """Return a model's address with what `hidden_address` took out of it, where that is at hand; else as it is."""
    held = environment.get(address_variable(slot), "")
    return held if HIDDEN in url and shown_url(held) == url else url


def address_variable(slot: str) -> str:
    """Return the variable of the environment for the address of a model, where that holds a key."""
    return _ADDRESS_VARIABLE.format(slot.upper())


def url_parts(url: str) -> tuple[str, str | None, str, str]:
    """Return an address in parts: the scheme with its slashes, the user (None: there is none), the place, the query.

    A password that somebody did not escape may hold any sign, so the user goes up to the last ``@``. What follows a
    ``#`` is never sent, and left out.
    """
    match = _URL.fullmatch(url)
    assert match is not None
    return match[1] or "", match[2], match[3], (match[4] or "")[1:]


def _named(query: str) -> str:
    """Return a query in which every value has a name: one that stands alone may be a key itself."""
    return "&".join(each if "=" in each or not each else f"={each}" for each in query.split("&"))
