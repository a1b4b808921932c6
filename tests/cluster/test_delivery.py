"""Databases come to the nodes that work with them, once each, and nodes that cannot read theirs are left out.

The other node sees the disk with a folder of databases hidden, as a machine that has none of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rayfactory.pool import connect
from tests.elsewhere import started
from tests.shop import make_shop

ROOT = Path(__file__).resolve().parents[2]
NUM_DATABASES = 80

COUNT = """
import json
import sys
from pathlib import Path
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rayfactory.cluster.delivery import shipped
from rayfactory.config import ClusterConfig, ExecutionConfig
from rayfactory.databases.engine import Database, connect

address, folder, cache, gigabytes = sys.argv[1:]
ray.init(address=address, log_to_driver=False, logging_level="ERROR")
config = ClusterConfig(databases="shipped", database_cache=cache, database_cache_gb=float(gigabytes))
paths = sorted(Path(folder).iterdir())
databases = shipped({path.stem: Database(path.stem, "sqlite", str(path)) for path in paths}, config)
here = ray.get_runtime_context().get_node_id()
(there,) = [each["NodeID"] for each in ray.nodes() if each["Alive"] and each["NodeID"] != here]


@ray.remote(num_cpus=0)
def count(held):
    (databases,) = ray.get(held)
    counts = {}
    for name, database in databases.items():
        place = database.here()
        engine = connect(place, ExecutionConfig())
        counts[name] = [engine.run("SELECT name FROM customer").row_count, place.path]
        engine.close()
    return counts


held = [ray.put(databases)]
asked = [
    count.options(scheduling_strategy=NodeAffinitySchedulingStrategy(there, soft=False)).remote(held) for _ in range(3)
]
beside = count.options(scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False)).remote(held)
source = next(iter(databases.values())).source
print(json.dumps({"there": ray.get(asked), "here": ray.get(beside), "read": ray.get(source.bytes_read.remote())}))
"""


@dataclass(frozen=True)
class TwoNodes:
    """A cluster whose second node does not see a folder.

    Attributes:
        address: of the cluster.
        hidden: the folder.
        environment: of who joins it.
    """

    address: str
    hidden: Path
    environment: dict[str, str]


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    folder = tmp_path_factory.mktemp("hidden")
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user may not hide a folder from a process (unshare --mount)")
    with started(num_cpus=1) as head:
        address, environment = head.address, {**os.environ, **head.variables}
        start = f"{Path(sys.executable).parent}/ray start --address={address} --num-cpus=1 --block"
        with subprocess.Popen(
            ["unshare", "--mount", "bash", "-c", f"mount -t tmpfs hidden '{folder}' && exec {start}"],
            cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as other:  # fmt: skip
            wait_for_two(address, environment)
            yield TwoNodes(address, folder, environment)
            other.terminate()


def wait_for_two(address: str, environment: dict[str, str]) -> None:
    program = (
        "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR');"
        "print(sum(node['Alive'] for node in ray.nodes()))"
    )
    deadline = time.monotonic() + 300
    while True:
        done = subprocess.run(
            [sys.executable, "-c", program, address], env=environment, capture_output=True, text=True, check=False
        )
        if done.stdout.strip() == "2":
            return
        assert time.monotonic() < deadline, done.stderr
        time.sleep(1)


def test_each_database_comes_to_a_node_once(two_nodes: TwoNodes, tmp_path: Path):
    """Three processes of the other node look into all of them, and none of them reads a file twice."""
    folder = two_nodes.hidden / "many"
    folder.mkdir()
    sizes = {}
    for number in range(NUM_DATABASES):
        path = make_shop(folder / f"shop{number:02d}.sqlite")
        with path.open("ab") as file:
            file.write(bytes([number]))  # a content of its own
        sizes[str(path)] = path.stat().st_size
    bound = sum(sizes.values()) + 1000
    done = subprocess.run(
        [sys.executable, "-c", COUNT, two_nodes.address, str(folder), str(tmp_path / "cache"), str(bound / 1e9)],
        cwd=ROOT, env=two_nodes.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["read"] == sizes
    own = tmp_path / "cache" / "rayfactory-databases"
    for counts in found["there"]:
        assert [count for count, _ in counts.values()] == [60] * NUM_DATABASES
        assert {Path(path).parents[1] for _, path in counts.values()} == {own}
    assert {path for _, path in found["here"].values()} == set(sizes)
    assert sum(path.stat().st_size for path in own.glob("*/*")) <= bound


def run(two_nodes: TwoNodes, tmp_path: Path, name: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable, "-m", "rayfactory", "+benchmark=custom", f"benchmark.root={two_nodes.hidden / 'shop.sqlite'}",
            f"run_dir={tmp_path / name}", f"data_dir={tmp_path / 'cache'}", "target=40", "round.requests=4",
            "round.queries_per_request=5", "cluster.workers=2", "display.mode=lines", "cluster=existing",
            f"cluster.address={two_nodes.address}", *overrides,
        ], cwd=ROOT, env=two_nodes.environment, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip


def rows_of(run_dir: Path) -> list[tuple[object, ...]]:
    return connect(run_dir).sql("SELECT * EXCLUDE (execution_ms) FROM R ORDER BY query_id").fetchall()


def test_a_node_that_cannot_read_is_named_and_a_database_that_is_shipped_is_read(
    two_nodes: TwoNodes, tmp_path: Path, make_data_dir: Callable[[Path], Path]
):
    """Both runs make the same rows; the node that has no database works with what it was sent."""
    make_data_dir(tmp_path / "cache")
    path = make_shop(two_nodes.hidden / "shop.sqlite")
    there = run(two_nodes, tmp_path, "there")
    assert there.returncode == 0, there.stderr
    assert "cannot read shop" in there.stderr
    assert "No such file" in there.stderr
    assert "set cluster.databases=shipped" in there.stderr
    sent = tmp_path / "sent"
    shipped = run(two_nodes, tmp_path, "shipped", "cluster.databases=shipped", f"cluster.database_cache={sent}")
    assert shipped.returncode == 0, shipped.stderr
    assert shipped.stderr == ""
    (copy,) = sent.rglob("shop.sqlite")
    assert copy.read_bytes() == path.read_bytes()
    rows = rows_of(tmp_path / "there")
    assert len(rows) == 40
    assert rows_of(tmp_path / "shipped") == rows
    nowhere = run(
        two_nodes, tmp_path, "full", "cluster.databases=shipped", f"cluster.database_cache={tmp_path / 'small'}",
        "cluster.database_cache_gb=0.000001",
    )  # fmt: skip
    assert nowhere.returncode == 2
    assert "cannot be brought to" in nowhere.stderr
    assert "set cluster.database_cache_gb larger" in nowhere.stderr
