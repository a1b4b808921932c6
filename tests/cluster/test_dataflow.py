"""What a stage does with a block: statements that are not to run again, and those whose worker is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from rayfactory.cluster.dataflow import _INPUT, Workers, embed_block, execute_block, parse_block
from rayfactory.cluster.tool_worker import ToolWorker
from rayfactory.cluster.workplaces import Homes
from rayfactory.records import NEVER_AGAIN, Execution

ROOT = Path(__file__).resolve().parents[2]

KILL = "-- kill"

LOST = "-- kill once"


class Mortal(ToolWorker):
    """A worker whose process some statements end: always, or the first time, which a file remembers."""

    def __init__(self, marks: str) -> None:
        self._marks = Path(marks)

    def execute(self, work: object) -> list[Execution]:
        assert isinstance(work, list)
        for _, sql, _ in work:
            mark = self._marks / sql.replace(" ", "_")
            count = int(mark.read_text()) if mark.exists() else 0
            mark.write_text(str(count + 1))
            if sql.endswith(KILL) or (sql.endswith(LOST) and not count):
                os._exit(1)
        return [Execution(None, "", "", row_count=1, execution_ms=1.0) for _ in work]


PROGRAM = """
import sys
import ray
from rayfactory.cluster.dataflow import begin, executed
from rayfactory.records import Execution
from tests.cluster.test_dataflow import KILL, LOST, Mortal

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
worker = ray.remote(Mortal).options(max_restarts=-1, max_task_retries=1).remote(sys.argv[1])
statements = ("SELECT 1", f"SELECT 2 {LOST}", f"SELECT 3 {KILL}", "SELECT 4")
work = [("shop", sql, Execution(None, "", "")) for sql in statements]
work += [("shop", "DROP", Execution("refused", "DROP is not a SELECT", ""))]
print([(execution.reason, execution.row_count) for execution in executed(worker, work, begin(worker, work))])
ray.shutdown()
"""


def test_statement_whose_worker_is_lost_runs_once_more_alone(tmp_path: Path):
    """The others of its block come to their end; the one that ends a worker again has ended it for the last time."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "[(None, 1), (None, 1), ('crashed', 0), (None, 1), ('refused', 0)]" in done.stdout
    counts = {mark.name: int(mark.read_text()) for mark in tmp_path.iterdir()}
    assert counts == {"SELECT_1": 2, "SELECT_2_--_kill_once": 2, "SELECT_3_--_kill": 1, "SELECT_4": 1}


@pytest.mark.parametrize("reason", sorted(NEVER_AGAIN))
def test_statement_that_is_not_to_run_again_keeps_its_reason(reason: str):
    rows = [
        {
            "block": 0,
            "position": 0,
            "database": "shop",
            "dialect": "sqlite",
            "sql": "SELECT 1",
            "ended": [reason, "why"],
        },
        {"block": 0, "position": 1, "database": "shop", "dialect": "sqlite", "sql": "SELECT 1", "ended": None},
        {"block": 0, "position": 2, "database": "shop", "dialect": "sqlite", "sql": "DROP", "ended": [reason, "why"]},
    ]
    parsed = parse_block(pa.Table.from_pylist(rows, schema=_INPUT))
    assert parsed["reason"].to_pylist()[:2] == [reason, None]
    assert parsed["detail"].to_pylist()[0] == "why"
    assert parsed["reason"].to_pylist()[2] in {"parse", "refused"}
    assert parsed["text"].to_pylist()[0] == "select 1"
    assert all(seconds >= 0 for seconds in parsed["parse_s"].to_pylist())


def test_stages_have_names_that_the_dashboard_shows():
    assert [stage.__name__ for stage in (parse_block, execute_block, embed_block)] == [
        "parse_block", "execute_block", "embed_block"
    ]  # fmt: skip


def test_without_homes_a_block_goes_to_one_worker():
    workers = Workers(["a", "b", "c"], Homes(None, 2))
    assert workers.share(4, ["shop", "bank", "shop"]) == {"b": [0, 1, 2]}


def test_with_homes_the_candidates_of_a_database_go_where_it_is():
    """To the workers of its node by turns, whatever node the block is parsed on; and those of another elsewhere."""
    homes = Homes(("10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.2"), 40)
    of = {name: homes.of(name) for name in (f"d{i}" for i in range(40))}
    assert set(map(tuple, of.values())) == {(0, 2), (1, 3)}
    here, there = next(name for name in of if of[name] == [0, 2]), next(name for name in of if of[name] == [1, 3])
    workers = Workers(["a", "b", "c", "d"], homes)
    assert workers.share(0, [here, there, here]) == {"a": [0, 2], "b": [1]}
    assert workers.share(1, [here, there, here]) == {"c": [0, 2], "d": [1]}


@pytest.mark.parametrize("num_databases", [1, 2, 3, 8, 100])
def test_no_worker_is_left_without_a_database(num_databases: int):
    """As far as chance gives each node one: of few databases each is on several nodes."""
    homes = Homes(tuple(f"10.0.0.{i % 8}" for i in range(16)), num_databases)
    counts = [len(homes.of(f"d{i}")) // 2 for i in range(num_databases)]
    assert counts == [-(-8 // num_databases)] * num_databases


def test_homes_stay_where_other_nodes_join_and_leave():
    """A database moves only to a node that joined, or from one that left."""
    before = Homes(tuple(f"10.0.0.{i}" for i in range(8)), 200)
    after = Homes(tuple(f"10.0.0.{i}" for i in range(9)), 200)
    moved = [name for name in (f"d{i}" for i in range(200)) if before.of(name) != after.of(name)]
    assert all(after.of(name) == [8] for name in moved)
    assert 5 < len(moved) < 50
