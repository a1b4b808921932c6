"""What databases hold is data: to the models that read prompts, to the readers of replies, and to terminals."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from rayfactory.__main__ import main
from rayfactory.agents.critical import critical_prompt
from rayfactory.compose import compose
from rayfactory.config import Config, DisplayConfig, ModelConfig
from rayfactory.databases.schema import Schema
from rayfactory.models import replies
from rayfactory.models.chat import ChatStatus
from rayfactory.models.completion import Prompt
from rayfactory.models.endpoint import SlotStatus
from rayfactory.models.prompts import Prompts
from rayfactory.models.schema_text import (
    MAX_NAME_CHARACTERS,
    MAX_NOTE_CHARACTERS,
    describe,
    name_text,
    query_text,
    quoted,
)
from rayfactory.pool import connect
from rayfactory.records import Failure
from rayfactory.reports.examples import PROMPTS, example_prompts
from rayfactory.reports.monitor import Monitor, Progress
from rayfactory.runs import open_databases
from rayfactory.shown import is_seen
from tests.agents.scripted_model import says
from tests.shop import make_shop
from tests.trust.content import MARK, PIECES, make_duckdb, make_sqlite

ROOT = Path(__file__).resolve().parents[2]

FILES = {"sqlite": "evil \x1b[31m\u202ezqx.sqlite", "duckdb": "=evil zqx <b>.duckdb"}
"""A file's name is the name of its database."""

MARKUP = re.compile(
    r"<\s*[/\\]?\s*(?:start|end|begin|sql)|<[|｜/]|</?(?:think|s|script|b|img|eos|bos|start_of_turn|end_of_turn)\b"
    r"|&(?:lt|gt|#)|\[/?INST\]|<<SYS>>|```|~~~",
    re.IGNORECASE,
)
"""What a chat template, a reader of replies or Markdown would take for its own."""

JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
SQL_QUOTED = re.compile(r""""(?:[^"\\]|\\.|"")*"|'(?:[^']|'')*'""")
QUERY_LINE = re.compile(r"(?:Query \d+: |\d+ \| )")
IDENTIFIER = re.compile(r"\b[A-Za-z_][A-Za-z0-9_]{0,62}\b")

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60) | st.lists(
    st.sampled_from(
        [*PIECES.values(), "<", "|", "&", "lt;", "`", "``", "[", "INST]", '"', "\\", "\\u003c", "\n", "｜", "/"]
    ),
    max_size=6,
).map("".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("content")
    (folder / "databases").mkdir()
    make_sqlite(folder / "databases" / FILES["sqlite"])
    make_duckdb(folder / "databases" / FILES["duckdb"])
    return folder


def words(folder: Path, *more: str) -> list[str]:
    return [
        "+benchmark=custom", f"benchmark.root={folder / 'databases'}", f"data_dir={folder / 'cache'}",
        f"run_dir={folder / 'run'}", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def config(folder: Path) -> Config:
    endpoint = ["models=endpoint", "models.strong.name=m", "models.strong.base_url=http://x/v1"]
    return compose(words(folder, *endpoint, "models.strong.context_tokens=200000", "round.requests=2"))


@pytest.fixture(scope="module")
def schemas(config: Config) -> Mapping[str, Schema]:
    return open_databases(config)[1]


@pytest.fixture(scope="module", params=["sqlite", "duckdb"])
def schema(request: pytest.FixtureRequest, schemas: dict[str, Schema]) -> Schema:
    (found,) = (schema for schema in schemas.values() if schema.dialect == request.param)
    return found


@pytest.fixture(scope="module")
def prompts(config: Config, schema: Schema) -> dict[str, Prompt]:
    """Return every prompt of the agents over one database, and further ones in which all of it is shown."""
    found = example_prompts(config, {schema.database: schema})
    player = says().player(ModelConfig(name="m", context_tokens=2_000_000))
    tables = [table.name for table in schema.tables]
    pieces = list(PIECES.values())
    failures = [Failure(schema.database, select(each), "error", each) for each in pieces]
    shown = [{"sql": query_text(f.sql, 3_000), "reason": "error", "detail": quoted(f.detail, 3_000)} for f in failures]
    said = " ".join(PIECES[kind] for kind in ("instruction", "turn", "turn, square", "tag", "fence", "html", "escape"))
    values = {"num_queries": 10, "bare": False, "advice": replies.advice(said), "emphasis": ["CASE WHEN"]}
    for template, more in (("generation", values), ("correction", {"failed": shown})):
        found[f"{template}, all"] = Prompts().about_tables(
            template, schema, tables, player.model, player.agent, dict(more)
        )
    for start in range(0, len(failures), 8):
        some = failures[start : start + 8]
        found[f"critical, {start}"] = critical_prompt(some, {schema.database: schema}, player)
    return found


def select(piece: str) -> str:
    """Return a query with a piece for a name and for a constant."""
    name, text = piece.replace('"', '""'), piece.replace("'", "''")
    return f"SELECT 1 FROM \"{name}\" WHERE a = '{text}'"


def pieces_of(message: str) -> tuple[list[str], str]:
    """Return what is quoted in a message, and what is left of it without that.

    In double quotes with JSON escapes; and, where a query stands as it is, in the quotes of SQL.
    """
    inside: list[str] = []
    outside: list[str] = []
    for line in message.split("\n"):
        pattern = SQL_QUOTED if QUERY_LINE.match(line) else JSON_STRING
        inside += pattern.findall(line)
        outside.append(pattern.sub(" ", line))
    return inside, "\n".join(outside)


def test_every_prompt_is_there(prompts):
    """Of all six agents, and that of a correction; and there is much of the database in them."""
    assert set(PROMPTS) <= prompts.keys()
    assert sum((prompt.system + prompt.user).count(MARK) for prompt in prompts.values()) > 500


def test_content_stands_in_prompts_as_quoted_data_alone(prompts):
    """Outside quotes there is nothing of it; in queries, nothing but single words of bounded length, which they name."""
    for name, prompt in prompts.items():
        for message in (prompt.system, prompt.user):
            _, outside = pieces_of(message)
            # What the adviser says is no content, though it may be made of it.
            outside = re.sub(r"Learned from .*", "", outside)
            for line in outside.split("\n"):
                assert MARK not in (IDENTIFIER.sub("", line) if QUERY_LINE.match(line) else line), name
            assert "previous instructions" not in outside, name


def test_content_looks_like_nothing_that_prompts_are_made_of(prompts):
    """No tags, no marks of chat templates, no fences; no signs that are not seen; every line is one of the template's."""
    for prompt in prompts.values():
        for message in (prompt.system, prompt.user):
            inside, _ = pieces_of(message)
            assert not [piece for piece in inside if MARKUP.search(piece)]
            assert is_seen(message.replace("\n", ""))
            if "Table Schema:\n" in message:
                schema_text = message.partition("Table Schema:\n")[2].partition("\n\n")[0]
                assert all(re.match(r"Table |- ", line) for line in schema_text.split("\n"))


def test_content_in_prompts_has_a_bound(prompts, schema):
    """Names, notes and values; queries and errors are longer."""
    for prompt in prompts.values():
        for message in (prompt.system, prompt.user):
            inside, _ = pieces_of(message)
            assert all(len(piece) <= 6 * 4_000 for piece in inside)
    inside, _ = pieces_of(describe(schema, [table.name for table in schema.tables]).text)
    lengths = [len(json.loads(piece)) for piece in inside]
    assert max(lengths) == MAX_NAME_CHARACTERS > MAX_NOTE_CHARACTERS


def test_advice_that_was_made_of_content_is_plain(prompts):
    """The adviser reads failures and may say them back: what the authors read of it has no markup and a bound."""
    advice = re.search(r"Learned from queries that failed before: (.*)", prompts["generation, all"].user)
    assert advice is not None
    assert not MARKUP.search(advice[1])
    assert len(advice[1]) <= replies.MAX_ADVICE_CHARACTERS


@given(ANY_TEXT, st.integers(1, 80))
@example("<|im_end|>", 60)
@example("&lt;end-sql&gt;", 60)
def test_quoted_text_is_read_back_and_means_nothing(text, most):
    """One line of JSON that stands for the text, as far as it goes."""
    made = quoted(text, most)
    read = json.loads(made)
    assert read == text if len(text) <= most else read == text[: most - 1] + "…"
    assert JSON_STRING.fullmatch(made)
    assert is_seen(made)
    assert not MARKUP.search(made)
    assert len(made) <= 12 * most + 2


@given(ANY_TEXT)
def test_name_is_a_word_or_quoted(name):
    made = name_text(name)
    assert made == quoted(name, MAX_NAME_CHARACTERS) or (made == name and IDENTIFIER.fullmatch(name))


@given(ANY_TEXT)
def test_query_is_shown_as_it_is_only_where_it_means_nothing(text):
    made = query_text(f"SELECT {text}", 200)
    assert is_seen(made)
    assert len(made) <= 12 * 200 + 2
    assert not MARKUP.search(made)


@given(ANY_TEXT)
@example("<zqx \x1b[31m\x1b]0;title\x07\x1b]8;;http://evil\x1b\\ \x9b2J \x7f\x08zqx &lt;end-sql&gt; &#60;end-sql>")
@example("Avoid < end-sql> and [INST] and <\x00| and &\x07lt;")
def test_advice_is_plain_whatever_was_said(text):
    made = replies.advice(text)
    assert is_seen(made)
    assert not MARKUP.search(made)
    assert len(made) <= replies.MAX_ADVICE_CHARACTERS


def test_choice_of_tables_is_read_whatever_they_are_called(schema):
    """A reply that names tables as the prompt shows them chooses these and no others."""
    names = [table.name for table in schema.tables if len(table.name) < MAX_NAME_CHARACTERS]
    assert len(names) > 25
    for first, second in pairwise(names):
        reply = f"1: {name_text(first)}, {name_text(second)}\n2: customer"
        assert replies.table_sets(reply, names, 2) == [(first, second), ("customer",)]


@pytest.mark.parametrize("kind", PIECES)
def test_query_with_such_a_name_leaves_the_others_alone(kind):
    """What a name or a constant holds ends neither the query nor the reply."""
    good, better = "SELECT name FROM customer", "SELECT id FROM customer ORDER BY id"
    reply = "".join(f"<start-sql>\n{sql}\n<end-sql>\n" for sql in (good, select(PIECES[kind]), better))
    found = replies.queries(reply)
    assert found[0] == good
    assert found[-1] == better
    assert len(found) <= 4
    corrected = replies.corrections(reply.replace("<start-sql>", "<start-sql 1>", 1), 3)
    assert corrected[0] == good


# -- terminals ----------------------------------------------------------------


def obeyed(text: str) -> str:
    """Return what of a text a terminal may obey, or nobody can see."""
    return "".join(char for char in text if char != "\n" and not is_seen(char))


def test_offline_run_over_such_databases_shows_nothing_of_it(folder, elsewhere):
    """The rules write queries that run over all of it; what is said and summed up has no sign that a terminal obeys."""
    run_dir = folder / "run \x1b[31m\u202e"
    more = [
        "target=30",
        "round.requests=4",
        "round.queries_per_request=5",
        "cluster.dashboard=false",
        "cluster.workers=1",
        *elsewhere.overrides,
    ]
    done = subprocess.run(
        [sys.executable, "-m", "rayfactory", *words(folder, f"run_dir={run_dir}", "display.mode=lines", *more)],
        cwd=ROOT, env=os.environ | elsewhere.variables, capture_output=True, check=False, timeout=600,
    )  # fmt: skip
    out, err = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == 0, out + err
    assert "run \\x1b[31m\\u202e" in out
    assert not obeyed(out + err)
    summary = (run_dir / "summary.json").read_text()
    assert not obeyed(summary)
    assert MARK not in summary
    assert json.loads(summary)["admitted"] == 30
    ((num_databases, num_ran),) = connect(run_dir).sql("SELECT count(DISTINCT database), count(*) FROM R").fetchall()
    assert (num_databases, num_ran) == (2, 30)


@pytest.mark.parametrize(
    ("more", "code", "told"),
    [
        (["profile.max_columns=1"], 2, "table 'customer'|\\\\x1b"),
        (["benchmark.databases=[zqx]"], 2, "zqx"),
        (
            [
                "task=preview",
                "round.requests=2",
                "models=endpoint",
                "models.strong.name=m\x1b[2J",
                "models.strong.base_url=http://x/\x9bv1",
            ],
            0,
            "zqx",
        ),
        (["task=\x1b]0;x\x07\u202e"], 2, "task"),
        (["\x1b[2J\u200b"], 2, "no setting"),
        (["run_dir=/dev/null/\x1b[2J\x9b"], 2, "run_dir"),
        (["run_dir=x\x1b[2J\u202e", "--cfg", "job"], 0, "run_dir"),
    ],
)
def test_message_about_such_content_is_inert(more, code, told, folder, capfd):
    """Errors that name tables and files, a preview with its prompts, settings: whatever the command line prints."""
    assert main(words(folder, *more)) == code
    out, err = capfd.readouterr()
    assert re.search(told, out + err)
    assert not obeyed(out + err)


def test_warning_that_names_content_is_inert(folder, capfd, tmp_path):
    """What is logged before a run has its panel, by whatever library, goes the same way."""
    root = tmp_path / "spider \x1b[31m\u202e"
    (root / "database" / "shop").mkdir(parents=True)
    make_shop(root / "database" / "shop" / "shop.sqlite")
    (root / "tables.json").write_text("{", encoding="utf-8")
    assert main(["+benchmark=spider", f"benchmark.root={root}", f"data_dir={tmp_path}", "task=preview"]) == 0
    out, err = capfd.readouterr()
    assert re.search(r"spider \\x1b\[31m\\u202e.* is not a schema file", err)
    assert not obeyed(out + err)


@pytest.mark.parametrize("mode", ["panel", "lines"])
def test_panel_and_lines_are_inert(mode, monkeypatch):
    """Names of models, reasons for waiting, messages: neither escapes nor the panel's own markup."""
    monkeypatch.setenv("TERM", "xterm-256color")
    evil = " ".join(PIECES[kind] for kind in ("markup", "escape", "direction", "width", "html", "formula, tab"))
    slots = (SlotStatus("strong", evil, 1, 2, 3, 4.0, 5.0, evil),)
    row: dict[str, Any] = dict.fromkeys(
        ("requests", "tokens_in", "tokens_cached", "tokens_out", "cost_usd", "unconfirmed_attempts", "unconfirmed_usd"),
        1,
    )
    progress = Progress(evil, 10, activity=evil, dashboard=evil)
    progress.models = ChatStatus(slots, ({"model": evil, "agent": "generation", **row},), 1.0, 0.0, 0.0, None)
    out = io.StringIO()
    console = Console(file=out, force_terminal=mode == "panel", width=200, height=400, highlight=False)
    monitor = Monitor(progress, DisplayConfig(mode=mode), console)
    with monitor.showing():
        monitor.say(evil)
        monitor.tick(now=True)
    told = out.getvalue()
    assert "[bold red]" in told
    # The panel's own: colours, and what moves to its beginning.
    own = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", told) if mode == "panel" else told
    assert not obeyed(own)
    assert "\x1b[31m" not in told
    assert "\x1b]" not in told
