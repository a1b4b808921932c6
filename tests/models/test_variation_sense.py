"""What an analyst would smile at is not what the variation author writes: case by case, and over many drawn queries."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from sqlglot import exp

from rayfactory.config import BenchmarkConfig, ExecutionConfig, ProfileConfig
from rayfactory.databases.benchmark import load_schema, open_benchmark
from rayfactory.databases.engine import Engine, connect
from rayfactory.databases.schema import Schema
from rayfactory.models.grammar import write_queries
from rayfactory.models.variation import (
    finish,
    join_rewrites,
    nesting_rewrites,
    sense,
    window_rewrites,
    write_variations,
)
from rayfactory.models.variation.author import apply
from rayfactory.models.variation.blocks import Context
from rayfactory.models.variation.naming import new_name
from rayfactory.models.variation.resolution import resolve
from rayfactory.sql import parse
from tests.models.store import make_store


@dataclass(frozen=True)
class Store:
    """The small store, open."""

    schema: Schema
    engine: Engine

    def tree(self, sql: str) -> exp.Expr:
        tree = resolve(parse(sql, self.schema.dialect), self.schema)
        assert tree is not None, sql
        return tree

    def context(self) -> Context:
        return Context(self.schema, (), self.engine, {})


@pytest.fixture(scope="module", params=["duckdb", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Yield the store as a real database of each dialect."""
    database, schema = make_store(tmp_path_factory.mktemp("store"), str(request.param))
    engine = connect(database, ExecutionConfig())
    yield Store(schema, engine)
    engine.close()


@dataclass(frozen=True)
class Drawn:
    """Variations over TPC-DS, parsed, and the seeds that they were made of."""

    schema: Schema
    seeds: list[exp.Expr]
    queries: list[exp.Expr]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """Return 120 variations of seeds that the grammar wrote, and of variations."""
    cache = tmp_path_factory.mktemp("tpcds")
    benchmark = open_benchmark(BenchmarkConfig(name="tpcds"), cache)
    (database,) = benchmark.databases
    schema = load_schema(benchmark, database, ProfileConfig(), ExecutionConfig(), cache)
    engine = connect(database, ExecutionConfig())
    tables = [table.name for table in schema.populated]
    pool: list[str] = []
    seeds: list[str] = []
    written: list[str] = []
    for number in range(12):
        rng = random.Random(number)
        pool += write_queries(schema, rng.sample(tables, 8), 5, rng, engine)
        chosen = rng.sample(pool, 3)
        queries = write_variations(schema, chosen, 10, rng, engine)
        seeds += chosen
        written += queries
        pool += queries[:3]
    engine.close()
    return Drawn(schema, [parse(sql, "duckdb") for sql in seeds], [parse(sql, "duckdb") for sql in written])


SALES = "FROM sale AS s JOIN product AS p ON s.product_id = p.product_id JOIN customer AS c ON s.customer_id = c.customer_id"

ODD: tuple[tuple[str, str], ...] = (
    ("a group that a condition has fixed", f"SELECT p.color, c.segment, SUM(s.quantity) AS total {SALES} WHERE p.color = 'red' GROUP BY p.color, c.segment"),
    ("a part of what is fixed already", f"SELECT c.segment, SUM(CASE WHEN p.color = 'red' THEN 1 ELSE 0 END) AS num_red {SALES} WHERE p.color = 'red' GROUP BY c.segment"),
    ("a part of what a condition leaves out", f"SELECT c.segment, SUM(CASE WHEN p.color = 'red' THEN 1 ELSE 0 END) AS num_red {SALES} WHERE p.color IN ('blue', 'green') GROUP BY c.segment"),
    ("a part of each group's own key", f"SELECT p.color, c.segment, SUM(CASE WHEN p.color = 'red' THEN 1 ELSE 0 END) AS num_red {SALES} GROUP BY p.color, c.segment"),
    ("a window over a fixed partition", f"SELECT c.name, p.color, RANK() OVER (PARTITION BY p.color ORDER BY s.quantity DESC) AS r {SALES} WHERE p.color = 'red' AND c.segment = 'home'"),
    ("a sum of prices of one piece", f"SELECT c.segment, SUM(s.sales_price) AS total, MAX(p.color) AS color {SALES} GROUP BY c.segment"),
    ("a mean of keys", "SELECT AVG(s.product_id) AS mean FROM sale AS s"),
    ("rows of two facts multiplied", "SELECT c.segment, COUNT(*) AS n FROM customer AS c JOIN sale AS s ON s.customer_id = c.customer_id JOIN refund AS r ON r.customer_id = c.customer_id GROUP BY c.segment"),
    ("a table read for nothing", "SELECT s.sold_on, s.quantity FROM sale AS s JOIN product AS p ON s.product_id = p.product_id"),
    ("an outer join for nothing", "SELECT s.sold_on, s.quantity FROM sale AS s LEFT JOIN customer AS c ON s.customer_id = c.customer_id AND c.segment = 'home'"),
    ("the same figure twice", "SELECT s.sold_on, SUM(s.quantity) AS a, SUM(s.quantity) AS b FROM sale AS s GROUP BY s.sold_on"),
    ("a condition on what an outer join leaves out", "SELECT c.name, s.sold_on FROM customer AS c LEFT JOIN sale AS s ON s.customer_id = c.customer_id WHERE s.quantity > 3"),
    ("an outer join that a condition undoes", "SELECT c.name, s.sold_on FROM customer AS c LEFT JOIN sale AS s ON s.customer_id = c.customer_id WHERE NOT s.sale_id IS NULL"),
    ("a reference shown as it is", "SELECT s.customer_id, s.sold_on FROM sale AS s"),
    ("a window over a single row", "SELECT AVG(s.quantity) AS mean, AVG(AVG(s.quantity)) OVER () AS whole FROM sale AS s"),
    ("two ranks", "SELECT s.quantity, RANK() OVER (ORDER BY s.quantity DESC) AS quantity_rank, DENSE_RANK() OVER (ORDER BY s.sales_price) AS price_rank FROM sale AS s"),
    ("figures of groups without a name", f"SELECT SUM(s.quantity) AS total {SALES} WHERE p.color = 'red' GROUP BY c.segment"),
    ("a line for each thing, told by what many share", "SELECT c.segment, COUNT(s.sale_id) AS n FROM customer AS c LEFT JOIN sale AS s ON s.customer_id = c.customer_id GROUP BY c.customer_id, c.segment"),
    ("the mean of the one price that each group has", "SELECT p.product_id, SUM(s.quantity) AS total, AVG(p.list_price) AS mean FROM sale AS s JOIN product AS p ON s.product_id = p.product_id GROUP BY p.product_id"),
    ("a bound on the one price that each group has", "SELECT p.product_id, SUM(s.quantity) AS total FROM sale AS s JOIN product AS p ON s.product_id = p.product_id GROUP BY p.product_id HAVING MAX(p.list_price) > 5"),
    ("a figure for each row that is not shown", "SELECT (SELECT COUNT(*) FROM sale AS s WHERE s.product_id = p.product_id) AS n FROM product AS p"),
    ("amounts of which equal ones are left out", f"SELECT DISTINCT p.color, s.sales_price {SALES} WHERE c.segment = 'home'"),
    ("a long text after an equals sign", "SELECT c.segment, c.name FROM customer AS c WHERE c.name = 'somebody whose name goes on for longer than a line'"),
)  # fmt: skip

FINE = (
    "SELECT s.sold_on, p.color, COUNT(*) AS n FROM sale AS s JOIN product AS p ON s.product_id = p.product_id GROUP BY s.product_id, p.color, s.sold_on",
    "SELECT c.name || ' of ' || c.city AS label, COUNT(s.sale_id) AS n FROM customer AS c LEFT JOIN sale AS s ON s.customer_id = c.customer_id GROUP BY c.customer_id, c.name, c.city",
    "SELECT p.product_id, AVG(s.sales_price) AS mean FROM sale AS s JOIN product AS p ON s.product_id = p.product_id GROUP BY p.product_id",
    f"SELECT AVG(t.total) AS mean FROM (SELECT SUM(s.quantity) AS total {SALES} WHERE p.color = 'red' GROUP BY c.segment) AS t",
    f"SELECT p.color, c.segment, SUM(s.quantity) AS total {SALES} WHERE p.color IN ('red', 'blue') GROUP BY p.color, c.segment",
    f"SELECT c.segment, AVG(s.sales_price) AS mean, MAX(p.list_price) AS highest {SALES} GROUP BY c.segment",
    f"SELECT c.segment, SUM(CASE WHEN p.color = 'red' THEN 1 ELSE 0 END) AS num_red {SALES} GROUP BY c.segment",
    "SELECT c.segment, COUNT(DISTINCT s.product_id) AS n FROM sale AS s JOIN customer AS c ON s.customer_id = c.customer_id GROUP BY c.segment",
    "SELECT c.name, s.sold_on FROM customer AS c LEFT JOIN sale AS s ON s.customer_id = c.customer_id AND s.quantity > 3",
    "SELECT c.name FROM customer AS c LEFT JOIN sale AS s ON s.customer_id = c.customer_id WHERE s.sale_id IS NULL",
    "SELECT c.name, COUNT(s.sale_id) AS n FROM customer AS c LEFT JOIN sale AS s ON s.customer_id = c.customer_id GROUP BY c.customer_id, c.name",
)


@pytest.mark.parametrize(("smile", "sql"), ODD, ids=[smile.replace(" ", "-") for smile, _ in ODD])
def test_what_nobody_asks_is_told(store: Store, smile: str, sql: str) -> None:
    """Each kind of odd question is recognised on its tree."""
    assert sense.is_odd(store.tree(sql), store.schema), smile


@pytest.mark.parametrize("sql", FINE)
def test_what_somebody_asks_is_left_alone(store: Store, sql: str) -> None:
    """The neighbours of the odd questions are not odd."""
    assert not sense.is_odd(store.tree(sql), store.schema)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("a", 1), ("b", 2), ("c", 3), ("d", 4)], False),
        ([("a", 1), ("a", 2), ("a", 3), ("a", 4)], True),  # one group, it seems
        ([("a", 0), ("b", 0), ("c", 0), ("d", 0)], True),  # nothing to say
        ([("a", None), ("b", None), ("c", None), ("d", None)], True),
        ([("a", 0), ("b", 0)], False),  # too few to tell
        ([("a", 7)], True),  # a group without another beside it
    ],
)
def test_rows_that_say_little_are_seen(rows: list[tuple[object, ...]], *, expected: bool) -> None:
    """A key that is the same everywhere, or a figure that is nothing everywhere, shows in the rows."""
    tree = parse("SELECT color, SUM(quantity) AS total FROM sale GROUP BY color", "duckdb")
    assert sense.says_little(tree, rows) is expected


def test_one_row_over_and_over_says_little() -> None:
    """A list whose rows are all the same is no list."""
    tree = parse("SELECT c.name, COUNT(*) OVER () AS n FROM sale AS s JOIN customer AS c ON TRUE", "duckdb")
    assert sense.says_little(tree, [("a", 4)] * 4)
    assert not sense.says_little(tree, [("a", 4)] * 3 + [("b", 4)])


def test_part_that_nothing_meets_says_little() -> None:
    """A figure of rows that meet a condition is not nothing in every row, be it a single one."""
    tree = parse("SELECT SUM(CASE WHEN a > 1 THEN 1 ELSE 0 END) AS n, COUNT(*) AS m FROM t", "duckdb")
    assert sense.says_little(tree, [(0, 4)])
    assert not sense.says_little(tree, [(1, 4)])


def test_condition_that_few_groups_meet_says_little() -> None:
    """A column for one value of a category is for groups that have it."""
    tree = parse("SELECT color, COUNT(*) FILTER (WHERE size = 'S') AS num_small FROM sale GROUP BY color", "duckdb")
    assert sense.says_little(tree, [("a", 0), ("b", 0), ("c", 3), ("d", 4)])
    assert not sense.says_little(tree, [("a", 0), ("b", 2), ("c", 3), ("d", 4)])


def test_keys_that_tell_each_other_say_little() -> None:
    """Of two keys that go together one is enough; a key that falls into parts of another is another key."""
    tree = parse("SELECT quarter, name, COUNT(*) AS n FROM days GROUP BY quarter, name", "duckdb")
    assert sense.says_little(tree, [(1, "Q1", 9), (2, "Q2", 8), (3, "Q3", 7), (4, "Q4", 9)])
    assert not sense.says_little(tree, [(1, "Jan", 9), (1, "Feb", 8), (2, "Apr", 7), (2, "May", 9)])


FINISHED: tuple[tuple[str, str, str], ...] = (
    ("no limit on one row", "SELECT COUNT(*) AS n FROM sale AS s ORDER BY n LIMIT 10", "SELECT COUNT(*) AS n FROM sale"),
    ("no order by what is not shown", "SELECT c.name, c.segment FROM customer AS c ORDER BY c.name, c.customer_id", "SELECT name, segment FROM customer ORDER BY name"),
    ("no name that the column has", "SELECT c.name AS Name, c.city AS city FROM customer AS c", "SELECT name, city FROM customer"),
    ("attributes once each", "SELECT c.segment, c.city FROM customer AS c", "SELECT DISTINCT segment, city FROM customer"),
    ("things once each", "SELECT c.name FROM sale AS s JOIN customer AS c ON s.customer_id = c.customer_id WHERE s.quantity > 9", "SELECT DISTINCT c.name FROM sale AS s JOIN customer AS c ON s.customer_id = c.customer_id WHERE s.quantity > 9"),
    ("no group that nothing shows", f"SELECT c.segment, COUNT(*) AS n {SALES} WHERE p.list_price > 9 GROUP BY c.segment, p.color", f"SELECT c.segment, COUNT(*) AS n {SALES} WHERE p.list_price > 9 GROUP BY c.segment"),
    ("an order of groups by their keys", "SELECT c.segment, COUNT(*) AS n, AVG(c.customer_id) AS m FROM customer AS c GROUP BY c.segment ORDER BY n LIMIT 2", "SELECT segment, COUNT(*) AS n, AVG(customer_id) AS m FROM customer GROUP BY segment ORDER BY n, segment LIMIT 2"),
)  # fmt: skip


@pytest.mark.parametrize(("what", "before", "after"), FINISHED, ids=[case[0].replace(" ", "-") for case in FINISHED])
def test_last_touches(store: Store, what: str, before: str, after: str) -> None:
    """What is left over of rewriting goes, and nothing else."""

    def plain(tree: exp.Expr) -> str:
        for term in tree.find_all(exp.Ordered):
            term.set("nulls_first", None)
            term.set("desc", None)
        resolved = resolve(tree, store.schema)
        assert resolved is not None
        return re.sub(r"\b(sale|customer)\.|\b[sc]\.| AS [sc]\b", "", resolved.sql())

    finished = finish.finish(store.tree(before), store.context(), random.Random(1))
    store.engine.run(finished.sql(dialect=store.schema.dialect))
    assert plain(finished) == plain(parse(after, "duckdb")), what


def test_member_list_gets_a_choice(store: Store) -> None:
    """A member list of all rows of a table, also by way of a CTE, gets a condition."""
    for sql in (
        "SELECT s.sold_on, s.quantity FROM sale AS s WHERE s.product_id IN (SELECT p.product_id FROM product AS p)",
        "WITH x AS (SELECT p.product_id FROM product AS p) SELECT s.sold_on, s.quantity FROM sale AS s WHERE s.product_id IN (SELECT product_id FROM x)",
    ):
        for seed in range(5):
            finished = finish.finish(store.tree(sql), store.context(), random.Random(seed))
            read = [
                select for select in finished.find_all(exp.Select) if "product" in select.sql().partition("WHERE")[0]
            ]
            assert any(select.args.get("where") is not None for select in read if select is not finished), (
                finished.sql()
            )
            assert store.engine.run(finished.sql(dialect=store.schema.dialect)).row_count > 0


def test_limit_that_no_row_reaches_goes(store: Store) -> None:
    """A limit above the number of rows is left out; one that cuts stays."""
    tree = store.tree("SELECT c.name, c.segment FROM customer AS c ORDER BY c.name LIMIT 50")
    finish.drop_idle_limit(tree, 50)
    assert tree.args.get("limit") is not None
    finish.drop_idle_limit(tree, 49)
    assert tree.args.get("limit") is None


def test_months_of_no_year_have_no_month_before(store: Store) -> None:
    """The group before and a running total are asked of what follows each other once, not of months of all years."""
    part = {
        "duckdb": ("EXTRACT(MONTH FROM s.sold_on)", "DATE_TRUNC('month', s.sold_on)"),
        "sqlite": ("CAST(STRFTIME('%m', s.sold_on) AS INTEGER)", "STRFTIME('%Y-%m', s.sold_on)"),
    }[store.schema.dialect]
    found: list[bool] = []
    for key in part:
        tree = store.tree(f"SELECT {key} AS m, SUM(s.quantity) AS total FROM sale AS s GROUP BY {key}")
        made = [apply(window_rewrites.add_window, tree, store.context(), random.Random(seed)) for seed in range(30)]
        found.append(any(new is not None and (new.find(exp.Lag) or "running" in new.sql()) for new in made))
    assert found == [False, True]


def test_new_names_are_no_tables_and_no_system_names(store: Store) -> None:
    """A CTE is not called like a base table, and nothing begins as what a database keeps for itself."""
    assert new_name("sqlite_sequence", ()) == "sequence"
    assert new_name("pg_1", ()) == "t_1"
    tables = {table.name for table in store.schema.tables}
    tree = store.tree("SELECT c.segment, c.city, COUNT(*) AS n FROM customer AS c GROUP BY c.segment, c.city")
    for seed in range(20):
        new = apply(nesting_rewrites.wrap, tree, store.context(), random.Random(seed))
        assert new is None or not tables & {cte.alias for cte in new.find_all(exp.CTE)}


def test_joined_rows_show_what_repeats_them(store: Store) -> None:
    """Where the rows of a list become those of a table that points to it, something of that table is shown."""
    tree = store.tree("SELECT c.name, c.born FROM customer AS c")
    made = [apply(join_rewrites.add_join, tree, store.context(), random.Random(seed)) for seed in range(20)]
    changed = [new for new in made if new is not None]
    assert changed
    for new in changed:
        (alias,) = [join.this.alias_or_name for join in new.find_all(exp.Join)]
        assert any(part.table == alias for part in new.find(exp.Select).find_all(exp.Column) if part.find_ancestor(exp.Join) is None)  # type: ignore[union-attr]  # fmt: skip


# -- over many drawn queries ----------------------------------------------------


def selects_all(tree: exp.Expr) -> bool:
    """A member list is all of a table."""
    for test in tree.find_all(exp.In):
        query = test.args.get("query")
        query = query.unnest() if query is not None else None
        clauses = ("where", "joins", "group", "having", "limit")
        if (
            isinstance(query, exp.Select)
            and not isinstance(test.parent, exp.Not)
            and not any(query.args.get(key) for key in clauses)
            and not tree.find(exp.CTE)
        ):
            return True
    return False


def sums_up_nonsense(tree: exp.Expr) -> bool:
    """Prices of one piece, bounds or keys are added up."""
    pattern = re.compile(r"_(list_price|sales_price|current_price|wholesale_cost|\w+_bound|sk|year)$")
    return any(
        isinstance(node.this, exp.Column) and "_ext_" not in node.this.name and pattern.search(node.this.name)
        for node in tree.find_all(exp.Sum)
    )


def limits_one_row(tree: exp.Expr) -> bool:
    """What has one row has a limit."""
    return (
        isinstance(tree, exp.Select)
        and tree.args.get("limit") is not None
        and tree.args.get("group") is None
        and all(isinstance(part.unalias(), exp.AggFunc) for part in tree.expressions)
    )


def counts_attributes(tree: exp.Expr) -> bool:
    """Days, times or profiles are counted."""
    return any(
        isinstance(node.this, exp.Distinct) and re.search(r"(demo|date|time|band)_sk$", node.this.expressions[0].name)
        for node in tree.find_all(exp.Count)
    )


def names_twice(tree: exp.Expr) -> bool:
    """A column is given the name that it has."""
    return any(
        isinstance(part.this, exp.Column) and part.this.name.casefold() == part.alias.casefold()
        for part in tree.find_all(exp.Alias)
    )


def groups_by_one_value(tree: exp.Expr) -> bool:
    """A condition fixes what is grouped by."""
    for select in tree.find_all(exp.Select):
        where, group = select.args.get("where"), select.args.get("group")
        if where is None or group is None:
            continue
        tests = where.this.flatten() if isinstance(where.this, exp.And) else [where.this]
        fixed = {test.this for test in tests if isinstance(test, exp.EQ) and isinstance(test.expression, exp.Literal)}
        if fixed & set(group.expressions):
            return True
    return False


def reads_days_alone(tree: exp.Expr) -> bool:
    """Days or times of a day are counted or listed for themselves."""
    return {table.name for table in tree.find_all(exp.Table)} <= {"date_dim", "time_dim"}


def partitions_by_bands(tree: exp.Expr) -> bool:
    """Rows are ranked within bands of a quantity."""
    return any(
        isinstance(part, exp.Case)
        for node in tree.find_all(exp.Window)
        if not (isinstance(node.parent_select, exp.Select) and node.parent_select.args.get("group"))
        for part in node.args.get("partition_by") or []
    )


def counts_halves_of_a_part_of_the_day(tree: exp.Expr) -> bool:
    """Parts of a calendar or a clock are counted where another part of it is given."""
    return any(
        isinstance(node, exp.Column) and node.name.startswith(("t_", "d_")) and _is_given(node, select)
        for select in tree.find_all(exp.Select)
        for part in select.expressions
        for test in part.find_all(exp.If, exp.Filter)
        for node in (test.this if isinstance(test, exp.If) else test.expression).find_all(exp.Column)
    )


LABELS = ("source", "channel", "origin")


def labels_of(tree: exp.Expr) -> list[str]:
    """Return the words by which parts of a UNION say what they are of."""
    firsts = [select.expressions[0] for select in tree.find_all(exp.Select) if select.expressions]
    return [part.this.name for part in firsts if part.alias in LABELS and isinstance(part.this, exp.Literal)]


def sets_side_by_side_what_is_unlike(tree: exp.Expr) -> bool:
    """Under each other stand figures of a table and of what it is about, or of an event of another kind."""
    kinds = {re.split("[ _]", re.sub(" by .*", "", label))[-1] for label in labels_of(tree)}
    return len(kinds) > 1 and kinds not in ({"sales", "returns"}, {"center", "store"}, {"center", "page"})


def _is_given(part_of_time: exp.Column, select: exp.Select) -> bool:
    """Whether the query groups by another column of the same calendar."""
    group = select.args.get("group")
    return group is not None and any(
        isinstance(key, exp.Column) and key.table == part_of_time.table and key != part_of_time
        for key in group.expressions
    )


SMILES = (
    counts_halves_of_a_part_of_the_day,
    selects_all,
    sums_up_nonsense,
    limits_one_row,
    counts_attributes,
    names_twice,
    groups_by_one_value,
    reads_days_alone,
    partitions_by_bands,
    sets_side_by_side_what_is_unlike,
)


def test_seeds_are_put_under_each_other_where_they_are_alike(drawn: Drawn) -> None:
    """What the test of labels looks at is there."""
    assert any(labels_of(tree) for tree in (*drawn.queries, *drawn.seeds))


@pytest.mark.parametrize("smiles", SMILES, ids=[smiles.__name__ for smiles in SMILES])
def test_drawn_queries_raise_no_smile(drawn: Drawn, smiles: Callable[[exp.Expr], bool]) -> None:
    """What is no question is not asked, unless a seed asks it and nothing else can be made of it."""
    found = [tree.sql() for tree in drawn.queries if smiles(tree)]
    assert len(drawn.queries) >= 115
    assert len(found) <= 0.02 * len(drawn.queries), found


def test_bands_are_rare(drawn: Drawn) -> None:
    """Hardly a query sorts a quantity into bands that no seed has."""

    def banded(tree: exp.Expr) -> set[str]:
        arms = [
            case.args["ifs"][0].this for case in tree.find_all(exp.Case) if case.args["ifs"][0].args["true"].is_string
        ]
        return {arm.this.name for arm in arms if isinstance(arm, exp.LT)}

    known = set().union(*(banded(seed) for seed in drawn.seeds))
    assert sum(bool(banded(tree) - known) for tree in drawn.queries) <= 0.08 * len(drawn.queries)
