"""A run on a cluster that has no CPUs yet says so, is given nodes by the cluster's own scaling, and ends as any other."""

# ruff: noqa: F811 - fixtures of another module are used by their names

from __future__ import annotations

import pytest

from tests.cluster.scaling_cluster import scaling_cluster
from tests.cluster.test_faults import Run, _token, folder, rows_of, server  # noqa: F401

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(folder, server):
    """Return the rows of a run on one node, in a cluster of its own."""
    run = Run(folder, server, "undisturbed")
    assert run.end() == 0, run.said
    return rows_of(folder / "undisturbed")


def test_run_asks_a_cluster_without_cpus_for_nodes(folder, server, undisturbed, tmp_path):
    """The head has none. The first actor that waits brings a node; more come for as many workers as are wanted."""
    with scaling_cluster(tmp_path, 2) as address:
        run = Run(folder, server, "scaled", "cluster=existing", f"cluster.address={address}", "cluster.workers=2")
        assert run.end() == 0, run.said
    assert rows_of(folder / "scaled") == undisturbed
    assert "more are asked for, and workers start as nodes join" in run.said
    assert "node(s) joined: 2 workers of each kind now" in run.said
