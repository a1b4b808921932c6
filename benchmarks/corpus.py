"""Where the benchmarks have their queries from."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import zss
from sqlglot import exp

from rayfactory.analysis.files import read_queries
from rayfactory.config import EmbeddingConfig
from rayfactory.errors import StatementError
from rayfactory.pool import connect
from rayfactory.sql import normalise, parse
from rayfactory.tools.embedding import Embedder
from rayfactory.tools.trees import label


def read_corpus(path: Path, dialect: str) -> list[str]:
    """Return the queries of a file, in any of the forms of `rayfactory.analysis.files`."""
    return [query.sql for query in read_queries(path, dialect)]


def of_run(run_dir: Path) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Return the queries of a run, in order, and their vectors: float32, queries x dimensions."""
    rows = connect(run_dir).sql("SELECT sql, vector FROM R JOIN E USING (query_id) ORDER BY query_id").fetchall()
    return [sql for sql, _ in rows], np.array([vector for _, vector in rows], np.float32)


def official_tpcds() -> list[str]:
    """Return the 99 official queries of TPC-DS, from DuckDB's extension."""
    import duckdb
    import duckdb_extension_tpcds

    folder = Path(duckdb_extension_tpcds.__file__).parent
    extension = next(folder.glob(f"extensions/v{duckdb.__version__}/**/tpcds.duckdb_extension"))
    with duckdb.connect() as connection:
        connection.load_extension(str(extension))
        rows = connection.execute("SELECT query FROM tpcds_queries() ORDER BY query_nr").fetchall()
    return [query for (query,) in rows]


def parse_each(queries: Sequence[str], dialect: str) -> list[exp.Expr]:
    """Return the trees of the queries that parse."""
    trees = []
    for query in queries:
        try:
            trees.append(parse(query, dialect))
        except StatementError:
            continue
    return trees


def zss_tree(expression: exp.Expr) -> zss.Node:
    """Return a statement as the tree that the zss package compares, its labels made beforehand."""
    return zss.Node(label(expression), [zss_tree(child) for child in expression.iter_expressions()])


def zss_distance(a: zss.Node, b: zss.Node) -> int:
    """Return the distance of two such trees, as zss finds it."""
    return int(zss.simple_distance(a, b, label_dist=lambda x, y: x != y))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose a corpus."""
    parser.add_argument(
        "--corpus", type=Path, help="file of queries; the 99 official ones of TPC-DS where there is none"
    )
    parser.add_argument("--dialect", default="duckdb", help="of the corpus: duckdb or sqlite")
    parser.add_argument("--limit", type=int, default=300, help="queries of the corpus at most")


def add_run_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument for a run in the place of a corpus."""
    parser.add_argument("--run", type=Path, help="a finished run over TPC-DS: its pool is the corpus")


def chosen_queries(arguments: argparse.Namespace) -> list[str]:
    """Return the queries that the arguments choose: of a run, of a file, or the official ones."""
    if getattr(arguments, "run", None) is not None:
        queries, _ = of_run(arguments.run)
    elif arguments.corpus is not None:
        queries = read_corpus(arguments.corpus, arguments.dialect)
    else:
        queries = official_tpcds()
    return queries[: arguments.limit]


def chosen_trees(arguments: argparse.Namespace) -> list[exp.Expr]:
    """Return the trees of the corpus that the arguments choose."""
    return parse_each(chosen_queries(arguments), arguments.dialect)


def chosen_with_vectors(
    arguments: argparse.Namespace,
) -> tuple[list[exp.Expr], list[str], npt.NDArray[np.float32]]:
    """Return the trees that the arguments choose, their texts, and their vectors: those that a run has."""
    trees = chosen_trees(arguments)
    texts = [normalise(tree, arguments.dialect) for tree in trees]
    if arguments.run is not None:
        return trees, texts, of_run(arguments.run)[1][: arguments.limit]
    return trees, texts, Embedder(EmbeddingConfig()).encode(texts)
