"""Replies are read in every dress, and no text makes a reader raise or hang."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rayfactory.models import replies

CORPUS = Path(__file__).with_name("replies")
REPLIES = sorted(path for path in CORPUS.glob("*/*.txt") if path.with_suffix(".json").exists())

_FIRST_TABLES = ("call_center", "catalog_page", "customer", "customer_address", "customer_demographics", "date_dim")
_SEEDS = ((75, 83, 63), (67, 69, 66), (89, 87, 84), (40, 71, 76), (22, 36, 24), (31, 45, 41))
DECISIONS = {
    "qwen2.5-coder-1.5b-tables": (lambda text: replies.table_sets(text, _FIRST_TABLES, 6), [_FIRST_TABLES] * 6),
    "qwen2.5-coder-1.5b-seeds": (
        lambda text: replies.seed_sets(text, [12, 24, 29], 6), [(), (), (), (), (), (24, 29, 12)],
    ),
    "qwen2.5-coder-1.5b-seeds-all": (lambda text: replies.seed_sets(text, range(100), 6), list(_SEEDS)),
    "qwen2.5-coder-1.5b-state": (replies.state, "EXP"),
    "smollm2-135m-tables": (lambda text: replies.table_sets(text, _FIRST_TABLES, 3), [(), (), ()]),
}  # fmt: skip

TAG_PARTS = [
    "<start-sql>", "<end-sql>", "</start-sql>", "<end-sqgl>", "<start_sql 3>", "```", "```sql\n", "<think>", "</think>", ";", "'", '"', "--", "/*",
    "*/", "'\n", "&lt;start-sql&gt;", "&lt;end-sql&gt;", "&#39;", "\v", "SELECT 1", "WITH a AS (", ")", "\n", "\n\n", "1. ", "Query 2:", "[", '["', '\\"', "STATE: GEN", "STATE: EXP", "1: a, b", "2: 7, 9", "\0",
    "\ud800", "<|eot_id|>", "é", " ",
]  # fmt: skip


def readers(text):
    """Every reader on one text."""
    return (
        replies.queries(text),
        replies.queries(text, truncated=True),
        replies.one_query(text),
        list(replies.corrections(text, 3).values()),
        replies.state(text),
        replies.table_sets(text, ["a", "b", "Free Meals (K-12)"], 3),
        replies.seed_sets(text, [7, 9, 12], 3),
        replies.advice(text),
    )


def check(text):
    """Assert what holds for every text."""
    found, cut, one, corrected, state, tables, seeds, advice = readers(text)
    for statement in [*found, *corrected, *filter(None, [one])]:
        assert statement == statement.strip()
        assert statement
        statement.encode()  # can be stored
    assert len(found) - 1 <= len(cut) <= len(found)
    assert state in ("GEN", "EXP", None)
    assert len(tables) == len(seeds) == 3
    assert {name for row in tables for name in row} <= {"a", "b", "Free Meals (K-12)"}
    assert {number for row in seeds for number in row} <= {7, 9, 12}
    assert len(advice) <= replies.MAX_ADVICE_CHARACTERS
    assert advice.isprintable()


@pytest.mark.parametrize("path", REPLIES, ids=lambda path: path.stem)
def test_reply_of_the_corpus(path):
    """Each reply gives the queries that stand beside it, in order."""
    expected = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert replies.queries(path.read_text(encoding="utf-8")) == expected


def test_every_reply_of_the_corpus_has_an_expectation():
    decisions = {path.stem for path in CORPUS.glob("*/*.txt")} - {path.stem for path in REPLIES}
    assert decisions == set(DECISIONS)
    assert {path.stem for path in CORPUS.glob("*/*.json")} == {path.stem for path in REPLIES}
    models = {path.stem.rsplit("-", 1)[0] for path in CORPUS.glob("real/*.txt")}
    assert len(REPLIES) >= 24
    assert len({model.partition("-")[0] for model in models}) >= 3


@pytest.mark.parametrize("name", DECISIONS)
def test_decision_of_the_corpus(name):
    """What real models replied as the agents that plan."""
    read, expected = DECISIONS[name]
    assert read((CORPUS / "real" / f"{name}.txt").read_text(encoding="utf-8")) == expected


@settings(deadline=None)
@given(st.text())
@example('{"a": "SELECT \\ud800"}')
def test_no_text_makes_a_reader_raise(text):
    check(text)


@settings(deadline=None)
@given(st.lists(st.sampled_from(TAG_PARTS), max_size=40))
def test_no_mixture_of_marks_makes_a_reader_raise(parts):
    check("".join(parts))


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(REPLIES), st.data())
def test_no_damaged_reply_makes_a_reader_raise(path, data):
    """Pieces of a real-looking reply are cut out, doubled or replaced."""
    text = path.read_text(encoding="utf-8")
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, len(text)))
        middle = data.draw(st.sampled_from(["", text[start:end] * 2, *TAG_PARTS]))
        text = text[:start] + middle + text[end:]
    check(text)


PLAIN = st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S", "Zs")), max_size=30)


@settings(deadline=None)
@given(st.lists(PLAIN, min_size=1, max_size=5))
def test_what_stands_in_constants_does_not_matter(constants):
    """Whatever a constant holds, tags and semicolons too, the queries come back as they were."""
    written = [f"SELECT 'c{i} {text.replace(chr(39), chr(39) * 2)}' AS x FROM t" for i, text in enumerate(constants)]
    for tag in ("<end-sql>", "<start-sql>", ";", "--"):
        tagged = [sql.replace("c", f"c{tag}", 1) for sql in written]
        assert replies.queries("".join(f"<start-sql>\n{sql}\n<end-sql>\n" for sql in tagged)) == tagged


@pytest.mark.parametrize(
    "piece",
    ["<", "<start-sql>", "<start-sql>'", "<end-sql>", "<think>", "</think>", "'", '"', '\\"', "/*", "<start-sql>/*", "--", ";", "(", "[", "WITH a(", "SELECT ",
     "SELECT 1\n", "```", "1. ", "\n", " ", "Query 1:", ": ((((", "`", "STATE", "1:", "&lt;", "WITH ", ". A", "*", "'\n", "='a\n", "'<", "&#39;",
     "/*\n*/", "SELECT '\n", "\v"],
)  # fmt: skip
def test_reading_takes_linear_steps(piece):
    """The same few characters for ever are read like any other text; a reader that starts over would not end."""
    text = piece * (300_000 // len(piece))
    for reader in (replies.queries, replies.state, replies.advice):
        reader(text)
    replies.table_sets(text, ["a"], 3)
    replies.seed_sets(text, [1], 3)


@pytest.mark.parametrize(
    "inside",
    [
        "SELECT a FROM t\n\nSELECT b FROM t",
        "SELECT a FROM t\nSELECT b FROM t\nThis query returns the b of all t.",
        "1. SELECT a FROM t\n2. SELECT b FROM t",
        "**Query 1:** SELECT a FROM t;\n\n**Query 2:** SELECT b FROM t",
        "Here is the first query you'd like:\nSELECT a FROM t\n\nThe second: SELECT b FROM t",
        "-- the customer's best\nSELECT a FROM t\n\nReturns every a.\n\n/* and\n\nthen; */ SELECT b FROM t\n\nReturns every b.",
    ],
)
def test_tag_with_more_than_one_statement(inside):
    """Two without a semicolon between them are two, and what is said of them is in neither."""
    expected = ["SELECT a FROM t", "SELECT b FROM t"]
    assert replies.queries(f"<start-sql>\n{inside}\n<end-sql>") == expected
    assert replies.queries(f"<start-sql>\n{inside}\n") == expected


@pytest.mark.parametrize(
    "sql",
    [
        "WITH x AS (\n  SELECT a\n\n  FROM t\n),\n\ny AS (SELECT b FROM x)\n\nSELECT * FROM y",
        "SELECT a FROM t\n\nUNION ALL\n\nSELECT b FROM t",
        "SELECT a FROM t\nUNION DISTINCT\nSELECT b FROM t\nEXCEPT\n(SELECT c FROM t)",
        "SELECT a,\n\n(SELECT max(b) FROM t) AS b\n\nFROM t\n\nWHERE a =\nb\n\nAND b IN\n(SELECT c FROM t)",
        "SELECT a FROM t WHERE NOT EXISTS\n(SELECT 1 FROM u) AND a >\nANY\n(SELECT b FROM t)",
        "SELECT DISTINCT\n\nNote,\nThe FROM t\n|| 'x'\n* 1.5\n+\n1.5 * a AS b",
        "SELECT a -- one, two\n\n, b -- the second;\n\nFROM t -- and so on (\n\nWHERE a > 1",
        "SELECT a -- ends with,\n\n, b /* SELECT c;\n\nSELECT d */ FROM t",
        "SELECT 'a;\n\nSELECT b;\n' AS x, 'it''s; so' FROM t WHERE y = 'p;\nq'",
        "SELECT a FROM t LEFT JOIN LATERAL\n(SELECT b FROM u) AS v ON TRUE",
        "INSERT INTO t\nSELECT a FROM u",
        "FROM t\nSELECT a",
    ],
)
def test_statement_over_several_lines_stays_whole(sql):
    """Blank lines, set operations, subqueries, comments and literals in it do not end it."""
    assert replies.queries(f"<start-sql>\n{sql}\n<end-sql>") == [sql]
    assert replies.queries(f"<start-sql>\n{sql};\n\nSELECT 2;\n<end-sql>") == [sql, "SELECT 2"]


def test_escaped_tags_have_escaped_statements():
    """Where a tag is escaped for HTML, so is what is in it; where it is not, the text is taken as it is."""
    escaped = "&lt;start-sql&gt;SELECT a FROM t WHERE x &lt; 3 AND y = &#39;p &amp;amp; q&#39;&lt;end-sql&gt;"
    assert replies.queries(escaped) == ["SELECT a FROM t WHERE x < 3 AND y = 'p &amp; q'"]
    plain = "SELECT a FROM t WHERE y = 'p &lt; q'"
    assert replies.queries(f"<start-sql>{plain}<end-sql>") == [plain]
    cut = "&lt;start-sql&gt;SELECT a FROM t&lt;end-sql&gt;&lt;start-sql&gt;SELECT a FROM t WHERE x &lt; "
    assert replies.queries(cut, truncated=True) == ["SELECT a FROM t"]


def test_thought_without_end_keeps_no_tag_back():
    assert replies.queries("<think>First SELECT x FROM y\n<start-sql>SELECT a FROM t<end-sql>") == ["SELECT a FROM t"]
    assert replies.queries("<think>First\n\nSELECT x FROM y") == []
    assert replies.queries("<think><start-sql>SELECT x FROM y<end-sql></think><start-sql>SELECT 1<end-sql>") == [
        "SELECT 1"
    ]


def test_last_query_of_a_reply_that_was_cut_off_is_left_out():
    """Unless something ends it."""
    text = "<start-sql>SELECT 1 FROM a<end-sql>\n<start-sql>SELECT 2 FROM b WHERE c ="
    assert replies.queries(text, truncated=True) == ["SELECT 1 FROM a"]
    assert replies.queries("SELECT 1 FROM a; SELECT 2 FROM", truncated=True) == ["SELECT 1 FROM a"]
    assert replies.queries("<start-sql>SELECT 1 FROM a<end-sql>", truncated=True) == ["SELECT 1 FROM a"]
    assert replies.queries("<start-sql>SELECT 1\n\nFROM a\n-- of which", truncated=True) == []


def test_query_decoded_by_a_grammar_stands_alone():
    """A constant that looks like a tag is part of it."""
    sql = "SELECT name FROM customer WHERE city = '<end-sql>'"
    assert replies.one_query(f" {sql}\n") == sql
    assert replies.one_query(sql[:-3], truncated=True) == ""
    assert replies.one_query("I would rather not") == ""


def test_corrections_go_by_number_or_by_order():
    """Numbers in the tags decide where all tags have one; numbers that were not asked for are left out."""
    text = '<start-sql 2>SELECT 2<end-sql><start-sql id="1">SELECT 1<end-sql><start-sql 9>SELECT 9<end-sql>'
    assert replies.corrections(text, 2) == {0: "SELECT 1", 1: "SELECT 2"}
    assert replies.corrections("<start-sql>SELECT 1<end-sql><start-sql>SELECT 2<end-sql>", 1) == {0: "SELECT 1"}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("STATE: GEN\nREASON: similarity rises", "GEN"),
        ("**STATE:** `EXP`\nREASON: GEN is expensive", "EXP"),
        ("state = exp", "EXP"),
        ("STATE: EXPLOITATION", "EXP"),
        ("STATE: exploit", "EXP"),
        ("STATE: Expansion", "EXP"),
        ("STATE: EXPAND", "EXP"),
        ("STATE: EXPLORE", "GEN"),
        ("STATE: Exploration\nREASON: similarity is rising", "GEN"),
        ("**STATE:** Explore (GEN)", "GEN"),
        ("STATE: GEN (explore)", "GEN"),
        ("STATE: EXP (exploit)\nREASON: exploration went well", "EXP"),
        ("STATE: EXP, exploration has refreshed the pool", "EXP"),
        ("I choose EXPLORATION.", "GEN"),
        ("STATE: Explore (EXP)", None),
        ("STATE: GEN or EXP", None),
        ("STATE: GEN/EXP", None),
        ("STATE: EXPERT", None),
        ("I choose EXP.", "EXP"),
        ("<think>STATE: GEN?</think>STATE: EXP", "EXP"),
        ("GEN or EXP", None),
        ("STATE: GEN\nSTATE: EXP", None),
        ("", None),
        ("generation", None),
    ],
)
def test_state(reply, expected):
    assert replies.state(reply) == expected


@pytest.mark.parametrize(
    "reply",
    [
        "1: sale, customer\n2: Free Meals (K-12), sale",
        "Request 2: `Free Meals (K-12)`; SALE\nRequest 1: [sale], [customer], [sale], [unknown]",
        'Here you are:\n1. **sale**, customer\n2. "Free Meals (K-12)", main.sale\n',
        '[["sale", "customer"], ["Free Meals (K-12)", "sale"]]',
        "sale, customer\nFree Meals (K-12), and sale",
        "| 1 | sale, customer |\n| 2 | Free Meals (K-12), sale |",
    ],
)
def test_table_sets(reply):
    """Lines in several dresses name the same tables."""
    first, second, third = replies.table_sets(reply, ["sale", "customer", "Free Meals (K-12)"], 3)
    assert first == ("sale", "customer")
    assert second[0] == "Free Meals (K-12)"
    assert "sale" in second
    assert third == ()


@pytest.mark.parametrize(
    "reply", ["1: 12, 40\n2: 7", "2) [7, 7, 99]\n1) [12, 40]", "[[12, 40], [7]]", "1:12,40\n2:7", "12, 40\n7"]
)
def test_seed_sets(reply):
    assert replies.seed_sets(reply, [7, 12, 40], 2) == [(12, 40), (7,)]


def test_advice_is_plain_and_short():
    """No tags, no lists, three sentences."""
    text = replies.advice(
        "- Use `STRFTIME` <start-sql>now</start-sql>.\n- Write a <> b.\x07 Third.\n* Fourth. " + "x" * 999
    )
    assert text == "Use `STRFTIME` now . Write a <> b. Third."
    assert len(replies.advice("word " * 500)) <= replies.MAX_ADVICE_CHARACTERS
