"""What Ray's errors mean: an actor that is lost and can be asked again, an error of ours, or a fault of the engine."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rayfactory.errors import ConfigError, EngineError, RayfactoryError

PAUSES_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Seconds before an agent is asked again, a request answered or a round judged, each time that an actor is lost for it.

One whose process has ended is there again in a second. Of one that is out of reach Ray finds out in about a minute
whether its node is lost, and then starts it elsewhere; until then each call to it fails at once.
"""

_RAY_ERROR = re.compile(r"^ray\.exceptions\.(\w+)", re.MULTILINE)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what caused it, the original last."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = getattr(cause, "cause", None) or cause.__cause__


def is_loss(error: Exception) -> bool:
    """Return whether an actor, a worker or a node was lost, so that asking again may help."""
    import ray

    losses = (
        ray.exceptions.RayActorError,
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.OutOfMemoryError,
        ray.exceptions.NodeDiedError,
        ray.exceptions.ObjectLostError,
    )
    for cause in causes(error):
        if getattr(cause, "actor_init_failed", False):
            return False  # nobody starts it again
        if isinstance(cause, losses):
            return True
        # What a stage of a dataset met does not travel with the error that it ends with; the traceback's text does.
        if isinstance(cause, ray.exceptions.RayTaskError) and any(
            isinstance(met, type) and issubclass(met, losses)
            for met in (getattr(ray.exceptions, name, None) for name in _RAY_ERROR.findall(str(cause)))
        ):
            return True
    return False


class Losses:
    """What was lost of one thing that is asked for, and when to ask for it again."""

    def __init__(self) -> None:
        self._count = 0

    def pause_s(self, error: Exception) -> float | None:
        """Return the seconds after which to ask again; None where it would not help, or did not often enough.

        Args:
            error: that asking ended with.
        """
        if not is_loss(error) or self._count == len(PAUSES_S):
            return None
        self._count += 1
        return PAUSES_S[self._count - 1]


def as_own(error: Exception, what: str) -> RayfactoryError:
    """Return an error of ours that was raised on a worker as it is, and everything else as a fault of the engine.

    A store for objects without room is neither: a person can give it some.
    """
    import ray

    full = (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError)
    for cause in causes(error):
        if isinstance(cause, full):
            return ConfigError(
                f"{what}: Ray's object store is full, and so is the disk that it goes on to ({brief(cause)}); make "
                "room where Ray keeps its temporary files (/tmp/ray, or what RAY_TMPDIR names), or start Ray with a "
                "larger store (`ray start --head --object-store-memory=BYTES`) and join it with cluster=existing. "
                "What was committed is intact, and the same command goes on from there"
            )
        # Ray raises an error that is both its own and ours, with a traceback for a message; the one inside is meant.
        if isinstance(cause, RayfactoryError) and not isinstance(cause, ray.exceptions.RayError):
            return cause
    return EngineError(f"{what}: {brief(error)}")


def brief(error: Exception) -> str:
    """Return the original cause in one line."""
    *_, cause = causes(error)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0][:300] if lines else ''}"
