"""What models replied is in object storage before anything rests on it, and is put together on other machines."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from pathlib import Path

import pytest

from rayfactory.bucket import journal_copy
from rayfactory.bucket.journal_copy import PIECES, JournalCopy, Mirror, merge, piece_name, pull
from rayfactory.bucket.store import Store
from rayfactory.errors import RunDirError
from rayfactory.models.chat import Chat, read_books
from tests.models.chat_client import call, model
from tests.models.endpoint_server import EndpointServer
from tests.object_storage import Faults, Storage, faulty, reached


@pytest.fixture
def store(storage: Storage) -> Store:
    return Store(storage.new_url())


def pulled(store: Store, path: Path) -> bytes:
    assert pull(store, store.listed(), path) is not None
    return path.read_bytes()


def lines(first: int, last: int) -> bytes:
    return b"".join(b'{"line": %d}\n' % number for number in range(first, last))


def test_pieces_are_put_together(store: Store, tmp_path: Path):
    path = tmp_path / "here"
    copy = JournalCopy(Mirror(store.url, 1, 0), path)
    for number in range(1, 3 * PIECES):
        path.write_bytes(lines(0, number))
        copy.push(path.stat().st_size)
        copy.push(path.stat().st_size)  # nothing new
    assert len(store.listed()) == 2 + PIECES - 1
    assert pulled(store, tmp_path / "there") == path.read_bytes()


def test_process_that_begins_again_brings_what_was_not_brought(store: Store, tmp_path: Path):
    """One of the same hold knows no better than from where the hold began."""
    path = tmp_path / "here"
    for begins in range(1, 30, 7):
        copy = JournalCopy(Mirror(store.url, 1, 0), path)
        for number in range(begins, begins + 7):
            path.write_bytes(lines(0, number))
            copy.push(path.stat().st_size)
    assert pulled(store, tmp_path / "there") == path.read_bytes()


def test_later_hold_goes_on_from_where_it_began(store: Store, tmp_path: Path):
    """What the one before it wrote after that, without noticing, counts no more; and stays."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(lines(0, 10))
    stale = JournalCopy(Mirror(store.url, 1, 0), first)
    stale.push(first.stat().st_size)
    begun = len(pulled(store, second))
    second.write_bytes(lines(0, 10) + lines(100, 105))
    JournalCopy(Mirror(store.url, 2, begun), second).push(second.stat().st_size)
    first.write_bytes(lines(0, 30))
    stale.push(first.stat().st_size)
    assert pulled(store, tmp_path / "third") == second.read_bytes()
    assert pulled(store, first) == second.read_bytes()
    (left,) = tmp_path.glob("left-*.jsonl")
    assert left.read_bytes() == lines(10, 30)


def test_what_was_not_brought_away_stays_where_nobody_went_on(store: Store, tmp_path: Path):
    path = tmp_path / "here"
    path.write_bytes(lines(0, 10))
    JournalCopy(Mirror(store.url, 1, 0), path).push(path.stat().st_size)
    path.write_bytes(lines(0, 15))
    begun = pull(store, store.listed(), path)
    assert begun == len(lines(0, 10))
    assert path.read_bytes() == lines(0, 15)
    JournalCopy(Mirror(store.url, 2, begun), path).push(path.stat().st_size)
    assert pulled(store, tmp_path / "there") == lines(0, 15)
    assert not list(tmp_path.glob("left-*"))


def test_many_pieces_become_one(store: Store, tmp_path: Path):
    path, start = tmp_path / "here", 0
    path.write_bytes(lines(0, PIECES))
    for hold in range(1, PIECES + 1):
        store.write(piece_name(hold, start), lines(hold - 1, hold))
        start += len(lines(hold - 1, hold))
    merge(store, store.listed(), path, Mirror(store.url, PIECES + 1, start))
    assert len(store.listed()) == 1
    assert pulled(store, tmp_path / "there") == path.read_bytes()


@pytest.mark.parametrize("missing", [0, 1])
def test_piece_that_is_missing_is_named(store: Store, tmp_path: Path, missing: int):
    path = tmp_path / "here"
    copy = JournalCopy(Mirror(store.url, 1, 0), path)
    for number in (1, 2, 3):
        path.write_bytes(lines(0, number))
        copy.push(path.stat().st_size)
    store.remove([sorted(store.listed())[missing]])
    with pytest.raises(RunDirError, match=r"what comes before .*jsonl is missing"):
        pull(store, store.listed(), tmp_path / "there")


def test_piece_that_goes_while_one_looks_is_looked_for_again(store: Store, tmp_path: Path):
    store.write(piece_name(1, 0), b"x\n")
    listed = store.listed()
    store.remove(listed)
    assert pull(store, listed, tmp_path / "there") is None


def test_replies_are_elsewhere_when_they_are_used(storage: Storage, tmp_path: Path):
    """Where a tenth of the requests to the storage fail, and the machine is gone in the middle of it."""
    faults, rng = Faults(share=0.1), random.Random(1)
    url, mirror = storage.new_url(), Mirror("", 1, 0)

    async def ask(server: EndpointServer, directory: Path, hold: int, indexes: range, *, ends: bool) -> list[str]:
        path = directory / "completions.jsonl"
        store = Store(url)
        start = pull(store, store.listed(), path)
        assert start is not None
        at = replace(mirror, url=url, hold=hold, start=start)
        chat = Chat({"strong": model(server.base_url, 8)}, directory, None, backoff_s=0.01, mirror=at)
        texts = await asyncio.gather(*(chat.complete("strong", *call(i)) for i in indexes))
        if ends:
            await chat.close()
        return [completion.text for completion in texts]

    async def run(before: Storage) -> tuple[int, float]:
        async with EndpointServer() as server:
            known: dict[int, str] = {}
            for hold in range(1, 6):
                first = rng.randrange(20)
                indexes = range(first, first + 20)
                # Each on a machine of its own, which knows what those before it were told.
                texts = await ask(server, tmp_path / str(hold), hold, indexes, ends=hold % 2 == 0)
                assert all(known.setdefault(i, text) == text for i, text in zip(indexes, texts, strict=True))
            last = tmp_path / "last"
            pull(Store(url), Store(url).listed(), last / "completions.jsonl")
            books = await asyncio.to_thread(read_books, last)
            assert server.num_requests == len(known)
            return len(known), sum(row["requests"] for row in books)

    with faulty(storage, faults) as before, reached(before):
        num_known, num_replies = asyncio.run(run(before))
    assert num_replies == num_known
    assert faults.counts.total() > faults.counts["passed"]


def test_names_sort_as_their_numbers_do():
    names = [piece_name(2, 0), piece_name(10, 5), piece_name(10, 40)]
    assert names == sorted(names)
    assert all(map(journal_copy.is_piece, names))
