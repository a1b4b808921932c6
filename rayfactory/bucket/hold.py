"""Who writes a pool in object storage: one process at a time, by an object that it writes anew again and again.

Layout of the object ``hold.json``::

    {"number": 7, "holder": "<id of a process>", "where": "host, process 4711", "copy": "<id of a working copy>"}

Each hold has a number of its own, one more than the last. A holder that ends leaves `holder` empty. One that was
killed leaves its object as it is: who sees that it has not been written for `DEAD_AFTER_S` by its own clock may take
it. All changes are conditional on the version that was read, so two cannot take one hold. A holder that cannot write
its object for so long counts itself as taken over; one that was, and has not noticed yet, can do no harm, since what it
does to the pool holds whoever does it (see `pool_copy`).
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

from rayfactory.bucket.store import Store, Version
from rayfactory.errors import RunDirError

NAME = "hold.json"
BEAT_S = 10.0
DEAD_AFTER_S = 60.0
_POLL_S = 1.0
_REQUEST_S = 5.0


class Hold:
    """The right to write the pool in a store, from now until `release`.

    Args:
        url: of the pool.
        copy: id of the working copy of this machine, whose lock this process holds: a hold with the same id is that
            of a process that has ended.
        say: tells a person what is waited for.
        beat_s: seconds from one sign of life to the next.
        dead_after_s: seconds without one after which a holder counts as ended.

    Raises:
        RunDirError: another process holds it, and lives; or the storage takes no conditional writes.
    """

    def __init__(
        self,
        url: str,
        copy: str,
        say: Callable[[str], None],
        *,
        beat_s: float = BEAT_S,
        dead_after_s: float = DEAD_AFTER_S,
    ) -> None:
        # A sign of life that hangs is not to keep the next one.
        self._store = Store(url, patience_s=beat_s, request_s=max(_REQUEST_S, beat_s))
        self._beat_s = beat_s
        self._dead_after_s = dead_after_s
        self._lost: RunDirError | None = None
        self._ended = threading.Event()
        where = f"{socket.gethostname()}, process {os.getpid()}"
        self._content: dict[str, Any] = {"holder": uuid.uuid4().hex, "where": where, "copy": copy}
        self._version = self._take(Store(url), say)
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
        """Let others have the pool. Where the storage cannot be told, they see that there is no sign of life."""
        self._ended.set()
        self._beating.join()
        if self._lost is None:
            self._store.replace(NAME, _encoded({**self._content, "holder": ""}), self._version)

    def _take(self, store: Store, say: Callable[[str], None]) -> Version:
        seen, since, told = None, time.monotonic(), False
        while True:
            found = store.read_with_version(NAME)
            held = self._read(found[0]) if found is not None else None
            if found is None or held is None:
                version = self._taken(store, 1, None)
            elif not held["holder"] or held["copy"] == self._content["copy"]:
                version = self._taken(store, held["number"] + 1, found[1])
            else:
                if seen is not None and found[1] != seen:
                    raise RunDirError(
                        f"run_dir {store.url!r} is in use by another process ({held['where']}); wait for it, or choose "
                        "another run_dir"
                    )
                seen, version = found[1], None
                if time.monotonic() - since > self._dead_after_s:
                    version = self._taken(store, held["number"] + 1, found[1])
                elif not told:
                    told = True
                    say(
                        f"{store.url} was last held by {held['where']}. Waiting up to {self._dead_after_s:.0f} s to "
                        "see whether it has ended"
                    )
            if version is not None:
                return version
            time.sleep(min(_POLL_S, self._dead_after_s / 4))

    def _taken(self, store: Store, number: int, version: Version | None) -> Version | None:
        """Take the hold where it still has that version (None: where there is none); return its new one, or None."""
        self._content["number"] = number
        content = _encoded(self._content)
        new = store.create(NAME, content) if version is None else store.replace(NAME, content, version)
        if new is not None and store.create(NAME, _encoded({**self._content, "holder": ""})) is not None:
            raise RunDirError(
                f"{store.url!r} takes no conditional writes (If-None-Match), by which rounds are committed; use a "
                "storage that does, or a folder"
            )
        return new

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
        beats, alive_at = 0, time.monotonic()
        while not self._ended.wait(self._beat_s):
            beats += 1
            asked_at = time.monotonic()
            try:
                version = self._store.replace(NAME, _encoded({**self._content, "beats": beats}), self._version)
            except Exception as error:  # noqa: BLE001 - whatever it is, others see no sign of life
                if time.monotonic() - alive_at >= self._dead_after_s:
                    self._lost = RunDirError(
                        f"run_dir {self._store.url!r} has had no sign of life of this process for "
                        f"{self._dead_after_s:.0f} s, so another may have taken it over; what was committed is intact, "
                        f"and the same command goes on ({error})"
                    )
                    return
                continue
            if version is None:
                self._lost = RunDirError(
                    f"run_dir {self._store.url!r} has been taken over by another process, which saw no sign of life "
                    "of this one; what was committed is intact. End one of the two"
                )
                return
            self._version, alive_at = version, asked_at


def _encoded(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=2).encode() + b"\n"
