"""kill -9 of anything, at any moment: what was committed stays as it was, and the run ends with the rows that it owes.

`RAYFACTORY_KILLS` is how many; a hundred take an hour or two. `RAYFACTORY_KILLS_SEED` chooses other moments.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.cluster import test_faults
from tests.cluster.processes import command_line, descendants
from tests.cluster.test_run import ROOT, TARGET, command, rows_of, run
from tests.models.endpoint_server import serving
from tests.shop import make_shop

ENDS_S = 240
"""Without its GCS, Ray waits a minute for another one, and then ends what has joined it."""

KILLS = int(os.environ.get("RAYFACTORY_KILLS", "100"))
SEED = int(os.environ.get("RAYFACTORY_KILLS_SEED", "11"))

VICTIMS = (
    "driver",
    "raylet/raylet",
    "gcs_server",
    "sandboxed",
    "ray::",
    "ToolWorker",
    "Encoder",
    "CriticalAgent",
    "GenerationAgent",
    "ExpansionAgent",
    "SeedSelector",
)


def victims(process: subprocess.Popen[bytes], kind: str) -> list[int]:
    """Return the processes of a kind below the driver; the driver itself stands for all of them."""
    if kind == "driver":
        return [process.pid]
    with suppress(OSError):  # one of them ends at this moment
        return [pid for pid in descendants(process.pid) if kind in command_line(pid)]
    return []


def kills(process: subprocess.Popen[bytes], rng: random.Random) -> Iterator[str]:
    """Kill one process after the other, a moment apart, until the driver has ended; yield what each was."""
    while process.poll() is None:
        time.sleep(rng.uniform(0, 8))
        kind = rng.choice(VICTIMS)
        found = victims(process, kind)
        if process.poll() is not None or not found:
            continue
        with suppress(ProcessLookupError):
            if kind == "driver":
                os.killpg(process.pid, signal.SIGKILL)
            else:
                os.kill(rng.choice(found), signal.SIGKILL)
            yield kind
        if kind in ("driver", "raylet/raylet", "gcs_server"):
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=ENDS_S)
                return
            pytest.fail(f"the run goes on {ENDS_S} seconds after {kind} was killed")


def killed_again_and_again(
    command_of: Callable[[str], list[str]],
    rows_of: Callable[[str], list[tuple[object, ...]]],
    check: Callable[[str], None],
) -> Counter[str]:
    """Have runs killed, each some times, and then end; return how often each kind of process was killed.

    Args:
        command_of: the command line of a run, by its name.
        rows_of: what its pool has; nothing where it has not begun.
        check: of a run that has ended.
    """
    rng = random.Random(SEED)
    counts: Counter[str] = Counter()
    for number in range(1_000):
        if counts.total() >= KILLS:
            break
        name = f"run{number}"
        committed: list[tuple[object, ...]] = []
        for _ in range(4):
            process = subprocess.Popen(
                command_of(name),
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            for kind in kills(process, rng):
                counts[kind] += 1
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what a killed raylet has left
            process.wait()
            now = rows_of(name)
            assert now[: len(committed)] == committed
            committed = now
            if process.returncode == 0 or counts.total() >= KILLS:
                break
        done = subprocess.run(command_of(name), cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        check(name)
    return counts


@pytest.mark.slow
def test_any_process_at_any_moment(tmp_path: Path, make_data_dir: Callable[[Path], Path]):
    """With rules for authors."""
    make_data_dir(tmp_path / "cache")
    make_shop(tmp_path / "shop.sqlite")
    assert run(tmp_path, "undisturbed").returncode == 0
    undisturbed = rows_of(tmp_path / "undisturbed")
    assert len(undisturbed) == TARGET

    def check(name: str) -> None:
        assert rows_of(tmp_path / name) == undisturbed

    def rows(name: str) -> list[tuple[object, ...]]:
        return rows_of(tmp_path / name) if (tmp_path / name / "run.json").exists() else []

    counts = killed_again_and_again(partial(command, tmp_path), rows, check)
    assert counts.total() >= KILLS


@pytest.mark.slow
def test_any_process_at_any_moment_of_runs_that_pay(tmp_path: Path):
    """With a model for every agent: what has arrived is not asked for again, by the journal and by the bill."""
    make_shop(tmp_path / "shop.sqlite")
    with serving(reply=test_faults.sql_model(tmp_path), delay_s=0.3) as server:
        command_of = partial(test_faults.command, tmp_path, server.base_url)
        done = subprocess.run(command_of("undisturbed"), cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        undisturbed = test_faults.rows_of(tmp_path / "undisturbed")
        assert len(undisturbed) == test_faults.TARGET
        billed = [server.ledger()["billed"]["replies"]]

        def rows(name: str) -> list[tuple[object, ...]]:
            return test_faults.rows_of(tmp_path / name) if (tmp_path / name / "run.json").exists() else []

        def check(name: str) -> None:
            assert test_faults.rows_of(tmp_path / name) == undisturbed
            arrived: set[tuple[object, ...]] = set()
            sent = 0
            for line in test_faults.journal(tmp_path / name):
                assert tuple(line.get("key", ())) not in arrived
                sent += "sent" in line
                if "done" in line:
                    arrived.add(tuple(line["key"]))
            billed.append(server.ledger()["billed"]["replies"])
            assert len(arrived) <= billed[-1] - billed[-2] <= sent

        counts = killed_again_and_again(command_of, rows, check)
    assert counts.total() >= KILLS
