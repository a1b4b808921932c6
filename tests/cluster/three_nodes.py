"""Three nodes in network namespaces of their own, each with an address and a link that can be cut.

::

    namespaces node0 (10.77.0.1), node1 (10.77.0.2), node2 (10.77.0.3), each on a pair of virtual cables to a bridge in
    the namespace of whoever calls, which has 10.77.0.254

Needs root, and `ip` with namespaces.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

NET = "10.77.0"
HOST = f"{NET}.254"
BRIDGE = "rf-bridge"
NUM_NODES = 3
PORT = 6379


def ip(*words: str, must: bool = True) -> bool:
    """Run `ip` with some words; return whether it worked."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert not must or done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.returncode == 0


def can_have_namespaces() -> bool:
    """Return whether this user may make them."""
    try:
        made = ip("netns", "add", "rf-probe", must=False)
    except FileNotFoundError:
        return False
    return made and ip("netns", "del", "rf-probe", must=False)


class ThreeNodes:
    """The nodes, of which the first is the head; each has one CPU."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._raylets: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def address(self) -> str:
        """That of the cluster."""
        return f"{NET}.1:{PORT}"

    def inside(self, number: int) -> list[str]:
        """Return what a command begins with that is to run on a node."""
        return ["ip", "netns", "exec", f"rf-node{number}"]

    def start(self, number: int) -> None:
        """Start Ray on a node."""
        ray = str(Path(sys.executable).parent / "ray")
        where = (
            ["--head", f"--port={PORT}", "--include-dashboard=false"] if number == 0 else [f"--address={self.address}"]
        )
        with self._log.open("ab") as log:
            self._raylets[number] = subprocess.Popen(
                [*self.inside(number), ray, "start", *where, f"--node-ip-address={NET}.{number + 1}", "--num-cpus=1",
                 f"--object-store-memory={2 * 10**8}", "--disable-usage-stats", "--block"],
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def kill(self, number: int) -> None:
        """End all of Ray on a node at once."""
        pids = subprocess.run(["ip", "netns", "pids", f"rf-node{number}"], capture_output=True, text=True, check=True)
        subprocess.run(["kill", "-9", *pids.stdout.split()], check=False)
        self._raylets.pop(number).wait()

    def cut(self, number: int) -> None:
        """Let nothing through to a node or from it."""
        ip("link", "set", f"rf-cable{number}", "down")

    def mend(self, number: int) -> None:
        """Let everything through again."""
        ip("link", "set", f"rf-cable{number}", "up")

    def alive(self) -> int:
        """Return how many nodes the cluster has."""
        program = (
            "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR');"
            "print(sum(node['Alive'] for node in ray.nodes()))"
        )
        done = subprocess.run(
            [*self.inside(0), sys.executable, "-c", program, self.address],
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        return int(done.stdout or 0)

    def until_alive(self, number: int) -> None:
        """Wait until the cluster has so many nodes; one that could not start in Ray's own time is started again."""
        deadline = time.monotonic() + 300
        while self.alive() != number:
            assert time.monotonic() < deadline, self._log.read_text()[-3_000:]
            for place, raylet in list(self._raylets.items()):
                if raylet.poll() is not None:
                    self.start(place)
            time.sleep(3)


@contextmanager
def three_nodes(log: Path) -> Iterator[ThreeNodes]:
    """Have the nodes, for the length of a with statement."""
    _remove()
    nodes = ThreeNodes(log)
    try:
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("addr", "add", f"{HOST}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        for number in range(NUM_NODES):
            name, cable = f"rf-node{number}", f"rf-cable{number}"
            ip("netns", "add", name)
            ip("link", "add", cable, "type", "veth", "peer", "name", "rf-plug", "netns", name)
            ip("link", "set", cable, "master", BRIDGE)
            ip("link", "set", cable, "up")
            ip("-n", name, "addr", "add", f"{NET}.{number + 1}/24", "dev", "rf-plug")
            for device in ("lo", "rf-plug"):
                ip("-n", name, "link", "set", device, "up")
        # One after the other: each takes a CPU for itself while it starts.
        for number in range(NUM_NODES):
            nodes.start(number)
            nodes.until_alive(number + 1)
        yield nodes
    finally:
        _remove()


def _remove() -> None:
    for number in range(NUM_NODES):
        name = f"rf-node{number}"
        pids: Sequence[str] = ()
        if (Path("/run/netns") / name).exists():
            found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
            pids = found.stdout.split()
        if pids:
            subprocess.run(["kill", "-9", *pids], check=False)
        ip("netns", "del", name, must=False)
        ip("link", "del", f"rf-cable{number}", must=False)
    ip("link", "del", BRIDGE, must=False)
