"""Queries are read out of whatever form a peer publishes them in, and what cannot be read says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayfactory.analysis.files import FoundQuery, read_queries
from rayfactory.errors import UserError

TWO = [FoundQuery("SELECT 1"), FoundQuery("SELECT a;b FROM t")]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.json", '["SELECT 1", "SELECT a;b FROM t"]', TWO),
        ("a.json", '{"data": [{"SQL": "SELECT 1"}, {"query": "SELECT a;b FROM t"}], "version": 2}', TWO),
        ("a.json", '[{"question": "?", "db_id": "shop", "SQL": "SELECT 1"}]', [FoundQuery("SELECT 1", "shop")]),
        ("a.json", '\ufeff["SELECT 1"]', TWO[:1]),
        ("a.jsonl", '{"sql": "SELECT 1"}\n\n"SELECT a;b FROM t"\n', TWO),
        ("corpus", '["SELECT 1", "SELECT a;b FROM t"]', TWO),
        ("corpus", "SELECT 1\n", TWO[:1]),
        ("a.jsonl", '{"sql": null}\n{"sql": "SELECT 1"}\n', [FoundQuery(""), TWO[0]]),
        ("a.csv", 'id,Query\r\n1,SELECT 1\r\n2,"SELECT a;b FROM t"\r\n', TWO),
        ("a.csv", 'sql,database\n"SELECT ""x"",\n 1",shop\n', [FoundQuery('SELECT "x",\n 1', "shop")]),
        ("a.tsv", "sql\tdb_id\nSELECT 1\tshop\n", [FoundQuery("SELECT 1", "shop")]),
        ("a.sql", "SELECT 1;\n\nSELECT ';' -- a; b\n FROM t;\n", [TWO[0], FoundQuery("SELECT ';' -- a; b\n FROM t")]),
        ("a.sql", "SELECT 1;\nSELECT 2; -- done\n", [TWO[0], FoundQuery("SELECT 2")]),
        ("a.sql", "SELECT 'it's';\nSELECT 1;\n", [FoundQuery("SELECT 'it's'"), TWO[0]]),
        ("a.sql", "SELECT\ta FROM t;\nSELECT 1;\n", [FoundQuery("SELECT\ta FROM t"), TWO[0]]),
        ("a.jsonl", '{"sql": "SELECT \'a\u2028b\'"}\n', [FoundQuery("SELECT 'a\u2028b'")]),
        ("a.csv", "sql,db_id\nSELECT 'a\x85b',x\n", [FoundQuery("SELECT 'a\x85b'", "x")]),
        ("a.sql", "SELECT 1\n  FROM t\n", [FoundQuery("SELECT 1\n  FROM t")]),
        ("dev_gold.sql", "SELECT 1\tshop\nSELECT 2\tbank\n", [FoundQuery("SELECT 1", "shop"), FoundQuery("SELECT 2", "bank")]),
        ("a.txt", "select 1\nwith a as (select 1) select * from a\n", [FoundQuery("select 1"), FoundQuery("with a as (select 1) select * from a")]),
    ],
)  # fmt: skip
def test_every_form_is_read(tmp_path: Path, name: str, text: str, expected: list[FoundQuery]):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    assert read_queries(path, "duckdb") == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'{"a": 1}', "holds no list of queries"),
        ("a.json", b'[{"text": "SELECT 1"}]', "no query at place 1"),
        ("a.json", b"[1]", "no query at place 1"),
        ("a.json", b"{", "is no JSON"),
        ("a.json", b"[" * 100_000, "is no JSON"),
        ("a.json", b"[]", "holds no query"),
        ("a.jsonl", b'"SELECT 1"\nnonsense\n', "is no JSON"),
        ("a.csv", b"id,text\n1,SELECT 1\n", "no query at place 1"),
        ("a.csv", b'sql\n"SELECT 1\n', "is no CSV"),
        ("a.sql", b"  \n", "holds no query"),
        ("a.sql", b"\xff\xfe\x00", "cannot be read"),
        ("a.parquet", b"PAR1", "ends with '.parquet'"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, name: str, content: bytes, message: str):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_queries(path, "duckdb")


def test_missing_file_and_folder_say_so(tmp_path: Path):
    with pytest.raises(UserError, match="No such file"):
        read_queries(tmp_path / "none.json", "duckdb")
    with pytest.raises(UserError, match="cannot be read"):
        read_queries(tmp_path, "duckdb")


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "dialect", "num_queries", "num_databases"),
    [("spider/dev_gold.sql", "sqlite", None, 20), ("bird/dev.json", "sqlite", 1534, 11)],
)
def test_published_corpora_are_read(
    shared_data: Path, name: str, dialect: str, num_queries: int | None, num_databases: int
):
    found = read_queries(shared_data / name, dialect)
    if num_queries is None:
        num_queries = len([line for line in (shared_data / name).read_text("utf-8").splitlines() if line.strip()])
    else:
        assert len(json.loads((shared_data / name).read_text("utf-8"))) == num_queries
    assert len(found) == num_queries
    assert len({query.database for query in found}) == num_databases
