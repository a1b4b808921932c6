"""A small store as a real database: two fact tables, shared dimensions, a hierarchy, a key that nothing uses."""

from __future__ import annotations

import datetime as dt
import sqlite3
from dataclasses import replace
from pathlib import Path
from random import Random
from uuid import uuid4

import duckdb

from rayfactory.config import ExecutionConfig, ProfileConfig
from rayfactory.databases.benchmark import read_schema
from rayfactory.databases.engine import Database
from rayfactory.databases.metadata import Metadata
from rayfactory.databases.schema import Schema
from tests.servers import Server

DDL = """
CREATE TABLE customer (customer_id INTEGER PRIMARY KEY, name VARCHAR, city VARCHAR, segment VARCHAR, born DATE);
CREATE TABLE category (category_id INTEGER PRIMARY KEY, title VARCHAR, parent_id INTEGER REFERENCES category (category_id));
CREATE TABLE product (product_id INTEGER PRIMARY KEY, category_id INTEGER REFERENCES category (category_id), "order" VARCHAR,
    list_price DECIMAL(9, 2), color VARCHAR);
CREATE TABLE sale (sale_id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customer (customer_id),
    product_id INTEGER REFERENCES product (product_id), sold_on DATE, quantity INTEGER, sales_price DECIMAL(9, 2),
    discount_amount DECIMAL(9, 2));
CREATE TABLE refund (refund_id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customer (customer_id),
    product_id INTEGER REFERENCES product (product_id), refunded_on DATE, quantity INTEGER, refund_amount DECIMAL(9, 2));
"""
TABLES = ("sale", "refund", "customer", "product", "category")


def make_store(folder: Path, dialect: str, server: Server | None = None) -> tuple[Database, Schema]:
    """Make the database, in a file or on a server, and read its schema back as the program does."""
    # A category points to one before it, so that order of insertion satisfies the keys.
    contents = {table: _rows()[table] for table in ("customer", "category", "product", "sale", "refund")}
    database = _on_server(server, contents) if server is not None else _in_file(folder, dialect, contents)
    return database, read_schema(database, Metadata(), ProfileConfig(), ExecutionConfig(), fingerprint="")


def _on_server(server: Server, contents: dict[str, list[tuple[object, ...]]]) -> Database:
    ddl = DDL.replace("VARCHAR", "VARCHAR(80)")
    ddl = ddl.replace('"', "`") if server.dialect == "mysql" else ddl
    name = f"store_{uuid4().hex[:8]}"
    database = server.make(name, *[statement for statement in ddl.split(";") if statement.strip()])
    for table, rows in contents.items():
        server.fill(name, table, len(rows[0]), rows)
    # Else the server does so at some moment of its own, and plans otherwise from then on.
    analyze = "ANALYZE" if server.dialect == "postgres" else "ANALYZE TABLE"
    server.execute(name, *[f"{analyze} {table}" for table in contents])
    return replace(database, name="store")


def _in_file(folder: Path, dialect: str, contents: dict[str, list[tuple[object, ...]]]) -> Database:
    path = folder / f"store.{dialect}"
    connection: sqlite3.Connection | duckdb.DuckDBPyConnection
    connection = sqlite3.connect(path) if dialect == "sqlite" else duckdb.connect(str(path))
    for statement in DDL.split(";"):
        if statement.strip():
            connection.execute(statement)
    for table, rows in contents.items():
        marks = ", ".join("?" * len(rows[0]))
        connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
    connection.commit()
    connection.close()
    return Database("store", dialect, str(path))


def _rows() -> dict[str, list[tuple[object, ...]]]:
    rng = Random(7)
    start = dt.date(2021, 1, 1)

    def day() -> str:
        return (start + dt.timedelta(days=rng.randrange(900))).isoformat()

    return {
        "customer": [
            (
                i,
                f"{rng.choice(['Ann', 'Bo', 'Cy', 'Di'])} {rng.choice(['Stone', 'Rivers', 'Field'])} {i}",
                rng.choice(["Oslo", "Rome", "Paris", None]),
                rng.choice(["home", "office", "public"]),
                f"{rng.randint(1950, 2000)}-05-{rng.randint(10, 28)}",
            )
            for i in range(1, 81)
        ],
        "category": [(i, f"category {'abcdefgh'[i - 1]}", None if i < 3 else rng.randint(1, 2)) for i in range(1, 9)],
        "product": [
            (i, rng.randint(1, 8), f"thing {i}", rng.randint(100, 9000) / 100, rng.choice(["red", "green", "blue"]))
            for i in range(1, 41)
        ],
        "sale": [
            (
                i,
                rng.randint(1, 70),
                rng.randint(1, 40),
                day(),
                rng.randint(1, 20),
                rng.randint(100, 9000) / 100,
                rng.choice([None, 0, rng.randint(1, 500) / 100]),
            )
            for i in range(1, 1501)
        ],
        "refund": [
            (i, rng.randint(1, 60), rng.randint(1, 40), day(), rng.randint(1, 3), rng.randint(100, 5000) / 100)
            for i in range(1, 301)
        ],
    }
