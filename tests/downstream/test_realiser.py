"""Questions from queries: some that a person has read, and what must hold of any."""

from __future__ import annotations

import json
import random
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlglot import exp

from rayfactory import sql as statements
from rayfactory.compose import compose
from rayfactory.databases.engine import connect
from rayfactory.databases.schema import Column, ColumnProfile, Kind, Schema, Table
from rayfactory.downstream.realiser import realise
from rayfactory.downstream.realiser.words import column_words, plural, role, singular, split, table_noun
from rayfactory.errors import StatementError
from rayfactory.models.grammar import write_queries
from rayfactory.runs import open_databases
from tests.shop import make_shop

QUESTIONS = Path(__file__).with_name("questions.json")
READ = json.loads(QUESTIONS.read_text(encoding="utf-8"))
"""Queries over the shop with the questions that they answer, each read by a person."""

KEYWORDS = re.compile(
    r"\b(SELECT|FROM|WHERE|JOIN|GROUP BY|ORDER BY|HAVING|LIMIT|OVER|PARTITION|CASE|NULL|DISTINCT|ASC|DESC)\b"
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Schema]:
    folder = tmp_path_factory.mktemp("shop")
    make_shop(folder / "shop.sqlite")
    config = compose(["+benchmark=custom", f"benchmark.root={folder}", f"data_dir={folder / 'data'}"])
    _, schemas = open_databases(config)
    return folder / "shop.sqlite", schemas["shop"]


@pytest.fixture(scope="module")
def schema(shop: tuple[Path, Schema]) -> Schema:
    return shop[1]


# -- what a person has read ---------------------------------------------------


@pytest.mark.parametrize("read", READ, ids=range(len(READ)))
def test_questions_are_as_they_were_read(read: dict[str, str], schema: Schema):
    """Every construction has a query here; a change of the rules shows in the sentences."""
    assert realise(read["sql"], schema).text == read["question"]


def test_evidence_says_which_columns_are_meant(schema: Schema):
    """A name that is not the column's own, and only such a one, is explained."""
    found = realise("SELECT COUNT(*) FROM sale WHERE sold_on >= '2024-01-01' AND channel = 'web'", schema)
    assert found.evidence == "sold-on date refers to `sold_on`"
    assert realise("SELECT title FROM product", schema).evidence == ""


# -- what holds of any --------------------------------------------------------


def mutants(sql: str, schema: Schema) -> Iterator[str]:
    """Yield queries with one thing changed that changes the result: a value, an operator, a direction, a clause."""
    tree = statements.parse(sql, schema.dialect)
    comparisons = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE)
    for i, original in enumerate(tree.walk()):
        changed = tree.copy()
        node = list(changed.walk())[i]
        parent = original.parent
        if isinstance(node, exp.Literal) and not isinstance(parent, (exp.TimeToStr, exp.Select)):
            node.set("this", f"{node.name}7")
        elif type(node) in comparisons and not isinstance(node.expression, exp.Column):
            others = [kind for kind in comparisons if kind is not type(node)]
            for kind in others[1:]:
                copy = tree.copy()
                twin = list(copy.walk())[i]
                twin.replace(kind(this=twin.this.copy(), expression=twin.expression.copy()))
                yield copy.sql(schema.dialect)
            node.replace(others[0](this=node.this.copy(), expression=node.expression.copy()))
        elif isinstance(node, exp.Ordered):
            node.set("desc", not node.args.get("desc"))
            node.set("nulls_first", not node.args.get("desc"))
        elif isinstance(node, (exp.Limit, exp.Offset, exp.Where, exp.Having)) or (
            isinstance(node, (exp.Order, exp.Distinct)) and isinstance(parent, exp.Query)
        ):
            node.pop()
        elif isinstance(node, (exp.And, exp.Or)):
            other = exp.Or if isinstance(node, exp.And) else exp.And
            node.replace(other(this=node.this.copy(), expression=node.expression.copy()))
        elif isinstance(node, exp.Not):
            node.replace(node.this.copy())
        elif type(node) in {exp.Avg, exp.Sum, exp.Min, exp.Max}:
            node.replace((exp.Sum if isinstance(node, exp.Avg) else exp.Avg)(this=node.this.copy()))
        elif isinstance(node, exp.Join) and node.args.get("side") == "LEFT":
            node.set("side", None)
        elif isinstance(node, exp.Union):
            node.set("distinct", not node.args.get("distinct"))
        else:
            continue
        yield changed.sql(schema.dialect)


@pytest.mark.parametrize("sql", [read["sql"] for read in READ], ids=range(len(READ)))
def test_what_changes_the_result_changes_the_question(sql: str, schema: Schema):
    """No value, operator, direction, clause or aggregate goes unsaid."""
    text = realise(sql, schema).text
    for changed in mutants(sql, schema):
        try:
            assert realise(changed, schema).text != text, changed
        except StatementError:
            continue


CONDITIONS = st.tuples(
    st.sampled_from(["list_price", "product_id"]),
    st.sampled_from(["<", "<=", "=", "<>", ">", ">="]),
    st.integers(0, 30),
)
Parts = tuple[str, list[tuple[str, str, int]], str, str, str, int]
QUERIES = st.tuples(
    st.sampled_from(["title", "category", "title, category", "category, title", "list_price"]),
    st.lists(CONDITIONS, max_size=2, unique=True).map(sorted),
    st.sampled_from([" AND ", " OR "]),
    st.sampled_from(["title", "category", "list_price"]),
    st.sampled_from(["ASC", "DESC"]),
    st.integers(1, 4),
)


def spelled(parts: Parts) -> str:
    items, conditions, connector, order, direction, limit = parts
    where = connector.join(f"{column} {operator} {value}" for column, operator, value in conditions)
    return f"SELECT {items} FROM product{f' WHERE {where}' if where else ''} ORDER BY {order} {direction} LIMIT {limit}"


@given(QUERIES, QUERIES, st.integers(0, 50))
def test_different_queries_have_different_questions(schema: Schema, a: Parts, b: Parts, seed: int):
    """Two queries that differ in a column, an operator, a value, AND or OR, order or limit are asked differently."""
    one, other = spelled(a), spelled(b)
    assert (realise(one, schema, seed) == realise(other, schema, seed)) == (one == other)


@given(st.sampled_from(READ), st.integers(0, 2**31))
def test_no_seed_says_less(schema: Schema, read: dict[str, str], seed: int):
    """However it is said, it is said again the same way, with all values, and without anything of SQL."""
    question = realise(read["sql"], schema, seed)
    assert question == realise(read["sql"], schema, seed)
    for value in re.findall(r"'([^'%]+)'", read["sql"]):
        assert value in question.text or value.startswith("%") or value == "Y"
    plain = re.sub(r'"[^"]*"', "", question.text)
    assert not KEYWORDS.search(plain)
    assert "_" not in plain
    assert "  " not in question.text
    assert question.text[0].isupper()
    assert question.text[-1] in ".?"


def test_seeds_vary_the_wording(schema: Schema):
    """A training set is to have more than one way of asking."""
    texts = {realise("SELECT title FROM product WHERE list_price > 20", schema, seed).text for seed in range(40)}
    assert len(texts) >= 10


def test_aliases_are_no_words(schema: Schema):
    """A table is called by its own name, whatever the query calls it."""
    one = realise("SELECT zq.title FROM product AS zq WHERE zq.list_price > 3", schema)
    assert one == realise("SELECT title FROM product WHERE list_price > 3", schema)


def test_one_key_of_several_is_named(tmp_path: Path):
    """Where two keys lead from one table to another, what follows one of them says which."""
    with sqlite3.connect(tmp_path / "air.sqlite") as connection:
        connection.executescript(
            """
            CREATE TABLE airport (airport_id INTEGER PRIMARY KEY, city TEXT);
            CREATE TABLE flight (flight_id INTEGER PRIMARY KEY, hours REAL,
                origin_airport_id INTEGER REFERENCES airport(airport_id),
                target_airport_id INTEGER REFERENCES airport(airport_id));
            INSERT INTO airport VALUES (1, 'Oslo'), (2, 'Cork');
            INSERT INTO flight VALUES (1, 2.5, 1, 2);
            """
        )
    config = compose(["+benchmark=custom", f"benchmark.root={tmp_path}", f"data_dir={tmp_path / 'data'}"])
    air = open_databases(config)[1]["air"]
    for sql, said in (
        (
            "WHERE airport_id NOT IN (SELECT origin_airport_id FROM flight)",
            "of each airport that has no flight as origin airport.",
        ),
        (
            "WHERE airport_id IN (SELECT target_airport_id FROM flight WHERE hours > 2)",
            "of each airport that has a flight (as target airport) whose hours are greater than 2.",
        ),
        (
            "LEFT JOIN flight ON target_airport_id = airport_id GROUP BY airport_id HAVING COUNT(flight_id) < 2",
            "for each airport (including those without any flight as target airport) with fewer than 2 flights.",
        ),
    ):
        assert realise(f"SELECT city FROM airport {sql}", air).text == f"List the city {said}"


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELECT title FRM product", "parse"),
        ("SELECT colour FROM product", "unsupported"),
        ("SELECT title FROM nowhere", "unsupported"),
        ("SELECT randomblob(3) FROM product", "unsupported"),
        ("SELECT c.name FROM customer AS c RIGHT JOIN sale AS s ON s.customer_id = c.customer_id", "unsupported"),
        ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n", "unsupported"),
        ("DELETE FROM product", "unsupported"),
    ],
)
def test_what_there_are_no_words_for_is_refused(sql: str, reason: str, schema: Schema):
    """A wrong question is worse than none."""
    with pytest.raises(StatementError) as raised:
        realise(sql, schema)
    assert raised.value.reason == reason


# -- names --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("songReleaseYear", "song release year"),
        ("Song_ID", "song ID"),
        ("Free Meal Count (K-12)", "free meal count (K-12)"),
        ("num_of_ticket", "number of ticket"),
        ("GNP", "GNP"),
        ("ext_discount_amt", "extended discount amount"),
        ("total_num_orders", "total number of orders"),
        ("charter_num", "charter number"),
        ("A11", "A11"),
    ],
)
def test_names_become_words(name: str, words: str):
    """Underscores, capitals and short forms are read as a person reads them."""
    assert " ".join(split(name)) == words


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("country", "countries"), ("person", "people"), ("match", "matches"), ("house", "houses"), ("status", "statuses"),
        ("series", "series"), ("singer in concert", "singers in concert"), ("day", "days"), ("class", "classes"),
    ],
)  # fmt: skip
def test_plurals(one: str, many: str):
    """Singular and plural lead to each other."""
    assert plural(one) == many
    assert plural(many) == many
    assert singular(many) == one
    assert singular(one) == one


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("is_official", "integer", "is-official flag"),
        ("directed_by", "text", "directed-by name"),
        ("sold_on", "date", "sold-on date"),
        ("dep_employed_count", "integer", "dependent employed count"),
    ],
)
def test_columns_without_a_noun_get_one(name: str, kind: Kind, words: str):
    """What stands behind "whose" is a noun."""
    column = Column(name, "", kind, "measure", True, ColumnProfile(0, 0.0, 0))
    assert column_words(Table("film", (column,), (), 1), column) == words


def test_roles_come_from_the_key(schema: Schema):
    """What a foreign key adds to the table that it leads to is kept, and its short forms are not."""
    sale = schema.table("sale")
    assert table_noun("date_dim") == "date"
    assert role("bill_addr_sk", sale, "customer address", is_same_name=False) == "bill customer address"
    assert role("home_team_api_id", sale, "team", is_same_name=False) == "home team"
    assert role("customer_id", sale, "customer", is_same_name=True) == "customer"


# -- coverage -----------------------------------------------------------------


def test_what_the_grammar_writes_is_told(shop: tuple[Path, Schema]):
    """At least 97 % of the rule's own queries have a question."""
    path, schema = shop
    rng, queries = random.Random(3), list[str]()
    config = compose(["+benchmark=custom", f"benchmark.root={path.parent}"])
    databases, _ = open_databases(config)
    engine = connect(databases["shop"], config.execution)
    tables = [table.name for table in schema.populated]
    while len(queries) < 300:
        queries += write_queries(schema, tables, 20, rng, engine)
    assert share_told([(sql, schema) for sql in queries]) >= 0.97


def share_told(queries: list[tuple[str, Schema]]) -> float:
    num_told = 0
    for sql, schema in queries:
        try:
            num_told += bool(realise(sql, schema).text)
        except StatementError:
            continue
    return num_told / len(queries)


@pytest.mark.realdata
def test_spiders_queries_are_told(shared_data: Path, tmp_path: Path):
    """At least 97 % of the queries that people wrote for Spider have a question."""
    config = compose(["+benchmark=spider", f"benchmark.root={shared_data / 'spider'}", f"data_dir={tmp_path}"])
    _, schemas = open_databases(config)
    queries = []
    for line in (shared_data / "spider" / "dev_gold.sql").read_text(encoding="utf-8").splitlines():
        sql, _, database = line.partition("\t")
        if database.strip() in schemas:
            queries.append((sql, schemas[database.strip()]))
    assert len(queries) > 500
    assert share_told(queries) >= 0.97
