"""A node keeps databases from elsewhere by their content, once for all its processes, and within its bound."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from rayfactory.databases.node_cache import NodeCache
from rayfactory.errors import DatabaseError


def put(size: int, fetched: list[int] | None = None):
    def fetch(folder: Path) -> None:
        (folder / "db.sqlite").write_bytes(b"x" * size)
        if fetched is not None:
            fetched.append(size)

    return fetch


def held_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*/*"))


def test_what_is_there_is_not_fetched_again(tmp_path: Path):
    fetched: list[int] = []
    for _ in range(2):
        cache = NodeCache(tmp_path / "cache", 100)
        for _ in range(2):
            assert (cache.get("a", 10, put(10, fetched)) / "db.sqlite").read_bytes() == b"x" * 10
        cache.close()
    assert fetched == [10]


def test_bound_is_kept_and_the_longest_unused_go_first(tmp_path: Path):
    cache = NodeCache(tmp_path, 30)
    for number, digest in enumerate("abc"):
        os.utime(cache.get(digest, 10, put(10)), (number, number))
        cache.close()
    cache.get("a", 10, put(10))  # is now the one that was used last
    cache.close()
    cache.get("d", 10, put(10))
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"a", "c", "d"}
    assert held_bytes(tmp_path) == 30


def test_what_somebody_has_open_stays(tmp_path: Path):
    one, other = NodeCache(tmp_path, 25), NodeCache(tmp_path, 25)
    one.get("a", 10, put(10))
    other.get("b", 10, put(10))
    with pytest.raises(DatabaseError, match=r"do not fit .* set cluster\.database_cache_gb larger"):
        other.get("c", 10, put(10))
    one.close()
    other.get("c", 10, put(10))
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["b", "c"]


def test_what_was_begun_and_left_is_made_anew(tmp_path: Path):
    """A process may end while it fetches; what it left neither counts for ever nor is taken for a database."""
    left = tmp_path / "a.partial"
    left.mkdir()
    (left / "size").write_text("20")
    (tmp_path / "b.partial").mkdir()
    cache = NodeCache(tmp_path, 25)
    assert list(cache.get("a", 20, put(20)).iterdir()) == [tmp_path / "a" / "db.sqlite"]
    assert not left.exists()


def test_fetching_that_fails_leaves_nothing(tmp_path: Path):
    def fail(folder: Path) -> None:
        (folder / "db.sqlite").write_bytes(b"half")
        raise OSError("no more")

    cache = NodeCache(tmp_path, 25)
    with pytest.raises(OSError, match="no more"):
        cache.get("a", 20, fail)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    cache.get("a", 20, put(20))


def fetch_slowly(folder: Path) -> None:
    (folder / "db.sqlite").write_bytes(b"x" * 10)
    with (folder.parents[1] / "fetches").open("a") as file:
        file.write("one\n")
    time.sleep(0.2)


def ask(folder: Path) -> bytes:
    path = NodeCache(folder, 1000).get("a", 10, fetch_slowly)
    return (path / "db.sqlite").read_bytes()


def test_processes_that_ask_at_once_fetch_once(tmp_path: Path):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert pool.map(ask, [tmp_path] * 8) == [b"x" * 10] * 8
    assert (tmp_path / "fetches").read_text() == "one\n"


def ask_for_all(folder_and_order: tuple[Path, str]) -> int:
    folder, order = folder_and_order
    cache = NodeCache(folder, 1000)
    for _ in range(20):
        for digest in order:
            cache.get(digest, 10, put(10))
        cache.close()
    return len(order)


def test_processes_that_keep_some_and_ask_for_others_do_not_wait_for_each_other(tmp_path: Path):
    orders = ["abcdef", "fedcba", "cabfed", "defabc"]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        asked = pool.map_async(ask_for_all, [(tmp_path, order) for order in orders])
        assert asked.get(timeout=300) == [6] * 4


def test_folder_that_others_may_write_to_is_refused(tmp_path: Path):
    tmp_path.chmod(0o777)
    with pytest.raises(DatabaseError, match=r"set cluster\.database_cache to a folder of your own"):
        NodeCache(tmp_path, 10)
    (tmp_path / "file").touch()
    with pytest.raises(DatabaseError, match="cannot be used"):
        NodeCache(tmp_path / "file", 10)
