"""What a table holds: kinds, exact counts, and a sample that is the same every time."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from datetime import date, timedelta

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayfactory.config import ProfileConfig
from rayfactory.databases.catalogue import read_catalogue
from rayfactory.databases.engine import Connection
from rayfactory.databases.profile import TableContent, is_constant, profile_column, profile_table, sqlite_kind
from rayfactory.databases.schema import ColumnProfile, Kind

SMALL = ProfileConfig(max_rows=500)


def content(connection: Connection, settings: ProfileConfig = SMALL) -> TableContent:
    """Return the content of the only table of a database."""
    (table,) = read_catalogue(connection).tables
    return profile_table(connection, table, settings)


def lite(script: str) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.executescript(script)
    return connection


def duck(script: str) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(":memory:", config={"threads": 1})
    connection.execute(script)
    return connection


values = st.one_of(
    st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), max_size=60),
    st.lists(st.one_of(st.none(), st.floats()), max_size=60),
    st.lists(st.one_of(st.none(), st.text(max_size=6)), max_size=60),
)


def kind_of(column: Sequence[object]) -> Kind:
    return "text" if any(isinstance(value, str) for value in column) else "real"


@given(column=values)
def test_a_profile_agrees_with_the_values_that_it_describes(column: list[object]):
    """Every statistic is what counting by hand gives, and every value in it occurs."""
    profile = profile_column(column, kind_of(column))
    present = [v for v in column if v is not None and not (isinstance(v, float) and not math.isfinite(v))]
    assert profile.num_sampled == len(column)
    assert profile.null_fraction == pytest.approx(1 - len(present) / len(column) if column else 0)
    assert profile.num_distinct == len(set(present))
    assert profile.unique == (bool(column) and len(set(present)) == len(column))
    shares = [share for _, share in profile.common_values]
    assert shares == sorted(shares, reverse=True)
    assert len(shares) <= 20
    for value, share in profile.common_values:
        assert share == pytest.approx(present.count(value) / len(column))
    assert set(profile.examples) <= set(present)
    assert len(profile.examples) <= 5
    if kind_of(column) == "real" and present:
        assert (profile.minimum, profile.maximum) == (min(present), max(present))  # type: ignore[type-var]
        assert list(profile.quantiles) == sorted(profile.quantiles)
        assert len(profile.quantiles) == 9
        assert set(profile.quantiles) <= set(present)
    else:
        assert profile.minimum is profile.maximum is None
        assert profile.quantiles == ()


@pytest.mark.parametrize(
    ("text", "usable"),
    [
        ("Rex", True),
        ("  x ", True),
        ("", False),
        ("  ", False),
        ("a\nb", False),
        ("a\x00b", False),
        ("é数", True),
        ("\ufffd", False),
        ("x" * 80, True),
        ("x" * 81, False),
    ],
)
def test_only_short_printable_text_is_a_constant(text: str, usable: bool):
    """Blank, long, damaged and unprintable text is nothing to write into a query."""
    assert is_constant(text) is usable
    assert (text in [value for value, _ in profile_column([text] * 3, "text").common_values]) is usable


@pytest.mark.parametrize(
    ("declared", "column", "kind"),
    [
        ("INTEGER", [1, None, 2], "integer"),
        ("INTEGER", ["12", "unknown"], "text"),
        ("INTEGER", [1, 2.5], "real"),
        ("INTEGER", [1, "n/a"], "text"),
        ("REAL", [1.0, None], "real"),
        ("TEXT", ["2020-01-31", "1999-12-01"], "date"),
        ("TEXT", ["2020-02-30"], "text"),
        ("TEXT", ["20200131"], "text"),
        ("DATETIME", ["2020-01-31 10:00:00", "2020-01-31 10:00:00.123"], "timestamp"),
        ("", ["2020-01-31T10:00", "2020-01-31"], "timestamp"),
        ("DATE", ["January 5"], "text"),
        ("DATE", [20200131], "integer"),
        ("TEXT", ["10:30", "23:59:59"], "time"),
        ("TEXT", ["25:00"], "text"),
        ("TEXT", [""], "text"),
        ("BOOLEAN", [1, 0], "boolean"),
        ("bool", [1, 0, None], "boolean"),
        ("BOOLEAN", [1, 2], "integer"),
        ("BOOLEAN", ["T", "F"], "text"),
        ("TEXT", [b"x", "a"], "other"),
        ("VARCHAR(10)", [], "text"),
        ("VARCHAR(10)", [None], "text"),
        ("BIGINT", [], "integer"),
        ("DECIMAL(5,2)", [], "real"),
        ("DATE", [], "date"),
        ("TIMESTAMP", [], "timestamp"),
        ("BLOB", [], "other"),
        ("", [], "text"),
    ],
)
def test_what_an_sqlite_column_holds_decides_over_its_type(declared: str, column: list[object], kind: Kind):
    """The declared type counts only where there is no value."""
    assert sqlite_kind(declared, column) == kind


def test_sqlite_constants_find_their_rows():
    """Each common value, written as a constant, is equal to as many rows as the profile says."""
    connection = lite(
        "CREATE TABLE t (mixed INTEGER, untyped, flag BOOLEAN, price REAL, day TEXT, name TEXT, data BLOB);"
        "INSERT INTO t VALUES (1, '1', 1, 0.1, '2020-01-01', 'a''b', x'00'), ('x', 'y', 0, 1e300, '2020-01-02', 'ü', NULL),"
        " ('x', 1, 1, 0.1, NULL, 'a''b', x'ff');"
    )
    found = content(connection)
    assert found.kinds == ("text", "text", "boolean", "real", "date", "text", "other")
    for name, profile in zip(("mixed", "untyped", "flag", "price", "day", "name"), found.profiles, strict=False):
        assert profile.common_values, name
        for value, share in profile.common_values:
            literal = str(value).upper() if isinstance(value, bool) else repr(value)
            if isinstance(value, str):
                literal = "'" + value.replace("'", "''") + "'"
            (count,) = connection.execute(f"SELECT count(*) FROM t WHERE {name} = {literal}").fetchone()
            assert count == round(share * 3), (name, value)
    assert found.profiles[-1] == ColumnProfile(3, 1 - 2 / 3, 1)
    connection.close()


def test_duckdb_types():
    """Every type has a kind; what has no constants, such as lists and blobs, is opaque; no infinite date survives."""
    connection = duck(
        "CREATE TYPE mood AS ENUM ('good', 'bad');"
        "CREATE TABLE t (a UTINYINT, b HUGEINT, c DECIMAL(5,2), d FLOAT, e mood, f DATE, g TIMESTAMP, h TIME, i BOOLEAN,"
        " j BLOB, k INTEGER[], l STRUCT(x INTEGER), m MAP(INTEGER, INTEGER), n INTERVAL, o UUID, p TIMESTAMPTZ, q JSON, r BIT);"
        "INSERT INTO t VALUES (1, 170141183460469231731687303715884105727, 1.25, 'nan', 'good', 'infinity', '2020-01-01 10:00',"
        " '10:00', true, 'ab', [1], {'x': 1}, MAP {1: 1}, INTERVAL 1 DAY, uuid(), now(), '{}', '101'),"
        " (2, 0, NULL, 'inf', 'bad', '2020-01-01', NULL, NULL, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);"
    )
    found = content(connection)
    assert found.kinds[:9] == ("integer", "integer", "real", "real", "text", "date", "timestamp", "time", "boolean")
    assert set(found.kinds[9:]) == {"other"}
    named = dict(zip("abcdefghijklmnopqr", found.profiles, strict=True))
    assert named["b"].maximum == 2**127 - 1
    assert named["c"].common_values == ((1.25, 0.5),)
    assert named["d"].null_fraction == 1.0
    assert (named["f"].minimum, named["f"].null_fraction) == ("2020-01-01", 0.5)
    assert named["g"].minimum == "2020-01-01 10:00:00"
    assert named["h"].examples == ("10:00:00",)
    assert named["i"].common_values == ((False, 0.5), (True, 0.5))
    assert named["k"].null_fraction == 0.5
    connection.close()


def test_an_empty_table_has_a_profile():
    """No rows: nothing sampled, and kinds from the declared types."""
    for connection in (lite("CREATE TABLE t (a INTEGER, b TEXT)"), duck("CREATE TABLE t (a INTEGER, b TEXT)")):
        found = content(connection)
        assert found.num_rows == 0
        assert found.kinds == ("integer", "text")
        assert set(found.profiles) == {ColumnProfile(0, 0.0, 0)}
        connection.close()


CALENDAR = [date(1990, 1, 1) + timedelta(days=day) for day in range(12_000)]


def calendars() -> list[Connection]:
    """Return a table of 12,000 days in each way in which a table can be stored."""
    connections: list[Connection] = []
    for ending in ("", " WITHOUT ROWID"):
        plain = lite(f"CREATE TABLE t (day TEXT PRIMARY KEY, month INTEGER, rowid_is_taken INTEGER){ending}")
        plain.executemany("INSERT INTO t VALUES (?, ?, 0)", [(str(day), day.month) for day in CALENDAR])
        connections.append(plain)
    taken = lite("CREATE TABLE t (day TEXT, month INTEGER, rowid INTEGER, _rowid_ INTEGER, oid INTEGER)")
    taken.executemany("INSERT INTO t VALUES (?, ?, 0, 0, 0)", [(str(day), day.month) for day in CALENDAR])
    sparse = lite("CREATE TABLE t (day TEXT, month INTEGER)")
    sparse.executemany(
        "INSERT INTO t (rowid, day, month) VALUES (?, ?, ?)",
        [(n or 2**63 - 1, str(day), day.month) for n, day in enumerate(CALENDAR)],
    )
    columnar = duck("CREATE TABLE t (day DATE, month INTEGER, rowid INTEGER)")
    columnar.execute("INSERT INTO t SELECT DATE '1990-01-01' + range::INTEGER, 0, 0 FROM range(12000)")
    columnar.execute("UPDATE t SET month = month(day)")
    return [*connections, taken, sparse, columnar]


@pytest.mark.parametrize("number", range(5))
def test_a_large_table_is_sampled_evenly_and_repeatably(number: int):
    """About max_rows rows of all, from everywhere: every month and every decile of the calendar, twice the same."""
    connection = calendars()[number]
    found = content(connection)
    again = content(connection)
    assert again == found
    assert found.num_rows == 12_000
    day, month = found.profiles[:2]
    assert 400 <= day.num_sampled <= 600
    assert day.num_distinct == day.num_sampled
    assert month.num_distinct == 12
    assert max(share for _, share in month.common_values) < 0.14
    for tenth, value in enumerate(day.quantiles, start=1):
        position = (date.fromisoformat(str(value)) - CALENDAR[0]).days / 12_000
        assert position == pytest.approx(tenth / 10, abs=0.06)
    connection.close()


def test_a_wide_table_is_read_in_bounded_memory():
    """1,999 columns of many rows: fewer rows are sampled, none of the columns is left out."""
    columns = ", ".join(f"c{number} INTEGER" for number in range(1_999))
    connection = lite(f"CREATE TABLE t ({columns})")
    row = "(" + ", ".join(["7"] * 1_999) + ")"
    for _ in range(5):
        connection.execute(f"INSERT INTO t VALUES {', '.join([row] * 10)}")
    found = content(connection, ProfileConfig(max_rows=20_000))
    assert len(found.profiles) == 1_999
    assert {profile.common_values for profile in found.profiles} == {((7, 1.0),)}
    connection.close()


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            *[
                st.one_of(
                    st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=5), st.binary(max_size=5)
                )
            ]
            * 2
        ),
        max_size=25,
    ),
    declared=st.tuples(*[st.sampled_from(["INTEGER", "TEXT", "REAL", "NUMERIC", "DATE", "BOOLEAN", "BLOB", ""])] * 2),
)
def test_any_content_of_sqlite_has_a_profile(rows: list[tuple[object, ...]], declared: tuple[str, str]):
    """Any values under any declared types are described without an error, and counted exactly."""
    connection = lite(f"CREATE TABLE t (a {declared[0]}, b {declared[1]})")
    encodable = [
        row for row in rows if not any(isinstance(v, str) and any("\ud800" <= c <= "\udfff" for c in v) for v in row)
    ]
    connection.executemany("INSERT INTO t VALUES (?, ?)", encodable)
    found = content(connection)
    assert found.num_rows == len(encodable)
    assert [profile.num_sampled for profile in found.profiles] == [len(encodable)] * 2
    connection.close()
