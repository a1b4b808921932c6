"""A Ray cluster that scales by itself: nodes of one CPU each come when they are asked for, the head has none.

Ray's own provider of nodes for tests starts them as processes on this machine.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.cluster.processes import descendants

HEAD_ID = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
"""What the provider calls the head."""


@contextmanager
def scaling_cluster(folder: Path, max_nodes: int) -> Iterator[str]:
    """Have such a cluster, for the length of a with statement; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kinds: dict[str, Any] = {
        "ray.head.default": {"resources": {}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": max_nodes},
    }
    settings = {
        "cluster_name": "fake_multinode", "max_workers": max_nodes, "idle_timeout_minutes": 5, "upscaling_speed": 1.0,
        "provider": {
            "type": "fake_multinode", "head_node_id": HEAD_ID, "gcs_address": f"127.0.0.1:{port}", "use_node_id_as_ip": True,
            "disable_node_updaters": True, "disable_launch_config_check": True,
        },
        "available_node_types": kinds, "head_node_type": "ray.head.default", "auth": {}, "docker": {}, "file_mounts": {},
        "cluster_synced_files": [], "file_mounts_sync_continuously": False, "rsync_exclude": [], "rsync_filter": [],
        "initialization_commands": [], "setup_commands": [], "head_setup_commands": [], "worker_setup_commands": [],
        "head_start_ray_commands": [], "worker_start_ray_commands": [],
    }  # fmt: skip
    config = folder / "autoscaling.json"
    config.write_text(json.dumps(settings))
    environment = os.environ | {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    }  # fmt: skip
    log = folder / "autoscaling.log"
    with log.open("w") as output:
        head = subprocess.Popen(
            [str(Path(sys.executable).parent / "ray"), "start", "--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=0",
             f"--autoscaling-config={config}", "--include-dashboard=false", "--disable-usage-stats", "--block"],
            env=environment, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 180
        while "Ray runtime started" not in log.read_text():
            assert head.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        with suppress(OSError):
            for pid in [*descendants(head.pid), head.pid]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        head.wait()
