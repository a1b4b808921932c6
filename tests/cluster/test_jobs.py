"""A run as a job of a cluster that asks for a token, submitted as `launch/submit.sh` does."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rayfactory.pool import connect
from tests.elsewhere import Elsewhere, started
from tests.shop import make_shop

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Elsewhere]:
    """Yield a cluster with a dashboard that takes jobs, and a token."""
    with started(dashboard=True) as running:
        wait_for_jobs(running)
        yield running


def wait_for_jobs(cluster: Elsewhere) -> None:
    """Wait until jobs are taken, which is some seconds after the dashboard has come up."""
    words = ["ray", "job", "submit", "--address", cluster.dashboard, "--", "true"]
    deadline = time.monotonic() + 300
    while True:
        done = subprocess.run(words, env=os.environ | cluster.variables, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        assert time.monotonic() < deadline, done.stdout + done.stderr
        time.sleep(1)


def submit(cluster: Elsewhere, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "launch" / "submit.sh"), *words], cwd="/", capture_output=True, text=True, check=False, timeout=900,
        env=os.environ | cluster.variables | {"RAY_ADDRESS": cluster.dashboard} | variables,
    )  # fmt: skip


def test_job_makes_its_rows_and_a_second_one_finds_them(
    tmp_path: Path, make_data_dir: Callable[[Path], Path], cluster: Elsewhere
):
    make_data_dir(tmp_path / "cache")
    make_shop(tmp_path / "shop.sqlite")
    words = [
        "+benchmark=custom", f"benchmark.root={tmp_path / 'shop.sqlite'}", f"run_dir={tmp_path / 'pool'}",
        f"data_dir={tmp_path / 'cache'}", "target=20", "round.requests=4", "round.queries_per_request=5",
        "cluster.workers=1",
    ]  # fmt: skip
    done = submit(cluster, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search("Job '.*' succeeded", done.stdout)
    assert "20 rows of" in done.stdout
    assert connect(tmp_path / "pool").sql("SELECT count(*) FROM R").fetchone() == (20,)
    again = submit(cluster, *words)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "is complete: 20 rows" in again.stdout


def test_job_that_fails_fails_here_too(tmp_path: Path, cluster: Elsewhere):
    done = submit(cluster, "+benchmark=custom", "benchmark.root=/no/such/file", f"run_dir={tmp_path / 'pool'}")
    assert done.returncode != 0
    assert "/no/such/file" in done.stdout


def test_without_the_token_nothing_is_submitted(tmp_path: Path, cluster: Elsewhere):
    done = submit(cluster, "+benchmark=tpcds", f"run_dir={tmp_path / 'pool'}", RAY_AUTH_TOKEN="another")
    assert done.returncode != 0
    assert "oken" in done.stdout + done.stderr
    assert not (tmp_path / "pool").exists()
