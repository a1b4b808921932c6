"""The forms that a corpus is exported in: each is a class that takes rows one after the other and writes a folder."""

from __future__ import annotations

import csv
import json
import re
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from sqlglot import exp

from rayfactory import sql
from rayfactory.databases.schema import Schema
from rayfactory.exports.rows import ROWS_AT_ONCE, Row
from rayfactory.models.schema_text import describe
from rayfactory.records import R_SCHEMA
from rayfactory.shown import shown

_PROVENANCE = ("query_id", "round", "origin", "model", "prompt_sha256", "seed_ids", "cost_usd")
"""Columns that tell where a query is from; every format keeps them."""

_FORMULA = re.compile(r"\s*[=+\-@\t\r|%]")


@dataclass(frozen=True, slots=True)
class Source:
    """The run that is exported.

    Attributes:
        identity: what `run.json` says of it.
        summary: its `summary.json`; empty where the run has not ended.
        schemas: of its databases by name; empty where they are not needed.
        models: what wrote the queries.
        splits: rows in each split that has some.
        num_skeletons: different ones among all rows.
        split: how rows were divided, one of `validate.SPLITS`.
    """

    identity: Mapping[str, Any]
    summary: Mapping[str, Any]
    schemas: Mapping[str, Schema]
    models: Sequence[str]
    splits: Mapping[str, int]
    num_skeletons: int
    split: str


class Format(ABC):
    """A folder in one form.

    Args:
        folder: that exists and is empty.
        source: the run.
    """

    needs_schemas: ClassVar[bool] = False

    def __init__(self, folder: Path, source: Source) -> None:
        self.folder = folder
        self.source = source

    @abstractmethod
    def write(self, row: Row) -> None:
        """Take one row; they come in the order of the pool."""

    @abstractmethod
    def close(self) -> None:
        """Write what is left."""


def provenance(row: Row) -> dict[str, Any]:
    """Return where a query is from."""
    return {name: row.values[name] for name in _PROVENANCE}


class _PerSplit(Format):
    """A file for each split, opened when its first row comes."""

    suffix: ClassVar[str]

    def __init__(self, folder: Path, source: Source) -> None:
        super().__init__(folder, source)
        self._files: dict[str, IO[str]] = {}

    def _file(self, split: str) -> tuple[IO[str], bool]:
        """Return the file of a split, and whether it is new."""
        is_new = split not in self._files
        if is_new:
            # Newlines are those that are written: the csv module brings its own.
            self._files[split] = (self.folder / f"{split}{self.suffix}").open("x", encoding="utf-8", newline="")
        return self._files[split], is_new

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()


class _JSONArray(_PerSplit):
    """A JSON array for each split, an element a line."""

    suffix = ".json"

    @abstractmethod
    def element(self, row: Row) -> dict[str, Any]:
        """Return what stands for a row."""

    def write(self, row: Row) -> None:
        """Write the next element."""
        file, is_new = self._file(row.split)
        file.write("[\n" if is_new else ",\n")
        file.write(_json(self.element(row)))

    def close(self) -> None:
        """End the arrays."""
        for file in self._files.values():
            file.write("\n]\n")
        super().close()


class JSONLines(_PerSplit):
    """One JSON object a line: every column of table R, the skeleton and the split."""

    suffix = ".jsonl"

    def write(self, row: Row) -> None:
        """Write a line."""
        self._file(row.split)[0].write(_json({**row.values, "skeleton": row.skeleton, "split": row.split}) + "\n")


class CSV(_PerSplit):
    """Comma-separated values. What a spreadsheet would take for a formula has an apostrophe before it."""

    suffix = ".csv"

    def write(self, row: Row) -> None:
        """Write a line, after the names of the columns."""
        file, is_new = self._file(row.split)
        values = {**row.values, "skeleton": row.skeleton, "split": row.split}
        writer = csv.writer(file)
        if is_new:
            writer.writerow(values)
        writer.writerow([inert(_json(value) if isinstance(value, list) else value) for value in values.values()])


def inert(value: Any) -> Any:
    """Return a text as a spreadsheet shows it and calculates nothing."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


class SQLFiles(Format):
    """A file for each query, and a script that runs them."""

    def __init__(self, folder: Path, source: Source) -> None:
        super().__init__(folder, source)
        self._folders: dict[str, str] = {}
        self._index = (folder / "queries.jsonl").open("x", encoding="utf-8")
        (folder / "run.py").write_text(Path(__file__).with_name("runner.py").read_text("utf-8"), encoding="utf-8")

    def write(self, row: Row) -> None:
        """Write the query's file, and a line of the index."""
        database = row.values["database"]
        if database not in self._folders:
            self._folders[database] = self._folder_name(database)
        place = Path(row.split, self._folders[database], f"{row.values['query_id']:08d}.sql")
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(row.values["sql"] + "\n;\n", encoding="utf-8")  # it may end in a comment
        about = {"file": place.as_posix(), "database": database, "dialect": row.values["dialect"]}
        self._index.write(_json({**about, "row_count": row.values["row_count"], **provenance(row)}) + "\n")

    def _folder_name(self, database: str) -> str:
        """Return a name that any file system takes, and no other database has."""
        name = re.sub(r"[^\w-]", "_", database)[:80] or "_"
        taken = {each.casefold() for each in self._folders.values()}
        number = 1
        unique = name
        while unique.casefold() in taken:
            number += 1
            unique = f"{name}_{number}"
        return unique

    def close(self) -> None:
        """Close the index."""
        self._index.close()


class HuggingFace(Format):
    """A dataset folder: Parquet for each split, and a card that is filled from the run."""

    _SCHEMA = pa.schema([*R_SCHEMA, pa.field("skeleton", pa.string()), pa.field("split", pa.string())])

    def __init__(self, folder: Path, source: Source) -> None:
        super().__init__(folder, source)
        (folder / "data").mkdir()
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._writers: dict[str, pq.ParquetWriter] = {}

    def write(self, row: Row) -> None:
        """Keep a row until there are enough for a group."""
        rows = self._rows.setdefault(row.split, [])
        rows.append({**row.values, "skeleton": row.skeleton, "split": row.split})
        if len(rows) >= ROWS_AT_ONCE:
            self._flush(row.split)

    def _flush(self, split: str) -> None:
        if split not in self._writers:
            self._writers[split] = pq.ParquetWriter(self.folder / "data" / f"{split}.parquet", self._SCHEMA)
        self._writers[split].write_table(pa.Table.from_pylist(self._rows.pop(split), self._SCHEMA))

    def close(self) -> None:
        """Write the last groups and the card."""
        for split in list(self._rows):
            self._flush(split)
        for writer in self._writers.values():
            writer.close()
        (self.folder / "README.md").write_text(card(self.source), encoding="utf-8")


class _Benchmark(_PerSplit):
    """The files of a benchmark for text-to-SQL: its questions, which nobody has asked yet, and its gold queries.

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
        self._index.write(_json({"split": row.split, "db_id": row.values["database"], **provenance(row)}) + "\n")

    def close(self) -> None:
        """End the files."""
        for file in self._questions.values():
            file.write(self.end)
            file.close()
        self._index.close()
        super().close()


class BIRD(_Benchmark):
    """BIRD's dev.json, with empty questions, and dev_gold.sql."""

    head, between, end = "[\n", ",\n", "\n]"

    def question(self, row: Row) -> str:
        """Return an entry, laid out as BIRD's are."""
        values = row.values
        about = {"question_id": values["query_id"], "db_id": values["database"], "question": "", "evidence": ""}
        entry = {**about, "difficulty": difficulty(values), "sql": values["sql"]}
        return textwrap.indent(json.dumps(entry, indent=2, ensure_ascii=False), "  ")


class Spider(_Benchmark):
    """Spider's train_spider.json, with empty questions and without its parsed form, and dev_gold.sql."""

    head, between, end = "[\n", ",\n", "\n]\n"

    def question(self, row: Row) -> str:
        """Return an entry on a line."""
        words = re.findall(r"'(?:[^']|'')*'|\"[^\"]*\"|\w+(?:\.\d+)?|[^\w\s]", row.values["sql"])
        about = {"db_id": row.values["database"], "query": row.values["sql"], "query_toks": words}
        return _json({**about, "question": "", "question_toks": []})


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


class _LLaMAFactory(_JSONArray):
    """A dataset of LLaMA-Factory: schema in, query out."""

    needs_schemas = True
    about: ClassVar[dict[str, Any]]

    def __init__(self, folder: Path, source: Source) -> None:
        super().__init__(folder, source)
        # Many queries are over the same tables.
        self._schema_text = lru_cache(maxsize=10_000)(self._described)

    def asked(self, row: Row) -> tuple[str, str]:
        """Return the instruction, and what it is about: the tables of the query."""
        text = self._schema_text(row.values["database"], tuple(row.values["tables"]))
        return f"Write one {row.values['dialect']} query over these tables.", text

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


class Workload(Format):
    """One query for each skeleton, with the share of the pool that it stands for."""

    def __init__(self, folder: Path, source: Source) -> None:
        super().__init__(folder, source)
        self._seen: set[str] = set()
        self._file = (folder / "workload.jsonl").open("x", encoding="utf-8")

    def write(self, row: Row) -> None:
        """Write the first query of a skeleton; the others add to its weight."""
        if row.skeleton in self._seen:
            return
        self._seen.add(row.skeleton)
        about = {name: row.values[name] for name in ("database", "dialect", "sql", "row_count", "execution_ms")}
        self._file.write(_json({**about, "weight": row.weight, "skeleton": row.skeleton, **provenance(row)}) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


FORMATS: dict[str, type[Format]] = {
    "jsonl": JSONLines,
    "csv": CSV,
    "sql": SQLFiles,
    "huggingface": HuggingFace,
    "bird": BIRD,
    "spider": Spider,
    "alpaca": Alpaca,
    "sharegpt": ShareGPT,
    "workload": Workload,
}
"""Every form of `validate.FORMATS`."""


def difficulty(values: Mapping[str, Any]) -> str:
    """Return how hard a query is in BIRD's words, by what it is made of.

    BIRD's own are people's judgement; here a query is moderate from three of these on, and challenging from six: joins,
    predicates beyond one, subqueries, windows, aggregates.
    """
    parts = values["num_joins"] + max(0, values["num_predicates"] - 1) + values["num_aggregates"]
    parts += 2 * (values["num_subqueries"] + values["num_windows"])
    return "simple" if parts < 3 else "moderate" if parts < 6 else "challenging"


def card(source: Source) -> str:
    """Return the card of a dataset: what is in it, how it was made, and how good it is."""
    identity, summary = source.identity, source.summary
    benchmark = str(identity.get("benchmark", ""))
    files = "\n".join(f"  - split: {split}\n    path: data/{split}.parquet" for split in source.splits)
    counts = "\n".join(f"| {split} | {num_rows} |" for split, num_rows in source.splits.items())
    figures = "\n".join(
        f"| {name.replace('_', ' ')} | {summary[name]:.3f} |"
        for name in ("executability", "non_empty_rate", "mean_similarity", "table_gini", "cost_usd")
        if isinstance(summary.get(name), (int, float))
    )
    text = f"""\
---
language:
- code
task_categories:
- text-generation
tags:
- sql
- text-to-sql
- synthetic
size_categories:
- {_size(sum(source.splits.values()))}
configs:
- config_name: default
  data_files:
{files}
---

# SQL queries over {benchmark}

{sum(source.splits.values())} executable queries with {source.num_skeletons} skeletons over the databases of \
{benchmark}, made by rayfactory {identity.get("rayfactory", "")} with seed {identity.get("seed")}. Written by: \
{", ".join(source.models)}.

| split | rows |
|---|---|
{counts}

Rows are divided by: {source.split}. Each row has its SQL, its database, how many rows it returned, the features that \
were counted, its similarity to the rest when it was admitted, and where it is from (round, team, model, seeds).

| figure of the run | value |
|---|---|
{figures}

The queries have no questions in natural language. The data of {benchmark} is under its own licence.
"""
    return shown(text)


def _size(num_rows: int) -> str:
    """Return the size category that Hugging Face has for so many rows."""
    for most, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")):
        if num_rows < most:
            return name
    return "1M<n<10M"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
