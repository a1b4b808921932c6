"""A Ray cluster of several nodes on this machine, each with a raylet of its own.

python -m tests.cluster.nodes      prints its address, then does what standard input says:
add                                another node comes
kill                               the node that came first, the head aside, is gone at once; prints what ran on it
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from tests.cluster.processes import command_line, descendants

HEALTH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
"""A node that is gone is noticed within seconds."""

PATIENCE_S = 300
"""Where others use the machine, a node takes its time to come."""

ATTEMPTS = 5
"""Ray itself waits for half a minute, and no longer."""


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Keep the cluster until standard input ends."""
    for check in ("READY_CHECK", "HEALTH_CHECK"):  # Serve would end a proxy that takes more than seconds
        os.environ[f"RAY_SERVE_PROXY_{check}_TIMEOUT_S"] = str(PATIENCE_S)
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster()

    def add(**options: object) -> Any:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                node = cluster.add_node(wait=False, num_cpus=1, **options)
            except Exception:  # Ray has no type for it
                if attempt == ATTEMPTS:
                    raise
                continue
            cluster.wait_for_nodes(timeout=PATIENCE_S)
            return node
        raise AssertionError("unreachable")

    add(include_dashboard=False, _system_config=HEALTH)
    nodes: list[Any] = []
    say(cluster.address)
    for line in sys.stdin:
        if line.strip() == "add":
            nodes.append(add())
            say("added")
        else:
            node = nodes.pop(0)
            raylet = node.all_processes["raylet"][0].process
            names = [name_of(pid) for pid in descendants(raylet.pid)]
            os.kill(raylet.pid, signal.SIGKILL)
            cluster.remove_node(node, allow_graceful=False)
            say("killed", *sorted(filter(None, names)))
    cluster.shutdown()


def name_of(pid: int) -> str:
    """Return the name of the actor or task that a process of Ray's has, empty where it has none."""
    title = command_line(pid).strip("\0")
    return title.removeprefix("ray::").partition(".")[0] if title.startswith("ray::") else ""


if __name__ == "__main__":
    main()
