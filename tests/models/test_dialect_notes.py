"""What the prompts say of a dialect is so: what they recommend is allowed and runs, what they rule out does not."""

from __future__ import annotations

import pytest

from rayfactory.config import ExecutionConfig
from rayfactory.models.prompts import Prompts
from rayfactory.tools.execution import ExecutionTool, examine
from tests.models.store import make_store

HOLDS = {
    "duckdb": {
        "/ between integers gives a fraction": "SELECT 1 WHERE 7 / 2 = 3.5",
        "// is the integer division": "SELECT 1 WHERE 7 // 2 = 3",
        "NULLIF(x, 0)": "SELECT 1 / NULLIF(0, 0)",
        "DATE '2001-01-31'": "SELECT 1 WHERE DATE '2001-01-31' < TIMESTAMP '2001-01-31 12:00:00'",
        "EXTRACT(YEAR FROM d)": "SELECT EXTRACT(YEAR FROM sold_on) FROM sale",
        "DATE_TRUNC('month', d)": "SELECT DATE_TRUNC('month', sold_on) FROM sale",
        "DATE_DIFF('day', a, b)": "SELECT 1 WHERE DATE_DIFF('day', DATE '2001-01-01', DATE '2001-01-31') = 30",
        "d + INTERVAL 30 DAY": "SELECT sold_on + INTERVAL 30 DAY FROM sale",
        "QUALIFY": "SELECT sale_id FROM sale QUALIFY ROW_NUMBER() OVER (PARTITION BY product_id ORDER BY sale_id) = 1",
        "FILTER (WHERE ...)": "SELECT COUNT(*) FILTER (WHERE quantity > 3) FROM sale",
        "MEDIAN": "SELECT MEDIAN(quantity), STDDEV_SAMP(quantity) FROM sale",
        "QUANTILE_CONT": "SELECT QUANTILE_CONT(quantity, 0.9) FROM sale",
        "STRING_AGG(x, ',' ORDER BY x)": "SELECT STRING_AGG(city, ',' ORDER BY city) FROM customer",
        "GREATEST, LEAST": "SELECT GREATEST(1, 2), LEAST(1, 2)",
        "ROLLUP": "SELECT color, COUNT(*) FROM product GROUP BY ROLLUP (color)",
        "CUBE": "SELECT color, category_id, COUNT(*) FROM product GROUP BY CUBE (color, category_id)",
        "GROUPING SETS": "SELECT color, COUNT(*) FROM product GROUP BY GROUPING SETS ((color), ())",
    },
    "sqlite": {
        "/ between integers truncates": "SELECT 1 WHERE 7 / 2 = 3",
        "x * 1.0 / NULLIF(y, 0)": "SELECT 7 * 1.0 / NULLIF(2, 0)",
        "STRFTIME('%Y', d)": "SELECT STRFTIME('%Y', sold_on), CAST(STRFTIME('%m', sold_on) AS INTEGER) FROM sale",
        "JULIANDAY(a) - JULIANDAY(b)": "SELECT 1 WHERE JULIANDAY('2001-01-31') - JULIANDAY('2001-01-01') = 30",
        "DATE(d, '+30 days')": "SELECT 1 WHERE DATE('2001-01-01', '+30 days') = '2001-01-31'",
        "joined with ||": "SELECT name || ', ' || city FROM customer",
        "MAX(a, b)": "SELECT MAX(1, 2)",
    },
    "postgres": {
        "/ between integers truncates": "SELECT 1 WHERE 7 / 2 = 3",
        "x * 1.0 / NULLIF(y, 0)": "SELECT 7 * 1.0 / NULLIF(0, 0)",
        "ROUND(CAST(x AS NUMERIC), 2)": "SELECT ROUND(CAST(AVG(quantity) AS NUMERIC), 2) FROM sale",
        "DATE '2001-01-31'": "SELECT 1 WHERE DATE '2001-01-31' < TIMESTAMP '2001-01-31 12:00:00'",
        "EXTRACT(YEAR FROM d)": "SELECT EXTRACT(YEAR FROM sold_on) FROM sale",
        "DATE_TRUNC('month', d)": "SELECT DATE_TRUNC('month', sold_on) FROM sale",
        "d + INTERVAL '30 days'": "SELECT sold_on + INTERVAL '30 days' FROM sale",
        "the difference of two dates is a number of days": "SELECT 1 WHERE DATE '2001-01-31' - DATE '2001-01-01' = 30",
        "FILTER (WHERE ...)": "SELECT COUNT(*) FILTER (WHERE quantity > 3) FROM sale",
        "PERCENTILE_CONT(0.5) WITHIN GROUP": "SELECT PERCENTILE_CONT(0.5) WITHIN GROUP (ORDER BY quantity) FROM sale",
        "STDDEV_SAMP": "SELECT STDDEV_SAMP(quantity) FROM sale",
        "STRING_AGG(x, ',' ORDER BY x)": "SELECT STRING_AGG(city, ',' ORDER BY city) FROM customer",
        "GREATEST, LEAST": "SELECT GREATEST(1, 2), LEAST(1, 2)",
        "ROLLUP": "SELECT color, COUNT(*) FROM product GROUP BY ROLLUP (color)",
        "CUBE": "SELECT color, category_id, COUNT(*) FROM product GROUP BY CUBE (color, category_id)",
        "GROUPING SETS": "SELECT color, COUNT(*) FROM product GROUP BY GROUPING SETS ((color), ())",
        "may stand in ORDER BY and GROUP BY": "SELECT UPPER(color) AS c, COUNT(*) FROM product GROUP BY c ORDER BY c",
        "DESC NULLS LAST": "SELECT city FROM customer ORDER BY city DESC NULLS LAST",
    },
    "mysql": {
        "/ between integers gives a fraction": "SELECT 1 FROM sale WHERE 7 / 2 = 3.5",
        "x DIV y": "SELECT 1 FROM sale WHERE 7 DIV 2 = 3",
        "NULLIF(x, 0)": "SELECT 1 / NULLIF(0, 0)",
        "names stand in backticks": "SELECT `order` FROM product",
        "Double quotes are for text too": 'SELECT 1 FROM customer WHERE city = "Oslo"',
        "DATE '2001-01-31'": "SELECT 1 FROM sale WHERE sold_on > DATE '2001-01-31'",
        "YEAR(d)": "SELECT YEAR(sold_on), EXTRACT(MONTH FROM sold_on) FROM sale",
        "DATE_FORMAT(d, '%Y-%m')": "SELECT DATE_FORMAT(sold_on, '%Y-%m') FROM sale",
        "DATEDIFF(a, b)": "SELECT 1 FROM sale WHERE DATEDIFF('2001-01-31', '2001-01-01') = 30",
        "d + INTERVAL 30 DAY": "SELECT sold_on + INTERVAL 30 DAY FROM sale",
        "CONCAT(a, b)": "SELECT CONCAT(name, ', ', city) FROM customer",
        "SUM(CASE WHEN ... THEN x END)": "SELECT SUM(CASE WHEN quantity > 3 THEN 1 END) FROM sale",
        "WITH ROLLUP": "SELECT color, category_id, COUNT(*) FROM product GROUP BY color, category_id WITH ROLLUP",
        "STDDEV_SAMP": "SELECT STDDEV_SAMP(quantity) FROM sale",
        "GROUP_CONCAT(x ORDER BY x SEPARATOR ',')": "SELECT GROUP_CONCAT(city ORDER BY city SEPARATOR ',') FROM customer",
        "GREATEST and LEAST": "SELECT GREATEST(1, 2), LEAST(1, 2)",
    },
}  # fmt: skip

FAILS = {
    "duckdb": {
        "no JULIANDAY": "SELECT JULIANDAY(sold_on) FROM sale",
        "and no DATEADD": "SELECT DATEADD(day, 1, sold_on) FROM sale",
        "is not an aggregate stands in GROUP BY": "SELECT city, name, COUNT(*) FROM customer GROUP BY city",
        "never in WHERE, GROUP BY or HAVING": "SELECT 1 FROM sale WHERE ROW_NUMBER() OVER (ORDER BY sale_id) = 1",
        "Types are strict": "SELECT 1 FROM customer WHERE name > 5 AND customer_id > 'x'",
    },
    "sqlite": {
        "EXTRACT": "SELECT EXTRACT(YEAR FROM sold_on) FROM sale",
        "YEAR()": "SELECT YEAR(sold_on) FROM sale",
        "DATE_TRUNC": "SELECT DATE_TRUNC('month', sold_on) FROM sale",
        "DATEDIFF": "SELECT DATEDIFF('day', sold_on, sold_on) FROM sale",
        "INTERVAL": "SELECT sold_on + INTERVAL '1' DAY FROM sale",
        "ILIKE": "SELECT 1 FROM customer WHERE name ILIKE 'a%'",
        "QUALIFY": "SELECT sale_id FROM sale QUALIFY ROW_NUMBER() OVER (ORDER BY sale_id) = 1",
        "GREATEST": "SELECT GREATEST(1, 2)",
        "LEAST": "SELECT LEAST(1, 2)",
        "STDDEV": "SELECT STDDEV(quantity) FROM sale",
        "VARIANCE": "SELECT VARIANCE(quantity) FROM sale",
        "MEDIAN": "SELECT MEDIAN(quantity) FROM sale",
        "LEFT()": "SELECT LEFT(name, 1) FROM customer",
        "RIGHT()": "SELECT RIGHT(name, 1) FROM customer",
        "ROLLUP": "SELECT color, COUNT(*) FROM product GROUP BY ROLLUP (color)",
        "GROUPING SETS": "SELECT color, COUNT(*) FROM product GROUP BY GROUPING SETS ((color), ())",
        "ANY or ALL": "SELECT 1 FROM sale WHERE quantity > ALL (SELECT quantity FROM refund)",
        "never in WHERE, GROUP BY or HAVING": "SELECT 1 FROM sale WHERE ROW_NUMBER() OVER (ORDER BY sale_id) = 1",
        "stands without parentheses": "(SELECT 1) UNION (SELECT 2)",
        "only the last may have ORDER BY": "SELECT name FROM customer ORDER BY name UNION SELECT color FROM product",
    },
    "postgres": {
        "ROUND(x, 2) takes a NUMERIC": "SELECT ROUND(CAST(1.5 AS DOUBLE PRECISION), 2)",
        "no DATEDIFF": "SELECT DATEDIFF('day', sold_on, sold_on) FROM sale",
        "no DATE_FORMAT": "SELECT DATE_FORMAT(sold_on, '%Y') FROM sale",
        "no YEAR()": "SELECT YEAR(sold_on) FROM sale",
        "is not an aggregate stands in GROUP BY": "SELECT city, name, COUNT(*) FROM customer GROUP BY city",
        "never in WHERE, GROUP BY or HAVING": "SELECT 1 FROM sale WHERE ROW_NUMBER() OVER (ORDER BY sale_id) = 1",
        "no QUALIFY": "SELECT sale_id FROM sale QUALIFY ROW_NUMBER() OVER (ORDER BY sale_id) = 1",
        "do not compare text with numbers": "SELECT 1 FROM customer WHERE name > 5",
        "not in WHERE or HAVING": "SELECT COUNT(*) AS n FROM sale HAVING n > 1",
    },
    "mysql": {
        "no DATE_TRUNC": "SELECT DATE_TRUNC('month', sold_on) FROM sale",
        "is not an aggregate stands in GROUP BY": "SELECT city, name, COUNT(*) FROM customer GROUP BY city",
        "never in WHERE, GROUP BY or HAVING": "SELECT 1 FROM sale WHERE ROW_NUMBER() OVER (ORDER BY sale_id) = 1",
        "no QUALIFY": "SELECT sale_id FROM sale QUALIFY ROW_NUMBER() OVER (ORDER BY sale_id) = 1",
        "no FULL JOIN": "SELECT 1 FROM sale FULL JOIN refund ON sale_id = refund_id",
        "no FILTER (WHERE ...)": "SELECT COUNT(*) FILTER (WHERE quantity > 3) FROM sale",
        "no MEDIAN": "SELECT MEDIAN(quantity) FROM sale",
        "no NULLS LAST": "SELECT city FROM customer ORDER BY city DESC NULLS LAST",
    },
}  # fmt: skip

SERVERS = {"postgres": "postgresql_server", "mysql": "mariadb_server"}


@pytest.fixture(scope="module", params=["duckdb", "sqlite", "postgres", "mysql"])
def tool(request, tmp_path_factory):
    fixture = SERVERS.get(request.param)
    server = request.getfixturevalue(fixture) if fixture else None
    database, schema = make_store(tmp_path_factory.mktemp("store"), request.param, server)
    tool = ExecutionTool({"store": database}, {"store": schema}, ExecutionConfig())
    yield request.param, tool
    tool.close()


def notes(dialect):
    values = {"database": "d", "schema_text": "", "foreign_keys": "", "failed": []}
    return Prompts().render("correction", dialect, values)[0]


def test_what_the_notes_recommend_runs(tool):
    dialect, execution = tool
    for note, sql in HOLDS[dialect].items():
        assert note in notes(dialect), note
        found = execution.run("store", sql, examine(sql, dialect))
        assert found.reason is None, (note, found.detail)
        assert found.row_count >= 1, note


def test_what_the_notes_rule_out_does_not_run(tool):
    dialect, execution = tool
    for note, sql in FAILS[dialect].items():
        assert note in notes(dialect), note
        assert execution.run("store", sql, examine(sql, dialect)).reason is not None, note
