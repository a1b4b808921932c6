"""A small shop as an SQLite file: five tables with rows, foreign keys, dates, categories and measures."""

from __future__ import annotations

import sqlite3
from datetime import date, timedelta
from pathlib import Path

SCHEMA = """
CREATE TABLE region (region_id INTEGER PRIMARY KEY, name TEXT NOT NULL, country TEXT);
CREATE TABLE customer (
    customer_id INTEGER PRIMARY KEY, name TEXT, segment TEXT, birth_year INTEGER,
    region_id INTEGER REFERENCES region(region_id));
CREATE TABLE product (product_id INTEGER PRIMARY KEY, title TEXT, category TEXT, list_price REAL);
CREATE TABLE sale (
    sale_id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customer(customer_id), sold_on TEXT,
    channel TEXT, total_amount REAL);
CREATE TABLE sale_item (
    sale_id INTEGER REFERENCES sale(sale_id), line INTEGER, product_id INTEGER REFERENCES product(product_id),
    quantity INTEGER, unit_price REAL, PRIMARY KEY (sale_id, line));
CREATE TABLE wish (wish_id INTEGER PRIMARY KEY, note TEXT);
"""


def make_shop(path: Path) -> Path:
    """Write the shop to `path` and return it. The content is the same every time."""
    connection = sqlite3.connect(path)
    connection.executescript(SCHEMA)
    regions = [(1, "North", "Norway"), (2, "South", "Spain"), (3, "East", "Poland"), (4, "West", "Ireland")]
    connection.executemany("INSERT INTO region VALUES (?, ?, ?)", regions)
    connection.executemany(
        "INSERT INTO customer VALUES (?, ?, ?, ?, ?)",
        [
            (i, f"Customer {i * 37 % 101:03d}", ("retail", "trade", "public")[i % 3], 1950 + i * 7 % 50, 1 + i % 4)
            for i in range(1, 61)
        ],
    )
    connection.executemany(
        "INSERT INTO product VALUES (?, ?, ?, ?)",
        [
            (
                i,
                f"Product {chr(65 + i % 26)}{i}",
                ("books", "toys", "garden", "music", "food")[i % 5],
                round(3 + i * 1.37, 2),
            )
            for i in range(1, 41)
        ],
    )
    start = date(2023, 1, 1)
    for i in range(1, 301):
        sold_on = start + timedelta(days=i * 5 % 700)
        lines = [(i, line, 1 + (i * 7 + line * 11) % 40, 1 + (i + line) % 6) for line in range(1, 2 + i % 4)]
        prices = [round(3 + product * 1.37, 2) for _, _, product, _ in lines]
        total = round(sum(price * quantity for price, (_, _, _, quantity) in zip(prices, lines, strict=True)), 2)
        sale = (i, 1 + i * 13 % 55, sold_on.isoformat(), ("web", "store", "phone")[i % 3], total)
        connection.execute("INSERT INTO sale VALUES (?, ?, ?, ?, ?)", sale)
        connection.executemany(
            "INSERT INTO sale_item VALUES (?, ?, ?, ?, ?)",
            [(*line, price) for line, price in zip(lines, prices, strict=True)],
        )
    connection.commit()
    connection.close()
    return path
