"""The canonical form is equal for spellings of one query and different for different queries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayfactory.sql import canonical, normalise, parse, skeleton

SAME = [
    ("SELECT a FROM t", "select  A -- note\nfrom T"),
    ("SELECT x.a FROM t x", "SELECT y.a FROM t AS y"),
    ("SELECT t.a FROM t", "SELECT u.a FROM t AS u"),
    ("SELECT a AS total FROM t ORDER BY total", "SELECT a AS s FROM t ORDER BY s"),
    ("SELECT a FROM t WHERE b = 1 AND c > 2", "SELECT a FROM t WHERE c > 2 AND 1 = b"),
    ("SELECT a FROM t WHERE b = 1 OR (c = 2 OR d = 3)", "SELECT a FROM t WHERE (d = 3 OR c = 2) OR b = 1"),
    ("SELECT a FROM t WHERE b IN (3, 1, 2)", "SELECT a FROM t WHERE b IN (1, 2, 3)"),
    ("SELECT a FROM t WHERE b > 1.50", "SELECT a FROM t WHERE 1.5 < b"),
    ("SELECT a FROM t WHERE b = 1e2", "SELECT a FROM t WHERE b = 100"),
    ('SELECT "a" FROM "t"', "SELECT a FROM t"),
    ("SELECT a FROM t INNER JOIN u ON t.i = u.i", "SELECT a FROM t JOIN u ON u.i = t.i"),
    ("SELECT a FROM t WHERE (b = 1) AND (c = 2)", "SELECT a FROM t WHERE (b = 1 AND c = 2)"),
    ("SELECT a FROM t LEFT OUTER JOIN u ON t.i = u.i", "SELECT a FROM t LEFT JOIN u ON t.i = u.i"),
    ("SELECT a FROM t ORDER BY a ASC", "SELECT a FROM t ORDER BY a"),
    ("SELECT a FROM main.t", "SELECT a FROM t"),
    ("SELECT a FROM t WHERE b IS DISTINCT FROM c", "SELECT a FROM t WHERE c IS DISTINCT FROM b"),
    (
        "WITH w AS (SELECT a AS k, COUNT(*) AS n FROM t GROUP BY a) SELECT w.k FROM w WHERE w.n > 1",
        "WITH c AS (SELECT a AS key, COUNT(*) AS num FROM t GROUP BY a) SELECT c.key FROM c WHERE 1 < c.num",
    ),
    (
        "SELECT d.m FROM (SELECT MAX(a) AS m FROM t) AS d",
        "SELECT sub.top FROM (SELECT MAX(a) AS top FROM t) AS sub",
    ),
    (
        "SELECT a FROM t AS o WHERE b > (SELECT AVG(i.b) FROM t AS i WHERE i.c = o.c)",
        "SELECT a FROM t AS x WHERE (SELECT AVG(y.b) FROM t AS y WHERE x.c = y.c) < b",
    ),
]

DIFFERENT = [
    ("SELECT a FROM t", "SELECT b FROM t"),
    ("SELECT a FROM t JOIN u ON t.i = u.i", "SELECT a FROM u JOIN t ON t.i = u.i"),
    ("SELECT a FROM t LEFT JOIN u ON t.i = u.i", "SELECT a FROM t JOIN u ON t.i = u.i"),
    ("SELECT a FROM t ORDER BY a", "SELECT a FROM t ORDER BY a DESC"),
    ("SELECT a FROM t WHERE b < c", "SELECT a FROM t WHERE b > c"),
    ("SELECT a FROM t WHERE b = 1 AND c = 2", "SELECT a FROM t WHERE b = 1 OR c = 2"),
    ("SELECT a AS q FROM t ORDER BY q", "SELECT a AS q FROM t ORDER BY c1"),
    ("WITH x AS (SELECT a FROM t) SELECT a FROM x", "WITH x AS (SELECT a FROM t) SELECT a FROM t1"),
    ("SELECT a FROM t WHERE (b + 1) * 2 > 3", "SELECT a FROM t WHERE b + 1 * 2 > 3"),
    ("SELECT a FROM t WHERE NOT (b = 1 AND c = 2)", "SELECT a FROM t WHERE NOT b = 1 AND c = 2"),
    ("SELECT a FROM t WHERE b = 1 AND (c = 2 OR d = 3)", "SELECT a FROM t WHERE (b = 1 AND c = 2) OR d = 3"),
    ("SELECT a FROM t UNION SELECT a FROM u", "SELECT a FROM t UNION ALL SELECT a FROM u"),
    ("SELECT a AS total FROM t WHERE total > 5", "SELECT a AS x FROM t WHERE a > 5"),
    ("SELECT x.a FROM t x, t y WHERE x.i = y.j", "SELECT y.a FROM t x, t y WHERE x.i = y.j"),
]


def form(sql, dialect="duckdb"):
    return canonical(parse(sql, dialect), dialect)


@pytest.mark.parametrize(("one", "other"), SAME)
def test_spellings_of_one_query_share_a_form(one, other):
    assert form(one) == form(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_queries_differ(one, other):
    assert form(one) != form(other)


def test_form_is_its_own_form():
    """Bringing a canonical form into canonical form changes nothing."""
    for pair in SAME + DIFFERENT:
        for sql in pair:
            assert form(form(sql)) == form(sql)


def test_tree_is_left_alone():
    tree = parse("SELECT x.a FROM t AS x WHERE 2 IN (3, 1) AND b = 1", "duckdb")
    before = tree.sql()
    canonical(tree, "duckdb")
    skeleton(tree, "duckdb")
    assert tree.sql() == before


def test_skeleton_hides_names_and_constants():
    one = parse("SELECT city, COUNT(*) AS n FROM shop WHERE size > 10 GROUP BY city", "duckdb")
    other = parse("SELECT genre, COUNT(*) AS num FROM film WHERE year > 1999.5 GROUP BY genre", "duckdb")
    assert skeleton(one, "duckdb") == skeleton(other, "duckdb")
    assert skeleton(one, "duckdb") == "select _, count(*) as _ from _ as _ where ? < _ group by _"


def test_skeleton_tells_structures_apart():
    one = parse("SELECT a FROM t WHERE b > 1", "duckdb")
    other = parse("SELECT a FROM t WHERE b >= 1", "duckdb")
    assert skeleton(one, "duckdb") != skeleton(other, "duckdb")


@given(st.permutations(["a = 1", "b > 2", "c LIKE 'x%'", "d IS NULL", "(e = 1 OR f = 2)"]))
def test_order_of_conditions_means_nothing(conditions):
    assert form(f"SELECT a FROM t WHERE {' AND '.join(conditions)}") == form(
        "SELECT a FROM t WHERE a = 1 AND b > 2 AND c LIKE 'x%' AND d IS NULL AND (e = 1 OR f = 2)"
    )


@given(
    st.lists(st.sampled_from(["q", "w", "e", "r", "z"]), min_size=2, max_size=2, unique=True),
    st.sampled_from(["n", "total", "k"]),
)
def test_names_of_aliases_mean_nothing(aliases, output):
    x, y = aliases
    sql = (
        f"SELECT {x}.a, SUM({y}.b) AS {output} FROM t AS {x} JOIN u AS {y} ON {x}.i = {y}.i "
        f"GROUP BY {x}.a HAVING SUM({y}.b) > 1 ORDER BY {output} DESC"
    )
    assert form(sql) == form(
        "SELECT t1.a, SUM(t2.b) AS c1 FROM t AS t1 JOIN u AS t2 ON t1.i = t2.i "
        "GROUP BY t1.a HAVING SUM(t2.b) > 1 ORDER BY c1 DESC"
    )


def test_normalised_text_is_one_lower_case_line_without_comments():
    tree = parse("SELECT  A /* why */\nFROM T -- where\nWHERE B = 'X'", "duckdb")
    assert normalise(tree, "duckdb") == "select a from t where b = 'x'"
