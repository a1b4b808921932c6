"""The forms that text-to-SQL models are trained and tested with: those of BIRD, Spider and LLaMA-Factory."""

from __future__ import annotations

import json
import re
import textwrap
from abc import abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, ClassVar

from sqlglot import exp

from rayfactory import sql
from rayfactory.exports.form import JSONArray, PerSplit, Source, provenance, to_json
from rayfactory.exports.rows import Row
from rayfactory.models.schema_text import describe


class _Benchmark(PerSplit):
    """The files of a benchmark for text-to-SQL: its questions, as far as they are known, and its gold queries.

    They have what the benchmark's own have and nothing else, for the programs that read those; where each row is from
    is in `provenance.jsonl`.
    """

    suffix = "_gold.sql"
    head: ClassVar[str]
    between: ClassVar[str]
    end: ClassVar[str]

    def __init__(self, folder: Path, source: Source) -> None:
        super().__init__(folder, source)
        self._questions: dict[str, IO[str]] = {}
        self._index = (folder / "provenance.jsonl").open("x", encoding="utf-8")

    @abstractmethod
    def question(self, row: Row) -> str:
        """Return what stands for a row in the file of questions."""

    def write(self, row: Row) -> None:
        """Write a question, a gold query with its database, and where it is from."""
        gold, is_new = self._file(row.split)
        if is_new:
            self._questions[row.split] = (self.folder / f"{row.split}.json").open("x", encoding="utf-8", newline="")
        self._questions[row.split].write((self.head if is_new else self.between) + self.question(row))
        gold.write(f"{on_one_line(row.values['sql'], row.values['dialect'])}\t{row.values['database']}\n")
        self._index.write(to_json({"split": row.split, "db_id": row.values["database"], **provenance(row)}) + "\n")

    def close(self) -> None:
        """End the files."""
        for file in self._questions.values():
            file.write(self.end)
            file.close()
        self._index.close()
        super().close()


class BIRD(_Benchmark):
    """BIRD's dev.json and dev_gold.sql; the questions are empty where none are exported."""

    head, between, end = "[\n", ",\n", "\n]"

    def question(self, row: Row) -> str:
        """Return an entry, laid out as BIRD's are."""
        values = row.values
        about = {"question_id": values["query_id"], "db_id": values["database"]}
        asked = {name: values.get(name, "") for name in ("question", "evidence")}
        entry = {**about, **asked, "difficulty": difficulty(values), "sql": values["sql"]}
        return textwrap.indent(json.dumps(entry, indent=2, ensure_ascii=False), "  ")


class Spider(_Benchmark):
    """Spider's train_spider.json, without its parsed form, and dev_gold.sql; without questions as BIRD."""

    head, between, end = "[\n", ",\n", "\n]\n"

    def question(self, row: Row) -> str:
        """Return an entry on a line."""
        words = re.findall(r"'(?:[^']|'')*'|\"[^\"]*\"|\w+(?:\.\d+)?|[^\w\s]", row.values["sql"])
        about = {"db_id": row.values["database"], "query": row.values["sql"], "query_toks": words}
        question = row.values.get("question", "")
        # Spider has no evidence: what one has to know is part of its questions.
        if row.values.get("evidence"):
            question += f" ({row.values['evidence']})"
        return to_json({**about, "question": question, "question_toks": re.findall(r"\w+|[^\w\s]", question)})


def on_one_line(query: str, dialect: str) -> str:
    """Return a query without line ends and tabs, which means the same: those in its texts are put together from codes.

    One in a name stays: there is no other way to write it.
    """
    if not re.search(r"[\r\n\t]", query):
        return query

    def coded(node: exp.Expr) -> exp.Expr:
        if not (isinstance(node, exp.Literal) and node.is_string and re.search(r"[\r\n\t]", node.this)):
            return node
        pieces = [
            exp.Chr(expressions=[exp.Literal.number(ord(piece))])
            if re.fullmatch(r"[\r\n\t]", piece)
            else exp.Literal.string(piece)
            for piece in re.split(r"([\r\n\t])", node.this)
            if piece
        ]
        together = pieces[0] if len(pieces) == 1 else exp.Concat(expressions=pieces, safe=False, coalesce=False)
        return exp.Paren(this=together)

    return str(sql.parse(query, dialect).transform(coded).sql(dialect, comments=False))


class _LLaMAFactory(JSONArray):
    """A dataset of LLaMA-Factory: schema in, and the question where it is exported with it; query out."""

    needs_schemas = True
    about: ClassVar[dict[str, Any]]

    def __init__(self, folder: Path, source: Source) -> None:
        super().__init__(folder, source)
        # Many queries are over the same tables.
        self._schema_text = lru_cache(maxsize=10_000)(self._described)

    def asked(self, row: Row) -> tuple[str, str]:
        """Return the instruction, and what it is about: the tables of the query."""
        text = self._schema_text(row.values["database"], tuple(row.values["tables"]))
        question, evidence = (row.values.get(name, "") for name in ("question", "evidence"))
        if not question:
            return f"Write one {row.values['dialect']} query over these tables.", text
        note = f"\nNote: {evidence}" if evidence else ""
        return f"Answer the question with one {row.values['dialect']} query over these tables.", (
            f"{text}{note}\nQuestion: {question}"
        )

    def _described(self, database: str, tables: tuple[str, ...]) -> str:
        found = describe(self.source.schemas[database], tables)
        return found.text + (f"\nForeign keys:\n{found.foreign_keys}" if found.foreign_keys else "")

    def close(self) -> None:
        """Write what LLaMA-Factory has to know of the files."""
        names = list(self._files)
        super().close()
        info = {f"rayfactory_{split}": {"file_name": f"{split}.json", **self.about} for split in names}
        (self.folder / "dataset_info.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")


class Alpaca(_LLaMAFactory):
    """LLaMA-Factory's alpaca form."""

    about: ClassVar[dict[str, Any]] = {
        "columns": {"prompt": "instruction", "query": "input", "response": "output"},
    }

    def element(self, row: Row) -> dict[str, Any]:
        """Return an example."""
        instruction, text = self.asked(row)
        return {"instruction": instruction, "input": text, "output": row.values["sql"], **provenance(row)}


class ShareGPT(_LLaMAFactory):
    """LLaMA-Factory's sharegpt form."""

    about: ClassVar[dict[str, Any]] = {"formatting": "sharegpt", "columns": {"messages": "conversations"}}

    def element(self, row: Row) -> dict[str, Any]:
        """Return a conversation."""
        turns = [
            {"from": "human", "value": "\n".join(self.asked(row))},
            {"from": "gpt", "value": row.values["sql"]},
        ]
        return {"conversations": turns, **provenance(row)}


def difficulty(values: Mapping[str, Any]) -> str:
    """Return how hard a query is in BIRD's words, by what it is made of.

    BIRD's own are people's judgement; here a query is moderate from three of these on, and challenging from six: joins,
    predicates beyond one, subqueries, windows, aggregates.
    """
    parts = values["num_joins"] + max(0, values["num_predicates"] - 1) + values["num_aggregates"]
    parts += 2 * (values["num_subqueries"] + values["num_windows"])
    return "simple" if parts < 3 else "moderate" if parts < 6 else "challenging"
