"""Questions and predictions are read as the benchmarks, and those who predict, write them."""

import json

import pytest

from rayfactory.downstream.questions import (
    Question,
    continued,
    find_questions,
    query_in,
    read_predictions,
    read_questions,
)
from rayfactory.errors import UserError


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_questions_of_bird(tmp_path):
    path = write(
        tmp_path / "dev.json",
        [{"question_id": 0, "db_id": "shop", "question": "How many?", "evidence": "all", "SQL": "SELECT 1 ", "difficulty": "simple"}],
    )  # fmt: skip
    assert read_questions(path) == [Question("shop", "How many?", "all", "SELECT 1", "simple")]


def test_questions_of_spider(tmp_path):
    path = write(tmp_path / "dev.json", [{"db_id": "shop", "question": "How many?", "query": "SELECT 1", "sql": {}}])
    assert read_questions(path) == [Question("shop", "How many?", "", "SELECT 1", "")]


def test_gold_alone(tmp_path):
    path = write(tmp_path / "dev_gold.sql", "SELECT 1\tshop\n\nSELECT '\t'\tbank\n")
    assert read_questions(path) == [
        Question("shop", "", "", "SELECT 1", ""),
        Question("bank", "", "", "SELECT '\t'", ""),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "no JSON"),
        ("a.json", {"a": 1}, "holds no list, but dict"),
        ("a.json", [1], "question 0: an object"),
        ("a.json", [{"db_id": "shop"}], "question 0: it has no db_id, or no gold query"),
        ("a.json", [], "holds no question"),
        ("a.sql", "SELECT 1", "line 1: a gold query, a tab"),
    ],
)
def test_questions_that_are_none(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message):
        read_questions(write(tmp_path / name, content))


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_questions(tmp_path / "dev.json")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.json", {"0": "SELECT 1\t----- bird -----\tshop", "1": 0, "2": "SELECT 3"}),
        ("p.json", {"2": "SELECT 3", "0": "SELECT 1"}),
        ("p.json", ["SELECT 1", "", "SELECT 3"]),
        ("p.json", [{"prediction": "SELECT 1"}, {"sql": ""}, {"pred_sql": "SELECT 3"}]),
        ("p.jsonl", '{"sql": "SELECT 1"}\n{"sql": " "}\n\n{"sql": "SELECT 3"}\n'),
        ("p.sql", "SELECT 1\tshop\n\nSELECT 3\tshop\n"),
        ("p.txt", "SELECT 1\n\nSELECT 3"),
    ],
)
def test_predictions(tmp_path, name, content):
    assert read_predictions(write(tmp_path / name, content), 3) == ["SELECT 1", "", "SELECT 3"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "SELECT 1\nSELECT 2\n", "holds 2 predictions for 3 questions"),
        ("p.json", {"3": "SELECT 1"}, "names question '3', and there are 3"),
        ("p.json", ["SELECT 1", None, ""], "prediction 1: a query is expected"),
        ("p.json", [{"foo": "SELECT 1"}, "", ""], "prediction 0"),
    ],
)
def test_predictions_that_do_not_fit(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message):
        read_predictions(write(tmp_path / name, content), 3)


@pytest.mark.parametrize(
    ("reply", "query"),
    [
        ("```sql\nSELECT 1;\n```", "SELECT 1"),
        ("First\n```sql\nSELECT 1\n```\nor better\n```sql\nSELECT a\nFROM t\n```", "SELECT a\nFROM t"),
        ("SELECT a FROM t;", "SELECT a FROM t"),
        ("The answer is:\nSELECT a\nFROM t\n\nIt counts.", "SELECT a\nFROM t"),
        ("SQL: WITH x AS (SELECT 1) SELECT * FROM x", "WITH x AS (SELECT 1) SELECT * FROM x"),
        ("```\nSELECT 1", "SELECT 1"),
        ("SELECT a FROM t\nUNION\nSELECT b FROM u", "SELECT a FROM t\nUNION\nSELECT b FROM u"),
        ("WITH x AS (\n  SELECT a FROM t\n)\nSELECT * FROM x;", "WITH x AS (\n  SELECT a FROM t\n)\nSELECT * FROM x"),
        ("```postgres\nSELECT 1\n```\nThis is it.", "SELECT 1"),
        ("```sql\nSELECT name\nFROM t\n```\nwhich gives\n```\nname\nx\n```", "SELECT name\nFROM t"),
        ("```sql SELECT 1```", "SELECT 1"),
        ("I cannot say.", "I cannot say."),
        ("", ""),
    ],
)
def test_query_of_a_reply(reply, query):
    assert query_in(reply) == query


def test_dev_set_is_found_beside_the_databases(tmp_path):
    assert find_questions([tmp_path]) is None
    write(tmp_path / "dev_gold.sql", "SELECT 1\tshop")
    assert find_questions([tmp_path / "none", tmp_path]) == tmp_path / "dev_gold.sql"


@pytest.mark.parametrize(
    ("text", "query"),
    [
        (" SELECT 1\n", "SELECT 1"),
        ("SELECT a\nFROM t; SELECT b", "SELECT a\nFROM t"),
        ("SELECT a FROM t\n\nQuestion: which?\n\nSELECT b FROM t", "SELECT a FROM t"),
        ("", ""),
    ],
)
def test_query_that_a_text_goes_on_with(text, query):
    assert continued(text) == query
