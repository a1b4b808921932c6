"""The simulation of the loop does what arithmetic says where one thing alone is slow."""

import pytest

from benchmarks.simulation import Cluster, Costs, Rounds, simulate

NOTHING = Costs(1e-6, 1e-6, 1e-6, 1e-6)
LARGE = Rounds(requests=400)


def costs(**slow):
    return Costs(**({name: getattr(NOTHING, name) for name in NOTHING.__dataclass_fields__} | slow))


@pytest.mark.parametrize(
    ("slow", "cluster", "per_s", "bottleneck"),
    [
        (costs(judge_s=0.1), Cluster(1), 10, "cores"),
        (costs(judge_s=0.1), Cluster(8), 80, "cores"),
        (costs(judge_s=0.06, write_s=0.04), Cluster(4), 40, "cores"),
        (costs(retrieve_s=0.02), Cluster(8, critics=1), 50, "critics"),
        (costs(retrieve_s=0.02), Cluster(8, critics=4), 200, "critics"),
        (costs(driver_s=0.01), Cluster(8, critics=4), 100, "driver"),
        (NOTHING, Cluster(4, calls=16, call_s=2.0), 80, "models"),
    ],
)
def test_what_is_slow_alone_is_the_limit(slow, cluster, per_s, bottleneck):
    outcome = simulate(slow, cluster, LARGE)
    assert outcome.queries_per_s == pytest.approx(per_s, rel=0.05)
    assert outcome.bottleneck == bottleneck
    assert outcome.busy[bottleneck] >= 0.95


def test_rounds_that_are_small_leave_cores_idle():
    """At the end of each round some cores wait for the last block of it."""
    small, large = (simulate(costs(judge_s=0.1), Cluster(16), Rounds(requests)).queries_per_s for requests in (20, 800))
    assert small < 0.75 * large


def test_writing_and_judging_overlap():
    """A round is judged while the next one is written: together they take as long as the slower one."""
    both = simulate(costs(judge_s=0.1), Cluster(4, calls=8, call_s=2.0), LARGE).queries_per_s
    assert both == pytest.approx(40, rel=0.05)
