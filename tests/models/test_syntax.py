"""Names, constants and functions in both dialects, as the databases themselves read them."""

from __future__ import annotations

import sqlite3

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayfactory.models.grammar.syntax import date_part, date_period, fresh_name, literal, number, quote_name, quotient

names = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)


@settings(deadline=None, max_examples=40)
@given(names)
def test_quoted_name_is_the_name(name: str) -> None:
    """Any name comes back as it went in, from both databases."""
    with sqlite3.connect(":memory:") as connection:
        cursor = connection.execute(f"SELECT 1 AS {quote_name(name)}")
        assert cursor.description[0][0] == name
    connection.close()
    with duckdb.connect() as other:
        assert other.execute(f"SELECT 1 AS {quote_name(name)}").description[0][0] == name


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20))
def test_text_constant_is_the_text(text: str) -> None:
    """A text constant has the value that it was made of."""
    connection = sqlite3.connect(":memory:")
    assert connection.execute(f"SELECT {literal(text, 'text', 'sqlite')}").fetchone()[0] == text
    connection.close()


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12))
def test_number_keeps_its_value(value: float) -> None:
    """A number keeps its value to six decimals, and is written without an exponent unless it is tiny."""
    assert float(number(value)) == pytest.approx(value, abs=1e-6)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["total", "order", "Sum of x", "", "7up"]), max_size=6))
def test_fresh_names_differ(wanted: list[str]) -> None:
    """Names made one after the other never repeat, and need no quotes."""
    taken: set[str] = set()
    for name in wanted:
        fresh = fresh_name(name, taken)
        assert fresh not in taken
        assert quote_name(fresh) == fresh
        taken.add(fresh)


@settings(deadline=None, max_examples=40)
@given(st.dates())
def test_date_parts_agree(day: object) -> None:
    """Year, quarter, month and day of a date are the same in both databases and in Python."""
    connection = sqlite3.connect(":memory:")
    with duckdb.connect() as other:
        for part, expected in (
            ("year", day.year),  # type: ignore[attr-defined]
            ("quarter", (day.month + 2) // 3),  # type: ignore[attr-defined]
            ("month", day.month),  # type: ignore[attr-defined]
            ("day", day.day),  # type: ignore[attr-defined]
        ):
            in_sqlite = date_part(part, f"'{day}'", "sqlite")  # type: ignore[arg-type]
            in_duckdb = date_part(part, f"DATE '{day}'", "duckdb")  # type: ignore[arg-type]
            assert connection.execute(f"SELECT {in_sqlite}").fetchone()[0] == expected
            assert other.execute(f"SELECT {in_duckdb}").fetchone() == (expected,)
    connection.close()


def test_periods_sort_in_time() -> None:
    """Periods of SQLite dates are texts in the order of time."""
    days = ["1999-12-31", "2000-01-01", "2000-03-31", "2000-04-01", "2000-11-30"]
    connection = sqlite3.connect(":memory:")
    for period in ("year", "quarter", "month"):
        found = [connection.execute(f"SELECT {date_period(period, repr(day), 'sqlite')}").fetchone()[0] for day in days]
        assert found == sorted(found)
    connection.close()


def test_quotient_neither_truncates_nor_fails() -> None:
    """1 / 2 is a half, and 1 / 0 is null, in both."""
    connection = sqlite3.connect(":memory:")
    with duckdb.connect() as other:
        for dialect, run in (("sqlite", connection.execute), ("duckdb", other.execute)):
            assert run(f"SELECT {quotient('1', '2', dialect)}, {quotient('1', '0', dialect)}").fetchone() == (0.5, None)
    connection.close()
