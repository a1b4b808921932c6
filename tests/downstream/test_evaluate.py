"""`task=evaluate_text2sql` from the command line: of a file of predictions, and of a model, which is paid once."""

from __future__ import annotations

import json
import re

import pytest

from rayfactory.__main__ import main
from tests.models.endpoint_server import serving
from tests.shop import make_shop

QUESTIONS = [
    ("How many products are there?", "SELECT count(*) FROM product", "simple"),
    ("List the titles of toys.", "SELECT title FROM product WHERE category = 'toys'", "simple"),
    ("Which channel sold most?", "SELECT channel FROM sale GROUP BY channel ORDER BY sum(total_amount) DESC LIMIT 1", "moderate"),
    ("Which regions have no customer?", "SELECT name FROM region WHERE region_id NOT IN (SELECT region_id FROM customer)", "moderate"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    make_shop(tmp_path / "shop.sqlite")
    entries = [
        {"db_id": "shop", "question": text, "evidence": "toys are a category", "SQL": gold, "difficulty": level}
        for text, gold, level in QUESTIONS
    ]
    entries.append({"db_id": "elsewhere", "question": "?", "SQL": "SELECT 1", "difficulty": "simple"})
    (tmp_path / "dev.json").write_text(json.dumps(entries), encoding="utf-8")
    return tmp_path


def words(folder, *more):
    return [
        "task=evaluate_text2sql", "+benchmark=custom", f"benchmark.root={folder / 'shop.sqlite'}", "evaluation.rule=bird",
        f"data_dir={folder / 'cache'}", f"output={folder / 'out'}", *more,
    ]  # fmt: skip


def figures(folder):
    return json.loads((folder / "out" / "evaluation.json").read_text(encoding="utf-8"))


def test_predictions_of_a_file(folder, capsys):
    predictions = [QUESTIONS[0][1], "SELECT title FROM product", "SELECT chanel FROM sale", "", "SELECT 1"]
    (folder / "p.json").write_text(json.dumps(predictions), encoding="utf-8")
    assert main(words(folder, f"evaluation.predictions={folder / 'p.json'}")) == 0
    found = figures(folder)
    assert (found["questions"], found["executability"], found["execution_accuracy"]) == (4, 0.5, 0.25)
    assert found["by_difficulty"]["simple"] == {"questions": 2, "executability": 1.0, "execution_accuracy": 0.5}
    assert found["kinds"] == {"right": 1, "empty": 1, "column": 1, "other number of rows": 1}
    assert found["left_out"] == 1
    printed = capsys.readouterr()
    assert "| simple | 2 | 100.00% | 50.00% |" in printed.out
    assert "1 questions are left out" in printed.out
    lines = [json.loads(line) for line in (folder / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["right", "other number of rows", "column", "empty"]
    assert "chanel" in lines[2]["detail"]


@pytest.mark.parametrize("prompt", ["plain", "qwen2.5-coder", "codes"])
def test_model_is_asked_once_for_each_question(folder, prompt):
    """With its schema and what one has to know; the same command again asks nothing more."""
    asked = []
    is_chat = prompt != "codes"

    def reply(messages):
        assert [message["role"] for message in messages] == (["system", "user"] if is_chat else ["text"])
        text = "\n".join(message["content"] for message in messages)
        asked.append(text)
        (gold,) = [gold for question, gold, _ in QUESTIONS if question in text]
        return f"Here it is:\n```sql\n{gold};\n```" if is_chat else gold

    with serving(reply=reply) as server:
        command = words(
            folder, "model@models.local=endpoint", "models.local.name=test-model",
            f"models.local.base_url={server.base_url}", "models.local.api_key_env=", "models.local.usd_per_million_out=10",
            f"evaluation.prompt={prompt}", "evaluation.model=local", f"models.local.chat={str(is_chat).lower()}",
        )  # fmt: skip
        assert main(command) == 0
        first = figures(folder)
        assert (first["execution_accuracy"], first["predictions_of"], first["prompt"]) == (1.0, "test-model", prompt)
        assert first["cost_usd"] > 0
        assert len(asked) == len(QUESTIONS)
        assert all("toys are a category" in text and "list_price" in text for text in asked)
        assert main(command) == 0
        assert len(asked) == len(QUESTIONS)
        assert figures(folder) == first


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["evaluation.predictions=absent.json"], "absent.json.*cannot be read"),
        (["evaluation.questions=absent.json"], "absent.json.*cannot be read"),
        ([], r"models\.local has no name"),
        (["evaluation.rule=auto"], r"set evaluation\.rule=bird .* or evaluation\.rule=spider"),
        (["evaluation.rule=birdy"], "has to be one of auto, bird, spider"),
        (["evaluation.prompt=nice"], "has to be one of plain"),
        (["evaluation.prompt=codes"], r"asked as a chat; set models\.local\.chat=false, or evaluation\.prompt=plain"),
    ],
)
def test_what_is_wrong_is_said(folder, capsys, more, message):
    assert main(words(folder, *more)) == 2
    assert re.search(message, capsys.readouterr().err)


def test_gold_without_questions_cannot_be_asked(folder, capsys):
    (folder / "gold.sql").write_text("SELECT 1\tshop\n", encoding="utf-8")
    model = ["model@models.local=endpoint", "models.local.name=m", "models.local.base_url=http://127.0.0.1:9/v1"]
    assert main(words(folder, f"evaluation.questions={folder / 'gold.sql'}", *model)) == 2
    assert "no questions that a model could be asked" in capsys.readouterr().err


def test_questions_about_other_databases_are_no_evaluation(folder, capsys):
    (folder / "gold.sql").write_text("SELECT 1\tbank\n", encoding="utf-8")
    assert main(words(folder, f"evaluation.questions={folder / 'gold.sql'}", "evaluation.predictions=x")) == 2
    assert "none of the 1 questions is about a database that is there" in capsys.readouterr().err
