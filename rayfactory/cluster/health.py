"""How served models are doing while a run goes on, in the words of a person."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any

from rayfactory.cluster.replica_log import cause
from rayfactory.cluster.serving import Served

_EVERY_S = 10.0
_JOIN_S = 30.0
_MAX_CAUSE_CHARS = 300

_UNWELL = ("UNHEALTHY", "DEPLOY_FAILED")
# States of a replica that does not answer yet; one that stops will not again.
_COMING = ("STARTING", "UPDATING", "RECOVERING", "PENDING_MIGRATION")


@dataclass(frozen=True, slots=True)
class Health:
    """How an app is doing.

    Attributes:
        is_well: whether it does what it should, though maybe with more or fewer replicas than a while ago.
        words: its replicas, and what is wrong with them.
    """

    is_well: bool
    words: str


def health(status: Any) -> Health:
    """Return how an app is doing, from what `serve.status` has on it; None: it has nothing."""
    if status is None or status.status == "DELETING":
        return Health(False, "its Serve app is gone; somebody has deleted it")
    unwell = {name: each for name, each in status.deployments.items() if each.status in _UNWELL}
    words = [
        _replicas(each.replica_states) + (f": {cause(each.message)[:_MAX_CAUSE_CHARS]}" if name in unwell else "")
        for name, each in status.deployments.items()
        if name.startswith("LLMServer")
    ]
    words += [
        f"what passes requests on to it is unhealthy: {cause(each.message)[:_MAX_CAUSE_CHARS]}"
        for name, each in unwell.items()
        if not name.startswith("LLMServer")
    ]
    return Health(not unwell and status.status not in _UNWELL, "; ".join(words))


def _replicas(states: Mapping[Any, int]) -> str:
    """Return in words how many replicas are in which state."""
    answering, coming = states.get("RUNNING", 0), sum(states.get(state, 0) for state in _COMING)
    if not answering:
        return "no replica answers" + (f", {coming} starting" if coming else "")
    if coming:
        return f"{answering} of {answering + coming} replicas answer, {coming} starting"
    return "1 replica answers" if answering == 1 else f"{answering} replicas answer"


def notice(name: str, before: Health, now: Health) -> str:
    """Return what a person is told of a model whose health may have changed; empty where it has not."""
    if now == before:
        return ""
    again = " is well again" if now.is_well and not before.is_well else ""
    return f"Note: {name}{again}: {now.words}"


@contextmanager
def watched(served: Sequence[Served], say: Callable[[str], None]) -> Iterator[None]:
    """Say what becomes of served models, each change once, for the length of a with statement."""
    over = Event()
    last = {each.app: _ask(each) for each in served}

    def watch() -> None:
        while not over.wait(_EVERY_S):
            for each in served:
                before, last[each.app] = last[each.app], _ask(each)
                told = notice(each.name, before, last[each.app])
                if told and not over.is_set():
                    say(told)

    thread = Thread(target=watch, name="health of served models", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(_JOIN_S)


def _ask(served: Served) -> Health:
    import ray
    from ray import serve

    if not ray.is_initialized():
        # To be asked, Ray Serve would start a cluster of its own, which nobody ends.
        return Health(False, "Ray is not connected")
    try:
        return health(serve.status().applications.get(served.app))
    except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on as long as the model answers
        return Health(False, f"Ray Serve does not tell how it is doing: {cause(str(error))[:_MAX_CAUSE_CHARS]}")
