"""What Ray's errors mean, as they arrive where a run handles them."""

from __future__ import annotations

import pickle
import traceback

import pytest
import ray

from rayfactory.cluster.losses import is_loss


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
