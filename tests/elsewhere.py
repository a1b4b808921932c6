"""A Ray cluster of its own process, for runs that are not about a cluster's beginning or end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

PROGRAM = """
import sys
from ray.cluster_utils import Cluster

options = {
    "num_cpus": int(sys.argv[1]),
    "object_store_memory": 10**9,
    "include_dashboard": sys.argv[2] == "True",
    "dashboard_port": 0,
    "dashboard_agent_listen_port": 0,  # the usual one may be another cluster's, and then no jobs are taken
}
for attempt in range(5):
    try:
        cluster = Cluster(initialize_head=True, head_node_args=options)
        break
    except Exception:  # it did not start within Ray's 30 seconds
        pass
print(cluster.address, cluster.webui_url, flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Elsewhere:
    """A cluster that somebody else has started.

    Attributes:
        address: that a run joins.
        dashboard: its address, where there is one.
        overrides: the settings of a run on it.
        variables: of the environment of such a run.
        pid: of the process that has started it, which all of it is below.
    """

    address: str
    dashboard: str
    overrides: tuple[str, ...]
    variables: dict[str, str]
    pid: int


@contextmanager
def started(num_cpus: int = 2, *, dashboard: bool = False) -> Iterator[Elsewhere]:
    """Start the cluster, and end it. Its jobs find the programs of this environment."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid4().hex, "PATH": path}
    other = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(num_cpus), str(dashboard)], env={**os.environ, **variables},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert other.stdout is not None
    try:
        line = other.stdout.readline().split()
        assert line, "Ray did not start"
        address, url = line[0], f"http://{line[1]}" if dashboard else ""
        yield Elsewhere(address, url, ("cluster=existing", f"cluster.address={address}"), variables, other.pid)
    finally:
        other.communicate()
