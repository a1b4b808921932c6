"""Who uses a served model: what runs of one cluster know of each other."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from rayfactory.cluster.lease import Lease, alone, num_leases
from rayfactory.cluster.session import connected
from rayfactory.config import ClusterConfig

ROOT = Path(__file__).resolve().parents[2]

OTHER_RUN = """
import sys
from rayfactory.cluster.lease import Lease, alone
from rayfactory.cluster.session import connected
from rayfactory.config import ClusterConfig
with connected(ClusterConfig(address=sys.argv[1], dashboard=False)):
    lease = Lease("app")
    with alone(sys.exit):
        sys.stdout.write("holds both\\n")
        sys.stdout.flush()
        sys.stdin.read()
"""


@pytest.fixture(scope="module")
def cluster():
    with connected(ClusterConfig(dashboard=False)):
        yield


def test_leases_of_an_app_are_counted(cluster):
    """Each counts once, from when it is taken to when it is ended, and an app of a longer name is another one."""
    first, second, _longer = Lease("app"), Lease("app"), Lease("app-2")
    assert num_leases("app") == 2
    first.end()
    assert num_leases("app") == 1
    second.end()
    assert num_leases("app") == 0
    assert num_leases("app-2") == 1


def test_killed_run_uses_nothing_and_keeps_nobody_out(cluster):
    """Another driver holds a lease and is alone; after kill -9 of it, both are free."""
    import ray

    from rayfactory.cluster import lease

    other = subprocess.Popen(
        [sys.executable, "-c", OTHER_RUN, ray.get_runtime_context().gcs_address],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "holds both\n"
        assert num_leases("app") == 1
        with pytest.raises(ValueError, match="serving"):
            lease._hold("serving")
    finally:
        other.kill()
        other.communicate()
    with alone(pytest.fail):
        deadline = time.monotonic() + 300
        while num_leases("app"):
            assert time.monotonic() < deadline, "a dead run uses the app"
            time.sleep(0.05)


def test_one_run_after_the_other_is_alone(cluster):
    """What is left is free for the next at once, however it was left."""
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt), alone(pytest.fail):
            raise KeyboardInterrupt
