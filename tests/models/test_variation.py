"""The variation author: each rewriting for itself, and all of them together, on real databases of both dialects."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlglot import exp

from rayfactory.config import BenchmarkConfig, ExecutionConfig, ProfileConfig
from rayfactory.databases.benchmark import load_schema, open_benchmark
from rayfactory.databases.engine import Engine, connect
from rayfactory.databases.schema import Schema
from rayfactory.models.variation import (
    aggregate_rewrites,
    condition_rewrites,
    head_rewrites,
    join_rewrites,
    nesting_rewrites,
    part_rewrites,
    set_rewrites,
    subquery_rewrites,
    transpose,
    window_rewrites,
)
from rayfactory.models.variation.author import MAX_NODES, RULES, Rewriting, apply, write_variations
from rayfactory.models.variation.blocks import Context
from rayfactory.models.variation.nodes import is_aggregated
from rayfactory.models.variation.resolution import resolve
from rayfactory.sql import base_tables, check_safe, features, parse, skeleton
from tests.models.store import make_store


@dataclass(frozen=True)
class Store:
    """The small store, open."""

    schema: Schema
    engine: Engine

    def context(self, *seeds: str) -> Context:
        return Context(self.schema, tuple(self.tree(seed) for seed in seeds), self.engine, {})

    def tree(self, sql: str) -> exp.Expr:
        tree = resolve(parse(sql, self.schema.dialect), self.schema)
        assert tree is not None, sql
        return tree


@pytest.fixture(scope="module", params=["duckdb", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Yield the store as a real database of each dialect."""
    database, schema = make_store(tmp_path_factory.mktemp("store"), str(request.param))
    engine = connect(database, ExecutionConfig())
    yield Store(schema, engine)
    engine.close()


def count(kind: type[exp.Expr]) -> Callable[[exp.Expr], int]:
    return lambda tree: len(list(tree.find_all(kind)))


joins, windows, ctes, selects = count(exp.Join), count(exp.Window), count(exp.CTE), count(exp.Select)

LIST = "SELECT c.name, s.quantity FROM sale AS s JOIN customer AS c ON s.customer_id = c.customer_id WHERE s.quantity > 1 AND c.segment IN ('home', 'office')"
ONE = LIST.partition(" AND ")[0]
GROUPS = "SELECT p.color, SUM(s.sales_price) AS total_price FROM sale AS s JOIN product AS p ON s.product_id = p.product_id WHERE s.quantity > 1 GROUP BY p.color ORDER BY total_price DESC LIMIT 3"
FILTER = "SELECT s.sold_on, COUNT(*) AS n FROM sale AS s JOIN customer AS c ON s.customer_id = c.customer_id WHERE c.segment = 'home' GROUP BY s.sold_on"
MEMBERS = "SELECT s.sold_on, s.sales_price FROM sale AS s WHERE s.customer_id IN (SELECT c.customer_id FROM customer AS c WHERE c.segment = 'home')"
NAMED = "WITH big AS (SELECT r.customer_id, SUM(r.refund_amount) AS back FROM refund AS r GROUP BY r.customer_id) SELECT c.segment, b.back FROM big AS b JOIN customer AS c ON b.customer_id = c.customer_id"
DERIVED = "SELECT c.segment, AVG(t.back) AS avg_back FROM (SELECT r.customer_id, SUM(r.refund_amount) AS back FROM refund AS r GROUP BY r.customer_id) AS t JOIN customer AS c ON t.customer_id = c.customer_id GROUP BY c.segment"
TOTAL = "SELECT COUNT(*) AS n FROM sale AS s JOIN customer AS c ON s.customer_id = c.customer_id"
REFUNDS = "SELECT r.refunded_on, r.refund_amount FROM refund AS r WHERE r.quantity BETWEEN 1 AND 2"
PARENTS = "SELECT c.name, c.segment FROM customer AS c WHERE c.born > '1970-06-01'"

Check = Callable[[exp.Expr, exp.Expr], bool]

CASES: tuple[tuple[Rewriting, str, Check], ...] = (
    (join_rewrites.add_join, GROUPS, lambda old, new: joins(new) == joins(old) + 1),
    (join_rewrites.swap_partner, LIST, lambda old, new: joins(new) == 1 and "product" in base_tables(new)),
    (transpose.transpose, LIST, lambda old, new: "refund" in base_tables(new)),
    (join_rewrites.drop_join, LIST.replace("s.quantity FROM", "s.sold_on FROM"), lambda old, new: joins(new) == 0 and "customer" not in base_tables(new)),
    (subquery_rewrites.join_to_subquery, FILTER, lambda old, new: joins(new) == 0 and selects(new) == 2),
    (subquery_rewrites.subquery_to_join, MEMBERS, lambda old, new: joins(new) == 1 and selects(new) == 1),
    (join_rewrites.inner_to_left, LIST, lambda old, new: [join.side for join in new.find_all(exp.Join)] == ["LEFT"]),
    (subquery_rewrites.anti_join, PARENTS, lambda old, new: selects(new) == 2 and new.find(exp.In, exp.Exists) is not None),
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
    (aggregate_rewrites.pivot, TOTAL, lambda old, new: new.find(exp.Case, exp.Filter) is not None),
    (aggregate_rewrites.change_aggregate, GROUPS, lambda old, new: select(new).expressions[1] != select(old).expressions[1]),
    (head_rewrites.reorder, LIST, lambda old, new: True),
    (head_rewrites.show_less, DERIVED.replace("AS avg_back", "AS avg_back, COUNT(*) AS n"), lambda old, new: len(select(new).expressions) == 2),
    (part_rewrites.take_part, NAMED, lambda old, new: ctes(new) == 0 and base_tables(new) == ("refund",)),
    (part_rewrites.take_core, NAMED, lambda old, new: ctes(new) == 0),
    (nesting_rewrites.wrap, GROUPS, lambda old, new: selects(new) > selects(old)),
    (nesting_rewrites.cte_to_derived, NAMED, lambda old, new: ctes(new) == 0 and selects(new) == selects(old)),
    (nesting_rewrites.derived_to_cte, DERIVED, lambda old, new: ctes(new) == 1 and selects(new) == selects(old)),
    (set_rewrites.combine_conditions, LIST, lambda old, new: isinstance(new, exp.SetOperation)),
    (set_rewrites.combine_seeds, LIST, lambda old, new: isinstance(new, exp.Union)),
    (condition_rewrites.member_of_seed, PARENTS, lambda old, new: new.find(exp.In) is not None),
    (aggregate_rewrites.show_overall_average, LIST, lambda old, new: len(select(new).expressions) >= 3),
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
    store: Store, rewriting: Rewriting, before: str, check: Check
) -> None:
    """A rewriting makes its own change, whatever is drawn, and what it makes runs."""
    old = store.tree(before)
    context = store.context(before, FILTER, REFUNDS)
    made = [apply(rewriting, old, context, random.Random(seed)) for seed in range(15)]
    changed = [new for new in made if new is not None]
    assert changed, "it never applied"
    assert old == store.tree(before), "it changed the seed itself"
    for new in changed:
        text = new.sql(dialect=store.schema.dialect)
        store.engine.run(text)
        assert check(old, new), text


SEEDS = (LIST, GROUPS, FILTER, MEMBERS, NAMED, DERIVED, REFUNDS)


def test_variations_run_and_differ_in_shape(store: Store) -> None:
    """All queries run, nearly all return rows, and none has the skeleton of a seed or of another one of the request."""
    dialect = store.schema.dialect
    written: list[str] = []
    shapes = 0
    for seed in range(12):
        seeds = random.Random(seed).sample(SEEDS, 3)
        queries = write_variations(store.schema, seeds, 10, random.Random(seed), store.engine)
        skeletons = [skeleton(parse(sql, dialect), dialect) for sql in (*seeds, *queries)]
        shapes += len(set(skeletons)) - len({skeleton(parse(sql, dialect), dialect) for sql in seeds})
        written.extend(queries)
    counts = []
    for sql in written:
        tree = parse(sql, dialect)
        check_safe(tree, dialect)
        counts.append(store.engine.run(sql).row_count)
        assert sum(1 for _ in tree.walk()) <= MAX_NODES + 40
    assert len(written) >= 110
    assert shapes >= 0.97 * len(written)
    assert sum(rows > 0 for rows in counts) >= 0.9 * len(counts)


def test_same_arguments_give_the_same_queries(store: Store) -> None:
    """The author is a function of its arguments."""
    one, two = (write_variations(store.schema, SEEDS[:3], 10, random.Random(5), store.engine) for _ in range(2))
    assert one == two
    assert one != write_variations(store.schema, SEEDS[:3], 10, random.Random(6), store.engine)


def test_variations_of_variations_stay_short(store: Store) -> None:
    """Growth is bounded over generations."""
    seeds: list[str] = list(SEEDS[:3])
    for generation in range(6):
        seeds = write_variations(store.schema, seeds[-3:], 6, random.Random(generation), store.engine)
        assert seeds
        for sql in seeds:
            store.engine.run(sql)
            assert features(parse(sql, store.schema.dialect), sql, store.schema.dialect).num_tokens <= 420


@pytest.mark.parametrize(
    "seed",
    [
        "",
        "SELECT",
        "DROP TABLE category",
        "SELECT 1; SELECT 2",
        "SELECT 1",
        "SELECT * FROM nowhere",
        "SELECT missing FROM category",
        "SELECT random() FROM category",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT i FROM n",
        "SELECT a.category_id FROM category AS a, category AS a",
        "VALUES (1, 2)",
        "(" * 300 + "SELECT 1" + ")" * 300,
    ],
)
def test_seed_that_cannot_be_followed_is_passed_over(store: Store, seed: str) -> None:
    """Whatever a seed is, nothing is raised, and the other seeds still serve."""
    assert write_variations(store.schema, [seed], 5, random.Random(0), store.engine) == []
    assert len(write_variations(store.schema, [seed, LIST], 5, random.Random(0), store.engine)) == 5


def test_keyword_as_a_name_stays_quoted(store: Store) -> None:
    """A column whose name is a keyword survives every rewriting."""
    seed = (
        'SELECT p."order", c.segment, AVG(s.sales_price) AS avg_price FROM sale AS s '
        "JOIN product AS p ON s.product_id = p.product_id JOIN customer AS c ON s.customer_id = c.customer_id "
        'GROUP BY p."order", c.segment'
    )
    queries = [
        sql
        for number in range(5)
        for sql in write_variations(store.schema, [seed], 10, random.Random(number), store.engine)
    ]
    assert sum('"order"' in sql for sql in queries) > 10
    for sql in queries:
        store.engine.run(sql)


def test_works_without_a_connection(store: Store) -> None:
    """Without an engine constants come from the profiles, and what is written still runs."""
    queries = write_variations(store.schema, SEEDS[:3], 20, random.Random(3), None)
    assert len(queries) == 20
    for sql in queries:
        store.engine.run(sql)


def test_less_used_tables_are_joined_more_often(store: Store) -> None:
    """Of several partners the one that the pool uses less is drawn more often."""
    use = {table.name: 100 for table in store.schema.tables} | {"product": 0}
    seed = "SELECT s.sold_on, COUNT(*) AS n FROM sale AS s GROUP BY s.sold_on"
    drawn = {"product": 0, "customer": 0}
    for number in range(40):
        context = Context(store.schema, (store.tree(seed),), store.engine, use)
        new = apply(join_rewrites.add_join, store.tree(seed), context, random.Random(number))
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
