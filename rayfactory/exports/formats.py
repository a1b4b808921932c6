"""The forms that a corpus is exported in, by their names: here those of tables, scripts, datasets and workloads."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rayfactory.exports.form import Format, PerSplit, Source, provenance, to_json
from rayfactory.exports.rows import ROWS_AT_ONCE, Row
from rayfactory.exports.text_to_sql import BIRD, Alpaca, ShareGPT, Spider
from rayfactory.records import R_SCHEMA
from rayfactory.shown import shown

_FORMULA = re.compile(r"\s*[=+\-@\t\r|%]")


class JSONLines(PerSplit):
    """One JSON object a line: every column of table R, the skeleton and the split."""

    suffix = ".jsonl"

    def write(self, row: Row) -> None:
        """Write a line."""
        self._file(row.split)[0].write(to_json({**row.values, "skeleton": row.skeleton, "split": row.split}) + "\n")


class CSV(PerSplit):
    """Comma-separated values. What a spreadsheet would take for a formula has an apostrophe before it."""

    suffix = ".csv"

    def write(self, row: Row) -> None:
        """Write a line, after the names of the columns."""
        file, is_new = self._file(row.split)
        values = {**row.values, "skeleton": row.skeleton, "split": row.split}
        writer = csv.writer(file)
        if is_new:
            writer.writerow(values)
        writer.writerow([inert(to_json(value) if isinstance(value, list) else value) for value in values.values()])


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
        self._index.write(to_json({**about, "row_count": row.values["row_count"], **provenance(row)}) + "\n")

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

    def __init__(self, folder: Path, source: Source) -> None:
        super().__init__(folder, source)
        (folder / "data").mkdir()
        more = ("question", "evidence") if source.has_questions else ()
        self._schema = pa.schema([*R_SCHEMA, *(pa.field(name, pa.string()) for name in (*more, "skeleton", "split"))])
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
            self._writers[split] = pq.ParquetWriter(self.folder / "data" / f"{split}.parquet", self._schema)
        self._writers[split].write_table(pa.Table.from_pylist(self._rows.pop(split), self._schema))

    def close(self) -> None:
        """Write the last groups and the card."""
        for split in list(self._rows):
            self._flush(split)
        for writer in self._writers.values():
            writer.close()
        (self.folder / "README.md").write_text(card(self.source), encoding="utf-8")


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
        self._file.write(to_json({**about, "weight": row.weight, "skeleton": row.skeleton, **provenance(row)}) + "\n")

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
    with_questions = source.has_questions
    own = "its question, its evidence, its SQL" if with_questions else "its SQL"
    without = "" if with_questions else "The queries have no questions in natural language. "
    text = f"""\
---
language:
- {"en" if with_questions else "code"}
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

Rows are divided by: {source.split}. Each row has {own}, its database, how many rows it returned, the features that \
were counted, its similarity to the rest when it was admitted, and where it is from (round, team, model, seeds).

| figure of the run | value |
|---|---|
{figures}

{without}The data of {benchmark} is under its own licence.
"""
    return shown(text)


def _size(num_rows: int) -> str:
    """Return the size category that Hugging Face has for so many rows."""
    for most, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")):
        if num_rows < most:
            return name
    return "1M<n<10M"
