"""What a stage does with a block: statements that are not to run again, and those whose worker is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from rayfactory.cluster.dataflow import _INPUT, embed_block, execute_block, parse_block
from rayfactory.cluster.tool_worker import ToolWorker
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
from rayfactory.cluster.dataflow import _executed
from rayfactory.records import Execution
from tests.cluster.test_dataflow import KILL, LOST, Mortal

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
worker = ray.remote(Mortal).options(max_restarts=-1, max_task_retries=1).remote(sys.argv[1])
statements = ("SELECT 1", f"SELECT 2 {LOST}", f"SELECT 3 {KILL}", "SELECT 4")
work = [("shop", sql, Execution(None, "", "")) for sql in statements]
work += [("shop", "DROP", Execution("refused", "DROP is not a SELECT", ""))]
print([(execution.reason, execution.row_count) for execution in _executed(worker, work)])
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
