"""Queries out of files that other tools wrote: JSON, JSON lines, CSV and SQL."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlglot
from sqlglot.errors import SqlglotError

from rayfactory.errors import UserError

QUERY_FIELDS = ("sql", "query", "sql_query", "gold_sql", "output")
"""Names of the field that a query stands in, the likeliest first; upper case counts as lower case."""

DATABASE_FIELDS = ("database", "db_id", "db", "db_name", "schema")

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".sql", ".txt")

_GOLD = re.compile(r".*\t\s*[^\s;]+\s*")
"""A line of Spider's gold files: what follows the last tab is one word, the database."""


@dataclass(frozen=True, slots=True)
class FoundQuery:
    """One query of a file; the database is empty where the file names none."""

    sql: str
    database: str = ""


def read_queries(path: Path, dialect: str) -> list[FoundQuery]:
    """Return the queries of a file, in order.

    - ``.json``: a list of queries, or of objects with one in a field of `QUERY_FIELDS`; or an object that holds such a
      list, as `{"queries": [...]}`.
    - ``.jsonl``, ``.ndjson``: one of those a line.
    - ``.csv``, ``.tsv``: with a header that names such a field.
    - ``.sql``, ``.txt``, no ending: such a list; or statements that end with a semicolon; or a statement a line, where
      none does, or where what follows a tab is its database (Spider's gold files).

    A field that is there and empty is a query that does not parse.

    Args:
        path: of the file.
        dialect: of the statements, where they have to be told apart.

    Raises:
        UserError: the file cannot be read, or no query is where one should be.
    """
    text = read_text(path)
    match path.suffix.lower():
        case ".json":
            found = _of_objects(path, _list_in(path, parse_json(path, text)))
        case ".jsonl" | ".ndjson":
            # Other ends of lines may stand in a text.
            lines = [line for line in text.split("\n") if line.strip()]
            found = _of_objects(path, [parse_json(path, line) for line in lines])
        case ".csv" | ".tsv":
            found = _of_table(path, text)
        case ".sql" | ".txt" | "" if not text.lstrip().startswith("["):
            found = _of_statements(text, dialect)
        case ".sql" | ".txt" | "":  # no statement begins so
            found = _of_objects(path, _list_in(path, parse_json(path, text)))
        case other:
            raise UserError(
                f"{str(path)!r} ends with {other!r}; queries are read from files that end with {', '.join(SUFFIXES)}"
            )
    if not found:
        raise UserError(f"{str(path)!r} holds no query; name a file that has some")
    return found


def read_text(path: Path) -> str:
    """Return the content of a text file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{str(path)!r} cannot be read ({reason}); name a text file in UTF-8") from None


def parse_json(path: Path, text: str) -> Any:
    """Return what a file, or a line of one, holds as JSON.

    Raises:
        UserError: it is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        remedy = (
            "write an object a line" if path.suffix.lower() != ".json" else "one with an object a line ends with .jsonl"
        )
        raise UserError(f"{str(path)!r} is no JSON ({error}); {remedy}") from None


def _list_in(path: Path, data: Any) -> list[Any]:
    if isinstance(data, dict):
        lists = [value for value in data.values() if isinstance(value, list) and value]
        data = lists[0] if len(lists) == 1 else data
    if not isinstance(data, list):
        raise UserError(
            f"{str(path)!r} holds no list of queries; write a list of texts, or of objects with a field sql"
        )
    return data


def _of_objects(path: Path, items: Iterable[Any]) -> list[FoundQuery]:
    found = []
    for number, item in enumerate(items, start=1):
        if isinstance(item, str):
            found.append(FoundQuery(item))
            continue
        query = _field(item, QUERY_FIELDS) if isinstance(item, dict) else None
        if query is None and isinstance(item, dict) and any(str(name).lower() in QUERY_FIELDS for name in item):
            query = ""  # the field is there and empty: that is no query, and no other form either
        if query is None:
            raise UserError(
                f"{str(path)!r} holds no query at place {number}; each has to be a text, or an object with one in a "
                f"field {', '.join(QUERY_FIELDS)}"
            )
        found.append(FoundQuery(query, _field(item, DATABASE_FIELDS) or ""))
    return found


def _field(item: dict[Any, Any], names: Iterable[str]) -> str | None:
    by_name = {str(name).lower(): value for name, value in item.items()}
    return next((by_name[name] for name in names if isinstance(by_name.get(name), str)), None)


def _of_table(path: Path, text: str) -> list[FoundQuery]:
    csv.field_size_limit(sys.maxsize)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise UserError(f"{str(path)!r} is no CSV ({error}); write it with a header, and quotes around texts") from None
    return _of_objects(path, rows)


def _of_statements(text: str, dialect: str) -> list[FoundQuery]:
    lines = [line for line in text.splitlines() if line.strip()]
    is_by_line = all(map(_begins_query, lines))
    if is_by_line and all(_GOLD.fullmatch(line) for line in lines):
        return [FoundQuery(*_parts(line)) for line in lines]
    statements = _divided(text, dialect)
    if len(statements) < 2 and is_by_line:
        return [FoundQuery(*_parts(line)) for line in lines]
    return [FoundQuery(statement) for statement in statements]


def _parts(line: str) -> tuple[str, str]:
    """Return the query of a line, and what follows its last tab."""
    query, tab, database = line.rpartition("\t")
    query, database = (query, database) if tab else (line, "")
    return query.strip().removesuffix(";").rstrip(), database.strip()


def _begins_query(line: str) -> bool:
    return line.lstrip(" (").lower().startswith(("select", "with"))


def _divided(text: str, dialect: str) -> list[str]:
    """Return what stands between the semicolons of a text that are no part of a string, a name or a comment."""
    try:
        tokens = sqlglot.tokenize(text, dialect=dialect)
    except SqlglotError:
        # One quote too many would make one statement of all.
        parts = re.split(r";[ \t]*(?:\n|$)", text)
        return [part.strip() for part in parts if part.strip()]
    found, start, holds_any = [], 0, False
    for token in tokens:
        if token.token_type == sqlglot.TokenType.SEMICOLON:
            found += [text[start : token.start]] * holds_any
            start, holds_any = token.end + 1, False
        else:
            holds_any = True
    found += [text[start:]] * holds_any  # what has no token is a comment
    return [part.strip() for part in found]
