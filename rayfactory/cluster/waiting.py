"""Waiting for Ray in a thread that the run may leave behind.

A thread that waits on Ray when Ray is shut down waits for ever, and the process with it; one that asks Ray for more
afterwards starts a cluster of its own. So such a thread waits in short steps, and is told when the run is left.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from rayfactory.errors import EngineError

_STEP_S = 0.5


class LeavingError(EngineError):
    """What is waited for is not wanted any more: the run is being left."""


class Waiting:
    """Waits for calls to actors until the run is left."""

    def __init__(self) -> None:
        self._leaving = threading.Event()

    def leave(self) -> None:
        """Have every wait end within a second, now and from now on. Any thread may call it."""
        self._leaving.set()

    def go_on(self) -> None:
        """Return where the run is not being left; to be called before what costs something is begun.

        Raises:
            LeavingError: it is.
        """
        if self._leaving.is_set():
            raise LeavingError("the run is being left")

    def pause(self, seconds: float) -> None:
        """Wait for so long.

        Raises:
            LeavingError: the run is being left.
        """
        self._leaving.wait(seconds)
        self.go_on()

    def for_one(self, references: Sequence[Any]) -> Any:
        """Return the first of the calls to end; its result is there, or its error.

        Raises:
            LeavingError: the run is being left.
        """
        import ray

        while not self._leaving.is_set():
            done, _ = ray.wait(list(references), num_returns=1, timeout=_STEP_S)
            if done:
                return done[0]
        raise LeavingError("the run is being left")
