"""A corpus of queries with what is known of each: the pool of a run, or a file from anywhere.

Both are tables of one DuckDB connection, under the names and with the columns of `records`: R, E, S and rejects. What a
file does not tell, such as who wrote a query and how many rows it returned, is NULL.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayfactory.analysis.files import read_queries
from rayfactory.analysis.outline import Outline, read_outlines
from rayfactory.config import Config, CriticConfig
from rayfactory.errors import RunDirError
from rayfactory.identity import read_identity
from rayfactory.manifests import Manifest
from rayfactory.pool import ALL_VIEWS, connect, read_manifests, read_summary
from rayfactory.records import E_SCHEMA, R_SCHEMA, REJECTS_SCHEMA, S_SCHEMA, Tree, canonical_digest
from rayfactory.tools.embedding import ENCODERS, Embedder
from rayfactory.tools.execution import examine
from rayfactory.tools.similarity import Signature
from rayfactory.tools.words import encode

_NO_TEXT = re.compile("[\0\ud800-\udfff]")
"""What no text of a database has, and JSON may."""

VECTORS_AT_ONCE = 8_192
"""Vectors that are in memory at a time."""


@dataclass
class Corpus:
    """Queries, and what is known of them.

    Attributes:
        name: what a person calls it: the last part of its path.
        path: the run directory or the file.
        connection: with R, E, S and rejects; query_ids are 0 .. N - 1.
        num_queries: N.
        weights: of the similarity.
        encoder: what made the vectors of E, in words.
        identity: of the run; empty for a file.
        summary: of the run, as its last process left it; empty where there is none.
        manifests: of the run's rounds.
        outlines: of its databases; empty where they are not known.
        unparsed: queries of a file that do not parse.
    """

    name: str
    path: Path
    connection: duckdb.DuckDBPyConnection
    weights: CriticConfig
    encoder: str
    num_queries: int = 0
    identity: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    manifests: Sequence[Manifest] = ()
    outlines: Mapping[str, Outline] = field(default_factory=dict)
    unparsed: int = 0

    @property
    def is_run(self) -> bool:
        """Whether it is the pool of a run."""
        return bool(self.identity)

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Return what a statement over the tables gives, a dictionary a row."""
        found = self.connection.execute(query, list(parameters))
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def value(self, query: str, parameters: Sequence[Any] = ()) -> Any:
        """Return the one value that a statement gives."""
        row = self.connection.execute(query, list(parameters)).fetchone()
        assert row is not None
        return row[0]

    def signatures(self, query_ids: Sequence[int]) -> list[Signature]:
        """Return what queries are compared by."""
        wanted = pa.table({"place": range(len(query_ids)), "query_id": query_ids})
        cursor = self.connection.cursor()
        cursor.register("wanted", wanted)
        found = cursor.execute(
            "SELECT S.words, S.labels, S.leftmost, E.vector FROM wanted JOIN S USING (query_id) JOIN E USING "
            "(query_id) "
            "ORDER BY place"
        ).to_arrow_table()
        cursor.close()
        trees = map(_tree, _arrays(found["labels"]), _arrays(found["leftmost"]))
        words = map(encode, found["words"].to_pylist())
        return list(map(Signature, words, trees, _arrays(found["vector"])))

    def vectors(self, query_ids: Sequence[int] | None = None) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the vectors of E, or of some queries in ascending order, float32[N, D], some at a time."""
        cursor = self.connection.cursor()
        where = ""
        if query_ids is not None:
            cursor.register("wanted", pa.table({"query_id": query_ids}))
            where = "WHERE query_id IN (SELECT query_id FROM wanted) ORDER BY query_id"
        for batch in cursor.execute(f"SELECT vector FROM E {where}").to_arrow_reader(VECTORS_AT_ONCE):
            if len(batch):
                yield batch["vector"].flatten().to_numpy().reshape(len(batch), -1)
        cursor.close()

    def close(self) -> None:
        """Let go of the files."""
        self.connection.close()


def _arrays(column: pa.ChunkedArray) -> Iterator[npt.NDArray[Any]]:
    return (value.values.to_numpy() for chunk in column.chunks for value in chunk)


def _tree(labels: npt.NDArray[np.int64], leftmost: npt.NDArray[np.int32]) -> Tree | None:
    return Tree(labels, leftmost) if len(labels) else None


def described(model: str, precision: str) -> str:
    """Return an encoder in words."""
    return f"{model} ({precision})"


def of_run(run_dir: Path, name: str = "") -> Corpus:
    """Return the pool of a run as it is now. The run may go on meanwhile.

    Args:
        run_dir: of the run.
        name: what it is called; empty: as its folder.

    Raises:
        RunDirError: there is no run, or it has no rows yet.
    """
    identity = read_identity(run_dir)
    if identity is None:
        raise RunDirError(f"there is no run in {str(run_dir)!r}; name the folder of a run that was started")
    connection = connect(run_dir, ALL_VIEWS)
    settings = identity.get("settings", {})
    embedding = settings.get("embedding", {})
    corpus = Corpus(
        name or run_dir.name,
        run_dir,
        connection,
        _weights(settings.get("critic", {})),
        described(embedding.get("model", "unknown"), embedding.get("precision", "unknown precision")),
        identity=identity,
        summary=read_summary(run_dir),
        outlines=read_outlines(run_dir),
    )
    corpus.num_queries = corpus.value("SELECT count(*) FROM R")
    if not corpus.num_queries:
        connection.close()
        raise RunDirError(f"the run in {str(run_dir)!r} has no rows yet; look at it when it has some")
    # A round that was committed since is not in the connection.
    corpus.manifests = [
        manifest for manifest in read_manifests(run_dir) if manifest.next_query_id <= corpus.num_queries
    ]
    return corpus


def _weights(settings: Mapping[str, Any]) -> CriticConfig:
    default = CriticConfig()
    return CriticConfig(
        k=settings.get("k", default.k),
        candidates_per_neighbour=settings.get("candidates_per_neighbour", default.candidates_per_neighbour),
        token_weight=settings.get("token_weight", default.token_weight),
        ast_weight=settings.get("ast_weight", default.ast_weight),
        embedding_weight=settings.get("embedding_weight", default.embedding_weight),
    )


def of_file(path: Path, config: Config, on_progress: Callable[[int], None]) -> Corpus:
    """Return the queries of a file: parsed and encoded, not run.

    What does not parse is counted and left out.

    Args:
        path: of the file, see `files.read_queries`.
        config: its `dialect`, `embedding` and `critic` count.
        on_progress: called with how many queries are parsed.

    Raises:
        UserError: the file cannot be read.
    """
    queries = read_queries(path, config.dialect)
    examined = []
    for number, query in enumerate(queries, start=1):
        found = examine(query.sql, config.dialect)
        if found.tree is not None and found.features is not None and not _NO_TEXT.search(query.sql + query.database):
            examined.append((query, found))
        if number % 100 == 0:
            on_progress(number)
    if not examined:
        raise RunDirError(
            f"no query of {str(path)!r} parses as {config.dialect}; name its dialect with dialect=duckdb, sqlite, "
            "postgres or mysql"
        )
    embedder = Embedder(config.embedding, Path(config.data_dir) / ENCODERS)
    vectors_ND = embedder.encode([found.text for _, found in examined])
    rows, compared, vectors = [], [], []
    for query_id, ((query, found), vector) in enumerate(zip(examined, vectors_ND, strict=True)):
        assert found.tree is not None
        assert found.features is not None
        counts = {name: getattr(found.features, name) for name in found.features.__slots__}
        rows.append(
            {
                "query_id": query_id,
                "database": query.database,
                "dialect": config.dialect,
                "sql": query.sql,
                "tables": sorted({name.lower() for name in found.tables}),
                "model": "",
                "seed_ids": [],
                **counts,
            }
        )
        compared.append(
            {
                "query_id": query_id,
                "database": query.database,
                "words": found.words,
                "labels": found.tree.labels,
                "leftmost": found.tree.leftmost,
                "canonical_digest": canonical_digest(found.canonical),
            }
        )
        vectors.append({"query_id": query_id, "database": query.database, "vector": vector})
    connection = duckdb.connect()
    for name, items, schema in (
        ("R", rows, R_SCHEMA),
        ("E", vectors, E_SCHEMA),
        ("S", compared, S_SCHEMA),
        ("rejects", [], REJECTS_SCHEMA),
    ):
        nullable = pa.schema([column.with_nullable(True) for column in schema])
        table = pa.Table.from_pylist(items, schema=nullable)
        connection.register("arrow_table", table)
        connection.execute(f'CREATE TABLE "{name}" AS SELECT * FROM arrow_table')
        connection.unregister("arrow_table")
    return Corpus(
        path.name,
        path,
        connection,
        config.critic,
        described(embedder.config.model, embedder.config.precision),
        num_queries=len(rows),
        unparsed=len(queries) - len(rows),
    )
