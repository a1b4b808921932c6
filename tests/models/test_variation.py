"""The variation author: each rewriting for itself, and all of them together, on real databases of both dialects."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest
from sqlglot import exp

from rayfactory.config import BenchmarkConfig, ExecutionConfig, ProfileConfig
from rayfactory.databases.benchmark import load_schema, open_benchmark, read_schema
from rayfactory.databases.engine import Database, Engine, connect
from rayfactory.databases.metadata import Metadata
from rayfactory.databases.schema import Schema
from rayfactory.models.variation import (
    condition_rewrites,
    head_rewrites,
    join_rewrites,
    nesting_rewrites,
    part_rewrites,
    set_rewrites,
    transpose,
    window_rewrites,
)
from rayfactory.models.variation.author import MAX_NODES, RULES, Rewriting, apply, write_variations
from rayfactory.models.variation.blocks import Context
from rayfactory.models.variation.nodes import is_aggregated
from rayfactory.models.variation.resolution import resolve
from rayfactory.sql import base_tables, check_safe, features, parse, skeleton

DDL = """
CREATE TABLE region (region_id INTEGER PRIMARY KEY, region_name TEXT, "group" TEXT);
CREATE TABLE customer (customer_id INTEGER PRIMARY KEY, customer_name TEXT, segment TEXT, signup_date DATE,
    region_id INTEGER REFERENCES region(region_id));
CREATE TABLE product (product_id INTEGER PRIMARY KEY, product_name TEXT, category TEXT, list_price DOUBLE);
CREATE TABLE shop_sales (sale_id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customer(customer_id),
    product_id INTEGER REFERENCES product(product_id), sale_date DATE, quantity INTEGER, amount DOUBLE, channel TEXT);
CREATE TABLE web_sales (order_id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customer(customer_id),
    product_id INTEGER REFERENCES product(product_id), sale_date DATE, quantity INTEGER, amount DOUBLE, browser TEXT);
CREATE TABLE "odd ""table" ("the key" INTEGER PRIMARY KEY, "unit price" DOUBLE, "Größe" TEXT,
    customer_id INTEGER REFERENCES customer(customer_id));
"""


def rows() -> dict[str, list[tuple[object, ...]]]:
    """Return rows for every table, the same on every call."""
    rng = random.Random(7)
    segments, categories = ("consumer", "corporate", "home office"), ("toys", "books", "garden", "music")

    def day() -> str:
        return f"{rng.choice((2020, 2021, 2022))}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"

    def sales(numbers: range, kinds: tuple[str, ...]) -> list[tuple[object, ...]]:
        return [
            (
                number,
                rng.randint(1, 80),
                rng.randint(1, 40),
                day(),
                rng.randint(1, 9),
                rng.randint(100, 90_000) / 100,
                rng.choice(kinds),
            )
            for number in numbers
        ]

    return {
        "region": [(i, f"Region {name}", "east" if i % 2 else "west") for i, name in enumerate(("Alba", "Beor", "Cyre", "Dorn"), 1)],
        "customer": [
            (i, f"Customer {chr(65 + i % 26)}{i}", rng.choice(segments), day(), rng.randint(1, 4)) for i in range(1, 101)
        ],
        "product": [(i, f"Product {i}", rng.choice(categories), rng.randint(100, 9_000) / 100) for i in range(1, 51)],
        "shop_sales": sales(range(1, 401), ("till", "phone", "kiosk")),
        "web_sales": sales(range(1, 301), ("fire", "chrome", "other")),
        'odd "table': [(i, i * 1.5, rng.choice(("klein", "groß", "sehr groß")), rng.randint(1, 100)) for i in range(1, 61)],
    }  # fmt: skip


@dataclass(frozen=True)
class Shop:
    """A small database that is open."""

    schema: Schema
    engine: Engine

    def context(self, *seeds: str) -> Context:
        return Context(self.schema, tuple(self.tree(seed) for seed in seeds), self.engine, {})

    def tree(self, sql: str) -> exp.Expr:
        tree = resolve(parse(sql, self.schema.dialect), self.schema)
        assert tree is not None, sql
        return tree


@pytest.fixture(scope="module", params=["duckdb", "sqlite"])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Yield the shop as a real database of each dialect."""
    dialect = str(request.param)
    path = tmp_path_factory.mktemp("shop") / f"shop.{dialect}"
    connection = duckdb.connect(str(path)) if dialect == "duckdb" else sqlite3.connect(path)
    for statement in DDL.split(";"):
        if statement.strip():
            connection.execute(statement)
    for table, values in rows().items():
        quoted = table.replace('"', '""')
        connection.executemany(f'INSERT INTO "{quoted}" VALUES ({", ".join("?" * len(values[0]))})', values)
    if isinstance(connection, sqlite3.Connection):
        connection.commit()
    connection.close()
    database = Database("shop", dialect, str(path))
    schema = read_schema(database, Metadata(), ProfileConfig(), ExecutionConfig(), fingerprint="")
    engine = connect(database, ExecutionConfig())
    yield Shop(schema, engine)
    engine.close()


def count(kind: type[exp.Expr]) -> Callable[[exp.Expr], int]:
    return lambda tree: len(list(tree.find_all(kind)))


joins, windows, ctes, selects = count(exp.Join), count(exp.Window), count(exp.CTE), count(exp.Select)

LIST = "SELECT c.customer_name, s.amount FROM shop_sales AS s JOIN customer AS c ON s.customer_id = c.customer_id WHERE s.quantity > 3 AND c.segment IN ('consumer', 'corporate')"
ONE = LIST.partition(" AND ")[0]
GROUPS = "SELECT p.category, SUM(s.amount) AS total_amount FROM shop_sales AS s JOIN product AS p ON s.product_id = p.product_id WHERE s.quantity > 1 GROUP BY p.category ORDER BY total_amount DESC LIMIT 3"
FILTER = "SELECT s.channel, COUNT(*) AS n FROM shop_sales AS s JOIN customer AS c ON s.customer_id = c.customer_id WHERE c.segment = 'consumer' GROUP BY s.channel"
MEMBERS = "SELECT s.channel, s.amount FROM shop_sales AS s WHERE s.customer_id IN (SELECT c.customer_id FROM customer AS c WHERE c.segment = 'consumer')"
NAMED = "WITH big AS (SELECT w.customer_id, SUM(w.amount) AS spent FROM web_sales AS w GROUP BY w.customer_id) SELECT c.segment, b.spent FROM big AS b JOIN customer AS c ON b.customer_id = c.customer_id"
DERIVED = "SELECT c.segment, AVG(t.spent) AS avg_spent FROM (SELECT w.customer_id, SUM(w.amount) AS spent FROM web_sales AS w GROUP BY w.customer_id) AS t JOIN customer AS c ON t.customer_id = c.customer_id GROUP BY c.segment"
TOTAL = "SELECT COUNT(*) AS n FROM shop_sales AS s JOIN customer AS c ON s.customer_id = c.customer_id"
WEB = "SELECT w.browser, w.amount FROM web_sales AS w WHERE w.quantity BETWEEN 2 AND 5"
PARENTS = "SELECT c.customer_name, c.segment FROM customer AS c WHERE c.signup_date > '2020-06-01'"

Check = Callable[[exp.Expr, exp.Expr], bool]

CASES: tuple[tuple[Rewriting, str, Check], ...] = (
    (join_rewrites.add_join, GROUPS, lambda old, new: joins(new) == joins(old) + 1),
    (join_rewrites.swap_partner, LIST, lambda old, new: joins(new) == 1 and "product" in base_tables(new)),
    (transpose.transpose, LIST.replace("s.amount,", ""), lambda old, new: "web_sales" in base_tables(new)),
    (join_rewrites.drop_join, LIST.replace("s.amount", "s.amount, s.channel"), lambda old, new: joins(new) == 0 and "customer" not in base_tables(new)),
    (join_rewrites.join_to_subquery, FILTER, lambda old, new: joins(new) == 0 and selects(new) == 2),
    (join_rewrites.subquery_to_join, MEMBERS, lambda old, new: joins(new) == 1 and selects(new) == 1),
    (join_rewrites.inner_to_left, LIST, lambda old, new: [join.side for join in new.find_all(exp.Join)] == ["LEFT"]),
    (join_rewrites.anti_join, PARENTS, lambda old, new: selects(new) == 2 and new.find(exp.In, exp.Exists) is not None),
    (condition_rewrites.add_condition, GROUPS, lambda old, new: conditions(new) > conditions(old)),
    (condition_rewrites.drop_condition, LIST, lambda old, new: conditions(new) == conditions(old) - 1),
    (condition_rewrites.replace_condition, LIST, lambda old, new: conditions(new) >= conditions(old) and new != old),
    (condition_rewrites.compare_with_average, LIST, lambda old, new: new.find(exp.Avg) is not None),
    (condition_rewrites.negate_condition, LIST, lambda old, new: new.find(exp.Not, exp.NEQ) is not None),
    (condition_rewrites.splice_condition, ONE, lambda old, new: conditions(new) == 2),
    (head_rewrites.regroup, LIST, lambda old, new: is_aggregated(select(new))),
    (head_rewrites.add_key, TOTAL, lambda old, new: len(select(new).args["group"].expressions) >= 1),
    (head_rewrites.show_rows, GROUPS, lambda old, new: not is_aggregated(select(new))),
    (head_rewrites.add_having, GROUPS, lambda old, new: select(new).args.get("having") is not None),
    (window_rewrites.add_window, GROUPS, lambda old, new: windows(new) >= 1),
    (window_rewrites.add_window, LIST, lambda old, new: windows(new) >= 1),
    (head_rewrites.pivot, GROUPS, lambda old, new: new.find(exp.Case, exp.Filter) is not None),
    (head_rewrites.change_aggregate, GROUPS, lambda old, new: select(new).expressions[1] != select(old).expressions[1]),
    (head_rewrites.reorder, LIST, lambda old, new: True),
    (head_rewrites.show_less, DERIVED.replace("AS avg_spent", "AS avg_spent, COUNT(*) AS n"), lambda old, new: len(select(new).expressions) == 2),
    (part_rewrites.take_part, NAMED, lambda old, new: ctes(new) == 0 and base_tables(new) == ("web_sales",)),
    (part_rewrites.take_core, NAMED, lambda old, new: ctes(new) == 0),
    (nesting_rewrites.wrap, GROUPS, lambda old, new: selects(new) > selects(old)),
    (nesting_rewrites.cte_to_derived, NAMED, lambda old, new: ctes(new) == 0 and selects(new) == selects(old)),
    (nesting_rewrites.derived_to_cte, DERIVED, lambda old, new: ctes(new) == 1 and selects(new) == selects(old)),
    (set_rewrites.combine_conditions, LIST, lambda old, new: isinstance(new, exp.SetOperation)),
    (set_rewrites.combine_seeds, LIST, lambda old, new: isinstance(new, exp.Union)),
    (condition_rewrites.member_of_seed, PARENTS, lambda old, new: new.find(exp.In) is not None),
    (head_rewrites.show_overall_average, LIST, lambda old, new: len(select(new).expressions) >= 3),
)  # fmt: skip


def select(tree: exp.Expr) -> exp.Select:
    assert isinstance(tree, exp.Select)
    return tree


def conditions(tree: exp.Expr) -> int:
    return features(tree, tree.sql(), "duckdb").num_predicates


def names_in(tree: exp.Expr) -> set[str]:
    return {name.casefold() for name in base_tables(tree)}


def test_every_rewriting_has_a_case() -> None:
    """No rewriting is without a pair of before and after."""
    assert {rule.rewriting for rule in RULES} == {rewriting for rewriting, _, _ in CASES}


@pytest.mark.parametrize(("rewriting", "before", "check"), CASES, ids=[f"{case[0].__name__}" for case in CASES])
def test_rewriting_changes_what_it_says_and_still_runs(
    shop: Shop, rewriting: Rewriting, before: str, check: Check
) -> None:
    """A rewriting makes its own change, whatever is drawn, and what it makes runs."""
    old = shop.tree(before)
    context = shop.context(before, FILTER, WEB)
    made = [apply(rewriting, old, context, random.Random(seed)) for seed in range(15)]
    changed = [new for new in made if new is not None]
    assert changed, "it never applied"
    assert old == shop.tree(before), "it changed the seed itself"
    for new in changed:
        text = new.sql(dialect=shop.schema.dialect)
        shop.engine.run(text)
        assert check(old, new), text


SEEDS = (LIST, GROUPS, FILTER, MEMBERS, NAMED, DERIVED, WEB)


def test_variations_run_and_differ_in_shape(shop: Shop) -> None:
    """All queries run, nearly all return rows, and none has the skeleton of a seed or of another one of the request."""
    dialect = shop.schema.dialect
    written: list[str] = []
    shapes = 0
    for seed in range(12):
        seeds = random.Random(seed).sample(SEEDS, 3)
        queries = write_variations(shop.schema, seeds, 10, random.Random(seed), shop.engine)
        skeletons = [skeleton(parse(sql, dialect), dialect) for sql in (*seeds, *queries)]
        shapes += len(set(skeletons)) - len({skeleton(parse(sql, dialect), dialect) for sql in seeds})
        written.extend(queries)
    counts = []
    for sql in written:
        tree = parse(sql, dialect)
        check_safe(tree, dialect)
        counts.append(shop.engine.run(sql).row_count)
        assert sum(1 for _ in tree.walk()) <= MAX_NODES + 40
    assert len(written) >= 110
    assert shapes >= 0.97 * len(written)
    assert sum(rows > 0 for rows in counts) >= 0.9 * len(counts)


def test_same_arguments_give_the_same_queries(shop: Shop) -> None:
    """The author is a function of its arguments."""
    one, two = (write_variations(shop.schema, SEEDS[:3], 10, random.Random(5), shop.engine) for _ in range(2))
    assert one == two
    assert one != write_variations(shop.schema, SEEDS[:3], 10, random.Random(6), shop.engine)


def test_variations_of_variations_stay_short(shop: Shop) -> None:
    """Growth is bounded over generations."""
    seeds: list[str] = list(SEEDS[:3])
    for generation in range(6):
        seeds = write_variations(shop.schema, seeds[-3:], 6, random.Random(generation), shop.engine)
        assert seeds
        for sql in seeds:
            shop.engine.run(sql)
            assert features(parse(sql, shop.schema.dialect), sql, shop.schema.dialect).num_tokens <= 420


@pytest.mark.parametrize(
    "seed",
    [
        "",
        "SELECT",
        "DROP TABLE region",
        "SELECT 1; SELECT 2",
        "SELECT 1",
        "SELECT * FROM nowhere",
        "SELECT missing FROM region",
        "SELECT random() FROM region",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT i FROM n",
        "SELECT a.region_id FROM region AS a, region AS a",
        "VALUES (1, 2)",
        "(" * 300 + "SELECT 1" + ")" * 300,
    ],
)
def test_seed_that_cannot_be_followed_is_passed_over(shop: Shop, seed: str) -> None:
    """Whatever a seed is, nothing is raised, and the other seeds still serve."""
    assert write_variations(shop.schema, [seed], 5, random.Random(0), shop.engine) == []
    assert len(write_variations(shop.schema, [seed, LIST], 5, random.Random(0), shop.engine)) == 5


def test_odd_names_stay_quoted(shop: Shop) -> None:
    """Names with spaces, quotes, other alphabets and keywords survive every rewriting."""
    seed = (
        'SELECT o."Größe", r."group", AVG(o."unit price") AS avg_price FROM "odd ""table" AS o '
        "JOIN customer AS c ON o.customer_id = c.customer_id JOIN region AS r ON c.region_id = r.region_id "
        'GROUP BY o."Größe", r."group"'
    )
    queries = [
        sql
        for number in range(5)
        for sql in write_variations(shop.schema, [seed], 10, random.Random(number), shop.engine)
    ]
    assert sum("odd " in sql for sql in queries) > 10
    for sql in queries:
        shop.engine.run(sql)


def test_works_without_a_connection(shop: Shop) -> None:
    """Without an engine constants come from the profiles, and what is written still runs."""
    queries = write_variations(shop.schema, SEEDS[:3], 20, random.Random(3), None)
    assert len(queries) == 20
    for sql in queries:
        shop.engine.run(sql)


def test_less_used_tables_are_joined_more_often(shop: Shop) -> None:
    """Of several partners the one that the pool uses less is drawn more often."""
    use = {table.name: 100 for table in shop.schema.tables} | {"product": 0}
    seed = "SELECT s.channel, COUNT(*) AS n FROM shop_sales AS s GROUP BY s.channel"
    drawn = {"product": 0, "customer": 0}
    for number in range(40):
        context = Context(shop.schema, (shop.tree(seed),), shop.engine, use)
        new = apply(join_rewrites.add_join, shop.tree(seed), context, random.Random(number))
        for name in drawn:
            drawn[name] += new is not None and name in base_tables(new)
    assert drawn["product"] > 3 * drawn["customer"]


@pytest.mark.realdata
def test_gold_queries_of_spider_as_seeds(shared_data: Path, tmp_path: Path) -> None:
    """Of variations of hand-written queries over 14 databases 99 % run, and they name only tables that exist."""
    config = BenchmarkConfig(name="spider", root=str(shared_data / "spider" / "database"))
    benchmark = open_benchmark(config, tmp_path)
    gold: dict[str, list[str]] = {}
    for line in (shared_data / "spider" / "dev_gold.sql").read_text(encoding="utf-8").splitlines():
        sql, _, name = line.partition("\t")
        gold.setdefault(name.strip(), []).append(sql)
    ran = written = 0
    for database in benchmark.databases:
        if database.name not in gold:
            continue
        schema = load_schema(benchmark, database, ProfileConfig(), ExecutionConfig(), tmp_path)
        engine = connect(database, ExecutionConfig())
        known = {table.name.casefold() for table in schema.tables}
        for number in range(3):
            seeds = random.Random(number).sample(gold[database.name], 3)
            for sql in write_variations(schema, seeds, 10, random.Random(number), engine):
                assert names_in(parse(sql, "sqlite")) <= known
                written += 1
                try:
                    engine.run(sql)
                    ran += 1
                except Exception:  # noqa: BLE001  counted below
                    pass
        engine.close()
    assert written >= 300
    assert ran >= 0.99 * written
