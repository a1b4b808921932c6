"""A run as a job of a cluster that asks for a token, submitted as `launch/submit.sh` does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from rayfactory.pool import connect
from tests.shop import make_shop

ROOT = Path(__file__).resolve().parents[2]

CLUSTER = """
import sys
import ray

context = ray.init(address="local", num_cpus=2, include_dashboard=True, dashboard_port=0, log_to_driver=False)
print(context.dashboard_url, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def token() -> str:
    return uuid4().hex


@pytest.fixture(scope="module")
def dashboard(token: str) -> Iterator[str]:
    """Yield the address of the dashboard of a cluster with a token."""
    environment = {
        **os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, "Ray did not start"
        wait_for_jobs(f"http://{address}", environment)
        yield f"http://{address}"
        process.communicate()


def wait_for_jobs(address: str, environment: dict[str, str]) -> None:
    """Wait until jobs are taken, which is some seconds after the dashboard has come up."""
    words = ["ray", "job", "submit", "--address", address, "--", "true"]
    deadline = time.monotonic() + 300
    while True:
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        assert time.monotonic() < deadline, done.stdout + done.stderr
        time.sleep(1)


def submit(address: str, token: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "RAY_ADDRESS": address, "RAY_AUTH_TOKEN": token,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    return subprocess.run(
        [str(ROOT / "launch" / "submit.sh"), *words], cwd="/", env=environment, capture_output=True, text=True,
        check=False, timeout=900,
    )  # fmt: skip


def test_job_makes_its_rows_and_a_second_one_finds_them(
    tmp_path: Path, make_data_dir: Callable[[Path], Path], dashboard: str, token: str
):
    make_data_dir(tmp_path / "cache")
    make_shop(tmp_path / "shop.sqlite")
    words = [
        "+benchmark=custom", f"benchmark.root={tmp_path / 'shop.sqlite'}", f"run_dir={tmp_path / 'pool'}",
        f"data_dir={tmp_path / 'cache'}", "target=20", "round.requests=4", "round.queries_per_request=5",
        "cluster.workers=1",
    ]  # fmt: skip
    done = submit(dashboard, token, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search("Job '.*' succeeded", done.stdout)
    assert "20 rows of" in done.stdout
    assert connect(tmp_path / "pool").sql("SELECT count(*) FROM R").fetchone() == (20,)
    again = submit(dashboard, token, *words)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "is complete: 20 rows" in again.stdout


def test_job_that_fails_fails_here_too(tmp_path: Path, dashboard: str, token: str):
    done = submit(dashboard, token, "+benchmark=custom", "benchmark.root=/no/such/file", f"run_dir={tmp_path / 'pool'}")
    assert done.returncode != 0
    assert "/no/such/file" in done.stdout


def test_without_the_token_nothing_is_submitted(tmp_path: Path, dashboard: str):
    done = submit(dashboard, "another", "+benchmark=tpcds", f"run_dir={tmp_path / 'pool'}")
    assert done.returncode != 0
    assert "oken" in done.stdout + done.stderr
    assert not (tmp_path / "pool").exists()
