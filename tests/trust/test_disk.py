"""A disk without room stops a run and says so, and nothing that was committed is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.elsewhere import Elsewhere
from tests.shop import make_shop
from tests.trust.disk import module, on_small_disk


def test_commit_that_does_not_fit_leaves_the_rounds_before_it(tmp_path: Path):
    """The disk is full at one write after the other: its size goes up page by page."""
    done = on_small_disk(tmp_path / "disk", 4, module("tests.trust.full_disk", str(tmp_path / "disk"), "commit"))
    assert done.returncode == 0, done.stdout + done.stderr
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert len(said) == 32
    assert all("No space left on device" in message for message in said.values())
    assert sum("committed before it is intact" in message for message in said.values()) > 20


def test_rounds_that_there_is_no_room_to_put_together_stay_as_they_are(tmp_path: Path):
    """The disk is full at one write after the other; the room that was taken is given back, and later it is done."""
    done = on_small_disk(tmp_path / "disk", 4, module("tests.trust.full_disk", str(tmp_path / "disk"), "compact"))
    assert done.returncode == 0, done.stdout + done.stderr
    said = [line.split(": ", 1)[1] for line in done.stdout.splitlines()]
    refused = [message for message in said if message]
    assert len(said) == 32
    assert said[-1] == ""
    assert all("put together" in message and "No space left on device" in message for message in refused)
    assert 3 < len(refused) < len(said)


def test_run_on_a_full_disk_says_so_and_goes_on_where_there_is_room(
    tmp_path: Path, make_data_dir: Callable[[Path], Path], elsewhere: Elsewhere
):
    make_shop(tmp_path / "shop.sqlite")
    disk, saved = tmp_path / "disk", tmp_path / "saved"
    command = [
        sys.executable, "-m", "rayfactory", "+benchmark=custom", f"benchmark.root={tmp_path / 'shop.sqlite'}",
        f"run_dir={disk}/run", f"data_dir={make_data_dir(tmp_path / 'cache')}", "target=60", "round.requests=4",
        "round.queries_per_request=5", "cluster.dashboard=false", "cluster.workers=1", "display.mode=lines",
    ]  # fmt: skip
    keep = f'"$@"; code=$?; cp -r "{disk}/run" "{saved}"; exit $code'
    done = on_small_disk(disk, 150, ["sh", "-c", keep, "sh", *command])
    assert done.returncode == 2, done.stdout + done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert "then run the same command again" in done.stderr
    command[5] = f"run_dir={saved}"
    command += elsewhere.overrides
    resumed = subprocess.run(
        command, env=os.environ | elsewhere.variables, capture_output=True, text=True, check=False, timeout=600
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "60 rows" in resumed.stdout
