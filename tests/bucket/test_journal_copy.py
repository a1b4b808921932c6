"""What models replied is in object storage before anything rests on it, and is put together on other machines."""

from __future__ import annotations

import asyncio
import fcntl
import json
import random
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from rayfactory.bucket import journal_copy
from rayfactory.bucket.hold import NAME
from rayfactory.bucket.journal_copy import PIECES, JournalCopy, Mirror, Piece, alone, merge, pull
from rayfactory.bucket.store import Store
from rayfactory.config import ModelConfig, Slot
from rayfactory.errors import RunDirError
from rayfactory.models.chat import Chat, read_books
from tests.models.chat_client import call, model
from tests.models.endpoint_server import EndpointServer
from tests.object_storage import Faults, Storage, faulty, reached

HELD = (("holder", "x"), ("where", "here"), ("copy", "c"))


@pytest.fixture
def store(storage: Storage) -> Store:
    return Store(storage.new_url())


def hold(store: Store, number: int) -> None:
    """Have a hold there."""
    store.write(NAME, json.dumps({"number": number, **dict(HELD)}).encode())


def copy(store: Store, number: int, start: int, path: Path) -> JournalCopy:
    """Return what brings a journal away under a hold, which begins."""
    hold(store, number)
    return JournalCopy(Mirror(store.url, number, start), path)


def size_of(store: Store, path: Path) -> int:
    scratch = path.parent / f"scratch-{uuid.uuid4().hex}"
    scratch.mkdir(parents=True)
    size, _ = pull(store, path, scratch)
    return size


def pulled(store: Store, path: Path) -> bytes:
    size_of(store, path)
    return path.read_bytes()


def pieces(store: Store) -> list[str]:
    return sorted(store.listed(journal_copy.FOLDER))


def lines(first: int, last: int) -> bytes:
    return b"".join(b'{"line": %d}\n' % number for number in range(first, last))


def grow(bringing: JournalCopy, path: Path, first: int, last: int) -> None:
    """Have a journal grow, and bring each line away."""
    for number in range(first, last):
        path.write_bytes(lines(0, number))
        bringing.push(path.stat().st_size)


def test_pieces_are_put_together(store: Store, tmp_path: Path):
    """And few of them are left, however many there were."""
    path = tmp_path / "here"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_copy, "PIECES", 4)
        bringing = copy(store, 1, 0, path)
        grow(bringing, path, 1, 4**3)
        bringing.push(path.stat().st_size)  # nothing new
        assert len(pieces(store)) == 3 * 3
        grow(bringing, path, 4**3, 4**3 + 1)
    assert len(pieces(store)) == 1
    assert pulled(store, tmp_path / "there") == path.read_bytes()


def test_process_that_begins_again_brings_what_was_not_brought(store: Store, tmp_path: Path):
    """One of the same hold knows no better than from where the hold began."""
    path = tmp_path / "here"
    for begins in range(1, 30, 7):
        grow(copy(store, 1, 0, path), path, begins, begins + 7)
    assert pulled(store, tmp_path / "there") == path.read_bytes()


def test_piece_that_comes_late_changes_nothing(store: Store, tmp_path: Path):
    """A request may be answered after the next ones were: its object is there again after it was removed."""
    path = tmp_path / "here"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_copy, "PIECES", 4)
        bringing = copy(store, 1, 0, path)
        grow(bringing, path, 1, 3)
        late = {name: store.read(name) for name in pieces(store)}
        grow(bringing, path, 3, 8)
        for name, content in late.items():
            store.write(name, content or b"")
    assert pulled(store, tmp_path / "there") == path.read_bytes()


def test_later_hold_goes_on_from_where_it_began(store: Store, tmp_path: Path):
    """What the one before it wrote after that, without noticing, counts no more; and stays."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(lines(0, 10))
    stale = copy(store, 1, 0, first)
    stale.push(first.stat().st_size)
    begun = size_of(store, second)
    second.write_bytes(lines(0, 10) + lines(100, 105))
    copy(store, 2, begun, second).push(second.stat().st_size)
    first.write_bytes(lines(0, 30))
    stale.push(first.stat().st_size)
    assert pulled(store, tmp_path / "third") == second.read_bytes()
    assert pulled(store, first) == second.read_bytes()
    (left,) = tmp_path.glob("left-*.jsonl")
    assert left.read_bytes() == lines(10, 30)


def test_hold_that_was_taken_over_brings_no_more(store: Store, tmp_path: Path):
    path = tmp_path / "here"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_copy, "CHECKED_EVERY_S", 0)
        stale = copy(store, 1, 0, path)
        grow(stale, path, 1, 3)
        hold(store, 2)
        with pytest.raises(RunDirError, match="has been taken over by another process"):
            grow(stale, path, 3, 4)


def test_what_was_not_brought_away_stays_where_nobody_went_on(store: Store, tmp_path: Path):
    path = tmp_path / "here"
    path.write_bytes(lines(0, 10))
    copy(store, 1, 0, path).push(path.stat().st_size)
    path.write_bytes(lines(0, 15))
    begun = size_of(store, path)
    assert begun == len(lines(0, 10))
    assert path.read_bytes() == lines(0, 15)
    copy(store, 2, begun, path).push(path.stat().st_size)
    assert pulled(store, tmp_path / "there") == lines(0, 15)
    assert not list(tmp_path.glob("left-*"))


def test_many_pieces_become_one_of_the_next_hold(store: Store, tmp_path: Path):
    """And what a process of the hold before it brings after that changes nothing."""
    path = tmp_path / "here"
    stale = copy(store, 1, 0, path)
    grow(stale, path, 1, PIECES)
    hold(store, 2)
    for number in range(PIECES, PIECES + 5):
        path.write_bytes(lines(0, number))
        store.write(Piece(2, stale.end, path.stat().st_size).name, lines(number - 1, number))
        stale.end = path.stat().st_size
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    size, found = pull(store, path, scratch)
    merge(store, path, Mirror(store.url, 3, size), found)
    assert pieces(store) == [Piece(3, 0, size).name]
    before = path.read_bytes()
    path.write_bytes(before + lines(7, 9))
    stale.push(path.stat().st_size)
    assert pulled(store, tmp_path / "there") == before


@pytest.mark.parametrize("missing", [0, 1])
def test_piece_that_is_missing_is_named(store: Store, tmp_path: Path, missing: int):
    path = tmp_path / "here"
    grow(copy(store, 1, 0, path), path, 1, 4)
    store.remove([pieces(store)[missing]])
    with pytest.raises(RunDirError, match=r"what comes before .*jsonl is missing"):
        pulled(store, tmp_path / "there")


def test_piece_that_goes_while_one_looks_is_looked_for_again(store: Store, tmp_path: Path):
    """Those that one has are not fetched again: a reader keeps up with who writes."""
    path = tmp_path / "here"
    grow(copy(store, 1, 0, path), path, 1, 4)
    fetch, asked = store.fetch, list[str]()

    def slow(name: str, to: Path) -> bool:
        asked.append(name)
        if len(asked) == 2:  # the last two become one
            names = pieces(store)[1:]
            size = path.stat().st_size
            store.write(Piece(1, len(lines(0, 1)), size).name, path.read_bytes()[len(lines(0, 1)) :])
            store.remove(names)
        return fetch(name, to)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "fetch", slow)
        assert pulled(store, tmp_path / "there") == path.read_bytes()
    assert len(asked) == 3


def test_journal_that_is_still_written_is_waited_for(tmp_path: Path):
    path = tmp_path / "here"
    path.write_bytes(b"")
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RunDirError, match="still written by another process"), alone(path, 0.3):
            pass
    with alone(path, 0.3):
        pass


def test_replies_are_elsewhere_when_they_are_used(storage: Storage, tmp_path: Path):
    """Where a tenth of the requests to the storage fail, and the machine is gone in the middle of it."""
    faults, rng = Faults(share=0.1), random.Random(1)
    url, mirror = storage.new_url(), Mirror("", 1, 0)

    async def ask(server: EndpointServer, directory: Path, number: int, indexes: range, *, ends: bool) -> list[str]:
        hold(Store(url), number)
        start = size_of(Store(url), directory / "completions.jsonl")
        at = replace(mirror, url=url, hold=number, start=start)
        chat = Chat({"strong": model(server.base_url, 8)}, directory, None, backoff_s=0.01, mirror=at)
        texts = await asyncio.gather(*(chat.complete("strong", *call(i)) for i in indexes))
        if ends:
            await chat.close()
        return [completion.text for completion in texts]

    async def run(before: Storage) -> tuple[int, float]:
        async with EndpointServer() as server:
            known: dict[int, str] = {}
            for number in range(1, 6):
                first = rng.randrange(20)
                indexes = range(first, first + 20)
                # Each on a machine of its own, which knows what those before it were told.
                texts = await ask(server, tmp_path / str(number), number, indexes, ends=number % 2 == 0)
                assert all(known.setdefault(i, text) == text for i, text in zip(indexes, texts, strict=True))
            last = tmp_path / "last"
            size_of(Store(url), last / "completions.jsonl")
            books = await asyncio.to_thread(read_books, last)
            assert server.num_requests == len(known)
            return len(known), sum(row["requests"] for row in books)

    with faulty(storage, faults) as before, reached(before):
        num_known, num_replies = asyncio.run(run(before))
    assert num_replies == num_known
    assert faults.counts.total() > faults.counts["passed"]


def test_reply_that_is_found_here_is_brought_away_before_it_is_used(storage: Storage, tmp_path: Path):
    """A process was killed between writing it down and bringing it away."""

    async def run() -> None:
        async with EndpointServer() as server:
            models: dict[Slot, ModelConfig] = {"strong": model(server.base_url, 8)}
            chat = Chat(models, tmp_path, None, backoff_s=0.01)
            first = await chat.complete("strong", *call(0))
            await chat.close()
            store = Store(storage.new_url())
            hold(store, 1)
            chat = Chat(models, tmp_path, None, backoff_s=0.01, mirror=Mirror(store.url, 1, 0))
            assert await chat.complete("strong", *call(0)) == first
            assert pulled(store, tmp_path / "there") == (tmp_path / "completions.jsonl").read_bytes()
            await chat.close()

    asyncio.run(run())


def test_names_sort_as_their_numbers_do():
    found = [Piece(2, 0, 5), Piece(10, 5, 40), Piece(10, 5, 1_000), Piece(10, 40, 41)]
    assert [piece.name for piece in found] == sorted(piece.name for piece in found)
    assert found == sorted(found)
