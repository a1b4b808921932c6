"""A run with a model whose pool is in object storage: killed, interrupted, and ended on another machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rayfactory.pool_copy import local
from tests.cluster.test_faults import journal, rows_of, sql_model
from tests.elsewhere import Elsewhere
from tests.models.endpoint_server import EndpointServer, serving
from tests.object_storage import Faults, Storage, faulty
from tests.shop import make_shop

ROOT = Path(__file__).resolve().parents[2]
TARGET = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_data_dir: Callable[[Path], Path]) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for machine in ("a", "b", "c"):
        make_data_dir(folder / machine)
    make_shop(folder / "shop.sqlite")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[EndpointServer]:
    with serving(reply=sql_model(folder), delay_s=0.1) as running:
        yield running


def words(folder: Path, server: EndpointServer, run_dir: str, machine: str, elsewhere: Elsewhere) -> list[str]:
    return [
        sys.executable, "-m", "rayfactory", "+benchmark=custom", f"benchmark.root={folder / 'shop.sqlite'}",
        f"run_dir={run_dir}", f"data_dir={folder / machine}", f"target={TARGET}", "round.requests=2",
        "round.requests_after_warmup=2", "round.queries_per_request=5", "cluster.dashboard=false", "cluster.workers=1",
        "display.mode=lines", "models=endpoint", "models.strong.name=test-model",
        f"models.strong.base_url={server.base_url}", "models.strong.usd_per_million_in=2.5",
        "models.strong.usd_per_million_out=10", *elsewhere.overrides,
    ]  # fmt: skip


def test_run_is_the_same_wherever_its_pool_is(
    folder: Path, server: EndpointServer, storage: Storage, elsewhere: Elsewhere
):
    """A tenth of the requests to the storage fail besides; no reply that arrived is asked for again."""
    quiet = subprocess.run(
        words(folder, server, str(folder / "undisturbed"), "c", elsewhere),
        cwd=ROOT, env=os.environ | elsewhere.variables, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert quiet.returncode == 0, quiet.stdout + quiet.stderr
    billed = server.ledger()["billed"]["replies"]
    url = storage.new_url()
    with faulty(storage, Faults(share=0.1)) as before:
        environment = os.environ | elsewhere.variables | before.variables
        for machine, number, at in (("a", signal.SIGKILL, 1), ("a", signal.SIGINT, 2), ("b", None, 0)):
            process = subprocess.Popen(
                words(folder, server, url, machine, elsewhere),
                cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            if number is not None:
                deadline = time.monotonic() + 600
                rounds = folder / machine / "pools"
                while len({path.name for path in rounds.glob("*/run/rounds/*.json")}) < at:
                    assert process.poll() is None, process.communicate()[0]
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
                process.send_signal(number)
            out, _ = process.communicate(timeout=900)
            assert process.returncode == {None: 0, signal.SIGINT: 130, signal.SIGKILL: -9}[number], out
            assert storage.variables["AWS_SECRET_ACCESS_KEY"] not in out
    assert f"{url}/summary.json" in out
    assert str(folder / "b") not in out
    copy = local(url, folder / "c", journal=True)
    assert rows_of(copy) == rows_of(folder / "undisturbed")
    lines = journal(copy)
    arrived = [tuple(line["key"]) for line in lines if "done" in line]
    assert len(arrived) == len(set(arrived))
    sent = sum("sent" in line for line in lines)
    assert len(arrived) <= server.ledger()["billed"]["replies"] - billed <= sent

    # What is made of a pool is made of one in object storage.
    environment = os.environ | storage.variables
    for task in (["task=report"], ["task=export", "format=jsonl"]):
        done = subprocess.run(
            [sys.executable, "-m", "rayfactory", *task, f"run_dir={url}", f"data_dir={folder / 'c'}",
             f"output={folder / task[-1]}"],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "task=report" / "report.html").exists()
    exported = sum(1 for path in (folder / "format=jsonl").glob("*.jsonl") for _ in path.open())
    assert exported == TARGET
    again = subprocess.run(
        words(folder, server, url, "c", elsewhere),
        cwd=ROOT, env=environment | elsewhere.variables, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"{url} is complete: {TARGET} rows" in again.stdout + again.stderr


def test_address_of_nothing_is_told(folder: Path, storage: Storage):
    for url, told in (("s3://none-of-these/pool", "no bucket"), ("ftp://x/y", "has to be filled in with a folder")):
        done = subprocess.run(
            [sys.executable, "-m", "rayfactory", "+benchmark=custom", f"benchmark.root={folder / 'shop.sqlite'}",
             f"data_dir={folder / 'c'}", f"run_dir={url}"],
            cwd=ROOT, env=os.environ | storage.variables, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert done.returncode == 2, done.stdout + done.stderr
        assert told in done.stderr
        assert "Traceback" not in done.stderr
