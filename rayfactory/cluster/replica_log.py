"""What a replica that starts has written: which part of its start it is in, and why it died."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What vLLM writes when it comes to the next part of its start, in that order.
_STAGES = (
    ("Initializing a V1 LLM engine", "starting the engine"),
    ("Starting to load model", "loading the weights"),
    ("Loading weights took", "compiling and warming up"),
    ("init engine", "opening the endpoint"),
)

_LOG_CHARS = 100_000
_ERROR = re.compile(r"(?m)^.*?\b((?:[A-Za-z_]+\.)*[A-Z]\w*(?:Error|Exception|Exit): \S.*)$")
# What Ray, Serve and vLLM say of an error that somebody else has told before.
_ECHO = re.compile(
    r"Engine core initialization failed|RayTaskError|RayActorError|WorkerProc initialization failed|Backoff"
)


def cause(told: str) -> str:
    """Return the last error in what was written that is no echo of another; its last line where there is none."""
    errors = [match[1] for match in _ERROR.finditer(told) if not _ECHO.search(match[1])]
    lines = [line for line in told.splitlines() if line.strip()]
    return errors[-1] if errors else lines[-1] if lines else "it said nothing"


@dataclass(frozen=True, slots=True)
class ReplicaLog:
    """What a replica that starts has written so far.

    Attributes:
        node_id: where the replica is; empty: nowhere yet.
        paths: of what it writes, on that node.
        text: the end of both.
    """

    node_id: str = ""
    paths: tuple[str, ...] = ()
    text: str = ""

    @property
    def stage(self) -> str:
        """What the replica is doing, as a person says it."""
        if not self.node_id:
            return "waiting for room in the cluster"
        return next((words for mark, words in reversed(_STAGES) if mark in self.text), "starting the replica")

    @property
    def place(self) -> str:
        """Where to read on."""
        return " and ".join(self.paths) or "the logs of Ray Serve"


def replica_log(name: str, before: ReplicaLog) -> ReplicaLog:
    """Return what the newest replica of a model has written, on whichever node; of one that is gone, what is left."""
    import ray
    from ray.serve.context import _get_global_client
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    client: Any = _get_global_client()
    # Nothing public tells which process a replica is.
    details = ray.get(client._controller.get_serve_instance_details.remote())  # noqa: SLF001
    deployments = details["applications"].get(name, {}).get("deployments", {})
    replicas = [
        replica
        for deployment_name, deployment in deployments.items()
        if deployment_name.startswith("LLMServer")
        for replica in deployment["replicas"]
        if replica.get("node_id") and replica.get("pid")
    ]
    newest = max(replicas, key=lambda replica: replica["start_time_s"], default=None)
    node_id, pid = (newest["node_id"], newest["pid"]) if newest else (before.node_id, None)
    if not node_id:
        return before
    on_its_node = NodeAffinitySchedulingStrategy(node_id, soft=False)
    read = ray.remote(_read_log).options(num_cpus=0, scheduling_strategy=on_its_node)
    try:
        paths, text = ray.get(read.remote(pid, before.paths), timeout=30)
    except ray.exceptions.RayError:  # the node is gone, or too busy to tell; it is asked again
        return before
    return ReplicaLog(node_id, paths, text or before.text)


def _read_log(pid: int | None, paths: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """Return where a process of this node writes, and the end of that; `paths` where it is gone."""
    with suppress(OSError):
        paths = tuple(str(Path(f"/proc/{pid}/fd/{number}").readlink()) for number in (1, 2))
    text = ""
    for path in paths:
        with suppress(OSError):
            text += Path(path).read_text(encoding="utf-8", errors="replace")[-_LOG_CHARS:] + "\n"
    return paths, text
