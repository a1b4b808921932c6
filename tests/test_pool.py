"""A round is in the pool in full or not at all, and stays as it is."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rayfactory.errors import RunDirError
from rayfactory.identity import check_run_dir
from rayfactory.manifests import PlannedRequest
from rayfactory.pool import Pool, connect, opened, read_manifests
from rayfactory.records import E_SCHEMA, R_SCHEMA, REJECTS_SCHEMA, S_SCHEMA, Evaluation
from tests.conftest import as_nobody

IDENTITY = {"benchmark": "tpcds", "seed": 0, "config_sha256": "abc"}


def round_tables(first_id, num_rows, num_rejects=1, number=0):
    r = {name: [0] * num_rows for name in R_SCHEMA.names} | {
        "query_id": list(range(first_id, first_id + num_rows)), "database": ["d"] * num_rows,
        "dialect": ["duckdb"] * num_rows, "sql": [f"SELECT {first_id + i}" for i in range(num_rows)],
        "tables": [["t"]] * num_rows, "origin": ["generation"] * num_rows, "round": [number] * num_rows,
        "model": ["m"] * num_rows, "prompt_sha256": [""] * num_rows, "seed_ids": [[]] * num_rows,
        "similarity": [None] * num_rows, "nearest_id": [None] * num_rows, "nearest_similarity": [None] * num_rows,
    }  # fmt: skip
    e = {
        "query_id": r["query_id"],
        "database": r["database"],
        "vector": [np.full(4, i, np.float32) for i in range(num_rows)],
    }
    compared = {
        **{name: e[name] for name in ("query_id", "database")},
        "words": ["1 select"] * num_rows,
        "labels": [[7, 8]] * num_rows,
        "leftmost": [[0, 0]] * num_rows,
        "canonical_digest": [bytes(16)] * num_rows,
    }
    rejects = [
        {
            "database": "d",
            "sql": "SELEC",
            "origin": "generation",
            "round": number,
            "reason": "parse",
            "detail": "",
            "model": "m",
        }
    ] * num_rejects
    return {
        "R": pa.table(r, schema=R_SCHEMA),
        "E": pa.table(e, schema=E_SCHEMA),
        "S": pa.table(compared, schema=S_SCHEMA),
        "rejects": pa.Table.from_pylist(rejects, schema=REJECTS_SCHEMA),
    }


def commit(pool, num_rows, num_rejects=1):
    number = pool.next_round
    evaluation = Evaluation(number, "GEN", num_rows, 1.0, 1.0, None, {}, {"d": 1}, {"d": num_rows})
    plan = [PlannedRequest("generation", "d", ("t", "u"), 10)]
    return pool.commit(round_tables(pool.num_rows, num_rows, num_rejects, number), plan, evaluation, 1.5)


def snapshot(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_committed_rounds_are_visible_through_duckdb(tmp_path):
    with opened(tmp_path / "run", IDENTITY) as pool:
        commit(pool, 3)
        commit(pool, 2, num_rejects=4)
    connection = connect(tmp_path / "run")
    assert connection.sql("SELECT list(query_id ORDER BY query_id) FROM R").fetchone() == ([0, 1, 2, 3, 4],)
    assert connection.sql("SELECT count(*) FROM E").fetchone() == (5,)
    assert connection.sql("SELECT count(*), any_value(reason) FROM rejects").fetchone() == (5, "parse")
    assert connection.sql("SELECT * FROM R").columns == R_SCHEMA.names
    assert connection.sql("SELECT * FROM E").columns == E_SCHEMA.names
    assert connection.sql("SELECT * FROM rejects").columns == REJECTS_SCHEMA.names


def test_run_without_rounds_has_empty_views(tmp_path):
    Pool(tmp_path, IDENTITY).close()
    connection = connect(tmp_path)
    for name, schema in {"R": R_SCHEMA, "E": E_SCHEMA, "rejects": REJECTS_SCHEMA}.items():
        relation = connection.sql(f"SELECT * FROM {name}")
        assert relation.fetchall() == []
        assert relation.columns == schema.names


def test_round_without_rows_can_be_committed(tmp_path):
    with opened(tmp_path, IDENTITY) as pool:
        commit(pool, 0)
        commit(pool, 2)
    assert connect(tmp_path).sql("SELECT min(query_id), count(*) FROM R").fetchone() == (0, 2)


def test_reopened_run_goes_on_where_it_was(tmp_path):
    with opened(tmp_path, IDENTITY) as pool:
        first = commit(pool, 3)
    with opened(tmp_path, IDENTITY) as pool:
        assert list(pool.manifests) == [first]
        assert (pool.next_round, pool.num_rows, pool.wall_s) == (1, 3, 1.5)
        assert pool.rows(0, 0)["query_id"].to_pylist() == [0, 1, 2]
        signatures, vectors = pool.compared(0, 0)
        assert signatures["words"].to_pylist() == ["1 select"] * 3
        assert vectors["vector"].to_pylist()[1] == [1.0] * 4


def test_what_was_not_committed_is_removed_and_never_read(tmp_path):
    """Files of a round without a manifest, torn or whole, do not exist for a reader and go when the run is reopened."""
    with opened(tmp_path, IDENTITY) as pool:
        commit(pool, 3)
    before = snapshot(tmp_path)
    shutil.copytree(tmp_path / "rounds" / "000000", tmp_path / "rounds" / "000001")
    (tmp_path / "rounds" / "000001" / "E.parquet").write_bytes(b"PAR1 torn")
    (tmp_path / "rounds" / "000001.json.partial").write_text("{")
    assert connect(tmp_path).sql("SELECT count(*) FROM R").fetchone() == (3,)
    with opened(tmp_path, IDENTITY) as pool:
        assert pool.num_rows == 3
    assert snapshot(tmp_path) == before


def test_every_prefix_of_a_commit_leaves_a_readable_pool(tmp_path):
    """A process that dies at any of its file operations leaves the round before it, or the whole new one."""
    script = """
import sys; sys.path[:0] = [{root!r}, {tests!r}]
import os, test_pool
from pathlib import Path
from rayfactory.pool import Pool
pool = Pool(Path({run!r}), test_pool.IDENTITY)
left = int(sys.argv[1])
def dying(function):
    def wrapper(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return function(*args, **kwargs)
    return wrapper
for name in ("fsync", "mkdir", "rename", "replace", "open", "close"):
    setattr(os, name, dying(getattr(os, name)))
test_pool.commit(pool, 2)
os._exit(0)
"""
    counts = []
    for steps in range(60):
        run = tmp_path / f"run{steps}"
        with opened(run, IDENTITY) as pool:
            commit(pool, 3)
        code = script.format(root=str(Path(__file__).parents[1]), tests=str(Path(__file__).parent), run=str(run))
        done = subprocess.run([sys.executable, "-c", code, str(steps)], check=False)
        with opened(run, IDENTITY) as pool:
            counts.append(pool.num_rows)
            rows = connect(run).sql("SELECT count(*), count(DISTINCT query_id) FROM R").fetchone()
            assert rows == (pool.num_rows, pool.num_rows)
        if done.returncode == 0:
            break
    assert done.returncode == 0
    assert counts == sorted(counts)
    assert set(counts) == {3, 5}


def test_second_process_is_kept_off(tmp_path):
    with opened(tmp_path, IDENTITY), pytest.raises(RunDirError, match="in use by another process"):
        Pool(tmp_path, IDENTITY)


def test_other_runs_directory_is_refused_and_left_alone(tmp_path):
    with opened(tmp_path, IDENTITY) as pool:
        commit(pool, 3)
    before = snapshot(tmp_path)
    with pytest.raises(RunDirError, match=r"seed was 0, now 1.*choose another run_dir"):
        Pool(tmp_path, IDENTITY | {"seed": 1})
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"settings": {"critic": {"max_similarity": 0.8}}}, r"\(critic.max_similarity was 0.85, now 0.8\)"),
        ({"settings": {"critic": {}}}, r"\(critic.max_similarity was 0.85, now None\)"),
        ({"fingerprints": {"a": "2", "b": "1"}}, "\\(database 'a' has changed since\\)"),
        ({"fingerprints": {"a": "1"}}, "\\(database 'b' is not in it any more\\)"),
        ({"fingerprints": {"a": "1", "b": "1", "c": "1"}}, "\\(database 'c' was not in it\\)"),
        ({"settings": {str(i): i for i in range(9)}}, "and 4 more"),
        ({}, "its settings were others"),
    ],
)
def test_what_sets_two_runs_apart_is_told_by_name(tmp_path, now, said):
    """A digest says nothing to a person."""
    parts = {"settings": {"critic": {"max_similarity": 0.85}}, "fingerprints": {"a": "1", "b": "1"}}
    with opened(tmp_path, IDENTITY | parts) as pool:
        commit(pool, 3)
    with pytest.raises(RunDirError, match=said):
        Pool(tmp_path, IDENTITY | parts | {"config_sha256": "def"} | now)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"models": {"strong": {"name": "a", "constrained": False}}, "prompts": "e"},
            "the prompt templates have changed",
        ),
        (
            {"models": {"strong": {"name": "b", "constrained": False}}, "prompts": "d"},
            "models.strong.name was 'a', now 'b'",
        ),
        (
            {"models": {"local": {"name": "a", "constrained": False}}, "prompts": "d"},
            "models.strong is no longer used, models.local was not used before",
        ),
        ({"models": {}}, "models.strong is no longer used"),
    ],
)
def test_other_models_and_prompts_are_told_as_a_person_would(tmp_path, settings, said):
    """A model that is not used any more has no name, and a digest of templates says nothing."""
    known = {"settings": {"models": {"strong": {"name": "a", "constrained": False}}, "prompts": "d"}}
    with opened(tmp_path, IDENTITY | known) as pool:
        commit(pool, 3)
    with pytest.raises(RunDirError, match=re.escape(f"({said})")):
        Pool(tmp_path, IDENTITY | {"config_sha256": "def", "settings": settings})


def test_run_without_a_committed_round_may_become_another(tmp_path):
    """A setting that was mistyped in the first attempt does not cost the directory."""
    Pool(tmp_path, IDENTITY).close()
    with opened(tmp_path, IDENTITY | {"seed": 1}) as pool:
        commit(pool, 3)
    with pytest.raises(RunDirError, match="seed was 1, now 0"):
        Pool(tmp_path, IDENTITY)


def test_start_that_was_cut_off_can_be_repeated(tmp_path):
    (tmp_path / "run.json.partial").write_text("{")
    with opened(tmp_path, IDENTITY) as pool:
        commit(pool, 3)


def test_damaged_file_of_a_committed_round_is_named(tmp_path):
    with opened(tmp_path, IDENTITY) as pool:
        commit(pool, 3)
    path = tmp_path / "rounds" / "000000" / "R.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunDirError, match=r"R\.parquet is damaged"):
        Pool(tmp_path, IDENTITY)


def test_path_with_wildcards_means_itself(tmp_path):
    for name, num_rows in (("r*x", 2), ("rZx", 3), ("r[Z]x", 4), ("r?x", 1)):
        with opened(tmp_path / name, IDENTITY) as pool:
            commit(pool, num_rows)
    for name, num_rows in (("r*x", 2), ("rZx", 3), ("r[Z]x", 4), ("r?x", 1)):
        assert connect(tmp_path / name).sql("SELECT count(*) FROM R").fetchone() == (num_rows,)


def test_file_as_run_dir_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(RunDirError, match="is a file"):
        Pool(path, IDENTITY)
    assert path.read_text() == "mine"


def test_directory_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(RunDirError, match="holds other files"):
        Pool(tmp_path, IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_directory_that_cannot_be_written_is_refused(open_path):
    """Where the run directory would have to be made, and where it is there already; nothing is changed."""
    run_dir = open_path / "run"
    open_path.chmod(0o555)
    with as_nobody(), pytest.raises(RunDirError, match="not writable"):
        check_run_dir(run_dir, IDENTITY)
    open_path.chmod(0o755)
    with opened(run_dir, IDENTITY) as pool:
        commit(pool, 3)
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    for path in before:
        path.chmod(0o555 if path.is_dir() else 0o444)
    run_dir.chmod(0o555)
    with as_nobody(), pytest.raises(RunDirError, match="not writable"), opened(run_dir, IDENTITY):
        raise AssertionError("it was opened")
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format": 99}'])
def test_damaged_identity_is_named(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunDirError, match=r"run\.json|format"):
        Pool(tmp_path, IDENTITY)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"round": 0}'])
def test_damaged_manifest_is_named(tmp_path, content):
    with opened(tmp_path, IDENTITY) as pool:
        commit(pool, 3)
    (tmp_path / "rounds" / "000000.json").write_text(content)
    with pytest.raises(RunDirError, match=r"000000\.json"):
        list(read_manifests(tmp_path))


def test_missing_file_of_a_committed_round_is_named(tmp_path):
    with opened(tmp_path, IDENTITY) as pool:
        commit(pool, 3)
    (tmp_path / "rounds" / "000000" / "E.parquet").unlink()
    with pytest.raises(RunDirError, match=r"E\.parquet is missing"):
        connect(tmp_path)


def test_folder_without_a_run_cannot_be_connected_to(tmp_path):
    with pytest.raises(RunDirError, match="no run"):
        connect(tmp_path / "nowhere")


def test_path_with_quotes_works(tmp_path):
    run = tmp_path / 'o\'neil "x"'
    with opened(run, IDENTITY) as pool:
        commit(pool, 3)
    assert connect(run).sql("SELECT count(*) FROM R").fetchone() == (3,)


def test_summary_is_replaced_whole(tmp_path):
    with opened(tmp_path, IDENTITY) as pool:
        pool.write_summary({"admitted": 1})
        pool.write_summary({"admitted": 2})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"admitted": 2}
