"""Batches at an endpoint where the account may not have everything waiting at once."""

from __future__ import annotations

import asyncio
import logging

from tests.models.batch_chats import obtain, until, with_chat
from tests.models.batch_client import expected
from tests.models.batch_server import BatchServer


def sizes(server: BatchServer) -> list[int]:
    """Return how many requests each batch had that was not refused, in order."""
    return [batch["request_counts"]["total"] for batch in server.batches.values() if batch["status"] == "completed"]


def test_batches_get_smaller_where_the_account_has_no_room(tmp_path, caplog):
    """Every call still comes back at the price of a batch."""

    async def body(chat, server):
        assert await obtain(chat, range(12)) == expected(range(12))
        (row,) = chat.ledger.rows()
        assert (row["requests"], row["unconfirmed_attempts"]) == (12, 0)
        assert (row["tokens_in"], row["tokens_out"]) == (server.billed["tokens_in"], server.billed["tokens_out"])
        assert chat.ledger.reserved_usd == 0

    with caplog.at_level(logging.WARNING):
        server = with_chat(tmp_path, body, server=BatchServer(room=3))
    assert server.num_requests == 0, "nothing went the ordinary way"
    assert set(server.answers.values()) == {1}
    assert sum(sizes(server)) == 12
    assert max(sizes(server)) == 3
    assert caplog.text.count("has no room for a batch of 12 requests (Enqueued token limit reached") == 1


def test_batch_waits_for_another_of_the_same_run(tmp_path):
    """What takes the room is our own: nothing gets smaller for it."""

    async def body(chat, server):
        first = asyncio.create_task(obtain(chat, range(10)))
        await until(lambda: server.calls["state"])
        assert await obtain(chat, range(10, 20)) == expected(range(10, 20))
        assert await first == expected(range(10))

    server = with_chat(tmp_path, body, server=BatchServer(room=12))
    assert sizes(server) == [10, 10]
    assert len(server.batches) == 3


def test_batches_grow_again_when_there_is_room(tmp_path):
    """Room that came back is used: what waits in line is merged."""

    async def body(chat, server):
        replies = asyncio.create_task(obtain(chat, range(32)))
        await until(lambda: server.calls["create"] >= 6)
        server.room = None
        assert await replies == expected(range(32))
        # The next round starts afresh.
        assert await obtain(chat, range(40, 60)) == expected(range(40, 60))

    server = with_chat(tmp_path, body, server=BatchServer(room=0))
    *first, last = sizes(server)
    assert sum(first) == 32
    assert len(first) <= 7
    assert last == 20


def test_batch_waits_until_the_account_has_room(tmp_path):
    """Not even one request fits while other programs' batches are under way, and the status says so."""

    async def body(chat, server):
        replies = asyncio.create_task(obtain(chat, range(2)))
        await until(lambda: "wait for room in the account's queue" in chat.status().slots[0].waits_for)
        created = server.calls["create"]
        await until(lambda: server.calls["create"] > created + 2)
        server.room = None
        assert await replies == expected(range(2))

    assert with_chat(tmp_path, body, server=BatchServer(room=0)).num_requests == 0


def test_patience_with_a_full_account_ends(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("rayfactory.models.batch._PATIENCE_S", 0.3)

    async def body(chat, server):
        assert await obtain(chat, range(2)) == expected(range(2))
        assert chat.ledger.unconfirmed_usd == 0

    with caplog.at_level(logging.WARNING):
        server = with_chat(tmp_path, body, server=BatchServer(room=0))
    assert server.num_requests == 2
    assert "at the full price: the batch failed (Enqueued token limit reached" in caplog.text
