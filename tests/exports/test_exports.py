"""A pool in the form that another tool reads: every row once, nothing of test in train, and inert where it is opened."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayfactory.__main__ import main
from rayfactory.exports import formats
from rayfactory.exports import rows as rows_module
from rayfactory.exports.rows import chosen, skeletons_of
from rayfactory.manifests import PlannedRequest
from rayfactory.pool import connect, opened
from rayfactory.records import R_SCHEMA, Evaluation
from rayfactory.validate import FORMATS, SPLITS
from tests.exports.pools import EVIL, QUERIES, ROUNDS, exported, only_shop
from tests.test_pool import IDENTITY, round_tables


def ids_of(out: Path, name: str) -> list[int]:
    """Return the query_id of every row of an export, in the order of its files."""
    if name == "csv":
        return [int(row["query_id"]) for path in files(out, "*.csv") for row in csv.DictReader(path.open(newline=""))]
    if name == "huggingface":
        return [i for path in files(out, "data/*.parquet") for i in pq.read_table(path)["query_id"].to_pylist()]
    if name in ("jsonl", "sql", "workload"):
        lines = [line for path in files(out, "*.jsonl") for line in path.read_text("utf-8").splitlines()]
        return [json.loads(line)["query_id"] for line in lines]
    if name in ("bird", "spider"):
        rows = [json.loads(line) for line in (out / "provenance.jsonl").read_text("utf-8").splitlines()]
        return [row["query_id"] for split in ("test", "train") for row in rows if row["split"] == split]
    return [row["query_id"] for path in files(out, "t*.json") for row in json.loads(path.read_text("utf-8"))]


def files(out: Path, pattern: str) -> list[Path]:
    return sorted(out.glob(pattern))


def test_every_format_is_made():
    assert set(formats.FORMATS) == set(FORMATS)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", [each for each in FORMATS if each not in ("workload", "alpaca", "sharegpt")])
def test_every_row_is_exported_once(run_dir: Path, tmp_path: Path, name: str, split: str):
    """Whatever the form and the split."""
    out = exported(run_dir, tmp_path, name, f"split={split}", "test_share=0.3")
    assert sorted(ids_of(out, name)) == list(range(ROUNDS * len(QUERIES)))


@pytest.mark.parametrize(("split", "column"), [("skeleton", "skeleton"), ("database", "database")])
def test_nothing_of_test_is_in_train(run_dir: Path, tmp_path: Path, split: str, column: str):
    out = exported(run_dir, tmp_path, "jsonl", f"split={split}", "test_share=0.3")
    groups = {
        part: {json.loads(line)[column] for line in (out / f"{part}.jsonl").read_text("utf-8").splitlines()}
        for part in ("train", "test")
    }
    assert groups["train"]
    assert groups["test"]
    assert not groups["train"] & groups["test"]


def test_queries_that_differ_in_names_and_constants_have_one_skeleton():
    found = skeletons_of([(sql, "sqlite") for sql in QUERIES] + [("SELEC nothing", "sqlite")])
    assert found[0] == found[1]
    assert found[2] == found[3]
    assert len(set(found)) == len(found) - 2


@given(
    st.dictionaries(st.text(max_size=5), st.integers(1, 30), min_size=1, max_size=12),
    st.floats(0, 1),
    st.integers(0, 9),
)
def test_test_split_is_whole_groups_that_fit(sizes: dict[str, int], share: float, seed: int):
    """At most the share, and no other group would fit; the same seed chooses the same."""
    groups = Counter(sizes)
    test = chosen(groups, share, seed)
    taken = sum(sizes[group] for group in test)
    assert taken <= share * groups.total() + 1e-9
    assert all(taken + size > share * groups.total() - 1e-9 for group, size in sizes.items() if group not in test)
    assert chosen(groups, share, seed) == test


def test_large_pool_is_taken_apart_in_processes(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    alone = exported(run_dir, tmp_path, "jsonl", "split=skeleton").joinpath("train.jsonl").read_bytes()
    monkeypatch.setattr(rows_module, "ROWS_AT_ONCE", 5)
    (tmp_path / "other").mkdir()
    assert (
        exported(run_dir, tmp_path / "other", "jsonl", "split=skeleton").joinpath("train.jsonl").read_bytes() == alone
    )


def test_rows_are_those_of_the_beginning(run_dir: Path, tmp_path: Path):
    """A run goes on while it is exported: what it adds is for the next export."""
    own = only_shop(run_dir, tmp_path)
    rows = rows_module.Rows(own, "skeleton", 0.3, 0, print)
    with opened(own, {**IDENTITY, "benchmark": "custom"}) as pool:
        evaluation = Evaluation(1, "GEN", 2, 1.0, 1.0, None, {}, {"d": 1}, {"d": 2})
        pool.commit(
            round_tables(len(QUERIES), 2, 1, 1), [PlannedRequest("generation", "d", ("t",), 2)], evaluation, 2.0
        )
    found = list(rows)
    assert [row.values["query_id"] for row in found] == list(range(len(QUERIES)))
    assert Counter(row.split for row in found) == rows.splits
    rows.close()


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_export_that_does_not_get_to_its_end_leaves_nothing(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, capsys
):
    """Not a part of it; and what others have there stays."""

    def fail(*_: object) -> None:
        raise failure

    kept = tmp_path / "out.partial"
    kept.mkdir()
    monkeypatch.setattr(formats.JSONLines, "close", fail)
    assert main(["task=export", f"run_dir={run_dir}", f"output={tmp_path / 'out'}"]) in (2, 130)
    assert list(tmp_path.iterdir()) == [kept]
    assert "Traceback" not in capsys.readouterr().err


def test_columns_of_the_pool_are_kept(run_dir: Path, tmp_path: Path):
    """JSON lines and Parquet have every column as the pool has it."""
    rows = connect(run_dir).sql("SELECT * FROM R ORDER BY query_id").to_arrow_table().to_pylist()
    lines = exported(run_dir, tmp_path, "jsonl").joinpath("train.jsonl").read_text("utf-8").splitlines()
    table = pq.read_table(exported(run_dir, tmp_path, "huggingface") / "data" / "train.parquet")
    for found in ([json.loads(line) for line in lines], table.to_pylist()):
        assert [{name: row[name] for name in R_SCHEMA.names} for row in found] == rows


@pytest.mark.parametrize("name", FORMATS)
def test_every_row_says_where_it_is_from(run_dir: Path, tmp_path: Path, name: str):
    """Round, team, model, prompt and seeds."""
    if formats.FORMATS[name].needs_schemas:
        # Of the database that is no file there is no schema.
        out = exported(only_shop(run_dir, tmp_path), tmp_path, name, "benchmark")
    else:
        out = exported(run_dir, tmp_path, name)
    if name == "huggingface":
        (row, *_) = pq.read_table(out / "data" / "train.parquet").to_pylist()
    elif name == "csv":
        (row, *_) = csv.DictReader((out / "train.csv").open(newline=""))
    elif name in ("jsonl", "sql", "workload", "bird", "spider"):
        (path,) = out.glob("*.jsonl")
        row = json.loads(path.read_text("utf-8").splitlines()[0])
    else:
        (row, *_) = json.loads((out / "train.json").read_text("utf-8"))
    assert {"query_id", "round", "origin", "model", "prompt_sha256", "seed_ids", "cost_usd"} <= set(row)


def test_sql_files_run(run_dir: Path, tmp_path: Path):
    """The script that comes with them runs them, and marks what returns something else than when it was made."""
    out = exported(run_dir, tmp_path, "sql")
    names = {path.relative_to(out).parts[1] for path in out.glob("train/*/*.sql")}
    assert len(names) == 2
    assert all(name.replace("_", "").isalnum() for name in names)
    script = [sys.executable, str(out / "run.py")]
    done = subprocess.run(
        [*script, f"shop={run_dir.parent / 'shop.sqlite'}"], capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    assert len(lines) == (ROUNDS - 1) * len(QUERIES)
    assert "error" not in done.stdout
    assert all("was 0 rows" in line for line in lines)  # as the made-up pool has it
    assert done.returncode != 0
    bare = subprocess.run(script, capture_output=True, text=True, check=False)
    assert bare.returncode != 0
    assert "python run.py DATABASE=FILE" in bare.stderr


def test_spreadsheet_calculates_nothing(run_dir: Path, tmp_path: Path):
    """A name that begins like a formula is a text; what is in it stays."""
    with exported(run_dir, tmp_path, "csv").joinpath("train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["database"] for row in rows} == {"shop", f"'{EVIL}"}
    assert {row["sql"] for row in rows} == set(QUERIES)


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", " =1", "\t=1", "\r=1", "|x", "%x", "\n=cmd"])
def test_formula_is_inert(text: str):
    assert formats.inert(text) == f"'{text}"
    assert formats.inert(5) == 5
    assert formats.inert("SELECT 1") == "SELECT 1"


def test_workload_has_a_query_for_each_skeleton_with_its_weight(run_dir: Path, tmp_path: Path):
    lines = exported(run_dir, tmp_path, "workload").joinpath("workload.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert sum(row["weight"] for row in rows) == ROUNDS * len(QUERIES)
    assert len({row["skeleton"] for row in rows}) == len(rows) == len(QUERIES) - 2


def test_card_is_filled_from_the_run(run_dir: Path, tmp_path: Path):
    card = (
        exported(run_dir, tmp_path, "huggingface", "split=skeleton", "test_share=0.4")
        .joinpath("README.md")
        .read_text("utf-8")
    )
    front = card.split("---")[1]
    assert "data/train.parquet" in front
    assert "data/test.parquet" in front
    assert "n<1K" in front
    assert "| executability | 0.875 |" in card
    assert "made by rayfactory 9.8.7 with seed 0" in card
    assert "Written by: m." in card


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=export"], "run_dir=FOLDER"),
        (["task=export", "run_dir=/no/such/run"], "no run in run_dir"),
        (["task=export", "run_dir={run}", "format=xml"], "format"),
        (["task=export", "run_dir={run}", "split=random"], "split"),
        (["task=export", "run_dir={run}", "test_share=2"], "test_share"),
        (["task=export", "run_dir={run}", "format=alpaca"], r"\+benchmark=NAME"),
        (["task=export", "run_dir={run}", "output={run}"], "stays as it is"),
        (["task=export", "run_dir={run}", "output={run}/run.json/x"], "cannot be written"),
    ],
)
def test_what_is_wrong_is_said_with_the_remedy(run_dir, words, message, capsys):
    before = sorted(run_dir.rglob("*"))
    assert main([word.replace("{run}", str(run_dir)) for word in words]) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert re.search(message, told), told
    assert sorted(run_dir.rglob("*")) == before


def test_split_that_is_empty_is_told(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    exported(run_dir, tmp_path, "jsonl", "split=skeleton", "test_share=0.01")
    assert "All of them are in train" in capsys.readouterr().err


def test_folder_is_in_the_run_where_none_is_named(run_dir: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["task=export", f"run_dir={run_dir}", "split=database"]) == 0
    assert (run_dir / "exports" / "jsonl-database" / "train.jsonl").is_file()
    assert "28 queries" in capsys.readouterr().err
