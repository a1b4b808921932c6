"""The questions of a benchmark for text-to-SQL, and what was predicted for them, out of the files that others write."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayfactory.analysis.files import parse_json, read_text
from rayfactory.errors import UserError

_BIRD_SEPARATOR = "\t----- bird -----\t"
"""What BIRD puts between a prediction and its database."""

_BLOCK = re.compile(r"```[\w+-]*\s(.*?)(?:```|\Z)", re.DOTALL)

_BEGINS = re.compile(r"^\s*(?:SQL\s*:\s*)?(?=(?:SELECT|WITH)\b)", re.IGNORECASE | re.MULTILINE)

_PREDICTION_FIELDS = ("prediction", "predicted_sql", "pred_sql", "pred", "sql", "query", "output", "predict")


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a benchmark.

    Attributes:
        database: name of the database that it is about.
        text: in natural language; empty where the file has gold queries alone.
        evidence: what one has to know beside the schema (BIRD); may be empty.
        gold: the query that answers it.
        difficulty: as the benchmark says; empty where it says nothing.
    """

    database: str
    text: str
    evidence: str
    gold: str
    difficulty: str


def read_questions(path: Path) -> list[Question]:
    """Return the questions of a file, in order.

    - BIRD's ``dev.json``: objects with ``db_id``, ``question``, ``SQL`` (or ``sql``), ``evidence`` and ``difficulty``;
    - Spider's ``dev.json``: objects with ``db_id``, ``question`` and ``query``;
    - gold files (``.sql``, ``.txt``): a query, a tab and its database on each line, without questions.

    Raises:
        UserError: the file cannot be read, or is none of these.
    """
    text = read_text(path)
    if path.suffix.lower() in {".sql", ".txt"}:
        found = []
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            gold, tab, database = line.strip().rpartition("\t")
            if not tab:
                raise UserError(f"{str(path)!r}, line {number}: a gold query, a tab and its database are expected")
            found.append(Question(database.strip(), "", "", gold.strip(), ""))
    else:
        found = [_question(path, number, each) for number, each in enumerate(_list(path, text))]
    if not found:
        raise UserError(f"{str(path)!r} holds no question; name a file that has some")
    return found


def read_predictions(path: Path, count: int) -> list[str]:
    """Return what was predicted for each question, in order; an empty text where nothing was.

    - ``.json``: BIRD's object from the number of a question to a query (with its database behind a separator, or not);
      or a list of queries, or of objects with one in a field such as ``sql`` or ``prediction``;
    - ``.jsonl``: one of those a line;
    - anything else: one query on each line, with a tab and its database behind it, or not.

    Args:
        path: of the file.
        count: of the questions.

    Raises:
        UserError: the file cannot be read, or does not hold one prediction for each question.
    """
    text = read_text(path)
    match path.suffix.lower():
        case ".json":
            data = parse_json(path, text)
            if isinstance(data, dict):
                wrong = [name for name in data if not (name.isdecimal() and int(name) < count)]
                if wrong:
                    raise UserError(
                        f"{str(path)!r} names question {wrong[0]!r}, and there are {count}, from 0 on; name these"
                    )
                return [_prediction(path, number, data.get(str(number), "")) for number in range(count)]
            found = [_prediction(path, number, each) for number, each in enumerate(_list(path, text))]
        case ".jsonl" | ".ndjson":
            lines = [line for line in text.split("\n") if line.strip()]
            found = [_prediction(path, number, parse_json(path, line)) for number, line in enumerate(lines)]
        case _:
            # An empty line is a question that nothing was predicted for; the one that ends the file is none.
            found = [line.partition("\t")[0].strip() for line in text.removesuffix("\n").split("\n")]
    if len(found) != count:
        raise UserError(
            f"{str(path)!r} holds {len(found)} predictions for {count} questions; write one for each, in their order, "
            "an empty one where there is none"
        )
    return found


def find_questions(folders: Sequence[Path]) -> Path | None:
    """Return the questions that a benchmark ships beside its databases: its dev set, or None."""
    for folder in folders:
        for name in ("dev.json", "mini_dev_sqlite.json", "dev_gold.sql", "dev.sql"):
            if (folder / name).is_file():
                return folder / name
    return None


def _question(path: Path, number: int, item: Any) -> Question:
    if not isinstance(item, dict):
        raise UserError(
            f"{str(path)!r}, question {number}: an object with db_id, question and SQL (or query) is expected"
        )
    gold = next((item[name] for name in ("SQL", "sql", "query") if isinstance(item.get(name), str)), None)
    if gold is None or not isinstance(item.get("db_id"), str):
        raise UserError(f"{str(path)!r}, question {number}: it has no db_id, or no gold query in SQL, sql or query")
    about = {name: str(item.get(name) or "") for name in ("question", "evidence", "difficulty")}
    return Question(item["db_id"], about["question"], about["evidence"], gold.strip(), about["difficulty"])


def _prediction(path: Path, number: int, item: Any) -> str:
    if isinstance(item, dict):
        item = next((item[name] for name in _PREDICTION_FIELDS if isinstance(item.get(name), str)), None)
    if isinstance(item, int) and not item:
        return ""  # BIRD's for a question that nothing was predicted for
    if not isinstance(item, str):
        raise UserError(
            f"{str(path)!r}, prediction {number}: a query is expected, or an object with one in a field "
            f"{', '.join(_PREDICTION_FIELDS)}"
        )
    return item.partition(_BIRD_SEPARATOR)[0].strip()


def query_in(reply: str) -> str:
    """Return the query in a model's reply: in its last code block with one, or in its last paragraph with one.

    A reply without any is returned as it is: it will not run, and is counted so.
    """
    blocks = [block for block in _BLOCK.findall(reply) if _BEGINS.match(block)]
    paragraphs = [] if blocks else [text for text in re.split(r"\n[ \t]*\n", reply) if _BEGINS.search(text)]
    text = (blocks or paragraphs or [reply])[-1]
    begins = _BEGINS.search(text)
    return text[begins.end() if begins else 0 :].strip().rstrip(";").strip()


def is_query(text: str) -> bool:
    """Return whether a text begins as a query does."""
    return bool(_BEGINS.match(text))


def continued(text: str) -> str:
    """Return the query that a model wrote which goes on from a text: what stands first, before what it went on to."""
    first = re.split(r"\n[ \t]*\n", text.strip(), maxsplit=1)[0]
    return first.partition(";")[0].strip()


def _list(path: Path, text: str) -> list[Any]:
    data = parse_json(path, text)
    if not isinstance(data, list):
        raise UserError(f"{str(path)!r} holds no list, but {type(data).__name__}")
    return data
