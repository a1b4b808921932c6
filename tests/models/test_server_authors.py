"""The authors on real servers: what they write is in the server's dialect, passes the wall, runs and finds rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from sqlglot import exp

from rayfactory.config import ExecutionConfig, ProfileConfig
from rayfactory.databases import tpcds
from rayfactory.databases.benchmark import Benchmark, load_schemas
from rayfactory.databases.catalogue import Keys
from rayfactory.databases.engine import Engine, connect
from rayfactory.databases.schema import Schema
from rayfactory.models.grammar import scope_grammar, write_queries
from rayfactory.models.variation import write_variations
from rayfactory.sql import base_tables, check_safe, parse, spelled
from rayfactory.sql.canonical import canonical
from tests.models.store import TABLES, make_store
from tests.servers import copy_tables

Store = tuple[Schema, Engine]


@pytest.fixture(scope="module", params=["postgresql_server", "mariadb_server"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    database, schema = make_store(tmp_path_factory.mktemp("store"), "", request.getfixturevalue(request.param))
    # A question that runs out of time is another one, and a loaded machine no fault of the author.
    engine = connect(database, ExecutionConfig(timeout_s=60))
    yield schema, engine
    engine.close()


@pytest.fixture(scope="module")
def queries(store: Store) -> list[str]:
    schema, engine = store
    return write_queries(schema, TABLES, 40, Random(1), engine)


def test_queries_run_and_find_rows(store: Store, queries: list[str]) -> None:
    """Every query is safe, references two tables or more, is unlike the others, and nearly all of them find rows."""
    schema, engine = store
    forms, empty = set(), 0
    for sql in queries:
        tree = parse(sql, schema.dialect)
        check_safe(tree, schema.dialect)
        assert len(base_tables(tree)) > 1, sql
        forms.add(canonical(tree, schema.dialect))
        empty += engine.run(sql).row_count == 0
    assert len(forms) >= 39
    assert empty <= 1


def test_variations_run_and_find_rows(store: Store, queries: list[str]) -> None:
    """So do the variations of them."""
    schema, engine = store
    written = [
        sql
        for number in range(6)
        for sql in write_variations(schema, queries[number * 5 : number * 5 + 3], 6, Random(number), engine)
    ]
    empty = 0
    for sql in written:
        check_safe(parse(sql, schema.dialect), schema.dialect)
        empty += engine.run(sql).row_count == 0
    assert len(written) >= 30
    assert empty <= 1


def test_same_seed_same_queries(store: Store, queries: list[str]) -> None:
    """The text depends on nothing but the seed and the database."""
    schema, engine = store
    assert write_queries(schema, TABLES, 40, Random(1), engine) == queries


def test_queries_without_a_connection_run(store: Store) -> None:
    """Without an engine the constants come from the profiles."""
    schema, engine = store
    for sql in write_queries(schema, TABLES, 20, Random(5), None):
        engine.run(sql)


def test_expressions_of_a_grammar_are_in_the_dialect(store: Store) -> None:
    """What constrains a model's decoding is spelled as the server reads it."""
    schema, engine = store
    grammar = scope_grammar(schema, {"s": "sale", "p": "product"}, Random(1))
    joined = "FROM sale AS s JOIN product AS p ON s.product_id = p.product_id"
    for number in range(30):
        rng = Random(number)
        engine.run(f"SELECT COUNT(*) {joined} WHERE {grammar.sample(rng, 'condition')}")
        engine.run(f"SELECT {grammar.sample(rng, 'aggregate')} {joined}")
        engine.run(f"SELECT {grammar.sample(rng, 'dimension')} {joined}")


@pytest.mark.slow
@pytest.mark.parametrize("server", ["postgresql_server", "mariadb_server"])
def test_tpcds_on_a_server_is_written_about(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tpcds_path: Path, server: str
) -> None:
    """24 tables and 107 keys, copied to the server: a hundred queries and a hundred variations run and find rows."""
    keys = Keys(tpcds.PRIMARY_KEYS, {}, tpcds.FOREIGN_KEYS)
    database = copy_tables(tpcds_path, request.getfixturevalue(server), "tpcds", keys)
    (schema,) = load_schemas(
        Benchmark("custom", (database,)), ProfileConfig(), ExecutionConfig(), tmp_path_factory.mktemp("data")
    )
    assert (len(schema.tables), len(schema.foreign_keys)) == (24, 107)
    engine, rng = connect(database, ExecutionConfig(timeout_s=20)), Random(1)
    names = [table.name for table in schema.populated]
    queries = [sql for _ in range(10) for sql in write_queries(schema, rng.sample(names, 5), 10, rng, engine)]
    variations = [sql for _ in range(10) for sql in write_variations(schema, rng.sample(queries, 3), 10, rng, engine)]
    for written in (queries, variations):
        assert len(written) >= 90
        for sql in written:
            check_safe(parse(sql, schema.dialect), schema.dialect)
        assert sum(engine.run(sql).row_count == 0 for sql in written) <= 1
    engine.close()


WRITTEN = (
    "SELECT 7 / 2 AS ratio, ROUND(10.0 * quantity / 3, 1) AS share FROM sale",
    "SELECT DAYOFWEEK(sold_on) AS weekday, COUNT(*) AS n FROM sale GROUP BY DAYOFWEEK(sold_on) ORDER BY n DESC, weekday",
    "SELECT COUNT(*) FILTER (WHERE quantity > 3) AS large, SUM(quantity) FILTER (WHERE sales_price > 40) AS x FROM sale",
    "SELECT COUNT(DISTINCT customer_id) FILTER (WHERE quantity > 3) AS customers FROM sale",
    'SELECT "order" AS "Name", color FROM product ORDER BY "Name", color',
    "SELECT city FROM customer ORDER BY city DESC NULLS LAST",
    "SELECT name || ' of ' || COALESCE(city, '?') AS who FROM customer WHERE born > DATE '1970-01-31'",
)


@pytest.mark.parametrize("sql", WRITTEN)
def test_what_is_written_in_duckdb_says_the_same_on_the_server(
    store: Store, tmp_path_factory: pytest.TempPathFactory, sql: str
) -> None:
    """The values are those that DuckDB finds in the same rows; a part of a week has a number of its own everywhere."""
    schema, engine = store
    database, _ = make_store(tmp_path_factory.mktemp("duckdb"), "duckdb")
    reference = connect(database, ExecutionConfig())
    expected = reference.run(sql, keep_rows=2_000)
    reference.close()
    found = engine.run(spelled(sql, schema.dialect), keep_rows=2_000)
    assert found.row_count == expected.row_count
    if "DAYOFWEEK" in sql:
        shift = 1 if schema.dialect == "mysql" else 0  # MySQL's week begins with day 1
        assert [(int(day) - shift, n) for day, n in found.rows] == [*expected.rows]  # type: ignore[call-overload]
    elif "NULLS LAST" in sql and schema.dialect == "mysql":
        assert sorted(map(str, found.rows)) == sorted(map(str, expected.rows))
    else:
        plain = [tuple(float(v) if not isinstance(v, str) and v is not None else v for v in row) for row in found.rows]  # type: ignore[arg-type]
        assert sorted(plain, key=str) == sorted(
            (
                tuple(float(v) if not isinstance(v, str) and v is not None else v for v in row)  # type: ignore[arg-type]
                for row in expected.rows
            ),
            key=str,
        )


def test_capitals_are_quoted_for_postgresql() -> None:
    """PostgreSQL reads an unquoted name in lower case; a table that is called otherwise would not be found."""
    assert spelled("SELECT o.CustomerId FROM Orders AS o", "postgres") == 'SELECT o."CustomerId" FROM "Orders" AS o'
    assert spelled('SELECT "a b" FROM t', "mysql") == "SELECT `a b` FROM t"


def test_what_is_no_server_s_is_left_alone() -> None:
    """For a file nothing is parsed and spelled again."""
    assert spelled("SELECT  1", "duckdb") == "SELECT  1"
    assert isinstance(parse(spelled("SELECT 1", "mysql"), "mysql"), exp.Select)
