"""OpenAI's batch files as plain data: the lines that go up, the states of a batch, the lines that come back.

Nothing here talks to anybody. Whatever comes from an endpoint is data to be doubted.

Source: OpenAI's guide to the Batch API and its reference of the batch object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rayfactory.config import ModelConfig
from rayfactory.models.completion import Completion
from rayfactory.models.protocol import ErrorReply, quoted, read_completion, read_error

URL = "/v1/chat/completions"
MAX_REQUESTS = 50_000
MAX_FILE_BYTES = 200 * 10**6
"""What one batch may hold."""

METADATA_KEY = "rayfactory"
"""A batch carries its name under this key, so that it is found again by whoever did not hear what became of it."""

_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_CROWDED = "token_limit_exceeded"
_UNDONE = frozenset({"batch_expired", "batch_cancelled"})


@dataclass(frozen=True, slots=True)
class BatchState:
    """What the endpoint says of one batch.

    Attributes:
        endpoint_id: what the endpoint calls it.
        name: what this program calls it; empty: it is not this program's.
        created_at: Unix time, in seconds; None: the endpoint does not tell.
        num_done: requests that are answered, with a completion or an error.
        files: with the replies and the errors; complete once the batch has ended.
        why: what the endpoint says is wrong; may be empty.
        is_crowded: whether it was refused because the account may not have so many tokens waiting at a time.
    """

    endpoint_id: str
    name: str
    status: str
    created_at: int | None
    num_done: int
    files: tuple[str, ...]
    why: str
    is_crowded: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in _ENDED


@dataclass(frozen=True, slots=True)
class Reply:
    """What a batch brought for one attempt: a completion (`is_counted`: with what it took), or an error."""

    attempt: int
    result: Completion | ErrorReply
    is_counted: bool = True


def at_batch_price(config: ModelConfig) -> ModelConfig:
    """Return a model with what its tokens cost in a batch, where a cached one is no cheaper than any other."""
    cached = config.usd_per_million_cached
    return replace(
        config,
        usd_per_million_in=config.usd_per_million_in * config.batch_price,
        usd_per_million_cached=None if cached is None else max(cached, config.usd_per_million_in) * config.batch_price,
        usd_per_million_out=config.usd_per_million_out * config.batch_price,
    )


def request_line(attempt: int, body: Mapping[str, Any]) -> bytes:
    """Return one line of the file that goes up."""
    value = {"custom_id": str(attempt), "method": "POST", "url": URL, "body": body}
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


def creation_body(file_id: str, name: str) -> dict[str, Any]:
    """Return the body of the request that makes a batch."""
    return {
        "input_file_id": file_id,
        "endpoint": URL,
        "completion_window": "24h",
        "metadata": {METADATA_KEY: name},
    }


def read_file_id(content: bytes) -> str:
    """Return what the endpoint calls a file that was uploaded.

    Raises:
        ValueError: it does not say.
    """
    return _id(_object(content), content)


def read_batch(content: bytes) -> BatchState:
    """Return the state of a batch.

    Raises:
        ValueError: this is none.
    """
    return _batch(_object(content), content)


def read_batches(content: bytes) -> tuple[list[BatchState], bool]:
    """Return one page of the endpoint's batches, and whether there are more.

    Raises:
        ValueError: this is none.
    """
    page = _object(content)
    cards = page.get("data")
    if not isinstance(cards, list):
        raise ValueError(f"no list of batches in {quoted(content)!r}")  # noqa: TRY004
    return [_batch(card, content) for card in cards if isinstance(card, dict)], page.get("has_more") is True


def read_reply(line: bytes, config: ModelConfig) -> Reply:
    """Return what a line of a file that came back says.

    Args:
        config: the model, at the price of a batch.

    Raises:
        ValueError: it is not one of ours, whole.
    """
    value = _object(line)
    attempt = value.get("custom_id")
    if not (isinstance(attempt, str) and attempt.isascii() and attempt.isdigit() and len(attempt) < 20):
        raise ValueError(f"no custom_id of ours in {quoted(line)!r}")
    response, error = value.get("response"), value.get("error")
    if not isinstance(response, dict):
        error = error if isinstance(error, dict) else {"message": "no response"}
        # What a batch left undone when its time was up is not paid for; of anything else nobody knows.
        is_undone = str(error.get("code")) in _UNDONE
        words = error.get("message") or error.get("code") or error
        return Reply(int(attempt), ErrorReply("failed", not is_undone, quoted(str(words))))
    status = response.get("status_code")
    try:
        body = json.dumps(response.get("body")).encode()
        if isinstance(status, int) and status != 200:
            return Reply(int(attempt), read_error(status, body, config))
        return Reply(int(attempt), *read_completion(body, config))
    except (ValueError, RecursionError) as problem:
        return Reply(int(attempt), ErrorReply("failed", True, str(problem)))


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"no JSON object in {quoted(content)!r}")  # noqa: TRY004
    return value


def _id(value: dict[str, Any], content: bytes) -> str:
    found = value.get("id")
    if not isinstance(found, str) or not found:
        raise ValueError(f"no id in {quoted(content)!r}")
    return found


def _batch(value: dict[str, Any], content: bytes) -> BatchState:
    counts, metadata = _mapping(value.get("request_counts")), _mapping(value.get("metadata"))
    name, created_at = metadata.get(METADATA_KEY), value.get("created_at")
    files = (value.get("output_file_id"), value.get("error_file_id"))
    listed = _mapping(value.get("errors")).get("data")
    errors = [_mapping(error) for error in listed[:3]] if isinstance(listed, list) else []
    return BatchState(
        endpoint_id=_id(value, content),
        name=name if isinstance(name, str) else "",
        status=str(value.get("status")),
        created_at=created_at if isinstance(created_at, int) else None,
        num_done=sum(count for k in ("completed", "failed") if isinstance(count := counts.get(k), int)),
        files=tuple(file for file in files if isinstance(file, str) and file),
        why=quoted("; ".join(str(error.get("message")) for error in errors)),
        is_crowded=value.get("status") == "failed" and any(error.get("code") == _CROWDED for error in errors),
    )


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
