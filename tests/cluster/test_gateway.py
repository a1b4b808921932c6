"""The gateway on a cluster that was started without the user's key: it has the user's all the same, and keeps it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from rayfactory.cluster.gateway import ask_status, start_gateway
from rayfactory.cluster.session import connected
from rayfactory.config import ClusterConfig, ModelConfig, Slot
from tests.models.chats import PROMPT, key, model
from tests.models.endpoint_server import serving

VARIABLE = "KEY_OF_THE_GATEWAY_TEST"
SECRET = "sk-whoever-starts-the-run"
KEPT_BACK = "ANOTHER_KEY_OF_THE_GATEWAY_TEST"


@pytest.fixture(scope="module")
def cluster():
    """Start Ray, whose processes then have the environment of this moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEPT_BACK, SECRET)
        with connected(ClusterConfig(dashboard=False, num_cpus=1), [KEPT_BACK, "NO_SUCH_VARIABLE"]):
            assert os.environ[KEPT_BACK] == SECRET
            yield


def test_processes_of_a_cluster_that_is_started_here_have_no_keys(cluster):
    """They run queries of rules, and need none; whoever started them keeps them."""
    import ray

    worker: Any = ray.remote(lambda: Path("/proc/self/environ").read_text(errors="replace"))
    found = ray.get(worker.remote(), timeout=600)
    assert "PATH=" in found
    assert SECRET not in found
    node: Any = ray._private.worker._global_node
    for kind, (process,) in node.all_processes.items():
        environment = Path(f"/proc/{process.process.pid}/environ").read_text(errors="replace")
        assert SECRET not in environment, kind


def test_key_is_that_of_whoever_starts_the_run(cluster, tmp_path, monkeypatch):
    """Not one in the environment of Ray's processes; a gateway that was lost and started again gets it again."""
    import ray

    monkeypatch.setenv(VARIABLE, SECRET)
    with serving(api_key=SECRET) as server:
        models: dict[Slot, ModelConfig] = {"strong": model(server, api_key_env=VARIABLE)}
        gateway = start_gateway(models, tmp_path, None)
        ray.get(gateway.complete.remote("strong", key(0), PROMPT), timeout=600)
        ray.kill(gateway, no_restart=False)
        call = gateway.complete.remote("strong", key(1), PROMPT)
        for _ in range(6_000):
            if ray.wait([call], timeout=0.1)[0]:
                break
            ray.get(ask_status(gateway, models))
        ray.get(call, timeout=0)
        status = ray.get(gateway.close.remote())
        ray.kill(gateway)
    # Three where the kill came while the second was being answered.
    assert len(server.requests) in (2, 3)
    assert {request["headers"]["authorization"] for request in server.requests} == {f"Bearer {SECRET}"}
    assert sum(row["requests"] for row in status.ledger) == 2
    assert SECRET not in repr(status)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    # What Ray wrote, and what its control store knows of actors with their runtime environments, jobs and workers.
    node: Any = ray._private.worker._global_node
    files = [path for path in Path(node.get_session_dir_path()).rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    store: Any = ray._private.state.state._connect_and_get_accessor()
    known = [*store.get_actor_table(None, None), *store.get_job_table(), *store.get_worker_table()]
    assert any(b"Gateway" in entry for entry in known)
    assert not [entry for entry in known if SECRET.encode() in entry]


def test_notices_are_told_once_and_have_a_bound(cluster, tmp_path):
    """That there were more is the last of them."""
    import ray

    gateway = start_gateway({}, tmp_path, None)
    ray.get([gateway.tell.remote(f"notice {i % 120}") for i in range(240)])
    notices = ray.get(gateway.status.remote()).notices
    ray.kill(gateway)
    assert len(notices) == len(set(notices)) == 101
    assert "more to tell" in notices[-1]


def test_gateway_without_keys_waits_for_none(cluster, tmp_path):
    """Nor does one whose models need no key after it was started again, when nobody asks for its status."""
    import ray

    with serving() as server:
        gateway = start_gateway({"strong": model(server)}, tmp_path, None)
        ray.kill(gateway, no_restart=False)
        ray.get(gateway.complete.remote("strong", key(0), PROMPT))
        ray.get(gateway.close.remote())
        ray.kill(gateway)
    assert server.num_requests == 1
