"""Whole runs on a real Ray cluster: the same pool with any number of workers, after kill -9, and after Ctrl-C."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from rayfactory.pool import connect
from tests.cluster.processes import command_line, descendants
from tests.shop import make_shop

ROOT = Path(__file__).resolve().parents[2]
TARGET = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_data_dir):
    folder = tmp_path_factory.mktemp("runs")
    make_data_dir(folder / "cache")
    make_shop(folder / "shop.sqlite")
    return folder


def command(folder, name, *overrides):
    return [
        sys.executable, "-m", "rayfactory", "+benchmark=custom", f"benchmark.root={folder / 'shop.sqlite'}",
        f"run_dir={folder / name}", f"data_dir={folder / 'cache'}", f"target={TARGET}", "round.requests=4",
        "round.queries_per_request=5", "cluster.dashboard=false", "cluster.workers=1", "display.mode=lines", *overrides,
    ]  # fmt: skip


def run(folder, name, *overrides, on=None):
    """Run the command line to its end, on a cluster of its own or on one that is there."""
    words = command(folder, name, *(on.overrides if on else ()), *overrides)
    return subprocess.run(
        words, cwd=ROOT, env={**os.environ, **(on.variables if on else {})}, capture_output=True, text=True,
        check=False, timeout=900,
    )  # fmt: skip


def rows_of(run_dir):
    return connect(run_dir).sql("SELECT * EXCLUDE (execution_ms) FROM R ORDER BY query_id").fetchall()


@pytest.fixture(scope="module")
def undisturbed(folder):
    """Return the rows of a run with two workers that nobody disturbs."""
    done = run(folder, "undisturbed", "cluster.workers=2")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return rows_of(folder / "undisturbed")


def test_run_ends_with_exactly_the_target(folder, undisturbed):
    assert [row[0] for row in undisturbed] == list(range(TARGET))
    summary = json.loads((folder / "undisturbed" / "summary.json").read_text())
    assert (summary["stop_reason"], summary["admitted"]) == ("target", TARGET)
    assert summary["expansion"] > 0
    assert summary["candidates"] == TARGET + sum(summary["rejected"].values())


def test_complete_run_says_so(folder, undisturbed):
    done = run(folder, "undisturbed", "cluster.workers=2")
    assert done.returncode == 0
    assert f"is complete: {TARGET} rows" in done.stdout


def test_number_of_cpus_workers_and_shards_changes_nothing(folder, undisturbed):
    """One CPU is enough, however many actors share it."""
    done = run(folder, "one", "cluster.num_cpus=1", "cluster.index_shards=2")
    assert done.returncode == 0, done.stderr
    assert rows_of(folder / "one") == undisturbed


def test_killed_run_ends_with_the_same_rows(folder, undisturbed, elsewhere):
    """kill -9 of the driver and everything below it, three times at random moments; then to the end."""
    rng = random.Random(7)
    committed: list[tuple[object, ...]] = []
    for _ in range(3):
        process = subprocess.Popen(
            command(folder, "killed"),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        wait_for_round(folder / "killed", process, len(list((folder / "killed" / "rounds").glob("*.json"))) + 1)
        time.sleep(0.5 * rng.random())
        assert process.poll() is None, f"the run was over before it could be killed: {process.communicate()}"
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        now = rows_of(folder / "killed")
        assert len(now) > len(committed)
        assert now[: len(committed)] == committed
        committed = now
        if len(committed) > TARGET / 2:
            break
    done = run(folder, "killed", on=elsewhere)
    assert done.returncode == 0, done.stderr
    assert rows_of(folder / "killed") == undisturbed


@pytest.mark.parametrize(
    "kinds",
    [
        (("ToolWorker", "Encoder"), ("CriticalAgent", "ExpansionAgent")),
        pytest.param((("VectorStore",),), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_lost_actors_cost_nothing(folder, undisturbed, elsewhere, kinds):
    """kill -9 of a process of some kinds while a round is judged, and of other kinds in the next: the run goes on and
    makes the same rows.

    The vectors of a database that outgrows its critic are in actors of their own.
    """
    settings = ["cluster.vectors_per_actor=11"] if "VectorStore" in kinds[0] else []
    name = f"lost-{kinds[0][0]}"
    process = subprocess.Popen(
        command(folder, name, *elsewhere.overrides, *settings),
        cwd=ROOT,
        env=os.environ | elsewhere.variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for number, together in enumerate(kinds, 1):
        wait_for_round(folder / name, process, number)
        for kind in together:
            victims: list[int] = []
            while not victims:  # some agents start when they are first asked
                assert process.poll() is None, f"no such process: {process.communicate()}"
                time.sleep(0.05)
                with suppress(OSError):
                    victims = [pid for pid in descendants(elsewhere.pid) if f"ray::{kind}" in command_line(pid)]
            os.kill(max(victims), signal.SIGKILL)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, output + errors
    assert rows_of(folder / name) == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_interrupted_run_ends_cleanly_and_names_the_command_that_resumes(folder, undisturbed, elsewhere, number):
    name = f"stopped-{number.name}"
    process = subprocess.Popen(
        command(folder, name), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for_round(folder / name, process, 1)
    process.send_signal(number)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in output + errors
    assert re.search(r"Stopping, .* \d+ rows are committed; what is under way is not", output)
    assert "Go on with:" in output
    assert "-m rayfactory +benchmark=custom" in output
    summary = json.loads((folder / name / "summary.json").read_text())
    assert summary["stop_reason"] == "interrupted"
    assert 0 < summary["admitted"] < TARGET
    assert rows_of(folder / name) == undisturbed[: summary["admitted"]]
    done = run(folder, name, on=elsewhere)
    assert done.returncode == 0, done.stderr
    assert rows_of(folder / name) == undisturbed


def wait_for_round(run_dir, process, num_rounds):
    """Wait until the run has committed that many rounds, or has ended."""
    deadline = time.monotonic() + 600
    while process.poll() is None and len(list((run_dir / "rounds").glob("*.json"))) < num_rounds:
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.05)
