"""A pool in the form that another tool reads: every row once, nothing of test in train, and inert where it is opened."""

from __future__ import annotations

import csv
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayfactory.__main__ import main
from rayfactory.config import ExecutionConfig
from rayfactory.databases.engine import Database
from rayfactory.databases.engine import connect as connect_database
from rayfactory.exports import formats
from rayfactory.exports import rows as rows_module
from rayfactory.exports.rows import chosen, skeletons_of
from rayfactory.manifests import PlannedRequest
from rayfactory.pool import connect, opened
from rayfactory.records import R_SCHEMA, Evaluation
from rayfactory.validate import FORMATS, SPLITS
from tests.shop import make_shop
from tests.test_pool import IDENTITY, round_tables

EVIL = "=1+1 <b>../x"
"""The name of a database that is a formula, markup and a path."""

QUERIES = [
    "SELECT name FROM customer",
    "SELECT title FROM product",
    "SELECT name FROM customer WHERE customer_id > 3",
    "SELECT name FROM customer WHERE customer_id > 4",
    "SELECT count(*) FROM sale",
    "SELECT customer_id, count(*) FROM sale GROUP BY customer_id",
    "SELECT 'a quoted text,\n with lines' FROM sale",
]
ROUNDS = 4


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run over two databases, beside their file."""
    folder = tmp_path_factory.mktemp("runs")
    make_shop(folder / "shop.sqlite")
    with opened(folder / "run", {**IDENTITY, "benchmark": "custom", "rayfactory": "9.8.7"}) as pool:
        for number in range(ROUNDS):
            tables = round_tables(pool.num_rows, len(QUERIES), 1, number)
            database = [EVIL if number == 1 else "shop"] * len(QUERIES)
            columns: dict[str, list[Any]] = {"database": database, "dialect": ["sqlite"] * len(QUERIES), "sql": QUERIES}
            columns["tables"] = [["product" if "product" in each else "customer"] for each in QUERIES]
            for name, values in columns.items():
                place = R_SCHEMA.get_field_index(name)
                tables["R"] = tables["R"].set_column(
                    place, R_SCHEMA.field(name), pa.array(values, R_SCHEMA.types[place])
                )
            evaluation = Evaluation(
                number, "GEN", len(QUERIES), 1.0, 1.0, None, {}, {"shop": 1}, {"shop": len(QUERIES)}
            )
            pool.commit(tables, [PlannedRequest("generation", "shop", ("sale",), 10)], evaluation, 1.0)
    (folder / "run" / "summary.json").write_text(json.dumps({"executability": 0.875}))
    return folder / "run"


def exported(run_dir: Path, tmp_path: Path, name: str, *more: str) -> Path:
    """Export as a user does; return the folder."""
    out = tmp_path / f"out-{name}"
    benchmark = [
        "+benchmark=custom",
        f"benchmark.root={run_dir.parent / 'shop.sqlite'}",
        f"data_dir={tmp_path / 'data'}",
    ]
    words = [*(benchmark if "benchmark" in more else []), "task=export", f"run_dir={run_dir}", f"format={name}"]
    assert main([*words, f"output={out}", *(word for word in more if word != "benchmark")]) == 0
    assert not list(tmp_path.glob(f".out-{name}*"))
    return out


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


def only_shop(run_dir: Path, tmp_path: Path) -> Path:
    """Return a run over the one database that is there."""
    tmp_path.mkdir(exist_ok=True)
    with opened(tmp_path / "shop-run", {**IDENTITY, "benchmark": "custom"}) as pool:
        rows = connect(run_dir).sql("SELECT * FROM R WHERE round = 0 ORDER BY query_id").to_arrow_table().cast(R_SCHEMA)
        tables = {**round_tables(0, len(QUERIES)), "R": rows}
        evaluation = Evaluation(0, "GEN", len(QUERIES), 1.0, 1.0, None, {}, {"shop": 1}, {"shop": len(QUERIES)})
        pool.commit(tables, [PlannedRequest("generation", "shop", ("sale",), 10)], evaluation, 1.0)
    (tmp_path / "shop.sqlite").write_bytes((run_dir.parent / "shop.sqlite").read_bytes())
    return tmp_path / "shop-run"


def test_llama_factory_has_the_schema_and_the_query(run_dir: Path, tmp_path: Path):
    """Each example shows the tables of its query; dataset_info.json names files that are there, and their fields."""
    own = only_shop(run_dir, tmp_path)
    for name in ("alpaca", "sharegpt"):
        out = exported(own, tmp_path, name, "benchmark", "split=skeleton", "test_share=0.4")
        info = json.loads((out / "dataset_info.json").read_text("utf-8"))
        assert set(info) == {"rayfactory_train", "rayfactory_test"}
        for about in info.values():
            for example in json.loads((out / about["file_name"]).read_text("utf-8")):
                assert set(about["columns"].values()) <= set(example)
                text = json.dumps(example)
                assert "Table customer" in text or "Table product" in text
                answer = example["output"] if name == "alpaca" else example["conversations"][1]["value"]
                assert answer in QUERIES


def test_llama_factory_knows_every_column_that_is_named(run_dir: Path, tmp_path: Path):
    """By the documentation of its data folder: which columns a description may name, by what they are when left out."""
    documented = {
        "alpaca": {"prompt": "instruction", "query": "input", "response": "output", "history": None, "system": None},
        "sharegpt": {"messages": "conversations", "system": None, "tools": None},
    }
    for name, columns in documented.items():
        out = exported(only_shop(run_dir, tmp_path / name), tmp_path, name, "benchmark")
        for about in json.loads((out / "dataset_info.json").read_text("utf-8")).values():
            assert set(about) <= {"file_name", "formatting", "columns"}
            assert about.get("formatting", "alpaca") == name
            assert set(about["columns"]) <= set(columns)
            for example in json.loads((out / about["file_name"]).read_text("utf-8")):
                turns = example.get("conversations", [])
                assert all(set(turn) == {"from", "value"} for turn in turns)
                # It takes the roles in turns, the user first.
                assert [turn["from"] for turn in turns] == (["human", "gpt"] if name == "sharegpt" else [])


LOAD = """
import json
import sys
from datasets import load_dataset

for name, folder, files in json.loads(sys.argv[1]):
    read = load_dataset(folder) if name == "huggingface" else load_dataset(name, data_files=files)
    print(json.dumps({split: rows.to_list() for split, rows in read.items()}, default=str))
"""


def test_datasets_loads_what_is_exported(run_dir: Path, tmp_path: Path):
    """The library of Hugging Face reads the folder by its card, and the files of the other formats by their names."""
    own = only_shop(run_dir, tmp_path)
    wanted = connect(own).sql("SELECT sql FROM R ORDER BY query_id").fetchall()
    asked, fields = [], []
    for name, field in (
        ("huggingface", "sql"), ("jsonl", "sql"), ("csv", "sql"), ("alpaca", "output"), ("bird", "sql"),
        ("spider", "query"),
    ):  # fmt: skip
        out = exported(own, tmp_path, name, "benchmark", "split=skeleton", "test_share=0.4")
        files_of = {path.stem: str(path) for path in [*out.glob("train.*"), *out.glob("test.*")]}
        asked.append(("csv" if name == "csv" else name if name == "huggingface" else "json", str(out), files_of))
        fields.append(field)
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(asked)], env=os.environ | offline, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(asked)
    for line, field in zip(lines, fields, strict=True):
        splits = json.loads(line)
        assert set(splits) == {"train", "test"}
        assert all(splits.values())
        found = [row[field] for split in splits.values() for row in split]
        assert sorted(found) == sorted(sql for (sql,) in wanted)


def test_database_without_schema_is_told(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Where the benchmark that is named is not that of the run."""
    root = run_dir.parent / "shop.sqlite"
    words = ["+benchmark=custom", f"benchmark.root={root}", f"data_dir={tmp_path / 'data'}", "task=export"]
    assert main([*words, f"run_dir={run_dir}", "format=alpaca", f"output={tmp_path / 'out'}"]) == 2
    assert "name it as the run did" in capsys.readouterr().err


def shape(text: str) -> str:
    """Return a JSON text with its values taken out: what is left is its layout, and the names and order of its keys."""
    return re.sub(r'(": )(?:"(?:[^"\\]|\\.)*"|\d+)', r"\1_", text)


@pytest.mark.realdata
def test_files_of_benchmarks_are_laid_out_as_their_own(run_dir: Path, tmp_path: Path, shared_data: Path):
    """To the byte, values aside: keys, their order, spaces, tabs, and how a file ends."""
    own = only_shop(run_dir, tmp_path)
    bird = exported(own, tmp_path, "bird")
    text = (bird / "train.json").read_text("utf-8")
    as_theirs = (shared_data / "bird" / "dev.json").read_text("utf-8")
    theirs = json.loads(as_theirs)
    assert shape(text).startswith(shape(as_theirs[: as_theirs.index("},") + 3]))
    assert shape(text)[-6:] == shape(as_theirs)[-6:]
    assert set(shape(text).splitlines()) == set(shape(as_theirs).splitlines())
    for mine in json.loads(text):
        assert [type(value) for value in mine.values()] == [type(value) for value in theirs[0].values()]
        assert mine["difficulty"] in {each["difficulty"] for each in theirs}
    lines = (shared_data / "spider" / "dev_gold.sql").read_bytes().split(b"\n")
    spider = exported(own, tmp_path, "spider")
    for out in (bird, spider):
        gold = (out / "train_gold.sql").read_bytes().split(b"\n")
        assert gold[-1] == lines[-1] == b""
        assert len(gold) - 1 == len(QUERIES) == len(json.loads((out / "train.json").read_text("utf-8")))
        assert {line.count(b"\t") for line in gold[:-1]} == {line.count(b"\t") for line in lines[:-1]} == {1}
        assert {line.split(b"\t")[1] for line in gold[:-1]} == {b"shop"}
    questions = json.loads((spider / "train.json").read_text("utf-8"))
    keys = ["db_id", "query", "query_toks", "question", "question_toks"]
    assert [list(question) for question in questions] == [keys] * len(QUERIES)


@pytest.mark.parametrize("dialect", ["sqlite", "duckdb"])
def test_query_on_one_line_returns_what_it_did(dialect: str, tmp_path: Path):
    queries = [
        "SELECT 'a\nb\tc' AS x -- said at the end\nWHERE 'x\r' LIKE 'x_'",
        "SELECT\n\t1 AS y",
        "SELECT length('\n') AS z",
        "SELECT 'as it is' AS x",
    ]
    path = tmp_path / f"empty.{dialect}"
    module: Any = duckdb if dialect == "duckdb" else sqlite3
    connection = module.connect(str(path))
    connection.execute("CREATE TABLE t (i INTEGER)")
    connection.close()
    engine = connect_database(Database("empty", dialect, str(path)), ExecutionConfig())
    for query in queries:
        line = formats.on_one_line(query, dialect)
        assert not re.search(r"[\r\n\t]", line)
        assert engine.run(line, keep_rows=5).rows == engine.run(query, keep_rows=5).rows
    engine.close()
    assert formats.on_one_line(queries[-1], dialect) == queries[-1]


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
