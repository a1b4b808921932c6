"""What a query is built of, by queries of which a person can see it."""

from __future__ import annotations

import pytest

from rayfactory.analysis.structure import CONSTRUCTS, structure_of, structures_of

SHOP = {
    "customer": frozenset({"customer_id", "name", "region_id"}),
    "sale": frozenset({"sale_id", "customer_id", "amount", "sold_on"}),
    "region": frozenset({"region_id", "name"}),
}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT name FROM customer", set()),
        ("SELECT DISTINCT name FROM customer WHERE name LIKE 'A%' LIMIT 3", {"distinct", "where", "like", "limit"}),
        ("SELECT c.name FROM customer c JOIN sale s ON c.customer_id = s.customer_id", {"inner join"}),
        ("SELECT c.name FROM customer c LEFT JOIN sale s USING (customer_id)", {"left join"}),
        ("SELECT 1 FROM customer c RIGHT JOIN sale s USING (customer_id)", {"right join"}),
        ("SELECT 1 FROM customer c FULL JOIN sale s USING (customer_id)", {"full join"}),
        ("SELECT 1 FROM customer CROSS JOIN region", {"cross join"}),
        ("SELECT 1 FROM customer, region", {"cross join"}),
        ("SELECT 1 FROM customer c, region r WHERE c.region_id = r.region_id", {"inner join", "where"}),
        ("SELECT 1 FROM sale a JOIN sale b ON a.customer_id = b.customer_id", {"inner join", "self join"}),
        ("SELECT count(*) FROM sale", {"aggregate"}),
        ("SELECT count(DISTINCT customer_id) FROM sale", {"aggregate", "count distinct"}),
        ("SELECT customer_id, sum(amount) FROM sale GROUP BY 1 HAVING sum(amount) > 3", {"aggregate", "group by", "having"}),
        ("SELECT 1 FROM sale GROUP BY ROLLUP (customer_id, sold_on)", {"group by", "grouping sets"}),
        ("SELECT 1 FROM sale GROUP BY GROUPING SETS ((customer_id), ())", {"group by", "grouping sets"}),
        ("SELECT row_number() OVER (ORDER BY amount) FROM sale ORDER BY 1", {"window", "order by"}),
        ("SELECT sum(amount) OVER () FROM sale", {"window"}),
        ("SELECT amount FROM sale QUALIFY rank() OVER (ORDER BY amount) = 1", {"window", "qualify"}),
        ("WITH a AS (SELECT 1 AS x) SELECT x FROM a", {"cte"}),
        ("WITH RECURSIVE a AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM a) SELECT x FROM a", {"recursive cte", "union", "arithmetic"}),
        ("SELECT x FROM (SELECT amount AS x FROM sale) AS t", {"subquery in FROM"}),
        ("SELECT 1 FROM sale WHERE amount > (SELECT avg(amount) FROM sale)", {"where", "scalar subquery", "aggregate"}),
        ("SELECT (SELECT max(amount) FROM sale) FROM region", {"scalar subquery", "aggregate"}),
        ("SELECT 1 FROM customer WHERE customer_id IN (SELECT customer_id FROM sale)", {"where", "in subquery"}),
        ("SELECT 1 FROM customer WHERE customer_id IN (1, 2)", {"where", "in list"}),
        ("SELECT 1 FROM customer c WHERE EXISTS (SELECT 1 FROM sale s WHERE s.customer_id = c.customer_id)", {"where", "exists", "correlated subquery"}),
        ("SELECT 1 FROM sale INTERSECT SELECT 1 FROM region EXCEPT SELECT 2 FROM region", {"intersect", "except"}),
        ("SELECT CASE WHEN amount BETWEEN 1 AND 2 THEN 1 END FROM sale", {"case", "between"}),
        ("SELECT 1 FROM sale WHERE amount IS NULL OR NOT amount = 1", {"where", "is null", "or", "not"}),
        ("SELECT CAST(amount AS INT), upper(name) FROM sale, customer WHERE amount * 2 > 1", {"cast", "text function", "where", "arithmetic", "inner join"}),
        ("SELECT date_trunc('month', sold_on) FROM sale", {"date function"}),
    ],
)  # fmt: skip
def test_constructs_are_those_that_one_sees(query: str, expected: set[str]):
    structure = structure_of(query, "duckdb", {})
    assert structure is not None
    assert structure.constructs == expected
    assert structure.constructs <= set(CONSTRUCTS)


@pytest.mark.parametrize("known", [True, False])
def test_columns_and_joins_are_resolved(known: bool):
    query = (
        "SELECT C.Name, s.amount FROM Customer AS C JOIN sale s ON s.customer_id = C.customer_id "
        "WHERE C.region_id IN (SELECT region_id FROM region WHERE name = 'North')"
    )
    structure = structure_of(query, "duckdb", SHOP if known else {})
    assert structure is not None
    assert structure.joins == {(("customer", "customer_id"), ("sale", "customer_id"))}
    assert structure.columns == {
        *(("customer", name) for name in ("name", "customer_id", "region_id")),
        *(("sale", name) for name in ("amount", "customer_id")),
        *(("region", name) for name in ("region_id", "name")),
    }


def test_unqualified_column_belongs_to_the_table_that_has_it():
    query = "SELECT amount FROM customer JOIN sale ON customer.customer_id = sale.customer_id WHERE name = 'A'"
    known, unknown = structure_of(query, "duckdb", SHOP), structure_of(query, "duckdb", {})
    assert known is not None
    assert unknown is not None
    both = {("customer", "customer_id"), ("sale", "customer_id")}
    assert known.columns == both | {("sale", "amount"), ("customer", "name")}
    assert unknown.columns == both


def test_names_of_a_cte_and_of_a_subquery_are_no_columns_of_tables():
    query = (
        "WITH totals AS (SELECT customer_id, sum(amount) AS total FROM sale GROUP BY customer_id) "
        "SELECT t.total, c.name FROM totals t JOIN customer c ON t.customer_id = c.customer_id"
    )
    structure = structure_of(query, "duckdb", SHOP)
    assert structure is not None
    assert structure.columns == {
        ("sale", "customer_id"),
        ("sale", "amount"),
        ("customer", "name"),
        ("customer", "customer_id"),
    }
    assert structure.joins == set()


def test_using_and_correlation_join_too():
    using = structure_of("SELECT amount FROM customer JOIN sale USING (customer_id)", "duckdb", SHOP)
    outer = structure_of(
        "SELECT name FROM customer c WHERE EXISTS (SELECT 1 FROM sale WHERE sale.customer_id = c.customer_id)",
        "duckdb",
        SHOP,
    )
    assert using is not None
    assert outer is not None
    assert using.joins == outer.joins == {(("customer", "customer_id"), ("sale", "customer_id"))}


def test_what_does_not_parse_has_no_structure():
    assert structure_of("SELECT FROM WHERE", "duckdb", {}) is None
    assert structure_of("SELECT 1; SELECT 2", "duckdb", {}) is None


def test_many_are_taken_apart_in_order():
    """Also where several processes do it."""
    queries = [(f"SELECT {i} FROM t{i % 7} WHERE a{i} = {i}", "duckdb", "shop") for i in range(600)]
    found = list(structures_of(queries, {}))
    assert [next(iter(structure.columns)) for structure in found if structure] == [
        (f"t{i % 7}", f"a{i}") for i in range(600)
    ]


@pytest.mark.parametrize(
    ("query", "columns", "joins"),
    [
        # Columns without their tables, as in TPC-DS.
        ("SELECT amount FROM sale, region WHERE region.region_id = sale_id", {"sale.amount", "region.region_id", "sale.sale_id"}, 1),
        ("SELECT sold_on FROM sale, region WHERE sale_id = region_id", {"sale.sold_on", "region.region_id", "sale.sale_id"}, 1),
        ("SELECT sold_on FROM sale WHERE sale_id = customer_id", {"sale.sold_on", "sale.customer_id", "sale.sale_id"}, 0),
        # Case of names.
        ("SELECT T1.Name FROM customer AS t1 JOIN SALE T2 ON T1.customer_id = t2.Customer_ID", {"customer.name", "customer.customer_id", "sale.customer_id"}, 1),
        ("SELECT Customer.name FROM customer", {"customer.name"}, 0),
        # What a CTE names is no column of a table around it.
        ("WITH x AS (SELECT customer_id, sum(amount) AS name FROM sale GROUP BY 1), y AS (SELECT customer_id, name FROM x WHERE name > 5) SELECT c.region_id FROM customer c JOIN y ON c.customer_id = y.customer_id", {"sale.customer_id", "sale.amount", "customer.region_id", "customer.customer_id"}, 0),
    ],
)  # fmt: skip
def test_names_are_resolved_as_a_database_does(query: str, columns: set[str], joins: int):
    structure = structure_of(query, "duckdb", SHOP)
    assert structure is not None
    assert {".".join(each) for each in structure.columns} == columns
    assert len(structure.joins) == joins
    assert "correlated subquery" not in structure.constructs


@pytest.mark.parametrize(
    ("query", "dialect", "expected"),
    [
        ("SELECT date(sold_on) FROM sale", "sqlite", {"date function"}),
        ("SELECT julianday(sold_on) FROM sale", "sqlite", {"date function"}),
        ("SELECT sum(amount) FILTER (WHERE amount > 1) OVER () FROM sale", "duckdb", {"window"}),
        ("SELECT rank() OVER (ORDER BY amount) FROM sale", "duckdb", {"window"}),
        ("SELECT 1 FROM sale WHERE amount > ANY (SELECT amount FROM sale)", "postgres", {"where"}),
    ],
)
def test_constructs_of_other_dialects_and_inside_windows(query: str, dialect: str, expected: set[str]):
    structure = structure_of(query, dialect, {})
    assert structure is not None
    assert structure.constructs == expected
