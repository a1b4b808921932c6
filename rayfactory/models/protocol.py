"""The OpenAI protocol of completions, of chats and texts, as plain data: what is sent, what replies and errors mean.

Nothing here talks to anybody. Whatever comes from an endpoint is data to be doubted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from rayfactory.config import ModelConfig
from rayfactory.models.completion import CallKey, Completion, Prompt
from rayfactory.models.ledger import Usage, cost_usd
from rayfactory.shown import shown_url

ErrorKind = Literal["too_many", "failed", "refused", "refused_all"]
"""What an error reply means: ask less often, the endpoint is ill, this request is no good, none is."""

_LONGEST_QUOTE = 300
"""Characters of an endpoint's own words in a message."""


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error that an endpoint answered with.

    Attributes:
        lost: whether a model may have been at work behind it all the same.
        text: the status and the endpoint's own words, in one line.
        remedy: what a person can do about it; empty where nothing needs doing.
        away: whether nobody was there to answer, so that the request itself cannot be what is wrong.
    """

    kind: ErrorKind
    lost: bool
    text: str
    remedy: str = ""
    away: bool = False


def request_body(config: ModelConfig, key: CallKey, prompt: Prompt) -> dict[str, Any]:
    """Return the body of a request, as JSON-compatible data."""
    asked = {"messages": messages_of(prompt)} if config.chat else {"prompt": text_of(prompt)}
    body: dict[str, Any] = {
        "model": config.name,
        **asked,
        # The older protocol, of texts, has one name for it.
        config.max_tokens_field if config.chat else "max_tokens": prompt.max_tokens,
        "temperature": prompt.temperature,
        "top_p": prompt.top_p,
        "seed": key.sampling_seed(),
    }
    for name in config.omit:
        body.pop(name, None)
    if config.constrained and prompt.grammar:
        body["structured_outputs"] = {"grammar": prompt.grammar}
    return body


def messages_of(prompt: Prompt) -> list[dict[str, str]]:
    """Return the messages of a prompt, which the endpoint's chat template makes a text of."""
    return [
        {"role": "system", "content": encodable(prompt.system)},
        {"role": "user", "content": encodable(prompt.user)},
    ]


def text_of(prompt: Prompt) -> str:
    """Return a prompt as the one text that a model without a chat template goes on from."""
    return encodable("\n\n".join(part for part in (prompt.system, prompt.user) if part) + "\n")


def path_of(config: ModelConfig) -> str:
    """Return where an endpoint is asked for completions, below its `base_url`."""
    return "/chat/completions" if config.chat else "/completions"


def read_completion(content: bytes, config: ModelConfig) -> tuple[Completion, bool]:
    """Return the completion in the body of a reply, and whether the reply says what it took.

    Raises:
        ValueError: there is none.
    """
    try:
        reply = json.loads(content)
        choice = reply["choices"][0]
        text = _text(choice["message"].get("content") if config.chat else choice["text"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no completion in a reply of {len(content)} bytes: {quoted(content)!r}") from error
    usage = _usage(reply.get("usage"))
    known = usage or Usage(0, 0, 0)
    model, finish_reason = reply.get("model"), choice.get("finish_reason")
    completion = Completion(
        text=encodable(text),
        model=encodable(model) if isinstance(model, str) and model else config.name,
        finish_reason=encodable(finish_reason) if isinstance(finish_reason, str) else "stop",
        tokens_in=known.tokens_in,
        tokens_cached=known.tokens_cached,
        tokens_out=known.tokens_out,
        cost_usd=cost_usd(known, config),
    )
    return completion, usage is not None


def read_error(status: int, body: bytes, config: ModelConfig) -> ErrorReply:
    """Return what an error reply means."""
    code, words = _error_words(body)
    text = f"{status} {words}".strip()
    who = f"model {config.name!r}"
    match status:
        case 401 | 403:
            where = f"the key in {config.api_key_env}" if config.api_key_env else "being asked without a key"
            remedy = f"the endpoint does not take {where}: check the key and what it may be used for"
            if not config.api_key_env:
                remedy += ", and name the environment variable that holds it in api_key_env"
            return ErrorReply("refused_all", False, text, remedy)
        case 402:
            return ErrorReply("refused_all", False, text, "the account has no credit left: add some, then run again")
        case 404:
            remedy = (
                f"{who} or the path of its base_url {shown_url(config.base_url)!r} does not exist there: mend either"
            )
            if not config.chat:
                remedy += f"; or there is no {path_of(config)}, which is asked where chat=false"
            return ErrorReply("refused_all", False, text, remedy)
        case 429 if code == "insufficient_quota":
            remedy = "the account's quota is used up: raise it or add credit, then run again"
            return ErrorReply("refused_all", False, text, remedy)
        case 429:
            return ErrorReply("too_many", False, text)
        case 408 | 502 | 504:
            # A gateway gave up on a model that may be at work behind it.
            return ErrorReply("failed", True, text, away=status != 408)
        case 503 | 529:
            return ErrorReply("failed", False, text, away=True)
        case 409 | 425:
            return ErrorReply("failed", False, text)
        case _ if status >= 500:
            return ErrorReply("failed", False, text)
        case _ if status < 400:
            remedy = f"base_url {shown_url(config.base_url)!r} leads elsewhere: give the address that it leads to"
            return ErrorReply("refused_all", False, text, remedy)
    return ErrorReply("refused", False, text)


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds that a reply asks to wait, by `retry-after-ms` or `retry-after`; None: it does not ask.

    Args:
        headers: with names in lower case, or blind to case.
        now: the present, with its time zone.

    Source: RFC 9110, section 10.2.3, for seconds and dates.
    """
    for name, unit_s in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit_s
        except ValueError:
            try:
                date = parsedate_to_datetime(value)
            except ValueError:
                continue
            seconds = ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds()
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None


def encodable(text: str) -> str:
    """Return a text with lone halves of surrogate pairs, which no file or socket takes, as question marks."""
    return text.encode("utf-8", "replace").decode()


def quoted(content: bytes | str) -> str:
    """Return the beginning of what an endpoint said, in one printable line."""
    text = content[: 4 * _LONGEST_QUOTE].decode("utf-8", "replace") if isinstance(content, bytes) else content
    line = " ".join("".join(char if char.isprintable() else " " for char in text[: 2 * _LONGEST_QUOTE]).split())
    return line if len(line) <= _LONGEST_QUOTE else line[:_LONGEST_QUOTE] + " .."


def _text(content: object) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    raise TypeError(f"content is a {type(content).__name__}")


def _usage(value: object) -> Usage | None:
    if not isinstance(value, dict):
        return None
    details = value.get("prompt_tokens_details")
    tokens_in, tokens_out = _count(value.get("prompt_tokens")), _count(value.get("completion_tokens"))
    if tokens_in is None or tokens_out is None:
        return None
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    return Usage(tokens_in, min(cached or 0, tokens_in), tokens_out)


def _count(value: object) -> int | None:
    # No reply has as many tokens as the bound; a float holds every number below it exactly.
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40 else None


def _error_words(body: bytes) -> tuple[str, str]:
    """Return an error's code and its message, as OpenAI words them, or as FastAPI does, or the body itself."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return "", quoted(body)
    error = value.get("error", value) if isinstance(value, dict) else value
    if isinstance(error, dict):
        message = error.get("message") or error.get("detail") or error
        codes = [code for code in (error.get("code"), error.get("type")) if isinstance(code, str)]
        code = "insufficient_quota" if "insufficient_quota" in codes else (codes or [""])[0]
        return code, quoted(str(message))
    return "", quoted(str(error))
