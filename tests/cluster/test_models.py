"""Whole runs whose agents ask a model over HTTP: paid once, within the budget, and told what is wrong before it is paid."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rayfactory.compose import compose
from rayfactory.databases.engine import connect as connect_database
from rayfactory.models.grammar import write_queries
from rayfactory.pool import connect, read_manifests
from rayfactory.reports.examples import PROMPTS
from rayfactory.runs import open_databases
from tests.models.endpoint_server import serving
from tests.shop import make_shop

ROOT = Path(__file__).resolve().parents[2]
TARGET = 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_data_dir):
    folder = tmp_path_factory.mktemp("runs")
    make_data_dir(folder / "cache")
    make_shop(folder / "shop.sqlite")
    return folder


@pytest.fixture(scope="module")
def server(folder):
    """Return an endpoint whose model knows SQL: what it says follows from what it is asked, and now and then it errs."""
    config = compose(["+benchmark=custom", f"benchmark.root={folder / 'shop.sqlite'}", f"data_dir={folder / 'cache'}"])
    databases, schemas = open_databases(config)
    schema = schemas["shop"]
    engine = connect_database(databases["shop"], config.execution)

    def reply(messages):
        text = "\n".join(message["content"] for message in messages)
        rng = random.Random(text)
        if "You correct SQL" in text:
            return "<start-sql 1>\nSELECT name FROM customer ORDER BY name, customer_id LIMIT 3\n<end-sql>"
        if "<start-sql>" not in text:
            return rng.choice(["STATE: GEN\nreason: variety", "I would go on as before.", "sale, customer\nproduct"])
        tables = [table.name for table in schema.populated]
        queries = write_queries(schema, rng.sample(tables, 3), 5, rng, engine)
        if rng.random() < 0.3:
            queries[0] = queries[0].replace("FROM", "FORM")
        return "Here you are:\n" + "\n".join(f"<start-sql>\n{sql};\n<end-sql>" for sql in queries)

    with serving(reply=reply, api_key="secret-key-9", delay_s=0.05) as running:
        yield running


def command(folder, server, name, *overrides):
    return [
        sys.executable, "-m", "rayfactory", "+benchmark=custom", f"benchmark.root={folder / 'shop.sqlite'}",
        f"run_dir={folder / name}", f"data_dir={folder / 'cache'}", f"target={TARGET}", "round.requests=4",
        "round.requests_after_warmup=4",
        "round.queries_per_request=5", "cluster.dashboard=false", "cluster.workers=1", "display.mode=lines", "models=endpoint",
        "models.strong.name=test-model", f"models.strong.base_url={server.base_url}",
        "models.strong.api_key_env=SHOP_KEY", "models.strong.usd_per_million_in=2.5",
        "models.strong.usd_per_million_out=10", *overrides,
    ]  # fmt: skip


def environment(key="secret-key-9"):
    return {**os.environ, "SHOP_KEY": key}


def run(folder, server, name, *overrides, key="secret-key-9", on=None):
    """Run the command line to its end, on a cluster of its own or on one that is there."""
    words = command(folder, server, name, *(on.overrides if on else ()), *overrides)
    return subprocess.run(
        words, cwd=ROOT, env={**environment(key), **(on.variables if on else {})}, capture_output=True, text=True,
        check=False, timeout=900,
    )  # fmt: skip


def rows_of(run_dir):
    return connect(run_dir).sql("SELECT * EXCLUDE (execution_ms) FROM R ORDER BY query_id").fetchall()


def summary_of(run_dir):
    return json.loads((run_dir / "summary.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(folder, server, elsewhere):
    """Return the rows of a run that nobody disturbs."""
    before = server.ledger()["billed"]
    done = run(folder, server, "undisturbed", on=elsewhere)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    after = server.ledger()["billed"]
    return rows_of(folder / "undisturbed"), {name: after[name] - before[name] for name in before}


def test_run_with_models_ends_with_the_target_and_its_books_are_the_endpoints(folder, undisturbed):
    """The ledger has the endpoint's own numbers; rows carry their share, and what fell back is counted."""
    rows, billed = undisturbed
    summary = summary_of(folder / "undisturbed")
    assert len(rows) == summary["admitted"] == TARGET
    assert summary["stop_reason"] == "target"
    assert (summary["tokens_in"], summary["tokens_out"]) == (billed["tokens_in"], billed["tokens_out"])
    assert summary["cost_usd"] == pytest.approx((2.5 * billed["tokens_in"] + 10 * billed["tokens_out"]) / 1e6)
    assert summary["cost_unconfirmed_usd"] == 0
    assert summary["projected_cost_usd"] == pytest.approx(summary["cost_usd"])
    assert sum(row["requests"] for row in summary["ledger"]) == billed["replies"]
    agents = {agent["agent"]: agent for agent in summary["agents"]}
    assert agents["generation"]["replies"] > 0
    assert agents["correction"]["corrected"] >= agents["correction"]["mended"] > 0
    written = connect(folder / "undisturbed").sql("SELECT sum(cost_usd), count(*) FILTER (model = 'test-model') FROM R")
    ((cost, by_model),) = written.fetchall()
    rounds = list(read_manifests(folder / "undisturbed"))
    # What was under way when the target was reached is in the ledger and in no row.
    assert cost == pytest.approx(sum(tally.cost_usd for manifest in rounds for tally in manifest.tallies))
    assert summary["cost_usd"] / 2 < cost <= summary["cost_usd"] * (1 + 1e-9)
    assert by_model > TARGET / 2


def test_model_that_refuses_everything_is_not_replaced_in_silence(folder, elsewhere):
    """A run that no model had a part in would look like one that worked."""
    with serving(api_key="secret-key-9", fault_share=1.0, faults=["content_filter"]) as refusing:
        done = run(folder, refusing, "refused", "round.requests=8", on=elsewhere)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "requests in a row" in done.stderr
    assert "filtered" in done.stderr


def test_what_an_agent_warns_of_reaches_the_person(folder, server, elsewhere):
    """Agents are processes whose logs nobody reads."""
    small = ["models.strong.context_tokens=2250", "models.strong.max_output_tokens=1000", "target=10"]
    done = run(folder, server, "cut", *small, on=elsewhere)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Note: database 'shop': the \w+ prompt is cut to the 2250 tokens", done.stdout), done.stdout


def test_key_is_written_nowhere(folder, undisturbed):
    """Neither the journal nor anything else in the run directory has it."""
    files = [path for path in (folder / "undisturbed").rglob("*") if path.is_file()]
    assert any("journal" in str(path) for path in files)
    assert not [path for path in files if b"secret-key-9" in path.read_bytes()]


def test_killed_run_pays_once_and_ends_with_the_same_rows(folder, server, undisturbed, elsewhere):
    """kill -9 of everything, twice: what arrived is not asked for again, and the pool is that of a run left alone."""
    rows, billed = undisturbed
    before = server.ledger()["billed"]["replies"]
    for _ in range(2):
        process = subprocess.Popen(
            command(folder, server, "killed"), cwd=ROOT, env=environment(),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        wait_for_replies(server, server.ledger()["billed"]["replies"] + 3, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    done = run(folder, server, "killed", on=elsewhere)
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows_of(folder / "killed") == rows
    summary = summary_of(folder / "killed")
    paid = server.ledger()["billed"]["replies"] - before
    lost = sum(row["unconfirmed_attempts"] for row in summary["ledger"])
    confirmed = sum(row["requests"] for row in summary["ledger"])
    assert confirmed == billed["replies"]
    assert confirmed <= paid <= confirmed + lost


@pytest.mark.parametrize(("table_selection", "calls"), [("strong", 1), ("rule", 8)])
def test_interrupted_run_does_not_wait_for_the_endpoint(folder, elsewhere, table_selection, calls):
    """Ctrl-C while a plan, or two rounds that are written at a time, hang on replies that do not come.

    The run ends, and says how to go on.
    """
    with serving(api_key="secret-key-9", delay_s=3600) as silent:
        process = subprocess.Popen(
            command(folder, silent, "silent", *elsewhere.overrides, f"models.table_selection.model={table_selection}"),
            cwd=ROOT, env={**environment(), **elsewhere.variables},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        deadline = time.monotonic() + 600
        while process.poll() is None and silent.num_concurrent < calls:
            assert time.monotonic() < deadline, "the run does not get on"
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=300)
    assert silent.max_seen_concurrent == calls
    assert process.returncode == 130, output + errors
    assert "Go on with:" in output
    assert "Traceback" not in output + errors
    assert summary_of(folder / "silent")["stop_reason"] == "interrupted"


def test_budget_is_never_passed_and_a_larger_one_goes_on(folder, server, elsewhere, undisturbed):
    """The run stops with everything that was paid in the pool, says so at once when asked again, and then goes on."""
    budget = summary_of(folder / "undisturbed")["cost_usd"] * 0.7
    small = ["models.strong.max_output_tokens=1500", "models.strong.context_tokens=32768"]
    done = run(folder, server, "budget", f"max_cost_usd={budget}", *small, on=elsewhere)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = summary_of(folder / "budget")
    assert summary["stop_reason"] == "max_cost"
    assert summary["cost_usd"] + summary["cost_unconfirmed_usd"] <= budget
    assert 0 < summary["admitted"] < TARGET
    before = rows_of(folder / "budget")
    again = run(folder, server, "budget", f"max_cost_usd={budget}", *small, on=elsewhere)
    assert again.returncode == 0
    assert "is complete" in again.stdout
    done = run(folder, server, "budget", f"max_cost_usd={10 * budget}", *small, on=elsewhere)
    assert done.returncode == 0, done.stdout + done.stderr
    after = rows_of(folder / "budget")
    assert after[: len(before)] == before
    assert len(after) == TARGET


@pytest.mark.parametrize(
    ("key", "overrides", "message"),
    [
        ("", [], "SHOP_KEY"),
        ("wrong-key", [], "401|refuses|key"),
        ("secret-key-9", ["models.strong.name=gpt-9"], "gpt-9.*does not exist|test-model"),
        ("secret-key-9", ["models.strong.base_url=http://127.0.0.1:9/v1"], "nothing answers"),
        ("secret-key-9", ["models.strong.context_tokens=65536"], "32768"),
        (
            "secret-key-9",
            ["models.strong.context_tokens=1200", "models.strong.max_output_tokens=600"],
            "context_tokens",
        ),
        ("secret-key-9", ["models=paper", "models.strong.api_key_env="], "GPU|vllm|gpu"),
    ],
)
def test_what_is_wrong_with_a_model_is_said_before_anything_is_paid(folder, server, key, overrides, message, request):
    """Exit code 2, no traceback, nothing asked for and nothing written."""
    before = server.ledger()["billed"]
    name = f"bad-{request.node.callspec.indices['message']}"
    done = run(folder, server, name, *overrides, key=key)
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert "wrong-key" not in done.stdout + done.stderr
    assert server.ledger()["billed"] == before
    assert not list((folder / name).rglob("*.json*")) or "models=paper" in overrides


@pytest.mark.parametrize(
    ("grammars", "message", "num_paid"),
    [("ignore", "does not decode by a grammar", 1), ("refuse", "400 Unrecognized request argument", 0)],
)
def test_endpoint_without_grammars_is_found_before_the_run_starts(folder, elsewhere, grammars, message, num_paid):
    """One small question is all that is paid, and it is in the books; once it is mended, the same command goes on."""
    name = f"grammars-{grammars}"
    overrides = ["models.strong.constrained=true", "target=10", "round.requests=2"]
    with serving(api_key="secret-key-9", grammars=grammars) as server:
        done = run(folder, server, name, *overrides, on=elsewhere)
        assert done.returncode == 2, done.stdout + done.stderr
        assert re.search(rf"{message}.*models\.strong\.constrained=false", done.stderr), done.stderr
        assert "Traceback" not in done.stderr
        assert (server.num_requests, server.billed["replies"]) == (1, num_paid)
        assert sum(row["requests"] for row in summary_of(folder / name)["ledger"]) == num_paid
        server.grammars = "honour"
        done = run(folder, server, name, *overrides, on=elsewhere)
        assert done.returncode == 0, done.stdout + done.stderr
        checks = [row for row in summary_of(folder / name)["ledger"] if row["agent"] == "check"]
        assert [row["requests"] for row in checks] == [num_paid + 1]
        assert server.billed["replies"] == sum(row["requests"] for row in summary_of(folder / name)["ledger"])


def test_preview_asks_nobody(folder, server):
    """Every prompt, tokens, dollars and places on standard output; no request, no run directory."""
    before = server.ledger()["requests"]
    done = run(folder, server, "preview", "task=preview", key="")
    assert done.returncode == 0, done.stderr
    for name in PROMPTS:
        assert f"## {name}: system" in done.stdout
    assert "US dollars" in done.stdout
    assert "SHOP_KEY, which is not set" in done.stdout
    assert f"journal in {folder / 'preview' / 'journal'}" in done.stdout
    assert server.ledger()["requests"] == before
    assert not (folder / "preview").exists()


def test_preview_of_a_run_that_has_begun_is_for_what_is_missing(folder, server, undisturbed):
    """Its rows and its ledger are read, and it stays as it is, to the byte; so does another run's directory."""
    before, files = server.ledger()["requests"], contents(folder / "undisturbed")
    done = run(folder, server, "undisturbed", "task=preview", f"target={TARGET + 30}", key="")
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stdout.split())
    assert f"Of {TARGET + 30} rows, {TARGET} are there" in told
    assert "Estimated for 30 rows" in told
    summary = summary_of(folder / "undisturbed")
    assert f"So far {sum(row['requests'] for row in summary['ledger'])} replies" in told
    assert f"${summary['cost_usd']:.2f} are spent" in told
    other = run(folder, server, "undisturbed", "task=preview", "seed=5", key="")
    assert other.returncode == 0, other.stderr
    assert "This run would be refused" in other.stdout
    assert f"Estimated for {TARGET} rows" in other.stdout
    assert contents(folder / "undisturbed") == files
    assert server.ledger()["requests"] == before


def contents(run_dir):
    return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in run_dir.rglob("*")}


def wait_for_replies(server, number, process):
    deadline = time.monotonic() + 600
    while process.poll() is None and server.ledger()["billed"]["replies"] < number:
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.05)
    assert process.poll() is None, f"the run was over before it could be killed: {process.communicate()[0]}"
