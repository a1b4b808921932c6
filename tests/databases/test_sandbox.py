"""Statements in a process of their own: what they cost is that process, and no more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayfactory.config import ExecutionConfig
from rayfactory.databases import sandbox as module
from rayfactory.databases.engine import Database
from rayfactory.databases.sandbox import MAX_OPEN_DATABASES, Sandbox
from rayfactory.errors import DatabaseError, StatementError
from tests.databases.test_engine import CROSS_JOIN, make, numbers

LIMITS = ExecutionConfig(timeout_s=1.0, max_rows=1_000, max_cells=1_500, memory_mb=128)


@pytest.fixture(params=["duckdb", "sqlite"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return make(tmp_path, request.param, numbers(request.param, 5_000))


@pytest.fixture
def sandbox(database: Database) -> Iterator[Sandbox]:
    opened = Sandbox({"shop": database}, LIMITS)
    yield opened
    opened.close()


def reason(sandbox: Sandbox, sql: str) -> str:
    with pytest.raises(StatementError) as raised:
        sandbox.run("shop", sql)
    return raised.value.reason


def is_running(pid: int) -> bool:
    """Return whether there is such a process, and it is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def soon_gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(pid)


def when_it_runs(sandbox: Sandbox, number: signal.Signals) -> threading.Timer:
    """Send the process a signal while the next statement runs."""
    sandbox.run("shop", "SELECT 1")
    pid = sandbox.pid
    assert pid is not None
    timer = threading.Timer(0.3, os.kill, (pid, number))
    timer.start()
    return timer


def test_rows_are_counted_in_one_process_that_stays(sandbox: Sandbox):
    found = sandbox.run("shop", "SELECT i FROM t WHERE i < 500")
    assert found.row_count == 500
    assert found.elapsed_ms > 0
    pid = sandbox.pid
    assert sandbox.run("shop", "SELECT i FROM t WHERE s = 'é中'").row_count == 0
    assert reason(sandbox, "SELECT '\ud800'") == "error"
    assert sandbox.run("shop", f"SELECT '{'x' * 3_000_000}'").row_count == 1
    assert sandbox.pid == pid


def test_limits_hold_as_without_a_sandbox(sandbox: Sandbox):
    assert reason(sandbox, "SELECT i FROM t") == "too_many_rows"
    assert reason(sandbox, "SELECT i, i FROM t WHERE i < 800") == "too_many_rows"
    assert sandbox.run("shop", "SELECT i, i FROM t WHERE i < 750").row_count == 750
    assert reason(sandbox, "SELECT nothing FROM t") == "error"
    assert reason(sandbox, "DROP TABLE t") == "error"
    pid = sandbox.pid
    assert reason(sandbox, CROSS_JOIN) == "timeout"
    assert sandbox.pid == pid


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_crash_costs_its_statement_alone(sandbox: Sandbox, number: signal.Signals):
    timer = when_it_runs(sandbox, number)
    with pytest.raises(StatementError, match=number.name) as raised:
        sandbox.run("shop", CROSS_JOIN)
    timer.join()
    assert raised.value.reason == "crashed"
    assert sandbox.run("shop", "SELECT i FROM t WHERE i < 5").row_count == 5


def test_a_crash_between_statements_costs_none(sandbox: Sandbox):
    sandbox.run("shop", "SELECT 1")
    pid = sandbox.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    # Until its last thread is gone too; it is left for the sandbox to find.
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert sandbox.run("shop", "SELECT i FROM t WHERE i < 5").row_count == 5


def test_what_does_not_give_way_is_ended(sandbox: Sandbox):
    """A process that is stopped answers no interrupt."""
    timer = when_it_runs(sandbox, signal.SIGSTOP)
    pid = sandbox.pid
    assert pid is not None
    assert reason(sandbox, CROSS_JOIN) == "timeout"
    timer.join()
    assert soon_gone(pid)
    assert sandbox.run("shop", "SELECT i FROM t WHERE i < 5").row_count == 5


def test_memory_bomb_costs_its_statement_alone(tmp_path: Path):
    """Also one that the database does not count: the process has no more address space than it was given."""
    sandbox = Sandbox({"shop": make(tmp_path, "duckdb", numbers("duckdb", 5_000))}, LIMITS)
    for bomb in (
        "SELECT length(repeat('x', 4000000000))",
        "SELECT len(list(a.i)) FROM t AS a, t AS b, t AS c",
        "SELECT count(*) FROM (SELECT DISTINCT a.i, b.s, a.s FROM t AS a, t AS b)",
    ):
        assert reason(sandbox, bomb) in {"memory", "crashed", "error", "timeout"}
        assert sandbox.run("shop", "SELECT i FROM t WHERE i < 5").row_count == 5
    sandbox.close()


def test_memory_is_that_of_the_setting(tmp_path: Path):
    sandbox = Sandbox({"shop": make(tmp_path, "sqlite", numbers("sqlite", 5_000))}, LIMITS)
    sandbox.run("shop", "SELECT 1")
    limits = Path(f"/proc/{sandbox.pid}/limits").read_text(encoding="ascii")
    size = int(Path(f"/proc/{sandbox.pid}/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGESIZE")
    (most,) = (int(line.split()[3]) for line in limits.splitlines() if line.startswith("Max address space"))
    assert size < most < size + (LIMITS.memory_mb + 1_024) * 2**20
    assert "Max core file size        0 " in limits
    sandbox.close()


def test_keys_of_the_environment_are_not_handed_on(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-nobody-should-see-this")
    sandbox.run("shop", "SELECT 1")
    assert b"sk-nobody" not in Path(f"/proc/{sandbox.pid}/environ").read_bytes()


def test_process_ends_with_whoever_started_it(database: Database):
    """Also while a statement runs that nobody can stop."""
    program = f"""
import os, sys, threading
from rayfactory.config import ExecutionConfig
from rayfactory.databases.engine import Database
from rayfactory.databases.sandbox import Sandbox
sandbox = Sandbox({{"shop": Database("shop", {database.dialect!r}, {database.path!r})}}, ExecutionConfig(timeout_s=60))
sandbox.run("shop", "SELECT 1")
print(sandbox.pid, flush=True)
sandbox.run("shop", {CROSS_JOIN!r})
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        time.sleep(0.3)
        parent.kill()
    assert soon_gone(pid)


def test_database_that_cannot_be_opened_is_told(database: Database, tmp_path: Path):
    broken = tmp_path / "broken"
    broken.write_bytes(b"nothing of the kind" * 100)
    sandbox = Sandbox(
        {
            "gone": Database("gone", database.dialect, str(tmp_path / "gone")),
            "broken": Database("broken", database.dialect, str(broken)),
            "shop": database,
        },
        LIMITS,
    )
    with pytest.raises(DatabaseError, match=r"benchmark\.root"):
        sandbox.run("gone", "SELECT 1")
    with pytest.raises(DatabaseError, match=r"whole copy|plain copy"):
        sandbox.run("broken", "SELECT 1")
    assert sandbox.run("shop", "SELECT 1").row_count == 1
    sandbox.close()
    sandbox.close()


def test_few_databases_are_open_at_a_time(tmp_path: Path):
    databases = {}
    for i in range(MAX_OPEN_DATABASES + 3):
        (tmp_path / str(i)).mkdir()
        databases[str(i)] = make(tmp_path / str(i), "sqlite", numbers("sqlite", i + 1))
    sandbox = Sandbox(databases, LIMITS)
    for _ in range(2):
        for i, name in enumerate(databases):
            assert sandbox.run(name, "SELECT i FROM t").row_count == i + 1
    descriptors = [str(each.readlink()) for each in Path(f"/proc/{sandbox.pid}/fd").iterdir()]
    assert len([each for each in descriptors if each.endswith(".sqlite")]) == MAX_OPEN_DATABASES
    sandbox.close()


def test_a_process_that_cannot_be_started_is_told(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_CHILD", "rayfactory.databases.nothing")
    with pytest.raises(DatabaseError, match="exit code 1"):
        sandbox.run("shop", "SELECT 1")
