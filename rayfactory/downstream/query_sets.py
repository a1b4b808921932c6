"""Sets of queries with labels, which clusterings are judged by: IIT Bombay, UB Exam, PocketData and one's own.

Source of the three: Kul et al., Similarity Metrics for SQL Query Clustering, 2018 (EttuBench).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from rayfactory import sql
from rayfactory.errors import StatementError, UserError


@dataclass(frozen=True, slots=True)
class QuerySet:
    """Queries, and the cluster that each belongs to.

    Attributes:
        name: of the set.
        queries: their texts, of which some may not parse.
        labels: as many.
    """

    name: str
    queries: tuple[str, ...]
    labels: tuple[str, ...]


def read_sets(path: Path) -> list[QuerySet]:
    """Return the set of a file, or those of a folder, in the order of their names.

    A file has a header with the columns ``label`` and ``query``, with tabs between them (``.csv`` or ``.tsv``; commas
    where the header has no tab).

    Raises:
        UserError: there is none, or a file is no such set.
    """
    files = sorted(each for each in path.iterdir() if each.suffix in {".csv", ".tsv"}) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{str(path)!r} holds no .csv or .tsv file with labelled queries; name a folder that has some")
    return [_read(file) for file in files]


def _read(path: Path) -> QuerySet:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            rows = list(csv.DictReader(file, delimiter="\t" if "\t" in header else ","))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{str(path)!r} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not rows or not {"label", "query"} <= rows[0].keys():
        raise UserError(f"{str(path)!r} is no set of queries: it needs a header with the columns label and query")
    if any(row["label"] is None or row["query"] is None for row in rows):
        raise UserError(f"{str(path)!r} has a row without a label or a query; mend it")
    return QuerySet(path.stem, tuple(row["query"] for row in rows), tuple(row["label"] for row in rows))


def text_of(query: str, dialect: str) -> str:
    """Return what an encoder reads of a query: its normalised text; its own in lower case where it does not parse."""
    try:
        return sql.normalise(sql.parse(query, dialect), dialect)
    except StatementError:
        return " ".join(query.lower().split())


def canonical_of(query: str, dialect: str) -> str:
    """Return what tells whether two queries are the same; of one that does not parse, its text."""
    try:
        return sql.canonical(sql.parse(query, dialect), dialect)
    except StatementError:
        return " ".join(query.lower().split())
