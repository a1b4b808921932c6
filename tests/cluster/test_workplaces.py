"""Workers are placed on nodes in turn, and on none more than it has CPUs."""

import pytest

from rayfactory.cluster.workplaces import _in_turn, _Node

NODES = {
    "b": _Node("10.0.0.2", {"CPU": 2.0}),
    "a": _Node("10.0.0.1", {"CPU": 1.0}),
    "head": _Node("10.0.0.9", {"memory": 1e9}),
}


@pytest.mark.parametrize(("count", "places"), [(0, ""), (1, "a"), (2, "ab"), (3, "abb"), (4, "abba"), (7, "abbabba")])
def test_workers_are_on_nodes_in_turn(count, places):
    assert list(_in_turn(NODES, count)) == list(places)


def test_where_no_node_has_cpus_any_will_do():
    """Ray has them wait for one that has."""
    assert list(_in_turn({"head": NODES["head"]}, 2)) == ["head", "head"]
    assert list(_in_turn({}, 2)) == []
