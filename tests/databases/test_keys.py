"""Foreign keys that nobody declared: found where names and content agree, and nowhere else."""

from __future__ import annotations

import sqlite3

import duckdb
import pytest

from rayfactory.config import ProfileConfig
from rayfactory.databases.catalogue import read_catalogue
from rayfactory.databases.keys import infer_foreign_keys
from rayfactory.databases.profile import profile_table


def inferred(script: str, dialect: str = "sqlite") -> set[str]:
    """Return the inferred keys of a database as texts."""
    if dialect == "duckdb":
        with duckdb.connect(":memory:") as duck:
            duck.execute(script)
            catalogue = read_catalogue(duck)
            contents = {table.name: profile_table(duck, table, ProfileConfig()) for table in catalogue.tables}
            keys = infer_foreign_keys(duck, catalogue, contents)
    else:
        lite = sqlite3.connect(":memory:")
        lite.executescript(script)
        catalogue = read_catalogue(lite)
        contents = {table.name: profile_table(lite, table, ProfileConfig()) for table in catalogue.tables}
        keys = infer_foreign_keys(lite, catalogue, contents)
        lite.close()
    assert {key.source for key in keys} <= {"inferred"}
    return {f"{k.table}.{','.join(k.columns)}->{k.referenced_table}.{','.join(k.referenced_columns)}" for k in keys}


CUSTOMERS = (
    "CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO customers VALUES (1,'a'),(2,'b'),(3,'c');"
)


@pytest.mark.parametrize("dialect", ["sqlite", "duckdb"])
@pytest.mark.parametrize("column", ["customer_id", "customerId", "CustomerID", "CUSTOMER_ID", "customerid"])
def test_a_column_named_after_a_table_and_its_key(dialect: str, column: str):
    """However it is spelled, and whether the table's name is singular or plural."""
    script = (
        f"{CUSTOMERS} CREATE TABLE orders (nr INTEGER, {column} INTEGER); INSERT INTO orders VALUES (1,1),(2,1),(3,3);"
    )
    assert inferred(script, dialect) == {f"orders.{column}->customers.id"}
    assert inferred(script.replace("customers", "customer"), dialect) == {f"orders.{column}->customer.id"}


def test_a_column_of_the_same_name_as_a_unique_key():
    """Keys that carry their table's name are referenced under it, without a declared primary key as well."""
    tables = "(product_code TEXT{}, label TEXT); INSERT INTO products VALUES ('a','x'),('b','x');"
    sales = "CREATE TABLE sales (product_code TEXT, n INTEGER); INSERT INTO sales VALUES ('a',1),('a',2),(NULL,3);"
    for key in (" PRIMARY KEY", " UNIQUE", ""):
        assert inferred("CREATE TABLE products " + tables.format(key) + sales) == {
            "sales.product_code->products.product_code"
        }


def test_several_roles_and_the_table_itself():
    """home_team_id and away_team_id both name the team; parent_id and manager_employee_id stay at home."""
    script = (
        "CREATE TABLE team (team_id INTEGER PRIMARY KEY, parent_team_id INTEGER); INSERT INTO team VALUES (1,NULL),(2,1),(3,1);"
        "CREATE TABLE game (home_team_id INTEGER, away_team_id INTEGER, goals INTEGER); INSERT INTO game VALUES (1,2,1),(2,3,2);"
    )
    found = inferred(script)
    assert "team.parent_team_id->team.team_id" in found
    assert {"game.home_team_id->team.team_id", "game.away_team_id->team.team_id"} <= found
    assert "game.goals->team.team_id" not in found


@pytest.mark.parametrize(
    ("what", "orders"),
    [
        ("a value that is missing there", "(customer_id INTEGER); INSERT INTO orders VALUES (1),(9);"),
        ("another kind", "(customer_id TEXT); INSERT INTO orders VALUES ('1'),('2');"),
        ("another name", "(buyer INTEGER); INSERT INTO orders VALUES (1),(2);"),
        ("a general name", "(id INTEGER); INSERT INTO orders VALUES (1),(2);"),
        ("no values", "(customer_id INTEGER); INSERT INTO orders VALUES (NULL),(NULL);"),
        ("no rows", "(customer_id INTEGER);"),
        ("a declared key", "(customer_id INTEGER REFERENCES customers (id)); INSERT INTO orders VALUES (1);"),
    ],
)
def test_nothing_is_inferred_from(what: str, orders: str):
    """One reason against a key is enough."""
    assert inferred(f"{CUSTOMERS} CREATE TABLE orders {orders}") == set(), what


def test_a_column_that_is_not_unique_is_not_referenced():
    """Neither a repeated value nor a table of one row makes a key."""
    assert (
        inferred(
            "CREATE TABLE a (x_id INTEGER, n INTEGER); INSERT INTO a VALUES (1,1),(1,2);"
            "CREATE TABLE b (x_id INTEGER); INSERT INTO b VALUES (1);"
        )
        == set()
    )


def test_two_equally_good_tables_give_no_key():
    """Where nobody can tell which table is meant, none is."""
    script = (
        "".join(
            f"CREATE TABLE {name} (item_code TEXT UNIQUE, {name}_nr INTEGER PRIMARY KEY); INSERT INTO {name} VALUES ('a',1),('b',2);"
            for name in ("x", "y")
        )
        + "CREATE TABLE z (item_code TEXT); INSERT INTO z VALUES ('a'),('b');"
    )
    assert not any(key.startswith("z.") for key in inferred(script))


def test_two_tables_with_one_key_reference_each_other_once():
    """A table that extends another has one key to it, not one in each direction."""
    script = (
        "CREATE TABLE person (person_id INTEGER PRIMARY KEY, n TEXT); INSERT INTO person VALUES (1,'a'),(2,'b');"
        "CREATE TABLE person_detail (person_id INTEGER PRIMARY KEY, d TEXT); INSERT INTO person_detail VALUES (1,'a'),(2,'b');"
    )
    assert len(inferred(script)) == 1
