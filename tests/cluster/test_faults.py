"""What Ray may lose while a run goes on: nodes and the driver's own raylet, in each phase of a round; room for objects.

Every run here makes the rows of one that nobody disturbs: its model's replies follow from what it is asked. All but
those whose own Ray is to suffer share one cluster.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import resume
from rayfactory.compose import compose
from rayfactory.databases.engine import connect as connect_database
from rayfactory.identity import read_identity
from rayfactory.models.grammar import write_queries
from rayfactory.pool import connect, opened
from rayfactory.runs import open_databases
from tests.cluster.processes import command_line, descendants
from tests.models.endpoint_server import serving
from tests.shop import make_shop

ROOT = Path(__file__).resolve().parents[2]
TARGET = 60
PHASES = ("plan", "produce", "judge", "commit")


@pytest.fixture(scope="module", autouse=True)
def _token():
    """Have one token for all that starts Ray here: a cluster asks for it, and whoever joins brings it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 2)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    make_shop(folder / "shop.sqlite")
    return folder


def sql_model(folder):
    """Return a model that knows SQL, as a function from messages to a reply that follows from them."""
    config = compose(["+benchmark=custom", f"benchmark.root={folder / 'shop.sqlite'}", f"data_dir={folder / 'cache'}"])
    databases, schemas = open_databases(config)
    engine = connect_database(databases["shop"], config.execution)

    def reply(messages):
        text = "\n".join(message["content"] for message in messages)
        if not is_for_author(text):
            return "I would go on as before."
        rng = random.Random(text)
        tables = [table.name for table in schemas["shop"].populated]
        queries = write_queries(schemas["shop"], rng.sample(tables, 3), 5, rng, engine)
        return "\n".join(f"<start-sql>\n{sql};\n<end-sql>" for sql in queries)

    return reply


def is_for_author(text):
    """Return whether a prompt asks for queries, and not for a part of a plan."""
    return "<start-sql>" in text


@pytest.fixture(scope="module")
def server(folder):
    """Return an endpoint that takes its time, so that there is one to plan and one to produce."""
    with serving(reply=sql_model(folder), delay_s=0.3) as running:
        yield running


class Nodes:
    """A cluster of several nodes, in a process of its own (`tests.cluster.nodes`)."""

    def __init__(self, log):
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.cluster.nodes"],
                cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        self.address = self._line()

    def _line(self):
        assert self._process.stdout
        line = self._process.stdout.readline().strip()
        assert line, f"the cluster has ended: {self._log.read_text()[-3_000:]}"
        return line

    def tell(self, word):
        """Have it do something; return what it says of it."""
        assert self._process.stdin
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        return self._line()

    def close(self):
        self._process.communicate(timeout=120)


@pytest.fixture(scope="module")
def nodes(folder):
    nodes = Nodes(folder / "nodes.log")
    nodes.tell("add")
    yield nodes
    nodes.close()


def command(folder, base_url, name, *overrides):
    return [
        sys.executable, "-m", "rayfactory", "+benchmark=custom", f"benchmark.root={folder / 'shop.sqlite'}",
        f"run_dir={folder / name}", f"data_dir={folder / 'cache'}", f"target={TARGET}", "round.requests=4",
        "round.requests_after_warmup=4", "round.queries_per_request=5", "embedding.batch_size=4", "cluster.dashboard=false",
        "cluster.workers=1", "display.mode=lines", "display.interval_s=0.01", "models=endpoint",
        "models.strong.name=test-model", f"models.strong.base_url={base_url}", "models.strong.api_key_env=", *overrides,
    ]  # fmt: skip


class Run:
    """A run in a process of its own, with what it has said so far."""

    def __init__(self, folder, server, name, *overrides, prefix=(), **environment):
        self.run_dir = folder / name
        self._server = server
        self.process = subprocess.Popen(
            [*prefix, *command(folder, server.base_url, name, *overrides)], cwd=ROOT, env=os.environ | environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self.lines: list[str] = []
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self):
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line)

    @property
    def said(self):
        return "".join(self.lines)

    def until(self, condition):
        deadline = time.monotonic() + 600
        while not condition():
            assert self.process.poll() is None, f"the run has ended: {self.said}"
            assert time.monotonic() < deadline, f"it does not come: {self.said[-5_000:]}"
            time.sleep(0.002)

    def until_phase(self, phase):
        """Wait until a round is in a phase. What comes next in it takes as long as a reply, or some blocks, or syncs."""
        num_lines, num_requests = len(self.lines), len(self._server.requests)

        def asked(for_author):
            prompts = [str(request["body"]["messages"]) for request in self._server.requests[num_requests:]]
            return bool(prompts) and is_for_author(prompts[-1]) == for_author

        conditions = {
            "plan": lambda: asked(for_author=False),
            "produce": lambda: asked(for_author=True),
            "judge": lambda: any(re.search(r"\((4|8) of \d+ judged\)", line) for line in self.lines[num_lines:]),
            "commit": lambda: rounds(self.run_dir, "") > rounds(self.run_dir, ".json"),
        }
        self.until(conditions[phase])

    def end(self):
        """Wait until it has ended; return its exit code."""
        code = self.process.wait(timeout=600)
        self._reading.join()
        return code


def rounds(run_dir, suffix):
    """Return how many rounds there are: manifests (`.json`), or folders (nothing)."""
    return sum(path.suffix == suffix for path in run_dir.glob("rounds/*"))


def rows_of(run_dir):
    return connect(run_dir).sql("SELECT * EXCLUDE (execution_ms, cost_usd) FROM R ORDER BY query_id").fetchall()


def summary_of(run_dir):
    return json.loads((run_dir / "summary.json").read_text())


def on(nodes):
    return "cluster=existing", f"cluster.address={nodes.address}"


@pytest.fixture(scope="module")
def undisturbed(folder, server, nodes):
    """Return the rows of a run that nobody disturbs."""
    run = Run(folder, server, "undisturbed", *on(nodes))
    assert run.end() == 0, run.said
    rows = rows_of(folder / "undisturbed")
    assert len(rows) == TARGET
    return rows


@pytest.mark.slow
def test_node_lost_in_each_phase_costs_nothing(folder, server, nodes, undisturbed):
    """The raylet of a node is killed in each phase, and with it all that runs there; another node comes before.

    The run goes on, and makes the same rows, none twice.
    """
    run = Run(folder, server, "nodes", *on(nodes))
    lost = []
    for phase in PHASES:
        assert nodes.tell("add") == "added"
        run.until_phase(phase)
        lost += nodes.tell("kill").split()[1:]
    assert run.end() == 0, run.said
    assert rows_of(folder / "nodes") == undisturbed
    assert not {"Encoder", "CriticalAgent", "ToolWorker", "GenerationAgent"}.isdisjoint(lost), lost
    assert re.findall(r"\b(?:2[1-9]|[3-9]\d) of 20 judged", run.said) == []


def test_node_that_joins_a_run_gets_workers(folder, server, nodes, undisturbed):
    """A run that wants more workers than there are CPUs begins with those, and grows with the cluster."""
    run = Run(folder, server, "joined", *on(nodes), "cluster.workers=3")
    run.until(lambda: "the cluster has 2 CPUs for cluster.workers=3" in run.said)
    assert nodes.tell("add") == "added"
    run.until(lambda: "node(s) joined: 3 workers of each kind now" in run.said)
    assert run.end() == 0, run.said
    assert rows_of(folder / "joined") == undisturbed
    nodes.tell("kill")


@pytest.mark.parametrize("phases", [("commit",), pytest.param(PHASES, marks=pytest.mark.slow)], ids=len)
def test_sigterm_in_any_phase_ends_the_run_with_what_is_committed(folder, server, nodes, undisturbed, phases):
    """Exit code 130 and a summary, each time; what is committed stays, and the run goes on from there."""
    name, committed = f"stopped{len(phases)}", 0
    for phase in phases:
        run = Run(folder, server, name, *on(nodes))
        run.until_phase(phase)
        run.process.send_signal(signal.SIGTERM)
        assert run.end() == 130, run.said
        assert "Go on with:" in run.said
        assert "Traceback" not in run.said
        summary = summary_of(folder / name)
        assert summary["stop_reason"] == "interrupted"
        assert summary["admitted"] >= committed
        committed = summary["admitted"]
        assert rows_of(folder / name) == undisturbed[:committed]
    run = Run(folder, server, name, *on(nodes))
    assert run.end() == 0, run.said
    assert rows_of(folder / name) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["plan", "judge", "commit"])
def test_own_raylet_lost_ends_the_run_and_a_second_start_goes_on(folder, server, nodes, undisturbed, phase):
    """Ray ends a driver whose raylet is gone; all that was committed is there, and the next start makes the rest."""
    run = Run(folder, server, f"own-{phase}")
    run.until(lambda: rounds(run.run_dir, ".json") == 1)
    run.until_phase(phase)
    (raylet,) = [pid for pid in descendants(run.process.pid) if "raylet/raylet" in command_line(pid)]
    os.kill(raylet, signal.SIGKILL)
    assert run.end() != 0
    with suppress(ProcessLookupError):
        os.killpg(run.process.pid, signal.SIGKILL)  # what the raylet has left
    committed = rows_of(run.run_dir)
    assert committed
    assert committed == undisturbed[: len(committed)]
    run = Run(folder, server, f"own-{phase}", *on(nodes))
    assert run.end() == 0, run.said
    assert rows_of(run.run_dir) == undisturbed


@pytest.fixture
def replica(folder, nodes):
    """Return the address of a model on Ray Serve (`tests.cluster.serve_model`)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.serve_model", nodes.address, str(folder), str(port)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout
        assert any(line == "answers\n" for line in process.stdout)
        yield SimpleNamespace(base_url=f"http://127.0.0.1:{port}/model/v1", requests=[])


@pytest.mark.slow
def test_replica_lost_in_the_middle_of_requests_costs_those_alone(folder, nodes, undisturbed, replica):
    """kill -9 of the process that answers on Ray Serve, twice, while requests are with it: it is replaced, what was
    under way is asked again, and nothing that had come is.
    """
    run = Run(folder, replica, "replica", *on(nodes))
    for _ in range(2):
        num_lines = len(journal(run.run_dir))
        run.until(
            lambda num_lines=num_lines: (
                any("done" in line for line in journal(run.run_dir)[num_lines:]) and num_open(run.run_dir)
            )
        )
        os.kill(int((folder / "replicas").read_text().split()[-1]), signal.SIGKILL)
    assert run.end() == 0, run.said
    assert rows_of(folder / "replica") == undisturbed
    assert len((folder / "replicas").read_text().split()) == 3
    arrived: set[tuple[object, ...]] = set()
    for line in journal(run.run_dir):
        assert tuple(line.get("key", ())) not in arrived
        if "done" in line:
            arrived.add(tuple(line["key"]))
    num_failed = sum("failed" in line for line in journal(run.run_dir))
    num_answered = len((folder / "answered").read_text().split())
    assert num_failed > 0
    assert len(arrived) <= num_answered <= len(arrived) + num_failed


def journal(run_dir):
    """Return the whole lines of a run's journal so far."""
    path = run_dir / "journal" / "completions.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def num_open(run_dir):
    """Return how many requests wait for their reply."""
    lines = journal(run_dir)
    return sum("sent" in line for line in lines) - sum("done" in line or "failed" in line for line in lines)


@pytest.fixture(scope="module")
def large(folder, undisturbed):
    """Return a run of as many rows as make an index that is too large for the store, and how many they are."""
    num_rows = 38_400
    identity = read_identity(folder / "undisturbed")
    assert identity is not None
    del identity["format"]
    with pytest.MonkeyPatch.context() as patch, opened(folder / "undisturbed", identity) as pool:
        # So that what is read at once for an index is larger than the store.
        patch.setattr(resume, "ROWS_PER_ROUND", 1_200)
        resume.grown(pool, folder / "large", num_rows)
    return folder / "large", num_rows


@pytest.fixture
def small_store():
    """Return the environment of a Ray whose object store is as small as can be, and where it keeps its files."""
    with tempfile.TemporaryDirectory(prefix="ray-") as ray_files:  # the path of a socket has to be short
        small = {"RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(75 * 1024**2), "RAY_verbose_spill_logs": "1"}
        yield {"RAY_TMPDIR": ray_files, **small}, Path(ray_files)


@pytest.mark.slow
def test_objects_go_to_disk_where_the_store_is_full(folder, server, large, small_store):
    """A run whose index goes through a store that it does not fit into goes on, with every row."""
    run_dir, num_rows = large
    before = connect(run_dir).sql("SELECT sum(hash(R)) FROM R").fetchall()
    environment, ray_files = small_store
    run = Run(folder, server, "large", f"target={num_rows + 1}", **environment)
    assert run.end() == 0, run.said
    written = "".join(path.read_text(errors="replace") for path in ray_files.glob("ray/session_*/logs/raylet*"))
    assert re.search(r"Spilled \d\d+ MiB", written)
    after = connect(run_dir)
    assert after.sql(f"SELECT sum(hash(R)) FROM R WHERE query_id < {num_rows}").fetchall() == before
    assert after.sql("SELECT count(*), count(DISTINCT query_id) FROM R").fetchone() == (num_rows + 1, num_rows + 1)


@pytest.mark.slow
def test_store_and_disk_without_room_end_the_run_with_the_remedy(folder, server, large, small_store):
    """Exit code 2 and a message; what was committed is there."""
    run_dir, _ = large
    environment, _ = small_store
    (num_rows,) = connect(run_dir).sql("SELECT count(*) FROM R").fetchall()[0]
    run = Run(
        folder, server, "large", f"target={num_rows + 1}", RAY_local_fs_capacity_threshold="0.00001", **environment
    )
    assert run.end() == 2, run.said
    assert re.search(r"object store is full, .*make room where .*--object-store-memory.*is intact", run.said), run.said
    assert "Traceback" not in run.said
    assert connect(run_dir).sql("SELECT count(*) FROM R").fetchone() == (num_rows,)
    assert summary_of(run_dir)["stop_reason"] == "interrupted"
