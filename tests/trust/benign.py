"""Harmless statements for PostgreSQL and MySQL: what people ask a shop's database."""

from __future__ import annotations

TABLES = {
    "postgres": (
        (
            "CREATE TABLE item (item_id int PRIMARY KEY, name varchar(40), category varchar(20), price numeric(8, 2), "
            '"Made In" text, tags text[])'
        ),
        (
            "CREATE TABLE sale (sale_id int PRIMARY KEY, item_id int REFERENCES item, sold_on date, sold_at timestamp, "
            "quantity int, returned boolean)"
        ),
        (
            "INSERT INTO item SELECT i, 'item ' || i, (ARRAY['Books', 'Music', 'Shoes'])[i % 3 + 1], i * 1.25, "
            "CASE WHEN i % 4 > 0 THEN 'Spain' END, ARRAY['a', 'b' || i] FROM generate_series(1, 30) AS i"
        ),
        (
            "INSERT INTO sale SELECT i, i % 30 + 1, date '2023-01-01' + i % 700, timestamp '2023-01-01' + i * interval '7 h', "
            "i % 9, i % 11 = 0 FROM generate_series(1, 300) AS i"
        ),
    ),
    "mysql": (
        (
            "CREATE TABLE item (item_id int PRIMARY KEY, name varchar(40), category varchar(20), price decimal(8, 2), "
            "`Made In` text) CHARACTER SET latin1"
        ),
        (
            "CREATE TABLE sale (sale_id int PRIMARY KEY, item_id int, sold_on date, sold_at datetime, quantity int, "
            "returned boolean, FOREIGN KEY (item_id) REFERENCES item (item_id))"
        ),
        (
            "INSERT INTO item WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < 30) SELECT i, "
            "concat('item ', i), elt(i % 3 + 1, 'Books', 'Music', 'Shoes'), i * 1.25, if(i % 4 > 0, 'Spain', NULL) FROM r"
        ),
        (
            "INSERT INTO sale WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < 300) SELECT i, "
            "i % 30 + 1, date '2023-01-01' + INTERVAL i % 700 DAY, timestamp('2023-01-01') + INTERVAL i * 7 HOUR, i % 9, "
            "i % 11 = 0 FROM r"
        ),
    ),
}
"""What makes the tables that the statements ask."""

_BOTH = (
    "SELECT * FROM item",
    "SELECT name, price FROM item WHERE price BETWEEN 5 AND 20 AND category IN ('Books', 'Music') ORDER BY 2 DESC LIMIT 5",
    (
        "SELECT category, count(*) AS n, sum(price), avg(price), min(name), max(name) FROM item GROUP BY category "
        "HAVING count(*) > 3 ORDER BY n"
    ),
    "SELECT i.category, count(DISTINCT s.item_id) FROM sale AS s JOIN item AS i ON i.item_id = s.item_id GROUP BY 1",
    "SELECT i.name FROM item i LEFT JOIN sale s ON s.item_id = i.item_id AND s.quantity > 7 WHERE s.sale_id IS NULL",
    "SELECT name FROM item WHERE EXISTS (SELECT 1 FROM sale WHERE sale.item_id = item.item_id AND quantity = 8)",
    "SELECT name FROM item WHERE price > (SELECT avg(price) FROM item) AND NOT name LIKE '%1%'",
    (
        "WITH monthly AS (SELECT extract(YEAR FROM sold_on) AS y, extract(MONTH FROM sold_on) AS m, sum(quantity) AS q "
        "FROM sale GROUP BY 1, 2) SELECT y, m, q, q - lag(q) OVER (ORDER BY y, m) AS change_of_q FROM monthly"
    ),
    (
        "SELECT item_id, sold_on, sum(quantity) OVER (PARTITION BY item_id ORDER BY sold_on, sale_id "
        "ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) FROM sale"
    ),
    (
        "SELECT * FROM (SELECT name, rank() OVER (PARTITION BY category ORDER BY price DESC) AS place FROM item) AS r "
        "WHERE place <= 3"
    ),
    (
        "SELECT name, ntile(4) OVER (ORDER BY price), row_number() OVER w, first_value(name) OVER w, cume_dist() OVER w "
        "FROM item WINDOW w AS (PARTITION BY category ORDER BY price, item_id)"
    ),
    (
        "SELECT CASE WHEN quantity > 5 THEN 'many' WHEN quantity > 2 THEN 'some' ELSE 'few' END AS kind, count(*) FROM sale "
        "GROUP BY 1 ORDER BY 1"
    ),
    "SELECT item_id FROM sale WHERE quantity = 1 UNION SELECT item_id FROM item WHERE price > 30",
    "SELECT item_id FROM item EXCEPT SELECT item_id FROM sale WHERE returned",
    "SELECT item_id FROM item INTERSECT SELECT item_id FROM sale WHERE quantity > 7",
    "SELECT 'a' AS side, count(*) FROM item UNION ALL SELECT 'b', count(*) FROM sale ORDER BY side",
    (
        "WITH RECURSIVE step(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM step WHERE n < 12) SELECT step.n, count(s.sale_id) "
        "FROM step LEFT JOIN sale AS s ON extract(MONTH FROM s.sold_on) = step.n GROUP BY step.n"
    ),
    (
        "SELECT upper(name), lower(category), length(name), substring(name, 1, 4), replace(name, 'item', 'thing'), "
        "trim(name), concat(name, ', ', category), left(name, 2), right(name, 2), lpad(category, 8, '.') FROM item"
    ),
    (
        "SELECT round(price, 1), floor(price), ceil(price), abs(price - 20), mod(item_id, 4), power(price, 2), sqrt(price), "
        "ln(price), exp(1), sign(price - 10), greatest(price, 10), least(price, 10), nullif(item_id, 3) FROM item"
    ),
    "SELECT stddev_samp(price), stddev_pop(price), var_samp(price), var_pop(price) FROM item",
    "SELECT a.name, b.name FROM item a CROSS JOIN item b WHERE a.item_id < b.item_id AND a.price + b.price = 25",
    "SELECT name FROM item WHERE (category, price) IN (SELECT category, max(price) FROM item GROUP BY category)",
    "SELECT name FROM item WHERE price >= ALL (SELECT price FROM item WHERE category = 'Music')",
    (
        "SELECT sold_on, quantity FROM sale WHERE sold_on >= DATE '2023-06-01' AND sold_on < CURRENT_DATE -- it's summer\n"
        "ORDER BY sold_on, sale_id LIMIT 10 OFFSET 2"
    ),
    "SELECT /* the dear ones */ name FROM item WHERE price > 30 AND name <> 'it''s \"one\"'",
    "SELECT coalesce(max(quantity), 0), count(*) - count(returned) FROM sale WHERE item_id = 999",
    "(SELECT name FROM item ORDER BY price LIMIT 2) UNION ALL (SELECT name FROM item ORDER BY price DESC LIMIT 2)",
    (
        "SELECT i.category, sum(CASE WHEN s.returned THEN 1 ELSE 0 END) * 100.0 / count(*) FROM sale s, item i "
        "WHERE s.item_id = i.item_id GROUP BY i.category;"
    ),
    "SELECT item_id, CAST(price AS CHAR(10)), CAST('2024-02-29' AS DATE) FROM item WHERE price IS NOT NULL",
)

STATEMENTS = {
    "postgres": (
        *_BOTH,
        (
            'SELECT category, "Made In", count(*), grouping(category) FROM item GROUP BY GROUPING SETS ((category), '
            '("Made In"), ())'
        ),
        'SELECT category, "Made In", sum(price) FROM item GROUP BY ROLLUP (category, "Made In")',
        'SELECT category, "Made In", sum(price) FROM item GROUP BY CUBE (category, "Made In")',
        "SELECT count(*) FILTER (WHERE returned), avg(quantity) FILTER (WHERE quantity > 3) FROM sale",
        (
            "SELECT category, percentile_cont(0.5) WITHIN GROUP (ORDER BY price), percentile_disc(0.9) WITHIN GROUP "
            "(ORDER BY price DESC), mode() WITHIN GROUP (ORDER BY name) FROM item GROUP BY category"
        ),
        "SELECT date_trunc('month', sold_at), sum(quantity) FROM sale GROUP BY 1 ORDER BY 1",
        "SELECT extract(dow FROM sold_on), extract(quarter FROM sold_on), date_part('week', sold_at) FROM sale",
        (
            "SELECT sold_at + interval '1 month' - interval '2 days 3 hours', sold_on + 7, sold_on - date '2023-01-01', "
            "age(sold_at, timestamp '2020-02-29'), sold_at::date FROM sale"
        ),
        (
            "SELECT string_agg(name, ', ' ORDER BY price DESC), array_agg(DISTINCT category), bool_or(price > 30), "
            "bool_and(price > 1) FROM item"
        ),
        (
            "SELECT i.name, l.sold_on FROM item AS i CROSS JOIN LATERAL (SELECT sold_on FROM sale AS s "
            "WHERE s.item_id = i.item_id ORDER BY sold_on DESC LIMIT 1) AS l"
        ),
        "SELECT DISTINCT ON (category) category, name, price FROM item ORDER BY category, price DESC",
        "SELECT name::text || ' (' || price::varchar || ')', price::int, price::double precision / 3 FROM public.item",
        (
            "SELECT name FROM item WHERE name ~ '^item [12]' AND name !~* '5$' AND name ILIKE 'ITEM%' AND "
            "name SIMILAR TO '%(1|2)%'"
        ),
        "SELECT to_char(sold_at, 'YYYY-MM'), to_char(quantity, '999.99'), to_date('2024-05-06', 'YYYY-MM-DD') FROM sale",
        "SELECT corr(price, item_id), regr_slope(price, item_id), covar_pop(price, item_id) FROM item",
        "SELECT name FROM item FETCH FIRST 5 ROWS ONLY",
        "SELECT tags[1], array_length(tags, 1), array_to_string(tags, '-') FROM item WHERE 'a' = ANY (tags)",
        (
            "SELECT split_part(name, ' ', 2), position('m' IN name), overlay(name PLACING 'x' FROM 1 FOR 2), initcap(name), "
            "reverse(name), translate(name, 'it', 'IT'), strpos(name, 'e'), regexp_replace(name, '[0-9]+', '#') FROM item"
        ),
        "SELECT v.n, v.word FROM (VALUES (1, 'one'), (2, 'two')) AS v(n, word) JOIN item ON item_id = v.n",
        "WITH dear AS MATERIALIZED (SELECT * FROM item WHERE price > 30) SELECT count(*) FROM dear",
        (
            "SELECT sum(quantity) OVER (ORDER BY sold_on RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW), "
            "sum(quantity) OVER (ORDER BY sold_on GROUPS 1 PRECEDING) FROM sale"
        ),
        "SELECT name FROM item WHERE \"Made In\" IS DISTINCT FROM 'Spain' ORDER BY price NULLS LAST",
        "SELECT count(*) FROM sale WHERE (sold_on, sold_on) OVERLAPS (DATE '2023-05-01', DATE '2023-06-01')",
        "SELECT width_bucket(price, 0, 40, 4), count(*) FROM item GROUP BY 1",
        (
            "SELECT name COLLATE \"C\", timezone FROM (SELECT name, sold_at AT TIME ZONE 'UTC' AS timezone FROM item "
            "JOIN sale USING (item_id)) AS x"
        ),
        "SELECT make_date(2024, 2, 29), justify_days(interval '40 days'), div(7, 2), 7 % 2, 2 ^ 3, 5 & 3, 5 | 3, ~5, 1 << 2",
    ),
    "mysql": (
        *_BOTH,
        "SELECT category, `Made In`, count(*), sum(price) FROM item GROUP BY category, `Made In` WITH ROLLUP",
        "SELECT category, group_concat(DISTINCT name ORDER BY price DESC SEPARATOR '; ') FROM item GROUP BY category",
        "SELECT date_format(sold_at, '%Y-%m') AS month, sum(quantity) FROM sale GROUP BY month ORDER BY month",
        (
            "SELECT year(sold_on), month(sold_on), dayofweek(sold_on), quarter(sold_on), week(sold_on), dayname(sold_on), "
            "monthname(sold_on), last_day(sold_on), dayofyear(sold_on), weekday(sold_on), yearweek(sold_on) FROM sale"
        ),
        (
            "SELECT sold_on + INTERVAL 1 MONTH, date_sub(sold_on, INTERVAL 2 WEEK), date_add(sold_at, INTERVAL 90 MINUTE), "
            "datediff(sold_on, '2023-01-01'), timestampdiff(MONTH, '2023-01-01', sold_on), to_days(sold_on) FROM sale"
        ),
        (
            "SELECT if(quantity > 5, 'many', 'few'), ifnull(returned, 0), quantity DIV 2, quantity % 2, quantity <=> NULL, "
            "NOT returned, returned XOR quantity > 4, quantity & 1, quantity | 2, quantity << 1 FROM sale"
        ),
        (
            "SELECT name FROM item WHERE name REGEXP '^item [12]' AND name NOT RLIKE '5$' AND name LIKE '%\\_%' OR `Made In` "
            '= "Spain"'
        ),
        (
            "SELECT cast(price AS SIGNED), cast(price AS UNSIGNED), cast(name AS CHAR), cast(price AS DECIMAL(10, 4)), "
            "convert(price, CHAR), cast(sold_at AS DATE) FROM item JOIN sale USING (item_id)"
        ),
        (
            "SELECT concat_ws('-', name, category), substring_index(name, ' ', -1), locate('m', name), instr(name, 'e'), "
            "field(category, 'Books', 'Music'), elt(2, 'a', 'b'), reverse(name), char_length(name), ucase(name), "
            "format(price, 2), truncate(price, 1), find_in_set('b', 'a,b'), mid(name, 2, 3), strcmp(name, 'x') FROM item"
        ),
        "SELECT std(price), variance(price), bit_or(item_id), count(DISTINCT category, `Made In`) FROM item",
        "SELECT name FROM item ORDER BY price LIMIT 3, 4",
        "SELECT STRAIGHT.name FROM item AS STRAIGHT INNER JOIN sale USING (item_id) WHERE sale.quantity > 7",
        (
            "SELECT str_to_date('01,5,2024', '%d,%m,%Y'), from_unixtime(86400), unix_timestamp('2024-01-01'), "
            "maketime(1, 2, 3), makedate(2024, 60), sec_to_time(99), time_to_sec('01:00:00'), period_diff(202402, 202311)"
        ),
        "SELECT category, percentile_cont(0.5) WITHIN GROUP (ORDER BY price) OVER (PARTITION BY category) FROM item",
        "SELECT count(*) FROM sale WHERE sold_at > now() - INTERVAL 100 YEAR AND sold_on < curdate()",
        "SELECT name COLLATE latin1_bin FROM item WHERE category = 'Books' AND !(price > 20)",
        "SELECT DISTINCT category, 'it''s' AS \"a name\", 'tab\\tand \\'quote\\'' AS `other` FROM item",
        "SELECT 7 / 2, 7 DIV 2, 7 MOD 2, 1e3, -price, - -price FROM item",
    ),
}
"""Statements of each dialect, over the tables above."""
