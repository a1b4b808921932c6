"""A whole run whose generation requests go as batches: killed while one is pending, it goes on with that very batch."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rayfactory.cluster.crew import Crew
from rayfactory.cluster.session import connected
from rayfactory.compose import compose
from rayfactory.databases.engine import connect as connect_database
from rayfactory.models.grammar import write_queries
from rayfactory.records import Request
from rayfactory.runs import open_databases
from tests.models.batch_server import BatchServer
from tests.models.endpoint_server import running
from tests.shop import make_shop

ROOT = Path(__file__).resolve().parents[2]
TARGET = 15


def test_batch_holds_a_whole_round_of_more_requests_than_an_actor_usually_takes(tmp_path, make_data_dir):
    """One author has all of them in hand at once: none waits for the replies to the first thousand."""
    num_requests = 1_050
    with running(BatchServer(reply=lambda messages: "<start-sql>SELECT name FROM customer<end-sql>")) as server:
        config = compose([
            "+benchmark=custom", f"benchmark.root={make_shop(tmp_path / 'shop.sqlite')}", f"run_dir={tmp_path / 'run'}",
            f"data_dir={make_data_dir(tmp_path / 'cache')}", "cluster.workers=1", "cluster.dashboard=false",
            "models=endpoint",
            "models.strong.name=test-model", f"models.strong.base_url={server.base_url}", "models.strong.batch=true",
            "models.strong.batch_poll_s=0.1", "models.self_correction=false",
        ])  # fmt: skip
        databases, schemas = open_databases(config)
        requests = [
            Request(0, index, "generation", "shop", ("customer", "sale"), (), (), 1, index)
            for index in range(num_requests)
        ]
        with connected(config.cluster):
            crew = Crew(config, databases, schemas, list)
            answers = crew.produce(requests, lambda place, answer: None)
            crew.close()
        assert [batch["request_counts"]["total"] for batch in server.batches.values()] == [num_requests]
    assert {candidate.model for answer in answers for candidate in answer.candidates} == {"test-model"}


def test_run_killed_while_a_batch_is_pending_takes_it_up_again(tmp_path, make_data_dir, elsewhere):
    """Each request is billed once, at the price of a batch where it went in one, and the books are the endpoint's."""
    make_shop(tmp_path / "shop.sqlite")
    data_dir = make_data_dir(tmp_path / "cache")
    base = ["+benchmark=custom", f"benchmark.root={tmp_path / 'shop.sqlite'}", f"data_dir={data_dir}"]
    config = compose(base)
    databases, schemas = open_databases(config)
    engine = connect_database(databases["shop"], config.execution)

    def reply(messages):
        text = "\n".join(message["content"] for message in messages)
        rng = random.Random(text)
        if "<start-sql>" not in text or "You correct SQL" in text:
            return "STATE: GEN\nreason: variety"
        tables = [table.name for table in schemas["shop"].populated]
        queries = write_queries(schemas["shop"], rng.sample(tables, 3), 5, rng, engine)
        return "\n".join(f"<start-sql>\n{sql};\n<end-sql>" for sql in queries)

    with running(BatchServer(reply=reply, step_s=0.2)) as server:
        command = [
            sys.executable, "-m", "rayfactory", *base, f"run_dir={tmp_path / 'run'}", f"target={TARGET}",
            "round.requests=4", "round.requests_after_warmup=4", "round.queries_per_request=5", "cluster.dashboard=false",
            "cluster.workers=1", "display.mode=lines",
            "models=endpoint", "models.strong.name=test-model", f"models.strong.base_url={server.base_url}",
            "models.strong.usd_per_million_in=2", "models.strong.usd_per_million_out=10", "models.strong.batch=true",
            "models.strong.batch_poll_s=0.1", "models.strong.batch_linger_s=2",
        ]  # fmt: skip
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, env=os.environ
        )
        deadline_s = time.monotonic() + 600
        while server.calls["state"] < 2:
            assert process.poll() is None, process.stdout and process.stdout.read()
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        done = subprocess.run(
            [*command, *elsewhere.overrides], cwd=ROOT, env=os.environ | elsewhere.variables, capture_output=True,
            text=True, check=False, timeout=400,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert (summary["stop_reason"], summary["admitted"]) == ("target", TARGET)
        # No later batch has again what was in the first.
        rows = {row["agent"]: row for row in summary["ledger"]}
        assert (
            sum(batch["request_counts"]["total"] for batch in server.batches.values()) == rows["generation"]["requests"]
        )
        assert rows["generation"]["unconfirmed_attempts"] == 0
        assert rows["generation"]["cost_usd"] == pytest.approx(
            (1.0 * rows["generation"]["tokens_in"] + 5.0 * rows["generation"]["tokens_out"]) / 1e6
        )
        assert server.billed["replies"] <= sum(
            row["requests"] + row["unconfirmed_attempts"] for row in summary["ledger"]
        )
