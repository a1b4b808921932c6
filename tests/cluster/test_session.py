"""A session on Ray: started again where it did not start, and datasets that know their room from the beginning."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import ray

from rayfactory.cluster import session
from rayfactory.config import ClusterConfig
from rayfactory.errors import EngineError


@pytest.mark.parametrize("num_failures", [1, 2, 3])
def test_ray_that_does_not_start_is_tried_again(num_failures, monkeypatch, caplog):
    """On a machine where much is going on, Ray gives its node up after half a minute."""
    attempts = []

    def init(**options):
        attempts.append(options)
        if len(attempts) <= num_failures:
            raise Exception("The current node timed out during startup")  # noqa: TRY002  as Ray does
        return "context"

    monkeypatch.setattr(ray, "init", init)
    with caplog.at_level(logging.WARNING):
        if num_failures < session.START_ATTEMPTS:
            assert session._started_here(ClusterConfig()) == "context"
        else:
            with pytest.raises(EngineError, match=r"timed out during startup\); where it is busy, start again later"):
                session._started_here(ClusterConfig())
    assert len(attempts) == min(num_failures + 1, session.START_ATTEMPTS)
    assert len(caplog.records) == min(num_failures, session.START_ATTEMPTS - 1)


def test_datasets_ask_early_what_the_cluster_has(monkeypatch):
    """What is set for it is not part of what Ray promises: here it shows when a new version has no such thing."""
    from ray.data._internal.execution.interfaces import ExecutionResources
    from ray.data._internal.execution.resource_manager import ResourceManager

    monkeypatch.setattr(ResourceManager, "GLOBAL_LIMITS_UPDATE_INTERVAL_S", 1)
    session._set_up_ray_data()
    interval_s = vars(ResourceManager)["GLOBAL_LIMITS_UPDATE_INTERVAL_S"].fget
    told_nothing = SimpleNamespace(_global_limits=ExecutionResources.zero())
    told = SimpleNamespace(_global_limits=ExecutionResources(cpu=2))
    assert 0 < interval_s(told_nothing) < interval_s(told) == 1
