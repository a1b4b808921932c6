"""The schema grammar on a real database of each kind: what it writes runs, finds rows, and reads sensibly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from sqlglot import exp

from rayfactory.config import BenchmarkConfig, ExecutionConfig, ProfileConfig
from rayfactory.databases.benchmark import load_schema, open_benchmark
from rayfactory.databases.engine import Database, Engine, connect
from rayfactory.databases.schema import Schema
from rayfactory.models.grammar import draw_grammar, scope_grammar, write_queries
from rayfactory.models.grammar.skeleton import KeyGraph, draw_skeleton
from rayfactory.sql.canonical import canonical
from rayfactory.sql.features import features
from rayfactory.sql.safety import check_safe
from rayfactory.sql.statement import base_tables, parse
from tests.models.store import TABLES, make_store

Store = tuple[Database, Schema, Engine]


@pytest.fixture(scope="module", params=["duckdb", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    database, schema = make_store(tmp_path_factory.mktemp("store"), request.param)
    engine = connect(database, ExecutionConfig())
    yield database, schema, engine
    engine.close()


def test_queries_run_and_find_rows(store: Store) -> None:
    """Every query is safe, runs, references two tables or more, and nearly all of them find rows."""
    database, schema, engine = store
    queries = write_queries(schema, TABLES, 60, Random(1), engine)
    empty = 0
    for sql in queries:
        tree = parse(sql, database.dialect)
        check_safe(tree, database.dialect)
        assert len(base_tables(tree)) > 1, sql
        empty += engine.run(sql).row_count == 0
    assert len(queries) == 60
    assert empty <= 1


def test_no_two_queries_of_a_request_are_alike(store: Store) -> None:
    """The queries of a request differ in more than their aliases, but for a rare pair of short ones."""
    database, schema, engine = store
    queries = write_queries(schema, TABLES, 40, Random(2), engine)
    assert len({canonical(parse(sql, database.dialect), database.dialect) for sql in queries}) >= 39


def test_same_seed_same_queries(store: Store) -> None:
    """The text depends on nothing but the seed and the database, also where its connection is another."""
    database, schema, engine = store
    first = write_queries(schema, TABLES, 12, Random(3), engine)
    other = connect(database, ExecutionConfig())
    assert write_queries(schema, TABLES, 12, Random(3), other) == first
    other.close()
    assert write_queries(schema, TABLES, 12, Random(4), engine) != first


def test_queries_without_a_database(store: Store) -> None:
    """Without an engine the constants come from the profiles; what is written still runs."""
    _, schema, engine = store
    for sql in write_queries(schema, TABLES, 40, Random(5), None):
        engine.run(sql)


def test_all_requested_tables_are_used(store: Store) -> None:
    """A request of some size references each of its tables, the first at least as a fair share."""
    database, schema, engine = store
    used = [base_tables(parse(sql, database.dialect)) for sql in write_queries(schema, TABLES, 20, Random(6), engine)]
    counts = {table: sum(table in tables for tables in used) for table in TABLES}
    assert min(counts.values()) >= 2, counts
    assert counts[TABLES[0]] >= 8, counts


def test_results_do_not_change(store: Store) -> None:
    """A query gives the same rows each time: limits and row numbers stand on total orders."""
    _, schema, engine = store
    for sql in write_queries(schema, TABLES, 30, Random(7), engine):
        assert engine.run(sql, keep_rows=500).rows == engine.run(sql, keep_rows=500).rows


@pytest.mark.parametrize("seed", range(8))
def test_sentences_of_one_grammar_run(store: Store, seed: int) -> None:
    """Other sentences of the grammar of one query run as well, whichever way its choices fall."""
    _, schema, engine = store
    grammar = draw_grammar(schema, TABLES, Random(seed), engine)
    for again in range(8):
        engine.run(grammar.sample(Random(again)))
    assert grammar.size < 2000
    assert len(grammar.ebnf()) < 100_000


def test_keys_are_not_summed_nor_codes_averaged(store: Store) -> None:
    """No aggregate other than a count, a minimum or a maximum is taken of a key or a text."""
    database, schema, engine = store
    forbidden = {
        c.name.lower() for table in schema.tables for c in table.columns if c.role in ("key", "text", "category")
    }
    for sql in write_queries(schema, TABLES, 50, Random(8), engine):
        for node in parse(sql, database.dialect).find_all(exp.Sum, exp.Avg):
            if isinstance(node.this, exp.Column):
                assert node.this.name.lower() not in forbidden, sql


def test_scope_predicates_hold_in_the_witness_row(store: Store) -> None:
    """A condition that is made for a row holds in that row of the join."""
    _, schema, engine = store
    source = "sale AS s JOIN product AS p ON s.product_id = p.product_id"
    columns = [
        (alias, column.name)
        for alias, table in (("s", "sale"), ("p", "product"))
        for column in schema.table(table).columns
    ]
    listed = ", ".join(f'{alias}."{name}"' for alias, name in columns)
    rng = Random(9)
    for sale in (1, 77, 500, 1499):
        row = engine.run(f"SELECT {listed} FROM {source} WHERE s.sale_id = {sale}", keep_rows=1).rows[0]
        grammar = scope_grammar(schema, {"s": "sale", "p": "product"}, rng, dict(zip(columns, row, strict=True)))
        for _ in range(25):
            condition = grammar.sample(rng, "condition")
            found = engine.run(f"SELECT 1 FROM {source} WHERE s.sale_id = {sale} AND ({condition})")
            assert found.row_count == 1, condition


def test_scope_symbols_run(store: Store) -> None:
    """Each symbol of a scope stands where its name says, over all aliases and over one."""
    _, schema, engine = store
    source = "sale AS s JOIN customer AS c ON s.customer_id = c.customer_id"
    rng = Random(10)
    grammar = scope_grammar(schema, {"s": "sale", "c": "customer"}, rng)
    assert {
        "predicate",
        "condition",
        "dimension",
        "measure",
        "aggregate",
        "ordering",
        "predicate:s",
        "dimension:c",
    } <= set(grammar.rules)
    for suffix in ("", ":s"):
        for _ in range(20):
            condition = grammar.sample(rng, f"condition{suffix}")
            measure, order = grammar.sample(rng, f"measure{suffix}"), grammar.sample(rng, f"ordering{suffix}")
            engine.run(f"SELECT {measure} FROM {source} WHERE {condition} ORDER BY {order}")
            key, value = grammar.sample(rng, f"dimension{suffix}"), grammar.sample(rng, f"aggregate{suffix}")
            engine.run(f"SELECT {key}, {value} FROM {source} GROUP BY {key}")


@pytest.mark.parametrize("seed", range(20))
def test_skeletons_do_not_multiply_rows(store: Store, seed: int) -> None:
    """A skeleton's join has at most as many rows as the table that it starts from."""
    _, schema, engine = store
    skeleton = draw_skeleton(KeyGraph(schema), Random(seed), TABLES[seed % 5], TABLES, 1 + seed % 4, {})
    text = f"{skeleton.tables[0].name} AS t0"
    for join in skeleton.joins:
        (own,), (other,) = join.key.columns, join.key.referenced_columns
        text += f" JOIN {skeleton.tables[join.parent].name} AS t{join.parent} ON t{join.child}.{own} = t{join.parent}.{other}"
    assert engine.run(f"SELECT 1 FROM {text}").row_count <= skeleton.tables[0].num_rows


def test_unknown_table_is_named(store: Store) -> None:
    """A table that the database does not have is refused by name."""
    _, schema, engine = store
    with pytest.raises(KeyError, match="nowhere"):
        write_queries(schema, ["sale", "nowhere"], 1, Random(0), engine)


def test_wide_variety_on_tpcds(tmp_path: Path) -> None:
    """On TPC-DS all queries run, and every construct comes up about as often as in analysts' work."""
    benchmark = open_benchmark(BenchmarkConfig(name="tpcds"), tmp_path)
    (database,) = benchmark.databases
    schema = load_schema(benchmark, database, ProfileConfig(), ExecutionConfig(), tmp_path)
    engine = connect(database, ExecutionConfig())
    requests = (
        ("store_sales", "item", "store", "date_dim", "customer", "promotion", "store_returns", "reason"),
        ("web_sales", "web_returns", "web_site", "web_page", "ship_mode", "warehouse", "item", "date_dim"),
        ("catalog_returns", "call_center", "catalog_page", "catalog_sales", "customer_address", "time_dim"),
        ("household_demographics", "income_band", "customer", "customer_demographics", "store_sales"),
        ("inventory", "warehouse", "item", "promotion", "date_dim"),
    )
    rng = Random(11)
    counted = []
    words = (
        "OVER (",
        "WITH ",
        "CASE",
        "HAVING",
        "LIKE",
        "BETWEEN",
        "DISTINCT",
        "UNION",
        "COALESCE",
        "EXISTS",
        "LEFT JOIN",
    )
    texts: list[str] = []
    for tables in requests:
        for sql in write_queries(schema, tables, 30, rng, engine):
            result = engine.run(sql)
            counted.append((features(parse(sql, "duckdb"), sql, "duckdb"), result.row_count))
            texts.append(sql)
    engine.close()
    total = len(counted)
    assert sum(rows > 0 for _, rows in counted) / total >= 0.97
    assert sum(f.num_joins > 0 for f, _ in counted) / total >= 0.8
    assert sum(f.num_predicates > 1 for f, _ in counted) / total >= 0.6
    assert sum(f.num_aggregates > 0 for f, _ in counted) / total >= 0.6
    assert sum(f.num_subqueries > 0 for f, _ in counted) / total >= 0.3
    assert sum(f.num_windows > 0 for f, _ in counted) / total >= 0.18
    assert min(f.num_tokens for f, _ in counted) < 40
    assert max(f.num_tokens for f, _ in counted) > 180
    missing = [word for word in words if not any(re.search(re.escape(word), text) for text in texts)]
    assert not missing
