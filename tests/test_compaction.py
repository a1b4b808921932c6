"""Rounds are put together into segments, and at every moment each committed row is there once, for everybody who reads."""

from __future__ import annotations

import itertools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayfactory import pool as pool_module
from rayfactory import segments
from rayfactory.errors import RunDirError
from rayfactory.pool import Pool, connect, opened, read_manifests
from rayfactory.segments import SIZES, due
from tests.test_pool import IDENTITY, commit, snapshot
from tests.trust.power_cut import TORN, contents, lay_out, recording

ROOT = Path(__file__).resolve().parents[1]
KILLS = int(os.environ.get("RAYFACTORY_KILLS", "100"))
SMALL = (2, 4)
"""Sizes with which a few rounds are enough."""


@contextmanager
def sizes(*small):
    """Have segments of other sizes, for the length of a with statement."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (segments, pool_module):
            patch.setattr(module, "SIZES", small)
        yield


def grow(pool, num_rows, num_rejects=1):
    """Commit a round as a run does, and put together what is due."""
    commit(pool, num_rows, num_rejects)
    pool.compact()


def parts(run_dir):
    """Return the names of what `rounds` holds, manifests and folders alike."""
    return sorted({path.name.removesuffix(".json") for path in (run_dir / "rounds").iterdir()})


def seen(run_dir):
    """Return everything that a reader sees, in the order in which it comes."""
    connection = connect(run_dir)
    return [connection.sql(f"SELECT * FROM {view}").fetchall() for view in ("R", "E", "rejects")]


def ids(rows):
    """Return the query_id of each row of R or E."""
    return [row[0] for row in rows]


def test_manifest_that_changes_while_a_run_goes_on_is_said_and_nothing_is_put_together(tmp_path):
    """Or what it says would be vouched for, and what it was would be removed."""
    with sizes(4), opened(tmp_path, IDENTITY) as pool:
        for _ in range(4):
            commit(pool, 2)
        path = tmp_path / "rounds" / "000002.json"
        path.write_text(path.read_text().replace('"num_rows": 2', '"num_rows": 3'))
        before = parts(tmp_path)
        with pytest.raises(RunDirError, match=r"000002\.json has changed .* restore it from a backup"):
            pool.compact()
        with pytest.raises(RunDirError, match=r"000002\.json has changed"):
            list(pool.manifests)
        assert parts(tmp_path) == before


def resumed(run_dir):
    """Return everything that a run which goes on sees."""
    with opened(run_dir, IDENTITY) as pool:
        last = pool.next_round - 1
        by_round = [[rows.to_pylist() for rows in pool.by_round(name, 0, last)] for name in ("R", "E", "S", "rejects")]
        some = [pool.rows(number, number, ["sql"]).to_pylist() for number in range(last + 1)]
        return pool.manifests, by_round, some, [table.to_pylist() for table in pool.compared(0, last)]


# -- which rounds are together -------------------------------------------------


@settings(max_examples=20)
@given(st.integers(0, 2_000))
def test_few_parts_and_little_writing(num_rounds):
    """However long a run is: fewer parts than sizes allow, and each round written once a size at most."""
    spans: list[tuple[int, int]] = []
    written: Counter[int] = Counter()
    for number in range(num_rounds):
        spans.append((number, number))
        if (number + 1) % SIZES[0] == 0 and (places := due(spans)) is not None:
            together = spans[places]
            spans[places] = [(together[0][0], together[-1][1])]
            written.update(range(together[0][0], together[-1][1] + 1))
    assert list(itertools.chain(*(range(first, last + 1) for first, last in spans))) == list(range(num_rounds))
    steps = [a // b for a, b in itertools.pairwise(reversed(SIZES))]
    assert len(spans) <= num_rounds // SIZES[-1] + sum(step - 1 for step in steps) + SIZES[0] - 1
    assert max(written.values(), default=0) <= len(SIZES)


def test_real_sizes(tmp_path):
    """72 rounds are two segments; the pool is the one that it would be without."""
    for name, grown in (("plain", commit), ("compacted", grow)):
        with opened(tmp_path / name, IDENTITY) as pool:
            for number in range(72):
                grown(pool, number % 5, number % 3)
    assert parts(tmp_path / "compacted") == ["000000-000063", "000064-000071"]
    assert len(parts(tmp_path / "plain")) == 72
    assert seen(tmp_path / "compacted") == seen(tmp_path / "plain")
    assert resumed(tmp_path / "compacted")[1:] == resumed(tmp_path / "plain")[1:]


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.booleans(), st.booleans()), max_size=20))
def test_pool_is_the_same_with_and_without(tmp_path_factory, rounds):
    """Rounds of any size, put together when it is time or later, with or without a restart: rows, their order, and all
    that a run which goes on knows.
    """
    folder = tmp_path_factory.mktemp("pool")
    with sizes(2, 4, 8), pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "ROWS_PER_GROUP", 3)
        patch.setattr(segments, "WIDE_ROWS_PER_GROUP", 2)
        plain, pool = Pool(folder / "plain", IDENTITY), Pool(folder / "compacted", IDENTITY)
        for num_rows, num_rejects, is_time, is_restarted in rounds:
            commit(plain, num_rows, num_rejects)
            commit(pool, num_rows, num_rejects)
            if is_time:
                pool.compact()
            if is_restarted:
                pool.close()
                pool = Pool(folder / "compacted", IDENTITY)
        for each in (plain, pool):
            each.close()
        assert seen(folder / "compacted") == seen(folder / "plain")
        kept, expected = resumed(folder / "compacted"), resumed(folder / "plain")
    assert kept[1:] == expected[1:]
    assert [(m.round, m.first_query_id, m.num_rows, m.plan, m.evaluation) for m in kept[0]] == [
        (m.round, m.first_query_id, m.num_rows, m.plan, m.evaluation) for m in expected[0]
    ]


def test_run_of_the_format_before_goes_on_without_segments(tmp_path):
    """It is read as it is, and stays what the release that began it can read."""
    with opened(tmp_path, IDENTITY) as pool:
        commit(pool, 3)
    identity = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(identity | {"format": 2}))
    with sizes(*SMALL), opened(tmp_path, IDENTITY) as pool:
        for _ in range(3):
            grow(pool, 2)
    assert parts(tmp_path) == ["000000", "000001", "000002", "000003"]
    assert ids(seen(tmp_path)[0]) == list(range(9))
    assert json.loads((tmp_path / "run.json").read_text())["format"] == 2


# -- crashes -------------------------------------------------------------------


def expect_whole(run_dir, num_rounds):
    """Check that a run directory has exactly the rows of its first rounds, one of these numbers of them; go on with it."""
    if not (run_dir / "run.json").exists():
        assert 0 in num_rounds
        return
    r, e, rejects = seen(run_dir)
    assert len(rejects) in num_rounds
    num_rows = 3 * len(rejects)
    assert ids(r) == ids(e) == list(range(num_rows))
    with opened(run_dir, IDENTITY) as pool:
        assert [pool.next_round, pool.num_rows] == [len(rejects), num_rows]
        grow(pool, 3)
        for name in ("R", "E", "S"):
            found = [rows["query_id"].to_pylist() for rows in pool.by_round(name, 0, len(rejects))]
            assert list(itertools.chain(*found)) == list(range(num_rows + 3))
        assert parts(run_dir) == sorted(part.name for part in pool._parts)


def cut_everywhere(record, committed, folder, begin=0):
    """Cut the power after each operation from one on: with all that was not synced, with none of it, with parts of it.

    Args:
        committed: after how many operations each round was there, by what the pool said.
    """
    rng = random.Random(begin)
    known: set[tuple[object, ...]] = set()
    for count in range(begin, len(record.operations) + 1):
        num_rounds = sum(count >= end for end in committed)
        for is_kept in (lambda: True, lambda: False, *[lambda: rng.random() < 0.5] * 2):
            state = record.after(count, is_kept)
            key = (num_rounds, *state.items())
            if key not in known:
                known.add(key)
                expect_whole(lay_out(state, folder), (num_rounds, num_rounds + 1))
    return len(known)


def check_model(record, root):
    """The model leaves nothing out: all of it laid out is what is there."""
    modelled, real = record.after(len(record.operations), lambda: True), contents(root)
    assert modelled.keys() == real.keys()
    assert all(content in (real[name], TORN) for name, content in modelled.items())
    assert [name for name, content in modelled.items() if content == TORN] == ["lock"]


def test_power_cut_after_any_operation(tmp_path):
    """Rounds that were committed are there, once each, whatever a cut leaves of what was not synced; and it goes on."""
    root = tmp_path / "run"
    root.mkdir()
    committed = []
    with sizes(*SMALL):
        with recording(root) as record, opened(root, IDENTITY) as pool:
            for _ in range(4):
                commit(pool, 3)
                committed.append(len(record.operations))
                pool.compact()
        assert parts(root) == ["000000-000003"]
        check_model(record, root)
        assert cut_everywhere(record, committed, tmp_path / "cut") > 100


class DiedError(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("rename", [1, 2])
def test_power_cut_after_a_process_that_died_between_rename_and_sync(tmp_path, rename):
    """The next process sees a segment that is not on the disk for certain, and makes that so before it removes anything."""
    root = tmp_path / "run"
    root.mkdir()
    committed, renames = [], 0

    def dying(source, target):
        nonlocal renames
        replace(source, target)
        if "-" in Path(target).name:
            renames += 1
            if renames == rename:
                raise DiedError

    with sizes(*SMALL):
        with recording(root) as record:
            replace = os.replace  # as it is recorded
            with suppress(DiedError), pytest.MonkeyPatch.context() as patch, opened(root, IDENTITY) as pool:
                patch.setattr(os, "replace", dying)
                for _ in range(4):
                    commit(pool, 3)
                    committed.append(len(record.operations))
                    pool.compact()
            assert renames == rename
            with opened(root, IDENTITY) as pool:
                assert pool.next_round == 2 * rename
        check_model(record, root)
        assert cut_everywhere(record, committed, tmp_path / "cut", begin=committed[-1]) > 10


WRITER = """
import sys
from pathlib import Path
from tests.test_compaction import SMALL, grow, sizes
from tests.test_pool import IDENTITY
from rayfactory.pool import opened
with sizes(*SMALL), opened(Path(sys.argv[1]), IDENTITY) as pool:
    print("ready", flush=True)
    for _ in range(int(sys.argv[2])):
        grow(pool, 3)
        print(pool.next_round, flush=True)
"""


def writer(run_dir, num_rounds=10_000):
    """Start a process that commits rounds and puts them together, and wait until it has the run."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(run_dir), str(num_rounds)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def kill_writers(run_dir, num_kills, seed):
    rng = random.Random(seed)
    for _ in range(num_kills):
        process = writer(run_dir)
        time.sleep(rng.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        said, _ = process.communicate()
        told = max(map(int, said.split()), default=0)
        r, e, rejects = seen(run_dir)
        assert len(rejects) >= told
        assert ids(r) == ids(e) == list(range(3 * len(rejects)))
    done = writer(run_dir, 8)
    assert done.wait() == 0
    with done:
        num_rounds = len(read_manifests(run_dir))
    assert len(parts(run_dir)) <= num_rounds // SMALL[1] + 2  # what a kill left undone is made up for
    assert ids(seen(run_dir)[0]) == list(range(3 * num_rounds))


def test_killed_writer_loses_nothing(tmp_path):
    """kill -9 while rounds are committed and put together, again and again: what it told of is there, once."""
    kill_writers(tmp_path / "run", 4, seed=3)


@pytest.mark.slow
def test_writer_killed_many_times_loses_nothing(tmp_path):
    """`RAYFACTORY_KILLS` times."""
    for number in range(max(1, KILLS // 20)):
        kill_writers(tmp_path / f"run{number}", 20, seed=number)


# -- readers -------------------------------------------------------------------

READER = """
import sys
from tests.test_compaction import connect
connection = connect(sys.argv[1])
relation = connection.sql("SELECT query_id FROM R")
if "relation" in sys.argv:
    del connection
print("connected", flush=True)
sys.stdin.readline()
if "relation" not in sys.argv:
    relation = connection.sql("SELECT query_id FROM R")
print(sorted(row[0] for row in relation.fetchall()), flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("what", ["connection", "relation"])
def test_reader_in_another_process_keeps_what_it_has_listed(tmp_path, what):
    """Its files are opened with each query, and are there until it ends; a relation outlives its connection.

    Meanwhile the run goes on, and others see what it has put together.
    """
    with sizes(*SMALL), opened(tmp_path, IDENTITY) as pool:
        commit(pool, 3)
        commit(pool, 3)
        with subprocess.Popen(
            [sys.executable, "-c", READER, str(tmp_path), what], cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as reader:  # fmt: skip
            assert reader.stdin
            assert reader.stdout
            assert reader.stdout.readline() == "connected\n"
            pool.compact()
            assert parts(tmp_path) == ["000000", "000000-000001", "000001"]
            for _ in range(4):
                grow(pool, 3)
            # What it holds takes room once: nothing more is put together while it does.
            assert parts(tmp_path) == ["000000", "000000-000001", *(f"{number:06d}" for number in range(1, 6))]
            assert ids(seen(tmp_path)[0]) == list(range(18))
            reader.stdin.write("\n")
            reader.stdin.flush()
            assert reader.stdout.readline() == f"{list(range(6))}\n"
        grow(pool, 3)
        grow(pool, 3)
        assert parts(tmp_path) == ["000000-000003", "000004", "000005", "000006", "000007"]
        assert ids(seen(tmp_path)[0]) == list(range(24))


def test_process_that_opens_the_run_leaves_readers_their_files(tmp_path):
    """What a killed run has left to be removed stays as long as it is read, and goes after that."""
    with sizes(*SMALL), opened(tmp_path, IDENTITY) as pool:
        commit(pool, 3)
        commit(pool, 3)
        connection = connect(tmp_path)
        pool.compact()
    for _ in range(2):
        with sizes(*SMALL), opened(tmp_path, IDENTITY) as pool:
            assert pool.num_rows == 6
        assert connection.sql("SELECT count(DISTINCT query_id) FROM R").fetchone() == (6,)
    cursor = connection.cursor()
    del connection
    with opened(tmp_path, IDENTITY):
        assert cursor.sql("SELECT count(*) FROM E").fetchone() == (6,)
    cursor.close()
    with opened(tmp_path, IDENTITY):
        assert parts(tmp_path) == ["000000-000001"]


def test_readers_beside_a_writer_always_see_whole_rounds(tmp_path):
    """Connecting while rounds are committed, put together and removed: whole rounds, each once, and never fewer."""
    run_dir = tmp_path / "run"
    with writer(run_dir, 60) as process:
        last = 0
        while process.poll() is None:
            r, e, rejects = seen(run_dir)
            assert ids(r) == ids(e) == list(range(3 * len(rejects)))
            manifests = read_manifests(run_dir)
            assert len(manifests) >= len(rejects) >= last
            last = len(rejects)
    assert process.returncode == 0
    assert len(seen(run_dir)[2]) == 60


# -- what else may go wrong ----------------------------------------------------


@contextmanager
def files_no_larger_than(num_bytes):
    """Have the system refuse larger files, as a full disk would, for the length of a with statement."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_segment_that_cannot_be_written_leaves_the_rounds(tmp_path):
    """It says so and removes what it began, at any size that a file may have; later it is made up for."""
    with sizes(*SMALL), opened(tmp_path, IDENTITY) as pool:
        for _ in range(4):
            commit(pool, 3)
        before = snapshot(tmp_path)
        largest = 2 * max(len(content) for content in before.values())
        for limit in range(0, largest, largest // 20):
            with files_no_larger_than(limit), suppress(RunDirError):
                pool.compact()
                break
            assert snapshot(tmp_path) == before
            with files_no_larger_than(limit), pytest.raises(RunDirError, match=r"put together .*File too large"):
                pool.compact()
            assert snapshot(tmp_path) == before
        assert limit > largest // 10
        assert parts(tmp_path) == ["000000-000003"]
        grow(pool, 3)
        assert ids(seen(tmp_path)[0]) == list(range(15))


def test_damage_is_not_copied_into_a_segment(tmp_path):
    """A file that has changed on the disk is named, and everything stays."""
    with sizes(*SMALL), opened(tmp_path, IDENTITY) as pool:
        commit(pool, 3)
        commit(pool, 3)
        path = tmp_path / "rounds" / "000001" / "S.parquet"
        whole = path.read_bytes()
        path.write_bytes(whole[:100] + b"!" + whole[101:])
        with pytest.raises(RunDirError, match=r"000001/S\.parquet is damaged"):
            pool.compact()
        assert parts(tmp_path) == ["000000", "000001"]
        path.write_bytes(whole)
        pool.compact()
        assert parts(tmp_path) == ["000000-000001"]


@pytest.mark.parametrize("name", ["R", "E", "S", "rejects"])
def test_damaged_and_missing_files_of_a_segment_are_named(tmp_path, name):
    with sizes(*SMALL), opened(tmp_path, IDENTITY) as pool:
        for _ in range(2):
            grow(pool, 3)
    path = tmp_path / "rounds" / "000000-000001" / f"{name}.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RunDirError, match=rf"000000-000001/{name}\.parquet is damaged"):
        Pool(tmp_path, IDENTITY)
    path.unlink()
    with pytest.raises(RunDirError, match=rf"000000-000001/{name}\.parquet is missing"):
        connect(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"rounds": [], "num_rejects": [], "files": {}}', "null"])
def test_damaged_manifest_of_a_segment_is_named(tmp_path, content):
    with sizes(*SMALL), opened(tmp_path, IDENTITY) as pool:
        for _ in range(2):
            grow(pool, 3)
    (tmp_path / "rounds" / "000000-000001.json").write_text(content)
    with pytest.raises(RunDirError, match=r"000000-000001\.json cannot be read"):
        read_manifests(tmp_path)


@pytest.mark.parametrize("lost", ["000000-000001", "000002"])
def test_lost_manifest_is_named_and_what_comes_after_it_is_kept(tmp_path, lost):
    """Rounds after a gap are no leftovers of a crash, and are not taken for some."""
    with sizes(*SMALL), opened(tmp_path, IDENTITY) as pool:
        for _ in range(2):
            grow(pool, 3)
        for _ in range(2):
            commit(pool, 3)
    (tmp_path / "rounds" / f"{lost}.json").unlink()
    before = snapshot(tmp_path)
    for use in (connect, lambda run_dir: Pool(run_dir, IDENTITY)):
        with pytest.raises(RunDirError, match=rf"{lost[:6]}\.json is missing; restore it"):
            use(tmp_path)
    assert snapshot(tmp_path) == before


def test_memory_is_bounded_by_the_groups_of_rows(tmp_path, monkeypatch):
    """A segment is written, and read round by round, some rows at a time, however many it has."""
    import pyarrow as pa

    from rayfactory.records import E_SCHEMA

    rows = 100
    table = pa.table(
        {"query_id": range(rows), "database": ["d"] * rows, "vector": [[float(i)] * 384 for i in range(rows)]},
        schema=E_SCHEMA,
    )
    sources = [tmp_path / f"{number}.parquet" for number in range(200)]
    for source in sources:
        pa.parquet.write_table(table, source)
    for name in ("ROWS_PER_GROUP", "WIDE_ROWS_PER_GROUP"):
        monkeypatch.setattr(segments, name, 10 * rows)
    # What is read, what was read before it, and what the reader and the writer need beside them.
    bound = 6 * 10 * table.nbytes
    assert bound < len(sources) * table.nbytes / 3
    before = pa.total_allocated_bytes()
    most = 0

    class Watching(list[Path]):
        def __iter__(self):
            nonlocal most
            for each in super().__iter__():
                most = max(most, pa.total_allocated_bytes() - before)
                yield each

    counts = segments.put_together(Watching(sources), tmp_path / "segment.parquet", E_SCHEMA)
    assert counts == [rows] * len(sources)
    assert most < bound
    most = 0
    read = segments.read_rounds(tmp_path / "segment.parquet", E_SCHEMA, counts, 0, len(sources) - 1)
    for number, found in enumerate(read):
        assert found.num_rows == rows, number
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < bound
