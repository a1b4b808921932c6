"""Three nodes on a network that can fail make the rows of one node, exactly as many, none twice, without help."""

# ruff: noqa: F811 - fixtures of another module are used by their names

from __future__ import annotations

import threading

import pytest

from tests.cluster.test_faults import PHASES, TARGET, Run, _token, folder, rows_of, sql_model  # noqa: F401
from tests.cluster.three_nodes import HOST, NUM_NODES, can_have_namespaces, three_nodes
from tests.models.endpoint_server import serving

CUT_S = 60

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nodes(folder):
    if not can_have_namespaces():
        pytest.skip("this user may not make network namespaces (ip netns add)")
    with three_nodes(folder / "nodes.log") as nodes:
        yield nodes


@pytest.fixture(scope="module")
def server(folder, nodes):
    """Return an endpoint that all nodes reach, at the other end of their cables."""
    with serving(reply=sql_model(folder), delay_s=0.3, host=HOST) as running:
        yield running


def start(folder, server, nodes, name):
    """Start a run on the first node, with workers for all of them."""
    return Run(
        folder, server, name, "cluster=existing", f"cluster.address={nodes.address}", "cluster.workers=3",
        prefix=nodes.inside(0),
    )  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(folder, server):
    """Return the rows of a run on one node, in a cluster of its own."""
    run = Run(folder, server, "undisturbed")
    assert run.end() == 0, run.said
    rows = rows_of(folder / "undisturbed")
    assert len(rows) == TARGET
    return rows


def test_three_nodes_make_the_rows_of_one(folder, server, nodes, undisturbed):
    run = start(folder, server, nodes, "three")
    assert run.end() == 0, run.said
    assert rows_of(folder / "three") == undisturbed


@pytest.mark.parametrize("phase", PHASES)
def test_node_that_is_killed_in_any_phase_costs_nothing(folder, server, nodes, undisturbed, phase):
    run = start(folder, server, nodes, f"killed-{phase}")
    run.until_phase(phase)
    nodes.kill(2)
    assert run.end() == 0, run.said
    assert rows_of(run.run_dir) == undisturbed
    nodes.start(2)
    nodes.until_alive(NUM_NODES)


@pytest.mark.parametrize("phase", PHASES)
def test_link_that_is_cut_for_a_minute_in_any_phase_costs_nothing(folder, server, nodes, undisturbed, phase):
    """Ray takes the node for lost; when it is back, it learns of that and ends."""
    run = start(folder, server, nodes, f"cut-{phase}")
    run.until_phase(phase)
    nodes.cut(1)
    mending = threading.Timer(CUT_S, nodes.mend, [1])
    mending.start()
    assert run.end() == 0, run.said
    assert rows_of(run.run_dir) == undisturbed
    mending.join()
    nodes.kill(1)
    nodes.start(1)
    nodes.until_alive(NUM_NODES)
