"""Who writes a pool in object storage: one process at a time, by an object that it writes anew again and again.

Layout of the object ``hold.json``::

    {"number": 7, "holder": "<id of a process>", "where": "host, process 4711", "copy": "<id of a working copy>"}

Each hold has a number of its own, one more than the last. A holder that ends leaves `holder` empty. One that was
killed leaves its object as it is: who sees that it has not been written for `DEAD_AFTER_S` by its own clock may take
it. All changes are conditional on the version that was read, so two cannot hold at once; and one that was taken over
without noticing cannot harm the pool, since rounds are committed by objects that must not be there yet.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from rayfactory.bucket.store import Store
from rayfactory.errors import RunDirError

NAME = "hold.json"
BEAT_S = 10.0
DEAD_AFTER_S = 60.0
_POLL_S = 1.0


class Hold:
    """The right to write the pool in a store, from now until `release`.

    Args:
        store: of the pool.
        copy: id of the working copy of this machine, whose lock this process holds: a hold with the same id is that
            of a process that has ended.
        say: tells a person what is waited for.
        beat_s: seconds from one sign of life to the next.
        dead_after_s: seconds without one after which a holder counts as ended.

    Raises:
        RunDirError: another process holds it, and lives.
    """

    def __init__(
        self,
        store: Store,
        copy: str,
        say: Callable[[str], None],
        *,
        beat_s: float = BEAT_S,
        dead_after_s: float = DEAD_AFTER_S,
    ) -> None:
        self._store = store
        self._beat_s = beat_s
        self._lost: RunDirError | None = None
        self._ended = threading.Event()
        where = f"{socket.gethostname()}, process {os.getpid()}"
        self._content: dict[str, Any] = {"holder": uuid.uuid4().hex, "where": where, "copy": copy}
        self._version = self._take(say, dead_after_s)
        self._beating = threading.Thread(target=self._beat, name="hold", daemon=True)
        self._beating.start()

    @property
    def number(self) -> int:
        """Its number: of all holds of this pool, the one with the highest is the last."""
        return int(self._content["number"])

    def check(self) -> None:
        """Return as long as this process holds the pool, as far as it knows.

        Raises:
            RunDirError: another process does.
        """
        if self._lost is not None:
            raise self._lost

    def release(self) -> None:
        """Let others have the pool."""
        self._ended.set()
        self._beating.join()
        if self._lost is None:
            self._store.replace(NAME, _encoded({**self._content, "holder": ""}), self._version)

    def _take(self, say: Callable[[str], None], dead_after_s: float) -> str:
        found = self._store.read_with_version(NAME)
        if found is None:
            self._content["number"] = 1
            version = self._store.create(NAME, _encoded(self._content))
            if version is not None:
                return version
            found = self._store.read_with_version(NAME)
            assert found is not None
        seen, since, told = found[1], time.monotonic(), False
        while True:
            held = self._read(found[0])
            is_free = not held["holder"] or held["copy"] == self._content["copy"]
            if is_free or time.monotonic() - since > dead_after_s:
                self._content["number"] = held["number"] + 1
                version = self._store.replace(NAME, _encoded(self._content), found[1])
                if version is not None:
                    return version
            elif found[1] != seen:
                raise RunDirError(
                    f"run_dir {self._store.url!r} is in use by another process ({held['where']}); wait for it, or "
                    "choose another run_dir"
                )
            elif not told:
                told = True
                say(
                    f"{self._store.url} was last held by {held['where']}. Waiting up to {dead_after_s:.0f} s to see "
                    "whether it has ended"
                )
            time.sleep(min(_POLL_S, dead_after_s / 4))
            found = self._store.read_with_version(NAME) or found

    def _read(self, content: bytes) -> Mapping[str, Any]:
        try:
            held = json.loads(content)
            return {
                "number": int(held["number"]),
                **{name: str(held[name]) for name in ("holder", "where", "copy")},
            }
        except (ValueError, KeyError, TypeError) as error:
            raise RunDirError(
                f"{self._store.url}/{NAME} is damaged ({error!r}); remove it if no process works on that run"
            ) from None

    def _beat(self) -> None:
        beats = 0
        while not self._ended.wait(self._beat_s):
            beats += 1
            content = {**self._content, "beats": beats}
            try:
                version = self._store.replace(NAME, _encoded(content), self._version)
            except RunDirError as error:
                self._lost = error
                return
            if version is None:
                self._lost = RunDirError(
                    f"run_dir {self._store.url!r} has been taken over by another process, which saw no sign of life "
                    "of this one; what was committed is intact. End one of the two"
                )
                return
            self._version = version


def _encoded(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=2).encode() + b"\n"
