"""A pool in object storage keeps the promises of one in a folder."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rayfactory.bucket.store import Store
from rayfactory.errors import RunDirError
from rayfactory.pool import Pool, connect, opened
from rayfactory.pool_copy import Copy, beside, local, name_of
from tests.object_storage import Faults, Storage, faulty, reached
from tests.test_compaction import sizes
from tests.test_pool import IDENTITY, commit

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def writing(url: str, data_dir: Path, dead_after_s: float = 60) -> Iterator[tuple[Copy, Pool]]:
    """Have a pool in object storage open."""
    copy = Copy(url, data_dir)
    with copy.held(lambda text: None, dead_after_s=dead_after_s), opened(copy.run_dir, IDENTITY, copy) as pool:
        yield copy, pool


def seen(url: str, data_dir: Path) -> list[Any]:
    """Return what a reader on a machine sees of the rows, in the order in which they come."""
    return connect(local(url, data_dir)).sql("SELECT query_id, sql, round FROM R").fetchall()


def rows(*counts: int) -> list[Any]:
    """Return what rounds of so many rows look like."""
    numbers = [number for number, count in enumerate(counts) for _ in range(count)]
    return [(query_id, f"SELECT {query_id}", number) for query_id, number in enumerate(numbers)]


@pytest.fixture
def url(storage: Storage) -> str:
    return storage.new_url()


def test_rounds_are_seen_on_other_machines(url: str, tmp_path: Path):
    with writing(url, tmp_path / "a") as (_, pool):
        commit(pool, 3)
        assert seen(url, tmp_path / "b") == rows(3)
        commit(pool, 2)
        pool.write_summary({"admitted": 5})
        assert seen(url, tmp_path / "b") == rows(3, 2)
        assert seen(url, tmp_path / "a") == rows(3, 2)  # the copy that is written
    assert json.loads((local(url, tmp_path / "c") / "summary.json").read_text()) == {"admitted": 5}


def test_another_machine_goes_on(url: str, tmp_path: Path):
    for number in range(4):
        with writing(url, tmp_path / str(number % 3)) as (_, pool):
            assert pool.next_round == number
            commit(pool, 2)
    assert seen(url, tmp_path / "1") == rows(2, 2, 2, 2)


def test_segments_take_the_place_of_rounds(url: str, tmp_path: Path):
    """And somebody who read before them does so again after them, without all that is in them twice."""
    with sizes(2, 4), writing(url, tmp_path / "a") as (copy, pool):
        for number in range(5):
            commit(pool, 2)
            pool.compact()
            assert seen(url, tmp_path / "b") == rows(*[2] * (number + 1))
        manifests = sorted(name for name in copy.store.listed("rounds") if name.endswith(".json"))
        assert manifests == ["rounds/000000-000003.json", "rounds/000004.json"]
        assert len(copy.store.listed("rounds")) == 2 * 5
    with writing(url, tmp_path / "c") as (_, pool):
        assert pool.next_round == 5
        commit(pool, 1)
    assert seen(url, tmp_path / "b") == rows(2, 2, 2, 2, 2, 1)


def test_round_whose_manifest_is_not_there_does_not_exist(url: str, tmp_path: Path):
    with writing(url, tmp_path / "a") as (copy, pool):
        commit(pool, 2)
        copy.store.write("rounds/000001/R-0000000000000000.parquet", b"half of it")
    assert seen(url, tmp_path / "b") == rows(2)
    with writing(url, tmp_path / "c") as (copy, pool):
        commit(pool, 1)
    with writing(url, tmp_path / "c") as (copy, pool):
        assert "rounds/000001/R-0000000000000000.parquet" not in copy.store.listed("rounds")
    assert seen(url, tmp_path / "b") == rows(2, 1)


def test_of_two_that_write_one_commits(url: str, tmp_path: Path):
    """The first has lost the pool to the second without noticing, and harms nothing."""
    with writing(url, tmp_path / "a") as (stale, pool):
        commit(pool, 2)
        hold = json.loads(stale.store.read("hold.json") or b"")
        stale.store.write("hold.json", json.dumps({**hold, "holder": ""}).encode())
        with writing(url, tmp_path / "b") as (_, other):
            commit(other, 3)
            with pytest.raises(RunDirError, match="committed by another process"):
                commit(pool, 4)
        assert pool.next_round == 1
    assert seen(url, tmp_path / "c") == rows(2, 3)
    assert seen(url, tmp_path / "a") == rows(2, 3)


def let_go(copy: Copy) -> None:
    """Have others take the pool over, as after a minute without a sign of life; who has it has not noticed."""
    hold = json.loads(copy.store.read("hold.json") or b"")
    copy.store.write("hold.json", json.dumps({**hold, "holder": ""}).encode())


def before(copy: Copy, method: str, do: Callable[[], None]) -> Callable[..., Any]:
    """Return a method of a copy's storage before which something happens, once: its request was under way for long."""
    original, done = getattr(copy.store, method), list[bool]()

    def late(*arguments: Any) -> Any:
        if not done:
            done.append(True)
            do()
        return original(*arguments)

    return late


def test_sweep_that_comes_late_removes_nothing_of_who_came_after(url: str, tmp_path: Path, monkeypatch):
    with writing(url, tmp_path / "a") as (stale, pool):
        commit(pool, 2)

        def meanwhile() -> None:
            let_go(stale)
            with sizes(2, 4), writing(url, tmp_path / "b") as (_, other):
                for _ in range(4):
                    commit(other, 3)
                    other.compact()

        monkeypatch.setattr(stale.store, "listed", before(stale, "listed", meanwhile))
        pool._clean()
    assert seen(url, tmp_path / "c") == rows(2, 3, 3, 3, 3)


def test_round_that_is_committed_late_has_its_files(url: str, tmp_path: Path, monkeypatch):
    """The files were there before the pool was taken over and opened, and the manifest came after that."""
    with writing(url, tmp_path / "a") as (stale, pool):
        commit(pool, 2)

        def meanwhile() -> None:
            let_go(stale)
            with writing(url, tmp_path / "b"):
                pass

        monkeypatch.setattr(stale.store, "create", before(stale, "create", meanwhile))
        commit(pool, 4)
    assert seen(url, tmp_path / "c") == rows(2, 4)
    with writing(url, tmp_path / "b") as (_, pool):
        commit(pool, 1)
    assert seen(url, tmp_path / "c") == rows(2, 4, 1)


def test_round_that_is_committed_between_taking_over_and_opening_stays(url: str, tmp_path: Path):
    with writing(url, tmp_path / "a") as (stale, pool):
        commit(pool, 2)
        let_go(stale)
        copy = Copy(url, tmp_path / "b")
        with copy.held(lambda text: None):
            commit(pool, 4)
            with opened(copy.run_dir, IDENTITY, copy) as other:
                assert other.next_round == 1
                with pytest.raises(RunDirError, match="committed by another process"):
                    commit(other, 1)
    assert seen(url, tmp_path / "c") == rows(2, 4)


def test_segment_of_who_was_taken_over_stays(url: str, tmp_path: Path):
    with sizes(2, 4), writing(url, tmp_path / "a") as (stale, pool):
        commit(pool, 2)
        commit(pool, 2)
        let_go(stale)
        with writing(url, tmp_path / "b") as (_, other):
            pool.compact()
            commit(other, 1)
            other._clean()
    assert seen(url, tmp_path / "c") == rows(2, 2, 1)


def test_run_that_was_begun_meanwhile_is_not_another(url: str, tmp_path: Path):
    first, second = Copy(url, tmp_path / "a"), Copy(url, tmp_path / "b")
    with first.held(lambda text: None):
        let_go(first)
        with second.held(lambda text: None), opened(second.run_dir, IDENTITY, second) as pool:
            commit(pool, 2)
        with pytest.raises(RunDirError, match=r"begun .* by another process"):
            opened(first.run_dir, {**IDENTITY, "seed": 5}, first).__enter__()
    assert seen(url, tmp_path / "c") == rows(2)
    assert json.loads((local(url, tmp_path / "c") / "run.json").read_text())["seed"] == IDENTITY["seed"]


def test_last_good_files_stay_where_the_storage_has_lost_them(url: str, tmp_path: Path):
    with writing(url, tmp_path / "a") as (copy, pool):
        commit(pool, 2)
    copy.store.remove([name for name in copy.store.listed("rounds/000000") if "/R-" in name])
    (copy._folder / "known").unlink()
    with pytest.raises(RunDirError, match="lacks files"):
        seen(url, tmp_path / "a")
    assert (copy.run_dir / "rounds" / "000000" / "R.parquet").exists()


def test_file_that_has_changed_here_is_fetched_again(url: str, tmp_path: Path):
    with writing(url, tmp_path / "a") as (copy, pool):
        commit(pool, 2)
    path = copy.run_dir / "rounds" / "000000" / "R.parquet"
    path.write_bytes(bytes(path.stat().st_size))
    with writing(url, tmp_path / "a"):
        pass
    assert seen(url, tmp_path / "a") == rows(2)
    path.unlink()
    assert seen(url, tmp_path / "a") == rows(2)


def test_connection_that_is_open_sees_what_it_saw(url: str, tmp_path: Path):
    """Segments that come meanwhile do not disturb it; where the pool has gone, who asks anew is told."""
    with sizes(2, 4), writing(url, tmp_path / "a") as (copy, pool):
        commit(pool, 2)
        connection = connect(local(url, tmp_path / "b"))
        commit(pool, 2)
        pool.compact()
        assert seen(url, tmp_path / "b") == rows(2, 2)
        assert connection.sql("SELECT count(*) FROM R").fetchone() == (2,)
    copy.store.remove(copy.store.listed())
    with pytest.raises(RunDirError, match="reads; end that process first"):
        seen(url, tmp_path / "b")
    assert connection.sql("SELECT count(*) FROM R").fetchone() == (2,)
    connection.close()


def test_other_storage_of_the_same_address_has_another_copy(url: str, tmp_path: Path, monkeypatch):
    with writing(url, tmp_path / "a") as (copy, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        assert Copy(url, tmp_path / "a").run_dir != copy.run_dir
        monkeypatch.undo()


def test_disk_that_is_full_is_named(url: str, tmp_path: Path):
    with writing(url, tmp_path / "a") as (_, pool):
        commit(pool, 2)
    (tmp_path / "b").write_text("no folder")
    with pytest.raises(RunDirError, match=r"copy of 's3://.*cannot be written .*set data_dir"):
        seen(url, tmp_path / "b")


def test_pool_that_is_written_here_is_in_use(url: str, tmp_path: Path):
    told = pytest.raises(RunDirError, match="in use by another process of this machine")
    with writing(url, tmp_path / "a"), told, writing(url, tmp_path / "a"):
        pass


def test_pool_that_is_written_elsewhere_is_in_use(url: str, tmp_path: Path):
    told = pytest.raises(RunDirError, match=r"in use by another process \(")
    with Copy(url, tmp_path / "a").held(lambda text: None, beat_s=0.2), told, writing(url, tmp_path / "b"):
        pass


@pytest.mark.parametrize("what", ["content", "file", "manifest"])
def test_damage_is_named(url: str, tmp_path: Path, what: str):
    with writing(url, tmp_path / "a") as (copy, pool):
        commit(pool, 2)
        commit(pool, 2)
        name = next(name for name in copy.store.listed("rounds/000000") if "/R-" in name)
        if what == "content":
            copy.store.write(name, b"x" * copy.store.listed("rounds/000000")[name].size)
        else:
            copy.store.remove([name if what == "file" else "rounds/000000.json"])
    told = {"content": "is damaged", "file": "lacks files of committed rounds", "manifest": "000000.json is missing"}
    with pytest.raises(RunDirError, match=f"{told[what]}.*restore") as error:
        seen(url, tmp_path / "b")
    assert url in str(error.value)


def test_copy_that_lost_bytes_gets_them_again(url: str, tmp_path: Path):
    """As after a power cut: nothing rests on it."""
    with writing(url, tmp_path / "a") as (copy, pool):
        commit(pool, 2)
    (copy.run_dir / "rounds" / "000000" / "R.parquet").write_bytes(b"")
    assert seen(url, tmp_path / "a") == rows(2)
    (copy.run_dir / "rounds" / "000000.json").unlink()
    assert seen(url, tmp_path / "a") == rows(2)


def test_pool_that_was_removed_is_gone_here_too(url: str, tmp_path: Path):
    with writing(url, tmp_path / "a") as (copy, pool):
        commit(pool, 2)
        commit(pool, 2)
    copy.store.remove(copy.store.listed())
    with pytest.raises(RunDirError, match="there is no run"):
        seen(url, tmp_path / "a")
    with writing(url, tmp_path / "a") as (_, pool):
        commit(pool, 1)
    assert seen(url, tmp_path / "a") == seen(url, tmp_path / "b") == rows(1)


def test_journal_of_a_run_that_is_no_more_is_not_that_of_the_next(url: str, tmp_path: Path):
    with writing(url, tmp_path / "a") as (copy, pool):
        commit(pool, 2)
        copy.journal.parent.mkdir()
        copy.journal.write_bytes(b"paid for the first\n")
    copy.store.remove(copy.store.listed())
    other = Copy(url, tmp_path / "b")
    with other.held(lambda text: None), opened(other.run_dir, {**IDENTITY, "seed": 5}, other) as pool:
        commit(pool, 1)
    with copy.held(lambda text: None):
        assert not copy.journal.exists()
    (left,) = copy.journal.parent.glob("left-*")
    assert left.read_bytes() == b"paid for the first\n"


def test_pool_that_was_put_back_is_what_it_was(url: str, tmp_path: Path):
    with writing(url, tmp_path / "a") as (copy, pool):
        commit(pool, 2)
        saved = {name: copy.store.read(name) for name in copy.store.listed()}
        commit(pool, 2)
    copy.store.remove(copy.store.listed())
    for name, content in saved.items():
        copy.store.write(name, content or b"")
    copy.store.remove(["hold.json"])
    assert seen(url, tmp_path / "a") == rows(2)


def test_names_and_places():
    assert name_of("s3://b/pools/bird/") == "bird"
    assert beside("s3://b/pools/bird") == Path("runs/bird").absolute()
    assert beside("/data/run") == Path("/data/run")


def test_nothing_is_lost_where_requests_fail(storage: Storage, tmp_path: Path):
    """A tenth of them, in any of the ways in which they do."""
    faults, url = Faults(share=0.1), storage.new_url()
    with faulty(storage, faults) as before, reached(before), sizes(2, 4):
        for number in range(3):
            with writing(url, tmp_path / str(number)) as (_, pool):
                for _ in range(3):
                    commit(pool, 2)
                    pool.compact()
    assert min(faults.counts[kind] for kind in ("busy", "dropped", "unanswered")) > 0
    assert seen(url, tmp_path / "c") == rows(*[2] * 9)


PROGRAM = """
import sys
from pathlib import Path
from tests.bucket.test_pool_copy import writing
from tests.test_compaction import sizes
from tests.test_pool import commit

url, data_dir, num_rounds = sys.argv[1:]
with sizes(2, 4), writing(url, Path(data_dir), dead_after_s=1) as (_, pool):
    print("opened", flush=True)
    while pool.next_round < int(num_rounds):
        commit(pool, 2)
        print(pool.next_round, flush=True)
        pool.compact()
"""


@pytest.mark.parametrize("num_kills", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_any_moment_where_requests_fail(storage: Storage, tmp_path: Path, num_kills: int):
    """What a process said was committed is there for all who come after it, on any machine, once."""
    rng = random.Random(5)
    faults, url, num_rounds, kills, committed = Faults(share=0.1), storage.new_url(), 24, 0, 0
    with faulty(storage, faults) as before, reached(before):
        for attempt in range(1_000):
            machine = tmp_path / str(attempt % 2)
            with subprocess.Popen(
                [sys.executable, "-c", PROGRAM, url, str(machine), str(num_rounds)],
                cwd=ROOT, stdout=subprocess.PIPE, text=True,
            ) as process:  # fmt: skip
                assert process.stdout is not None
                if kills < num_kills:
                    assert process.stdout.readline() == "opened\n" or process.poll() is not None
                    time.sleep(rng.uniform(0, 0.6))
                    process.send_signal(signal.SIGKILL)
                    kills += 1
                said = process.stdout.read().split()
            committed = max([committed, *map(int, filter(str.isdigit, said))])
            found = seen(url, tmp_path / "reader")
            assert len(found) >= 2 * committed
            assert found == rows(*[2] * (len(found) // 2))
            if kills >= num_kills or committed == num_rounds:
                if process.returncode == 0:
                    break
                if committed == num_rounds and kills < num_kills:
                    url, committed = storage.new_url(), 0
    assert kills == num_kills
    assert min(faults.counts[kind] for kind in ("busy", "dropped", "unanswered")) > 0
    assert seen(url, tmp_path / "c") == rows(*[2] * num_rounds)
    assert len([name for name in Store(url).listed("rounds") if name.endswith(".json")]) == num_rounds // 4
