"""One process at a time writes a pool, and one that has died keeps nobody out for long."""

from __future__ import annotations

import json
import time

import pytest

from rayfactory.bucket.hold import NAME, Hold
from rayfactory.bucket.store import Store
from rayfactory.errors import RunDirError
from tests.object_storage import Storage


@pytest.fixture
def store(storage: Storage) -> Store:
    return Store(storage.new_url())


def hold(store: Store, copy: str = "a", said: list[str] | None = None, dead_after_s: float = 60) -> Hold:
    return Hold(store.url, copy, (said if said is not None else []).append, beat_s=0.2, dead_after_s=dead_after_s)


def dead(store: Store, copy: str) -> None:
    """Have a hold there whose process is no more."""
    content = {"number": 4, "holder": "x", "where": "host, process 7", "copy": copy}
    store.write(NAME, json.dumps(content).encode())


def test_holds_follow_each_other(store: Store):
    for number in (1, 2, 3):
        held = hold(store, copy=str(number))
        assert held.number == number
        held.check()
        held.release()


def test_one_that_lives_is_left_alone(store: Store):
    held, said = hold(store), list[str]()
    with pytest.raises(RunDirError, match=r"is in use by another process \(.*process \d+\)"):
        hold(store, copy="b", said=said)
    assert "Waiting up to 60 s" in said[0]
    held.check()
    held.release()


def test_one_that_died_is_taken_over_after_a_while(store: Store):
    dead(store, "b")
    said: list[str] = []
    held = hold(store, said=said, dead_after_s=2)
    assert held.number == 5
    assert "host, process 7" in said[0]
    held.release()


def test_one_of_the_same_machine_that_died_is_taken_over_at_once(store: Store):
    dead(store, "a")
    said: list[str] = []
    held = hold(store, said=said, dead_after_s=600)
    assert held.number == 5
    assert not said
    held.release()


def test_one_that_was_taken_over_notices(store: Store):
    held = hold(store)
    dead(store, "b")
    time.sleep(1)
    with pytest.raises(RunDirError, match="has been taken over by another process"):
        held.check()
    held.release()
    assert json.loads(store.read(NAME) or b"")["holder"] == "x"


def test_damaged_one_is_named(store: Store):
    store.write(NAME, b"{}")
    with pytest.raises(RunDirError, match=r"hold\.json is damaged"):
        hold(store)
