"""Requests in batch files whose client is killed: the next one pays for nothing twice."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayfactory.models.journal import FILE_NAME
from rayfactory.models.protocol import request_body
from tests.models.batch_client import expected, model
from tests.models.batch_server import BatchServer
from tests.models.chat_client import call
from tests.models.endpoint_server import identity, running

PROJECT = Path(__file__).resolve().parents[2]


def answers_of(server: BatchServer, num_completions: int) -> list[int]:
    """Return how often each call was billed."""
    bodies = [request_body(model(server.base_url), *call(i)) for i in range(num_completions)]
    return [server.answers[identity(body)] for body in bodies]


def command(directory: Path, server: BatchServer, num_completions: int) -> list[str]:
    return [sys.executable, "-m", "tests.models.batch_client", str(directory), server.base_url, str(num_completions)]


def kill_when(condition: Callable[[], object], server: BatchServer, arguments: list[str]) -> None:
    """Start a client and kill it once something holds."""
    with subprocess.Popen(arguments, cwd=PROJECT, stdout=subprocess.DEVNULL) as client:
        deadline_s = time.monotonic() + 120
        while not condition():
            assert client.poll() is None, "the client ended before it was killed"
            assert time.monotonic() < deadline_s
            time.sleep(0.001)
        server.is_held = True
        client.kill()
        client.wait()
        server.is_held = False


def ended_run(server: BatchServer, arguments: list[str], num_completions: int) -> dict[str, Any]:
    """Run a client to its end, after which it has every completion and each was billed once; return its ledger's row."""
    last = subprocess.run(arguments, cwd=PROJECT, stdout=subprocess.PIPE, check=True)
    assert answers_of(server, num_completions) == [1] * num_completions
    result = json.loads(last.stdout)
    assert result["texts"] == expected(range(num_completions))
    (row,) = result["ledger"]
    return dict(row)


@pytest.mark.parametrize(
    "point", ["before_upload", "upload_unheard", "before_create", "create_unheard", "pending", "reading"]
)
def test_kill_pays_for_nothing_twice(point, tmp_path):
    """Wherever the process is killed, the next one obtains every completion, and each is billed once."""
    num_completions = 20
    with running(BatchServer(step_s=0.02, content_pieces=20)) as server:
        journal = tmp_path / FILE_NAME
        arguments = command(tmp_path, server, num_completions)
        faults = {
            "before_upload": ("upload", "500"), "upload_unheard": ("upload", "silence_after"),
            "before_create": ("create", "500"), "create_unheard": ("create", "silence_after"),
        }  # fmt: skip
        if point in faults:
            what, fault = faults[point]
            server.always[what] = fault
            kill_when(lambda: server.calls[what], server, arguments)
            del server.always[what]
        elif point == "pending":
            kill_when(lambda: server.calls["state"] > 1, server, arguments)
        else:
            kill_when(lambda: b'"done"' in journal.read_bytes() if journal.exists() else False, server, arguments)
            num_read = journal.read_bytes().count(b'"done"')
            assert 0 < num_read < num_completions
        row = ended_run(server, arguments, num_completions)
        bill = dict(server.billed)
    assert row["requests"] == num_completions
    # Only of a batch that may have been made it is not known that it cost nothing.
    assert row["unconfirmed_attempts"] == (num_completions if point == "before_create" else 0)
    assert (row["tokens_in"], row["tokens_out"]) == (bill["tokens_in"], bill["tokens_out"])


def test_many_kills_in_bad_weather_pay_for_nothing_twice(tmp_path):
    """Several batches, a third of all requests about them faulty, ten kills: every call is billed once."""
    num_completions = 200
    with running(BatchServer(step_s=0.02, content_pieces=10, api_fault_share=0.3, seed=4)) as server:
        arguments = command(tmp_path, server, num_completions)
        for _ in range(10):
            goal = server.calls.total() + 9
            kill_when(lambda goal=goal: server.calls.total() >= goal, server, arguments)  # type: ignore[misc]
        row = ended_run(server, arguments, num_completions)
        bill = dict(server.billed)
    assert (row["requests"], row["tokens_out"]) == (num_completions, bill["tokens_out"])
