"""What a database declares: tables, keys and views, under any name."""

from __future__ import annotations

import sqlite3

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayfactory.databases.catalogue import Catalogue, quote, read_catalogue
from rayfactory.databases.schema import ForeignKey, View


def catalogue(dialect: str, script: str) -> Catalogue:
    """Return the catalogue of an in-memory database that a script makes."""
    if dialect == "sqlite":
        lite = sqlite3.connect(":memory:")
        lite.executescript(script)
        found = read_catalogue(lite)
        lite.close()
        return found
    with duckdb.connect(":memory:") as duck:
        duck.execute(script)
        return read_catalogue(duck)


both = pytest.mark.parametrize("dialect", ["duckdb", "sqlite"])


@both
def test_tables_and_columns_come_in_the_order_of_their_creation(dialect: str):
    """Names keep their spelling; a column is nullable unless the database promises otherwise."""
    found = catalogue(
        dialect,
        'CREATE TABLE "Zoo keeper" ("Id" INTEGER PRIMARY KEY, "select" VARCHAR(9) NOT NULL, "größe ""x""" DOUBLE);'
        "CREATE TABLE animal (name VARCHAR);",
    )
    assert [table.name for table in found.tables] == ["Zoo keeper", "animal"]
    keeper = found.tables[0]
    assert [column.name for column in keeper.columns] == ["Id", "select", 'größe "x"']
    assert [column.nullable for column in keeper.columns][1:] == [False, True]
    assert keeper.primary_key == ("Id",)
    assert keeper.find("ID") == "Id"
    assert keeper.find("nothing") is None


@both
def test_composite_and_self_references(dialect: str):
    """A composite key is one entry with its columns in pairs; a table may reference itself."""
    found = catalogue(
        dialect,
        "CREATE TABLE parent (a INTEGER, b INTEGER, boss INTEGER, PRIMARY KEY (b, a));"
        "CREATE TABLE child (y INTEGER, x INTEGER, z INTEGER PRIMARY KEY, up INTEGER REFERENCES child (z),"
        " FOREIGN KEY (y, x) REFERENCES parent (b, a));",
    )
    assert found.tables[0].primary_key == ("b", "a")
    assert set(found.foreign_keys) == {
        ForeignKey("child", ("y", "x"), "parent", ("b", "a")),
        ForeignKey("child", ("up",), "child", ("z",)),
    }


def test_circular_keys_and_keys_that_lead_nowhere():
    """Two tables may reference each other. What references a missing table or column, or itself, is left out."""
    found = catalogue(
        "sqlite",
        "CREATE TABLE a (id INTEGER PRIMARY KEY, b_id INTEGER REFERENCES B, c_id INTEGER REFERENCES missing (id));"
        "CREATE TABLE b (id INTEGER PRIMARY KEY, a_id INTEGER REFERENCES A (ID), FOREIGN KEY (id) REFERENCES b (id),"
        " FOREIGN KEY (a_id) REFERENCES a (nowhere), FOREIGN KEY (A_ID) REFERENCES a (id));",
    )
    assert found.foreign_keys == (ForeignKey("a", ("b_id",), "b", ("id",)), ForeignKey("b", ("a_id",), "a", ("id",)))


def test_tables_of_sqlite_that_are_not_the_users_are_left_out():
    """Counters, statistics, full-text indexes and their shadow tables are no tables to write about."""
    found = catalogue(
        "sqlite",
        "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, x, y GENERATED ALWAYS AS (x * 2) VIRTUAL);"
        "INSERT INTO t (x) VALUES (1); CREATE INDEX i ON t (x); ANALYZE; CREATE VIRTUAL TABLE docs USING fts5 (body);"
        "CREATE TABLE w (k TEXT PRIMARY KEY, v INTEGER UNIQUE) WITHOUT ROWID;",
    )
    assert [table.name for table in found.tables] == ["t", "w"]
    assert [column.name for column in found.tables[0].columns] == ["id", "x", "y"]
    assert [table.has_rowid for table in found.tables] == [True, False]
    assert found.tables[1].unique_keys == (("v",),)


def test_partial_and_expression_indexes_make_nothing_unique():
    """Only an index over all rows and plain columns is a key."""
    found = catalogue(
        "sqlite",
        "CREATE TABLE t (a, b, c); CREATE UNIQUE INDEX p ON t (a) WHERE a > 0; CREATE UNIQUE INDEX e ON t (lower(b));"
        "CREATE UNIQUE INDEX u ON t (b, c);",
    )
    assert found.tables[0].unique_keys == (("b", "c"),)


def test_comments_of_duckdb_are_descriptions():
    """What COMMENT ON says stands beside the table and the column."""
    found = catalogue(
        "duckdb", "CREATE TABLE t (i INTEGER); COMMENT ON TABLE t IS 'sales'; COMMENT ON COLUMN t.i IS 'EUR';"
    )
    assert found.tables[0].description == "sales"
    assert found.tables[0].columns[0].description == "EUR"


@both
def test_views_know_their_base_tables(dialect: str):
    """Through other views and common table expressions, and without the names that the view itself introduces."""
    found = catalogue(
        dialect,
        'CREATE TABLE t (i INTEGER); CREATE TABLE "Other T" (i INTEGER);'
        'CREATE VIEW v AS WITH c AS (SELECT i FROM t) SELECT c.i FROM c JOIN "Other T" AS o ON c.i = o.i;'
        "CREATE VIEW w AS SELECT * FROM (SELECT i FROM V) AS s;",
    )
    assert [table.name for table in found.tables] == ["t", "Other T"]
    assert found.views == (View("v", ("Other T", "t")), View("w", ("Other T", "t")))


def test_a_database_without_tables():
    """Nothing declared is nothing found, not an error."""
    assert catalogue("sqlite", "") == catalogue("duckdb", "") == Catalogue((), (), ())


identifiers = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=12
).filter(lambda name: not name.lower().startswith("sqlite_"))


@settings(max_examples=30, deadline=None)
@given(table=identifiers, columns=st.lists(identifiers, min_size=1, max_size=4, unique_by=lambda name: name.casefold()))
@pytest.mark.parametrize("dialect", ["sqlite", "duckdb"])
def test_any_name_is_read_as_it_was_written(dialect: str, table: str, columns: list[str]):
    """Quotes, blanks, keywords, control characters and every script come back unchanged."""
    listed = ", ".join(f"{quote(column)} INTEGER" for column in columns)
    found = catalogue(dialect, f"CREATE TABLE {quote(table)} ({listed});")
    assert [own.name for own in found.tables] == [table]
    assert [column.name for column in found.tables[0].columns] == columns
