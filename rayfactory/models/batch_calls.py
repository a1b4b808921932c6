"""Batches and the calls in them, as this program knows them, and those that a journal tells are still open."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from rayfactory.config import ModelConfig, Slot
from rayfactory.models.batch_protocol import BatchState
from rayfactory.models.completion import CallKey, Completion
from rayfactory.models.journal import BatchSent, Done, Failed, Record, Sent
from rayfactory.models.ledger import WorstCase


@dataclass(slots=True, eq=False)
class Call:
    """One call that is in a batch, or will be.

    Attributes:
        line: of the file that goes up; empty for a call that an earlier process sent.
        outcome: set once `ended` is. ``ordinary``: it has to go the ordinary way; ``again``: nothing was sent.
    """

    attempt: int
    key: CallKey
    request: str
    worst: WorstCase
    line: bytes = b""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    outcome: Completion | Exception | Literal["ordinary", "again"] = "again"


@dataclass(slots=True, eq=False)
class Batch:
    """One batch; `calls` are those without an end, by their attempt, out of `size`."""

    name: str
    calls: dict[int, Call] = field(default_factory=dict)
    size: int = 0
    sent: BatchSent | None = None
    state: BatchState | None = None
    num_ordinary: int = 0
    why_ordinary: str = ""


class OpenBatches:
    """The batches without an end that a journal tells of."""

    def __init__(self) -> None:
        self._batches: dict[str, Batch] = {}
        self._batch_of: dict[int, Batch] = {}

    def replay(self, record: Record) -> None:
        """Take note of a record; they come in order."""
        match record:
            case Sent(attempt, key, request, _, worst, name) if name:
                batch = self._batch_of[attempt] = self._batches.setdefault(name, Batch(name))
                batch.calls[attempt] = Call(attempt, key, request, worst)
                batch.size += 1
            case BatchSent(name):
                self._batches.setdefault(name, Batch(name)).sent = record
            case Done(attempt) | Failed(attempt) if attempt in self._batch_of:
                batch = self._batch_of.pop(attempt)
                del batch.calls[attempt]
                if not batch.calls and batch.sent is not None:
                    del self._batches[batch.name]

    def never_made(self) -> list[int]:
        """Return the attempts in batches that were certainly not made."""
        return [attempt for batch in self._batches.values() if batch.sent is None for attempt in batch.calls]

    def of(self, slot: Slot, config: ModelConfig) -> list[Batch]:
        """Return the batches that may be under way at a model."""
        return [
            batch
            for batch in self._batches.values()
            if batch.calls and batch.sent is not None and (batch.sent.slot, batch.sent.model) == (slot, config.name)
        ]


def shown(batch: Batch) -> str:
    """Return how a batch is doing, for a person."""
    what = f"batch of {batch.size} requests"
    if batch.sent is None:
        return f"{what}, being sent"
    since = datetime.fromtimestamp(batch.sent.at).astimezone()
    is_today = since.date() == datetime.now().astimezone().date()
    what += f" since {since:%H:%M}" if is_today else f" since {since:%Y-%m-%d %H:%M}"
    if batch.state is None:
        return what + (", being looked for" if not batch.sent.endpoint_id else "")
    num_done = max(batch.state.num_done, batch.size - len(batch.calls))
    step = "" if batch.state.status == "in_progress" else f", {batch.state.status}"
    return f"{what}{step}, {num_done} of {batch.size} done"
