"""Counts over a query agree with counting by hand."""

import pytest

from rayfactory.sql import base_tables, features, parse

# (sql, joins, predicates, subqueries, aggregates, windows)
CASES = [
    ("SELECT a FROM t", 0, 0, 0, 0, 0),
    ("SELECT COUNT(*), MAX(a) FROM t", 0, 0, 0, 2, 0),
    ("SELECT a FROM t, u WHERE t.i = u.i", 1, 0, 0, 0, 0),
    ("SELECT a FROM t, u WHERE ti = ui AND a > 1", 1, 1, 0, 0, 0),
    ("SELECT a FROM t JOIN u ON t.i = u.i JOIN v ON u.j = v.j WHERE t.a = 1 AND v.b <> 2", 2, 2, 0, 0, 0),
    ("SELECT a FROM t WHERE b BETWEEN 1 AND 2 AND c IN (1, 2, 3) AND NOT d LIKE 'x%'", 0, 3, 0, 0, 0),
    ("SELECT a FROM t WHERE (b = 1 OR c = 2) AND d IS NULL", 0, 3, 0, 0, 0),
    ("SELECT a FROM t WHERE t.b = t.c", 0, 1, 0, 0, 0),
    ("SELECT CASE WHEN a > 1 AND b < 2 THEN 'x' WHEN a = 0 THEN 'y' END FROM t", 0, 3, 0, 0, 0),
    ("SELECT CASE a WHEN 1 THEN 'x' WHEN 2 THEN 'y' ELSE 'z' END FROM t", 0, 2, 0, 0, 0),
    ("SELECT a, SUM(b) FROM t GROUP BY a HAVING SUM(b) > 10", 0, 1, 0, 2, 0),
    ("SELECT a, ROW_NUMBER() OVER (ORDER BY b) AS n FROM t QUALIFY n = 1", 0, 1, 0, 0, 1),
    ("SELECT SUM(a) OVER (PARTITION BY b), RANK() OVER (ORDER BY SUM(c)) FROM t", 0, 0, 0, 1, 2),
    ("SELECT SUM(a) OVER w, MAX(a) OVER w FROM t WINDOW w AS (PARTITION BY b)", 0, 0, 0, 0, 2),
    ("SELECT a FROM t WHERE x = y", 0, 1, 0, 0, 0),
    ("SELECT IF(a > 1, 'x', 'y') FROM t", 0, 0, 0, 0, 0),
    ("SELECT geomean(a) FROM t", 0, 0, 0, 1, 0),
    ("SELECT SUM(a) FILTER (WHERE b > 1) FROM t", 0, 1, 0, 1, 0),
    ("SELECT SUM(a) FILTER (WHERE b > 1) OVER () FROM t", 0, 1, 0, 0, 1),
    ("SELECT a FROM t WHERE b IN (SELECT c FROM u WHERE d = 1)", 0, 2, 1, 0, 0),
    ("SELECT a FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.i = t.i)", 0, 1, 1, 0, 0),
    ("SELECT a FROM (SELECT b AS a FROM u) AS d", 0, 0, 1, 0, 0),
    ("WITH w AS (SELECT a FROM t) SELECT a FROM w", 0, 0, 0, 0, 0),
    ("WITH w AS (SELECT a FROM t WHERE a > (SELECT AVG(a) FROM t)) SELECT a FROM w", 0, 1, 1, 1, 0),
    ("SELECT a FROM t UNION SELECT b FROM u", 0, 0, 0, 0, 0),
    ("(SELECT a FROM t) UNION ALL (SELECT b FROM u)", 0, 0, 0, 0, 0),
    ("SELECT x FROM (SELECT a AS x FROM t UNION SELECT b FROM u) AS d", 0, 0, 1, 0, 0),
]


@pytest.mark.parametrize(("sql", "joins", "predicates", "subqueries", "aggregates", "windows"), CASES)
def test_counts(sql, joins, predicates, subqueries, aggregates, windows):
    found = features(parse(sql, "duckdb"), sql, "duckdb")
    assert (found.num_joins, found.num_predicates, found.num_subqueries, found.num_aggregates, found.num_windows) == (
        joins,
        predicates,
        subqueries,
        aggregates,
        windows,
    )


def test_tokens_and_nodes():
    """SELECT, a, FROM, t are four tokens; Select, Column, Identifier, From, Table, Identifier are six nodes."""
    found = features(parse("SELECT a FROM t", "duckdb"), "SELECT a FROM t", "duckdb")
    assert (found.num_tokens, found.ast_nodes) == (4, 6)


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("SELECT 1", ()),
        ("SELECT a FROM t JOIN u ON t.i = u.i JOIN t AS x ON x.j = u.j", ("t", "u")),
        ("WITH w AS (SELECT a FROM t) SELECT a FROM w JOIN u ON w.a = u.a", ("t", "u")),
        ("WITH t AS (SELECT a FROM t) SELECT a FROM t", ("t",)),
        ("WITH a AS (SELECT 1 FROM t), b AS (SELECT 1 FROM a) SELECT 1 FROM b", ("t",)),
        ("WITH b AS (SELECT 1 FROM a), a AS (SELECT 1 FROM t) SELECT 1 FROM b", ("a", "t")),
        ("WITH RECURSIVE w AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM w WHERE n < 3) SELECT n FROM w", ()),
        (
            "SELECT a FROM t WHERE EXISTS (WITH u AS (SELECT 1 FROM v) SELECT 1 FROM u) AND a IN (SELECT a FROM u)",
            ("t", "v", "u"),
        ),
    ],
)
def test_base_tables(sql, tables):
    """Names that a WITH clause introduces are no tables where they are visible."""
    assert set(base_tables(parse(sql, "duckdb"))) == set(tables)
