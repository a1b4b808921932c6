"""A node keeps databases from elsewhere, once for all its processes, and within its bound."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rayfactory.databases.node_cache import NodeCache
from rayfactory.errors import DatabaseError

FILE = "db.sqlite"


def put(size: int, fetched: list[int] | None = None) -> Callable[[Path], None]:
    def fetch(folder: Path) -> None:
        (folder / FILE).write_bytes(b"x" * size)
        if fetched is not None:
            fetched.append(size)

    return fetch


def get(cache: NodeCache, letter: str, size: int = 10, fetched: list[int] | None = None) -> Path:
    return cache.get(letter * 64, {FILE: size}, put(size, fetched))


def there(folder: Path) -> str:
    """Return the letters of what is there whole."""
    return "".join(sorted(path.name[0] for path in folder.iterdir() if path.is_dir() and "." not in path.name))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_what_is_there_is_not_fetched_again(folder: Path):
    fetched: list[int] = []
    for _ in range(2):
        cache = NodeCache(folder, 100)
        for _ in range(2):
            assert (get(cache, "a", 10, fetched) / FILE).read_bytes() == b"x" * 10
        cache.close()
    assert fetched == [10]


def test_bound_is_kept_and_the_longest_unused_go_first(folder: Path):
    cache = NodeCache(folder, 30)
    for number, letter in enumerate("abc"):
        os.utime(get(cache, letter), (number, number))
        cache.close()
    get(cache, "a")  # is now the one that was used last
    cache.close()
    get(cache, "d")
    assert there(folder) == "acd"


def test_what_somebody_else_has_open_stays(folder: Path):
    one, other = NodeCache(folder, 25), NodeCache(folder, 25)
    get(one, "a")
    get(other, "b")
    with pytest.raises(DatabaseError, match=r"do not fit .* set cluster\.database_cache_gb larger"):
        get(other, "c", 20)
    one.close()
    get(other, "c", 20)
    assert there(folder) == "c"


def test_one_process_that_asks_for_more_than_fits_gets_one_after_the_other(folder: Path):
    cache = NodeCache(folder, 25)
    for letter in "abcdef":
        assert (get(cache, letter) / FILE).stat().st_size == 10
    assert there(folder) in ("ef", "f")


def test_nothing_else_in_the_folder_is_touched(folder: Path):
    folder.mkdir(mode=0o700)
    for name in ("papers", ".ssh", "a" * 63):
        (folder / name).mkdir()
        (folder / name / "mine").write_bytes(b"x" * 100)
    cache = NodeCache(folder, 15)
    get(cache, "a")
    get(cache, "b")
    assert all((folder / name / "mine").exists() for name in ("papers", ".ssh", "a" * 63))


def test_what_was_begun_and_left_is_made_anew(folder: Path):
    """A process may end while it fetches; what it left neither counts for ever nor is taken for a database."""
    folder.mkdir(mode=0o700)
    for letter in "ab":
        (folder / f"{letter * 64}.partial").mkdir()
        (folder / f"{letter * 64}.partial" / "size").write_text("20")
    cache = NodeCache(folder, 25)
    assert list(get(cache, "a", 20).iterdir()) == [folder / ("a" * 64) / FILE]
    assert not list(folder.glob("*.partial"))


@pytest.mark.parametrize("content", [None, b"half"])
def test_entry_that_is_not_whole_is_fetched_again(folder: Path, content: bytes | None):
    """Something may clean up the folders for temporary files, or a machine lose what it had not written."""
    cache = NodeCache(folder, 25)
    path = get(cache, "a") / FILE
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert (get(cache, "a") / FILE).read_bytes() == b"x" * 10


def test_fetching_that_fails_leaves_nothing(folder: Path):
    def fail(where: Path) -> None:
        (where / FILE).write_bytes(b"half")
        raise OSError("no more")

    cache = NodeCache(folder, 25)
    with pytest.raises(OSError, match="no more"):
        cache.get("a" * 64, {FILE: 20}, fail)
    assert not [path for path in folder.iterdir() if path.is_dir()]
    get(cache, "a", 20)


def fetch_slowly(folder: Path) -> None:
    (folder / FILE).write_bytes(b"x" * 10)
    with (folder.parents[1] / "fetches").open("a") as file:
        file.write("one\n")
    time.sleep(0.2)


def ask(folder: Path) -> bytes:
    return (NodeCache(folder, 1000).get("a" * 64, {FILE: 10}, fetch_slowly) / FILE).read_bytes()


def test_processes_that_ask_at_once_fetch_once(folder: Path):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert pool.map(ask, [folder] * 8) == [b"x" * 10] * 8
    assert (folder / "fetches").read_text() == "one\n"


def ask_for_all(folder_and_order: tuple[Path, str]) -> int:
    folder, order = folder_and_order
    cache = NodeCache(folder, 1000)
    for _ in range(20):
        for letter in order:
            get(cache, letter)
        cache.close()
    return len(order)


def test_processes_that_keep_some_and_ask_for_others_do_not_wait_for_each_other(folder: Path):
    orders = ["abcdef", "fedcba", "cabfed", "defabc"]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        asked = pool.map_async(ask_for_all, [(folder, order) for order in orders])
        assert asked.get(timeout=300) == [6] * 4


def test_folder_that_is_not_ones_own_is_refused(tmp_path: Path):
    remedy = r"set cluster\.database_cache to a folder of your own"
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "file").touch()
    (tmp_path / "own").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "own")
    for name in ("open", "file", "link"):
        with pytest.raises(DatabaseError, match=remedy):
            NodeCache(tmp_path / name, 10)
