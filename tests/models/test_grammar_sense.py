"""What the schema grammar writes makes sense to a reader: properties of many drawn queries, on their syntax trees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlglot import exp

from rayfactory.config import BenchmarkConfig, ExecutionConfig, ProfileConfig
from rayfactory.databases.benchmark import load_schema, open_benchmark
from rayfactory.databases.engine import Engine, connect
from rayfactory.databases.profile import profile_column
from rayfactory.databases.schema import Column, Kind, Role, Schema, Table
from rayfactory.models.grammar import write_queries
from rayfactory.models.grammar.expressions import plural, prefixed
from rayfactory.models.grammar.quantities import is_additive
from rayfactory.models.grammar.scope import Field, determines, run_together, say_the_same, shared_prefix
from rayfactory.models.grammar.skeleton import KeyGraph, are_alike
from rayfactory.models.grammar.syntax import KEYWORDS, fresh_name, named, snake
from rayfactory.sql.statement import parse
from tests.models.store import TABLES, make_store

REQUESTS = (
    ("store_sales", "item", "store", "date_dim", "customer", "promotion", "store_returns", "reason"),
    ("web_sales", "web_returns", "web_site", "web_page", "ship_mode", "warehouse", "item", "date_dim"),
    ("catalog_returns", "call_center", "catalog_page", "catalog_sales", "customer_address", "time_dim"),
    ("household_demographics", "income_band", "customer", "customer_demographics", "store_sales"),
    ("inventory", "warehouse", "item", "promotion", "date_dim"),
)


@dataclass(frozen=True)
class Drawn:
    """Queries over one database, with their trees.

    Attributes:
        columns: table and column of each name that only one table has.
    """

    schema: Schema
    engine: Engine
    queries: tuple[tuple[str, exp.Expr], ...]
    columns: dict[str, tuple[Table, Column]]

    def base(self, node: object) -> tuple[Table, Column] | None:
        """Return what a node refers to where it is a column of a base table."""
        return self.columns.get(node.name.lower()) if isinstance(node, exp.Column) else None


def drawn(schema: Schema, engine: Engine, texts: list[str]) -> Drawn:
    found: dict[str, list[tuple[Table, Column]]] = {}
    for table in schema.tables:
        for column in table.columns:
            found.setdefault(column.name.lower(), []).append((table, column))
    columns = {name: places[0] for name, places in found.items() if len(places) == 1}
    return Drawn(schema, engine, tuple((sql, parse(sql, schema.dialect)) for sql in texts), columns)


@pytest.fixture(scope="module", params=["tpcds", "duckdb", "sqlite"])
def many(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drawn]:
    folder = tmp_path_factory.mktemp("many")
    rng = Random(21)
    if request.param == "tpcds":
        benchmark = open_benchmark(BenchmarkConfig(name="tpcds"), folder)
        (database,) = benchmark.databases
        schema = load_schema(benchmark, database, ProfileConfig(), ExecutionConfig(), folder)
        requests: Sequence[Sequence[str]] = REQUESTS
    else:
        database, schema = make_store(folder, request.param)
        requests = (TABLES,)
    engine = connect(database, ExecutionConfig())
    yield drawn(schema, engine, [sql for tables in requests for sql in write_queries(schema, tables, 60, rng, engine)])
    engine.close()


def label(table: Table, column: Column) -> str:
    return snake(column.name.removeprefix(shared_prefix(table)))


def own_conditions(select: exp.Select) -> list[exp.Expr]:
    where = select.args.get("where")
    return (
        list(where.this.flatten())
        if where is not None and isinstance(where.this, exp.And)
        else [where.this]
        if where
        else []
    )


def test_nested_queries_select_some(many: Drawn) -> None:
    """IN with a query has a condition in it, and another one than that a value is there."""
    for sql, tree in many.queries:
        for node in tree.find_all(exp.In):
            query = node.args.get("query")
            if query is None or isinstance(node.parent, exp.Not):
                continue
            conditions = own_conditions(query.this)
            assert any(not (isinstance(c, exp.Not) and isinstance(c.this, exp.Is)) for c in conditions), sql


def test_compared_texts_are_names(many: Drawn) -> None:
    """After an equals sign stands no sentence, and nothing is compared in a table of one row."""
    for sql, tree in many.queries:
        for node in tree.find_all(exp.EQ, exp.NEQ, exp.In):
            found = many.base(node.this)
            values = [node.expression] if isinstance(node, exp.Binary) else node.expressions
            constants = [value for value in values if isinstance(value, exp.Literal)]
            if found is None or not constants:
                continue
            assert found[0].num_rows > 1, sql
            assert all(len(value.name) <= 30 for value in constants if value.is_string), sql


def test_only_amounts_are_summed(many: Drawn) -> None:
    """No sum is taken of bounds, prices of one piece, rates or codes."""
    for sql, tree in many.queries:
        for node in tree.find_all(exp.Sum):
            if found := many.base(node.this):
                assert found[1].role == "measure", sql
                assert is_additive(label(*found)), sql


def test_limits_are_reached(many: Drawn) -> None:
    """A LIMIT at the end cuts something off, or just fits."""
    limited = [(sql, tree) for sql, tree in many.queries if tree.args.get("limit") and not tree.args.get("offset")]
    for sql, tree in limited[:40]:
        assert many.engine.run(sql).row_count == int(tree.args["limit"].expression.name), sql
    assert limited


def test_bands_are_rare(many: Drawn) -> None:
    """Few queries sort a measure into bands."""
    banded = sum(
        any(len(case.args["ifs"]) and isinstance(case.args["ifs"][0].this, exp.LT) for case in tree.find_all(exp.Case))
        for _, tree in many.queries
    )
    assert banded <= len(many.queries) * 0.12


def test_things_are_counted_and_not_attributes(many: Drawn) -> None:
    """COUNT(DISTINCT key) counts what has a name or is a row of its own, never days or demographic profiles."""
    graph = KeyGraph(many.schema)
    for sql, tree in many.queries:
        for node in tree.find_all(exp.Count):
            if not isinstance(node.this, exp.Distinct) or not (found := many.base(node.this.expressions[0])):
                continue
            table, column = found
            assert column.role in ("key", "identifier", "text"), sql
            if column.role == "key" and column.name not in table.primary_key:
                assert column.name in graph.countable_columns(table.name), sql


def test_opaque_columns_are_left_alone(many: Drawn) -> None:
    """Secrets, blanks and texts drawn letter by letter are neither shown nor asked for."""
    for sql, tree in many.queries:
        for node in tree.find_all(exp.Column):
            found = many.base(node)
            assert found is None or found[1].role != "opaque", sql


def test_searched_words_are_words(many: Drawn) -> None:
    """A word that LIKE looks for stands as a whole in two values or more, or is how two names begin."""
    searched = 0
    for sql, tree in many.queries:
        for node in tree.find_all(exp.Like):
            pattern, found = node.expression.name, many.base(node.this)
            word = pattern.strip("%")
            if found is None or len(word) == 1:
                continue
            table, column = found
            rows = many.engine.run(
                f'SELECT DISTINCT "{column.name}" FROM "{table.name}" WHERE "{column.name}" LIKE \'%{word}%\'',
                keep_rows=500,
            ).rows
            values = [str(row[0]) for row in rows]
            holding = [text for text in values if word in "".join(c if c.isalnum() else " " for c in text).split()]
            if len(word) == 3 and pattern[0] != "%" and label(table, column).endswith("name"):
                holding = [text for text in values if text.startswith(word)]
            assert len(holding) >= 2, sql
            searched += 1
    assert searched or many.schema.database != "tpcds"


def test_groups_are_not_settled_by_a_condition(many: Drawn) -> None:
    """Nothing is grouped by a column that the WHERE of the same SELECT fixes to one value."""
    for sql, tree in many.queries:
        for select in tree.find_all(exp.Select):
            fixed = {
                c.this.sql()
                for c in own_conditions(select)
                if isinstance(c, exp.EQ) and isinstance(c.expression, exp.Literal)
            }
            keys = {key.sql() for key in select.args["group"].expressions} if select.args.get("group") else set()
            assert not fixed & keys, sql


def test_groups_do_not_say_the_same(many: Drawn) -> None:
    """No two keys of one grouping are a number and its name, or otherwise one to one."""
    for sql, tree in many.queries:
        for group in tree.find_all(exp.Group):
            keys = [found for key in group.expressions if (found := many.base(key))]
            keys = [(table, column) for table, column in keys if column.role in ("category", "code")]
            for (table, a), (other, b) in combinations(keys, 2):
                if table != other or table.num_rows < 2:
                    continue
                pair = f'SELECT DISTINCT "{a.name}", "{b.name}" FROM "{table.name}"'
                count = many.engine.run(pair).row_count
                singles = [many.engine.run(f'SELECT DISTINCT "{c.name}" FROM "{table.name}"').row_count for c in (a, b)]
                assert [count, count] != singles, sql


def test_parts_of_time_are_not_counted_beside_each_other(many: Drawn) -> None:
    """Mornings have no PM: no column for one value of a calendar or a clock where another part of it is the group."""
    for sql, tree in many.queries:
        for select in tree.find_all(exp.Select):
            group = select.args.get("group")
            keys = {key.sql() for key in group.expressions} if group else set()
            given = [many.base(node) for node in group.find_all(exp.Column)] if group else []
            times = {found[0].name for found in given if found and found[0].name in ("date_dim", "time_dim")}
            asked = [many.base(c.this) for c in own_conditions(select) if isinstance(c, (exp.EQ, exp.In))]
            times |= {"time_dim"} & {found[0].name for found in asked if found}
            tests = [
                node.this if isinstance(node, exp.If) else node.expression
                for part in select.expressions
                for node in part.find_all(exp.If, exp.Filter)
                if part.find(exp.AggFunc) and part.sql() not in keys
            ]
            tested = [many.base(node) for test in tests for node in test.find_all(exp.Column)]
            assert not times.intersection(found[0].name for found in tested if found), sql


def test_subtotals_are_of_the_larger_groups(many: Drawn) -> None:
    """ROLLUP sums up the last of its keys first: of two columns of one table, that with more values."""
    for sql, tree in many.queries:
        for rollup in tree.find_all(exp.Rollup):
            found = [many.base(key) for key in rollup.expressions]
            for outer, inner in pairwise(found):
                if outer and inner and outer[0] == inner[0] and outer[0].num_rows > 1000:
                    fewer, more = (own.profile.num_distinct for _, own in (outer, inner))
                    assert fewer <= more or outer[1].name == "d_year", sql


def test_months_of_a_quarter_are_no_members(many: Drawn) -> None:
    """What two groups have in common is told once, and days are not counted."""
    for sql, tree in many.queries:
        for operation in tree.find_all(exp.SetOperation):
            shown = [many.base(part) for part in operation.this.expressions]
            days = [own.name for found in shown if found and found[0].name == "date_dim" for own in [found[1]]]
            assert len(days) < 2, sql
            assert not days or not isinstance(operation.parent, exp.Subquery) or "num_members" not in sql, sql


def test_columns_say_something(many: Drawn) -> None:
    """Hardly a query has a column that is 0 or null in all of its rows."""
    empty = 0
    for sql, _ in many.queries:
        columns = zip(*many.engine.run(sql, keep_rows=60).rows, strict=True)
        empty += any(all(value in (None, 0) for value in values) for values in columns)
    assert empty <= 0.01 * len(many.queries)


def test_members_are_not_chosen_by_what_is_shown_of_them(many: Drawn) -> None:
    """What two groups have in common is no column that a condition has fixed."""
    for sql, tree in many.queries:
        for operation in tree.find_all(exp.Intersect, exp.Except):
            for side in (operation.this, operation.expression):
                if isinstance(side, exp.Select):
                    fixed = {c.this.name for c in own_conditions(side) if isinstance(c, exp.EQ) and isinstance(c.expression, exp.Literal)}  # fmt: skip
                    assert not fixed & {part.name for part in side.expressions}, sql


def test_a_date_of_a_calendar_is_grouped_by_alone(many: Drawn) -> None:
    """A quarter that is cut from a date does not stand beside the months that make it up."""
    for sql, tree in many.queries:
        for group in tree.find_all(exp.Group):
            columns = {node.name for key in group.expressions for node in key.find_all(exp.Column)}
            days = {name for name in columns if name.startswith("d_")}
            assert "d_date" not in days or len(days) == 1, sql


def test_rows_of_one_table_are_not_added_to_themselves(many: Drawn) -> None:
    """What is put under each other by two roles of one table is not summed up."""
    for sql, tree in many.queries:
        for union in tree.find_all(exp.Union):
            labels = [node.name for node in union.find_all(exp.Literal) if " by " in node.name]
            assert not labels or union.parent is None or not isinstance(union.parent, (exp.CTE, exp.Subquery)), sql


def test_groups_have_more_than_one_row(many: Drawn) -> None:
    """Nothing is counted for each row of a table: no group by a unique column of the only table that is read."""
    for sql, tree in many.queries:
        for group in tree.find_all(exp.Group):
            read = list(group.parent.find_all(exp.Table)) if group.parent else []
            keys = [found for key in group.expressions if (found := many.base(key))]
            if len(read) == 1:
                assert not any(column.profile.unique and table.num_rows > 20 for table, column in keys), sql


def test_tables_of_one_row_are_read_beside_others(many: Drawn) -> None:
    """Of a table with a single row there is hardly a question but as a part of what points to it."""
    single = {table.name for table in many.schema.tables if table.num_rows == 1}
    times = {"date_dim", "time_dim"}
    read = [{table.name for table in tree.find_all(exp.Table)} for _, tree in many.queries]
    alone = sum(names <= single | times for names in read)
    assert alone <= 0.02 * len(read)


@pytest.mark.parametrize(
    ("a", "b", "alike"),
    [
        ("store_sales", "catalog_sales", True),
        ("store_sales", "store_returns", True),
        ("web_returns", "web_returns", True),
        ("store", "call_center", True),  # they point to days alone
        ("promotion", "store_sales", False),  # one is about the other
        ("store", "catalog_returns", False),
        ("promotion", "inventory", False),
        ("inventory", "web_sales", False),
        ("store_sales", "catalog_returns", False),
        ("item", "customer", False),
        ("web_sales", "web_returns", True),
        ("sale", "refund", True),
        ("sale", "product", False),
        ("category", "customer", False),
    ],
)
def test_tables_that_are_alike(many: Drawn, a: str, b: str, *, alike: bool) -> None:
    """Figures stand under each other that are of one kind, as the keys of the tables tell."""
    if a in {table.name for table in many.schema.tables}:
        assert are_alike(many.schema, a, b) is are_alike(many.schema, b, a) is alike


def test_nothing_comes_before_what_comes_round_again(many: Drawn) -> None:
    """LAG and LEAD do not follow months, quarters or weekdays without their year."""
    for sql, tree in many.queries:
        for window in tree.find_all(exp.Window):
            if isinstance(window.this, (exp.Lag, exp.Lead)) and (order := window.args.get("order")):
                first = order.expressions[0].this
                assert not first.name.lower().endswith(("moy", "qoy", "dow", "month_of_year", "weekday")), sql


def test_aliases_say_something_new(many: Drawn) -> None:
    """No column is renamed to its own name, where only one table has it; no name is a table's or a system's."""
    tables = {table.name.lower() for table in many.schema.tables}
    for sql, tree in many.queries:
        for node in tree.find_all(exp.Alias):
            if found := many.base(node.this):
                assert node.alias.lower() != found[1].name.lower(), sql
            assert node.alias.lower() not in tables, sql
        for cte in tree.find_all(exp.CTE):
            assert cte.alias.lower() not in tables | KEYWORDS, sql
            assert not cte.alias.startswith(("sqlite_", "duckdb_", "pg_", "pragma_")), sql


def test_no_surrogate_key_is_shown(many: Drawn) -> None:
    """What is put out in the end holds no key that only joins."""
    for sql, tree in many.queries:
        if isinstance(tree, exp.Select):
            shown = [node.name.lower() for node in tree.expressions if isinstance(node, exp.Column)]
            assert not [name for name in shown if name.endswith("_sk")], sql


def test_profiles_are_told_from_things(many: Drawn) -> None:
    """Tables of attributes alone are known as such."""
    graph = KeyGraph(many.schema)
    profiles = {table.name for table in many.schema.tables if graph.is_profile(table.name)}
    if many.schema.database == "store":
        assert not profiles
        return
    assert profiles == {"customer_demographics", "household_demographics", "income_band"}


def test_names_of_columns_and_systems() -> None:
    """A column keeps its name without an alias; names that databases keep for themselves are not taken."""
    assert named("t.price", "price") == "t.price"
    assert named('"a b".Price', "price") == '"a b".Price'
    assert named("2 * t.price", "price") == "2 * t.price AS price"
    assert fresh_name("sqlite_stats", ()) == "n_sqlite_stats"


@pytest.mark.parametrize(
    ("noun", "several"),
    [
        ("sale", "sales"),
        ("category", "categories"),
        ("member_of", "members"),
        ("singer_in_concert", "singers_in_concert"),
        ("class", "classes"),
    ],
)
def test_plurals(noun: str, several: str) -> None:
    """Tables are counted by the plural of their noun, prepositions and all."""
    assert plural(noun) == several


def test_aggregates_of_totals_have_names_of_their_own() -> None:
    """The sum of a column that is called a total is not called as the column is."""
    assert prefixed("total", "price") == "total_price"
    assert prefixed("total", "total_spent") == "overall_spent"
    assert prefixed("max", "max_ad_count") == "highest_ad_count"


def field(name: str, values: Sequence[int | str], role: Role) -> Field:
    """Return a column whose values in some rows are known."""
    kind: Kind = "text" if any(isinstance(value, str) for value in values) else "integer"
    column = Column(name, "", kind, role, True, profile_column(values, kind))
    table = Table("t", (column,), (), len(values))
    present = tuple(values)
    return Field("t", name, f"t.{name}", name, table, column, present[0], present, present, len(set(present)))


@settings(deadline=None)
@given(st.lists(st.integers(0, 35), min_size=40, max_size=40), st.randoms(use_true_random=False))
def test_what_one_column_tells_of_another(months: list[int], rng: Random) -> None:
    """A month of a series settles its quarter and runs with its year; what has no part in it is told apart."""
    running = field("month_seq", months, "code")
    year = field("year", [2000 + month // 12 for month in months], "code")
    name = field("quarter_name", [f"Q{month % 12 // 3}" for month in months], "category")
    number = field("quarter", [month % 12 // 3 for month in months], "code")
    if min(running.num_seen, year.num_seen, number.num_seen) < 3:
        return
    assert run_together(year, running)
    assert run_together(running, year)
    assert say_the_same(name, number)
    assert determines(name, number)
    assert determines(number, name)
    shuffled = months.copy()
    rng.shuffle(shuffled)
    other = field("colour", [month % 5 for month in shuffled], "category")
    assert other.num_seen < 2 or determines(number, other) == all(
        len({b for a, b in zip(number.present, other.present, strict=True) if a == value}) == 1
        for value in set(number.present)
    )
