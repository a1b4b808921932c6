"""Objects are written and read whole, conditions hold, and what fails is tried again or told with its remedy."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rayfactory.bucket.store import Store, Version, is_plain, is_url
from rayfactory.errors import RunDirError
from tests.object_storage import ACCESS, Faults, Storage, faulty, reached


@pytest.fixture
def store(storage: Storage) -> Store:
    return Store(storage.new_url())


def test_what_was_written_is_read_and_listed(store: Store, tmp_path: Path):
    assert store.read("a/b.json") is None
    version = store.write("a/b.json", b"one")
    assert store.read_with_version("a/b.json") == (b"one", version)
    (tmp_path / "big").write_bytes(bytes(range(256)) * 80_000)
    store.write("a/big", tmp_path / "big")
    assert store.fetch("a/big", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "big").read_bytes()
    assert not store.fetch("a/none", tmp_path / "none")
    listed = store.listed()
    assert {name: each.size for name, each in listed.items()} == {"a/b.json": 3, "a/big": 256 * 80_000}
    assert listed["a/b.json"].tag == version.tag
    assert store.listed("c") == {}
    store.remove(["a/b.json", "a/none"])
    assert set(store.listed()) == {"a/big"}


def test_one_of_many_creates_an_object(store: Store):
    with ThreadPoolExecutor(16) as pool:
        versions = list(pool.map(lambda number: store.create("only", b"%d" % number), range(32)))
    assert sum(version is not None for version in versions) == 1
    assert store.create("only", b"other") is None


def test_object_is_replaced_by_who_knows_its_version(store: Store):
    first = store.create("x", b"1")
    assert first is not None
    second = store.replace("x", b"2", first)
    assert second is not None
    assert store.replace("x", b"3", first) is None
    assert store.read("x") == b"2"


@pytest.mark.parametrize("fault", ["busy", "dropped", "unanswered"])
def test_requests_that_fail_are_made_again(storage: Storage, fault: str):
    """Also where the server had done what it was asked for, and the answer was lost."""
    faults = Faults(share=0)
    kinds = iter([fault, "passed"] * 100)
    faults.next = lambda: next(kinds)  # type: ignore[method-assign]
    with faulty(storage, faults) as before, reached(before):
        store = Store(storage.new_url())
        version = store.create("x", b"1")
        assert version is not None
        version = store.replace("x", b"2", version)
        assert version is not None
        assert store.replace("x", b"3", Version("another")) is None
        store.write("y", b"4")
        assert store.read("x") == b"2"
        assert set(store.listed()) == {"x", "y"}
        store.remove(["x"])
        assert set(store.listed()) == {"y"}


def test_storage_that_stays_away_is_named(storage: Storage):
    with faulty(storage, Faults(is_cut=True)) as before, reached(before):
        store = Store(storage.new_url(), patience_s=1)
        with pytest.raises(RunDirError, match=r"s3://pools/.*could not be reached for \d+ s.*the same command goes on"):
            store.read("x")


def test_bucket_that_is_not_there_is_named(storage: Storage):
    store = Store("s3://none-of-these/pool")
    for ask in (lambda: store.read("x"), lambda: store.write("x", b""), store.listed):
        with pytest.raises(RunDirError, match=r"no bucket of 's3://none-of-these/pool'; make it"):
            ask()


@pytest.mark.parametrize("url", ["s3://", "s3:///x", "az://container/x"])
def test_address_that_is_none_is_named(url: str):
    with pytest.raises(RunDirError, match="is no folder in object storage"):
        Store(url)


def test_what_is_not_there_is_removed_already(store: Store):
    store.write("x", b"1")
    store.remove(["none", "x"])
    assert store.listed() == {}


def test_forgotten_keys_are_named_soon(storage: Storage, monkeypatch: pytest.MonkeyPatch):
    for name in ACCESS:
        monkeypatch.delenv(name)
    with pytest.raises(RunDirError, match=r"there are no keys for 's3://.*set AWS_ACCESS_KEY_ID"):
        Store(storage.new_url(), patience_s=0.5).read("x")


def test_file_changes_while_it_is_fetched(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nothing is put together from two of its versions."""
    monkeypatch.setattr("rayfactory.bucket.store.PIECE_BYTES", 4)
    store.write("x", b"one and two")
    asked = []

    def watch() -> None:
        asked.append(True)
        if len(asked) == 3:
            Store(store.url).write("x", b"two and one")

    monkeypatch.setattr(store, "watch", watch)
    assert not store.fetch("x", tmp_path / "x")
    assert store.fetch("x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"two and one"


def test_addresses_with_keys_are_refused():
    assert is_plain("s3://bucket/x")
    for url in ("s3://key:secret@bucket/x", "s3://bucket/x?key=secret", "s3://bucket/x#y"):
        assert not is_plain(url)
        with pytest.raises(RunDirError, match="keys belong into the environment"):
            Store(url)


def test_addresses_are_told_from_folders():
    assert is_url("s3://b/x")
    assert is_url("gs://b")
    assert not is_url("runs/s3")
    assert not is_url("/s3:/x")
    assert not is_url("http://b/x")
