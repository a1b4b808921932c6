"""What Ray's errors mean, as they arrive where a run handles them."""

from __future__ import annotations

import pickle
import traceback

import pytest
import ray

from rayfactory.cluster.losses import PAUSES_S, Losses, is_loss


def as_it_arrives(met: Exception) -> Exception:
    """Return what a dataset ends with where a stage of it met an error: it was pickled, and that one was not."""
    try:
        raise ray.exceptions.UserCodeException("UDF failed to process a data block.") from met
    except ray.exceptions.UserCodeException as error:
        cause, text = pickle.loads(pickle.dumps(error)), traceback.format_exc()
    arrived: Exception = ray.exceptions.RayTaskError("stage", text, cause, proctitle="", pid=1, ip="127.0.0.1")
    return arrived.as_instanceof_cause()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize(
    "met", [ray.exceptions.ActorDiedError(), ray.exceptions.NodeDiedError("gone"), ray.exceptions.WorkerCrashedError()]
)
def test_loss_that_a_stage_met_is_a_loss(met: Exception) -> None:
    """The round is judged again, though the error itself says nothing of what was lost."""
    assert is_loss(met)
    assert is_loss(as_it_arrives(met))


def test_fault_that_a_stage_met_is_none() -> None:
    """What would fail again is told at once."""
    assert not is_loss(as_it_arrives(ValueError("ray.exceptions.ActorDiedError is only spoken of")))


@pytest.mark.parametrize(
    "lost", [ray.exceptions.ActorDiedError(), ray.exceptions.ActorUnavailableError("connection refused", None)]
)
def test_what_is_lost_is_asked_for_again_after_longer_and_longer_pauses(lost: Exception) -> None:
    """At once where a process has ended; and for two minutes, in which Ray finds out that a node is lost."""
    losses = Losses()
    pauses_s = [losses.pause_s(lost) for _ in PAUSES_S]
    assert pauses_s == list(PAUSES_S)
    assert pauses_s[0] == 0
    assert sum(PAUSES_S) > 120
    assert losses.pause_s(lost) is None


def test_fault_is_not_asked_for_again() -> None:
    assert Losses().pause_s(as_it_arrives(ValueError("no"))) is None
