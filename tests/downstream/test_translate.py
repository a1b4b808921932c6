"""`task=translate` from the command line: by rules, and with models, which are paid once whatever is killed."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rayfactory import translation
from rayfactory.__main__ import main
from rayfactory.downstream.questions import read_questions
from rayfactory.models.journal import FILE_NAME, Done
from rayfactory.pool import connect
from tests.downstream.pools import ScriptedModels, digest, make_pool, words
from tests.models.endpoint_server import serving
from tests.models.test_chat_kills import asked_again, cut_short, read_journal

PROJECT = Path(__file__).resolve().parents[2]
NUM_QUERIES = 150


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Return the folder of a pool, its schema and its queries."""
    folder = tmp_path_factory.mktemp("pool")
    schema = make_pool(folder, NUM_QUERIES)
    return folder, schema, queries_of(folder)


def queries_of(folder):
    rows = connect(folder / "run", ("R",)).sql("SELECT sql FROM R ORDER BY query_id").fetchall()
    return [sql for (sql,) in rows]


def models(server, *more):
    return [
        "model@models.local=endpoint", "models.local.name=test-model", f"models.local.base_url={server.base_url}",
        "models.local.api_key_env=", "models.local.usd_per_million_out=10", "models.local.max_in_flight=32", *more,
    ]  # fmt: skip


def command(folder, out, *more):
    return ["task=translate", *words(folder, f"output={out}", "cluster.dashboard=false", *more)]


def run(words, on):
    """Run the command line on a cluster that is there."""
    return subprocess.run(
        [sys.executable, "-m", "rayfactory", *words, *on.overrides], cwd=PROJECT, env={**os.environ, **on.variables},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def figures(out):
    return json.loads((out / "translation.json").read_text(encoding="utf-8"))


def test_rules_put_every_query_into_words(pool, tmp_path, elsewhere):
    """All pairs hold, the known wrong ones do not, and the same command again does nothing."""
    folder, _, queries = pool
    out = tmp_path / "out"
    done = run(command(folder, out), elsewhere)
    assert done.returncode == 0, done.stderr
    found = figures(out)
    assert (found["translated"], found["kept"], found["model"], found["verifier"]) == (
        NUM_QUERIES, NUM_QUERIES, "rules", "rules",
    )  # fmt: skip
    assert found["control"]["right"]["said_yes"] == 1
    assert found["control"]["wrong"]["said_yes"] == 0
    assert found["control"]["wrong"]["no"] >= 20
    pairs = read_questions(out / "pairs.json")
    assert [pair.gold for pair in pairs] == queries
    assert all(pair.text and pair.difficulty in {"simple", "moderate", "challenging"} for pair in pairs)
    assert "pairs.json has the pairs" in done.stderr
    assert f"{NUM_QUERIES} of {NUM_QUERIES} queries have a question" in done.stdout
    before = translation.read(out)
    assert run(command(folder, out), elsewhere).returncode == 0
    assert translation.read(out).equals(before)
    refused = run(command(folder, out, "seed=1"), elsewhere)
    assert refused.returncode == 2
    assert re.search(r"translated with another seed: 0, not 1; .* output=", refused.stderr)


@pytest.fixture(scope="module")
def translated(pool, elsewhere):
    """Translate with models, where it is kept if none is named; return the script that they went by."""
    folder, schema, queries = pool
    examples = [
        {"db_id": "bank", "question": f"Who is number {i}?", "query": f"SELECT name FROM client WHERE id = {i}"}
        for i in range(7)
    ]
    (folder / "train.json").write_text(json.dumps(examples), encoding="utf-8")
    script = ScriptedModels(schema, queries)
    with serving(reply=script) as server:
        more = models(server, f"translation.examples={folder / 'train.json'}", "translation.num_examples=3")
        done = run(["task=translate", *words(folder, *more)], elsewhere)
        assert done.returncode == 0, done.stderr
        asked = dict(script.asked)
        assert run(["task=translate", *words(folder, *more)], elsewhere).returncode == 0
        assert dict(script.asked) == asked
    return script


def test_models_write_verify_and_cut_down(pool, translated):
    """Each query gets its own question; where that asks for less the query is cut down, run and verified again."""
    folder, _, queries = pool
    out = folder / "run" / "translation"
    found = figures(out)
    rows = translation.read(out).to_pylist()
    assert [row["query_id"] for row in rows] == list(range(NUM_QUERIES))
    kept = [row for row in rows if row["reason"] is None]
    assert all(row["question"] == f"What is the answer called {digest(row['sql'])}?" for row in kept)
    assert found["kept"] == len(kept)
    simplified = [row for row in kept if row["is_simplified"]]
    assert simplified
    assert found["simplified"] == len(simplified)
    assert all(row["sql"] != queries[row["query_id"]] for row in simplified)
    left = [row for row in rows if row["reason"] is not None]
    assert {row["reason"] for row in left} <= {"not_aligned"}
    # What does not hold is told of the pool's own query.
    assert all(row["sql"] == queries[row["query_id"]] for row in left)
    assert found["control"]["fault"] == ""
    assert found["control"]["right"]["said_yes"] == 1
    assert found["control"]["wrong"]["said_yes"] == 0
    assert translated.asked["translation"] == NUM_QUERIES
    assert all(text.count("SELECT name FROM client WHERE id") == 3 for text in translated.prompts["translation"])
    assert all("Table " in text for texts in translated.prompts.values() for text in texts)
    assert found["cost_usd"] == pytest.approx(sum(row["cost_usd"] for row in rows))
    assert found["cost_usd"] > 0


def test_verifier_that_cannot_tell_ends_the_translation(pool, tmp_path, elsewhere):
    """What it says is on the page too, for whoever goes on all the same."""
    folder, schema, queries = pool
    out = tmp_path / "out"
    with serving(reply=ScriptedModels(schema, queries, "I compared both.\nVERDICT: yes")) as server:
        refused = run(command(folder, out, *models(server)), elsewhere)
    assert refused.returncode == 2
    assert "it says yes whatever it is asked" in refused.stderr
    assert "translation.stop_at_bad_verifier=false" in refused.stderr
    assert figures(out)["translated"] < NUM_QUERIES
    page = (out / "translation.md").read_text(encoding="utf-8")
    assert "**The verifier cannot be trusted:** it says yes whatever it is asked" in page


def test_what_a_model_did_not_answer_is_asked_again(pool, tmp_path, elsewhere):
    """A query that got no reply is left to do, and the others are not asked about once more."""
    folder, schema, queries = pool
    out = tmp_path / "out"
    script = ScriptedModels(schema, queries)
    hard = queries[7]
    refuses = [True]

    def refused(body):
        text = body["messages"][-1]["content"]
        return "no" if refuses[0] and text.rstrip().endswith(f"Query: {' '.join(hard.split())}") else None

    with serving(reply=script, refuse=refused) as server:
        done = run(command(folder, out, *models(server)), elsewhere)
        assert done.returncode == 0, done.stderr
        assert figures(out)["translated"] == NUM_QUERIES - 1
        assert "1 queries are left" in done.stdout
        asked = script.asked["translation"]
        refuses[0] = False
        assert run(command(folder, out, *models(server)), elsewhere).returncode == 0
        assert figures(out)["translated"] == NUM_QUERIES
        assert script.asked["translation"] == asked + 1


def test_budget_ends_it_and_a_larger_one_goes_on(pool, tmp_path, elsewhere):
    folder, schema, queries = pool
    out = tmp_path / "out"
    with serving(reply=ScriptedModels(schema, queries)) as server:
        more = models(server, "models.local.max_output_tokens=100")
        stopped = run(command(folder, out, *more, "max_cost_usd=0.05"), elsewhere)
        assert stopped.returncode == 0, stopped.stderr
        assert "max_cost_usd is reached" in stopped.stderr
        # What was paid for is done, also of a block that could not be paid in full.
        assert 0 < figures(out)["translated"] < NUM_QUERIES
        assert figures(out)["cost_usd"] <= 0.05
        assert run(command(folder, out, *more, "max_cost_usd=5"), elsewhere).returncode == 0
        assert all(times == 1 for times in server.ledger()["deliveries"].values())
    assert figures(out)["translated"] == NUM_QUERIES


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["translation.model=strong"], r"models\.strong has no name"),
        (["translation.model=nobody"], "has to be one of auto, rule, strong, local"),
        (["run_dir=absent"], "there is no run"),
    ],
)
def test_what_is_wrong_is_said(pool, tmp_path, capsys, more, message):
    assert main(command(pool[0], tmp_path / "out", *more)) == 2
    assert re.search(message, capsys.readouterr().err)


def test_rules_do_not_verify_what_a_model_writes(pool, tmp_path, capsys):
    named = ["model@models.local=endpoint", "models.local.name=m", "models.local.base_url=http://127.0.0.1:9/v1"]
    assert main(command(pool[0], tmp_path / "out", *named, "translation.verifier=rule")) == 2
    assert "the rules cannot verify what a model writes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("num_queries", "num_kills"), [(NUM_QUERIES, 1), pytest.param(1_000, 8, marks=pytest.mark.slow)]
)
def test_kills_and_faults_pay_for_nothing_twice(pool, translated, tmp_path, num_queries, num_kills):
    """The driver is killed at moments spread over the work, and every eighth request fails: the pairs are the same."""
    schema = make_pool(tmp_path, num_queries)
    script = ScriptedModels(schema, queries_of(tmp_path))
    rng = random.Random(1)
    with serving(reply=script, fault_share=0.125, delay_s=0.05, seed=2) as server:
        server.keep_requests = False
        # A reply that never ends is a fault too.
        patience = "models.local.timeout_s=3"
        line = [sys.executable, "-m", "rayfactory", *command(tmp_path, tmp_path / "out", *models(server), patience)]
        for kill in range(1, num_kills + 1):
            with subprocess.Popen(
                line, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
            ) as process:
                # Two calls a query, at least.
                while server.num_requests < 2 * num_queries * kill // (num_kills + 1):
                    assert process.poll() is None, "it ended before it was killed"
                    time.sleep(0.01)
                time.sleep(rng.uniform(0, 0.1))
                server.is_held = True
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                server.is_held = False
        subprocess.run(line, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
        deliveries = server.ledger()["deliveries"]
    records = read_journal(tmp_path / "out" / "journal" / FILE_NAME)
    assert asked_again(records) == []
    killed, late = cut_short(records)
    replied = {record.key for record in records if isinstance(record, Done)}
    assert len(deliveries) >= len(replied)
    # A reply that lay unread when a kill fell is the one way to a second.
    assert sum(times - 1 for times in deliveries.values()) <= killed.total() + late.total()
    undisturbed = pool[0] / "run" / "translation"
    if num_queries != NUM_QUERIES:
        undisturbed = tmp_path / "quiet"
        with serving(reply=script) as server:
            quiet = [sys.executable, "-m", "rayfactory", *command(tmp_path, undisturbed, *models(server))]
            subprocess.run(quiet, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    assert rows_of(tmp_path / "out") == rows_of(undisturbed)


def rows_of(out):
    return translation.read(out).drop_columns(["execution_ms"]).to_pylist()


def test_export_has_the_questions(pool, translated, tmp_path, capsys):
    """Only what has a question, with it, in the forms that text-to-SQL models are trained with."""
    folder = pool[0]
    kept = [row for row in translation.read(folder / "run" / "translation").to_pylist() if row["reason"] is None]
    assert any(row["is_simplified"] for row in kept)
    for name in ("bird", "spider"):
        out = tmp_path / name
        assert main(["task=export", *words(folder, f"output={out}", "questions=true", f"format={name}")]) == 0
        found = read_questions(out / "train.json")
        assert [(each.text, each.gold) for each in found] == [(row["question"], row["sql"]) for row in kept]
    out = tmp_path / "alpaca"
    assert main(["task=export", *words(folder, f"output={out}", "questions=true", "format=alpaca")]) == 0
    first = json.loads((out / "train.json").read_text(encoding="utf-8"))[0]
    assert first["input"].endswith(f"Question: {kept[0]['question']}")
    out = tmp_path / "huggingface"
    assert main(["task=export", *words(folder, f"output={out}", "questions=true", "format=huggingface")]) == 0
    table = pq.read_table(out / "data" / "train.parquet")
    assert table["question"].to_pylist() == [row["question"] for row in kept]
    assert table["row_count"].to_pylist() == [row["row_count"] for row in kept]
    run_without = shutil.copytree(folder / "run", tmp_path / "run", ignore=shutil.ignore_patterns("translation"))
    assert (
        main(["task=export", *words(folder, f"output={tmp_path / 'none'}", "questions=true", f"run_dir={run_without}")])
        == 2
    )
    assert "find some with task=translate" in capsys.readouterr().err
    shutil.copytree(folder / "run" / "translation", tmp_path / "other")
    settings = json.loads((tmp_path / "other" / "settings.json").read_text(encoding="utf-8"))
    (tmp_path / "other" / "settings.json").write_text(json.dumps({**settings, "run": "another"}), encoding="utf-8")
    more = ["questions=true", f"translation.folder={tmp_path / 'other'}", f"output={tmp_path / 'none'}"]
    assert main(["task=export", *words(folder, *more)]) == 2
    assert "are not about the queries of run_dir" in capsys.readouterr().err
