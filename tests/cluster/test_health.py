"""How served models are doing, in words; from what Ray Serve itself would say."""

from __future__ import annotations

import pytest
from ray.serve._private.common import DeploymentStatus, DeploymentStatusTrigger, ReplicaState
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, DeploymentStatusOverview

from rayfactory.cluster.health import Health, health, notice, watched
from rayfactory.cluster.serving import Served

FAILED = "A replica's health check failed. This deployment will be UNHEALTHY until the replica recovers."


def deployment(status="HEALTHY", message="", **states):
    counts = {ReplicaState(state): number for state, number in states.items()}
    return DeploymentStatusOverview(DeploymentStatus(status), DeploymentStatusTrigger.UNSPECIFIED, counts, message)


def app(model, ingress=None, status="RUNNING"):
    deployments = {"LLMServer:tiny": model, "OpenAiIngress": ingress or deployment(RUNNING=1)}
    return ApplicationStatusOverview(ApplicationStatus(status), "", 0.0, deployments)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (deployment(RUNNING=1), "1 replica answers"),
        (deployment(RUNNING=2, STOPPING=1), "2 replicas answer"),
        (deployment("UPSCALING", RUNNING=1, STARTING=2), "1 of 3 replicas answer, 2 starting"),
        (deployment("DOWNSCALING", RUNNING=1, STOPPING=1), "1 replica answers"),
        (deployment("UPDATING", RECOVERING=1), "no replica answers, 1 starting"),
    ],
)
def test_more_or_fewer_replicas_are_no_fault(model, words):
    """Ray Serve moves between the two limits as requests come and go."""
    assert health(app(model)) == Health(True, words)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (app(deployment("UNHEALTHY", FAILED, STOPPING=1), status="UNHEALTHY"), f"no replica answers: {FAILED}"),
        (
            app(deployment("UNHEALTHY", FAILED, RUNNING=1, STARTING=1), status="UNHEALTHY"),
            f"1 of 2 replicas answer, 1 starting: {FAILED}",
        ),
        (
            app(deployment("DEPLOY_FAILED", "Retrying.\nRuntimeError: no memory\n\n"), status="DEPLOY_FAILED"),
            "no replica answers: RuntimeError: no memory",
        ),
        (
            app(deployment(RUNNING=2), deployment("UNHEALTHY", FAILED, STARTING=1), status="UNHEALTHY"),
            f"2 replicas answer; what passes requests on to it is unhealthy: {FAILED}",
        ),
        (app(deployment(STOPPING=1), status="DELETING"), "its Serve app is gone; somebody has deleted it"),
        (None, "its Serve app is gone; somebody has deleted it"),
    ],
)
def test_what_is_wrong_is_said_with_its_cause(status, words):
    assert health(status) == Health(False, words)


def test_each_change_is_told_once():
    """What stays as it is is not told; the way back to health is called so."""
    one, two, none = Health(True, "1 replica answers"), Health(True, "2 replicas answer"), Health(False, "none")
    assert notice("tiny", one, one) == notice("tiny", none, none) == ""
    assert notice("tiny", one, two) == "Note: tiny: 2 replicas answer"
    assert notice("tiny", two, none) == "Note: tiny: none"
    assert notice("tiny", none, one) == "Note: tiny is well again: 1 replica answers"


def test_watching_ends_with_its_statement():
    """No thread is left, nothing is said of a cluster that is as it was, and where there is none, none is started."""
    import threading

    import ray

    with watched([Served("tiny", "tiny-0", "http://host/v1")], pytest.fail):
        assert "health of served models" in [thread.name for thread in threading.enumerate()]
    assert "health of served models" not in [thread.name for thread in threading.enumerate()]
    assert not ray.is_initialized()
