"""What models are trained and tested with has the form that its readers know, and loads in their libraries."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from rayfactory.__main__ import main
from rayfactory.config import ExecutionConfig
from rayfactory.databases.engine import Database
from rayfactory.databases.engine import connect as connect_database
from rayfactory.exports.text_to_sql import on_one_line
from rayfactory.pool import connect
from tests.exports.pools import QUERIES, exported, only_shop


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
        line = on_one_line(query, dialect)
        assert not re.search(r"[\r\n\t]", line)
        assert engine.run(line, keep_rows=5).rows == engine.run(query, keep_rows=5).rows
    engine.close()
    assert on_one_line(queries[-1], dialect) == queries[-1]
