"""A Ray cluster of its own process, for runs that are not about a cluster's beginning or end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

PROGRAM = """
import sys
import ray

for attempt in range(5):
    try:
        context = ray.init(address="local", num_cpus=2, include_dashboard=False)
        break
    except Exception:  # it did not start within Ray's 30 seconds
        ray.shutdown()
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Elsewhere:
    """A cluster of two CPUs that somebody else has started.

    Attributes:
        overrides: the settings of a run on it.
        variables: of the environment of such a run.
        pid: of the process that has started it, which all of it is below.
    """

    overrides: tuple[str, ...]
    variables: dict[str, str]
    pid: int


@contextmanager
def started() -> Iterator[Elsewhere]:
    """Start the cluster, and end it."""
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid4().hex}
    other = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **variables},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert other.stdout is not None
    try:
        address = other.stdout.readline().strip()
        assert address, "Ray did not start"
        yield Elsewhere(("cluster=existing", f"cluster.address={address}"), variables, other.pid)
    finally:
        other.communicate()
