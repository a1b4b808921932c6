"""Objects below an address such as ``s3://bucket/pools/bird``, read and written whole.

Keys, regions and endpoints come from the environment, under the names that the providers' own tools know them by
(``AWS_ACCESS_KEY_ID``, ``AWS_REGION``, ``AWS_ENDPOINT_URL``, ..), or from the role of the machine.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rayfactory.errors import RunDirError
from rayfactory.shown import shown

if TYPE_CHECKING:
    from obstore.store import ClientConfig

SCHEMES = ("s3", "gs", "az")

PREFIXES = ("AWS_", "GOOGLE_", "AZURE_")
"""What variables of the environment begin with that say how to reach object storage."""

PATIENCE_S = 300.0
"""How long one request is made again and again while the storage cannot be reached, or says that it is busy."""

_LONGEST_PAUSE_S = 10.0
_REQUEST_S = 60.0
_CHUNK = 8 * 2**20

Result = TypeVar("Result")


def is_url(place: str) -> bool:
    """Return whether a run directory is in object storage."""
    return place.partition("://")[0] in SCHEMES and "://" in place


def variables() -> dict[str, str]:
    """Return the variables of this process's environment that say how to reach object storage."""
    return {name: value for name, value in os.environ.items() if name.startswith(PREFIXES)}


@dataclass(frozen=True, slots=True)
class Listed:
    """An object that is there: its size in bytes, and its version, which no other content has."""

    size: int
    version: str


class Store:
    """The objects below an address. For any number of threads.

    Each method tries again for `PATIENCE_S` where the storage cannot be reached, and ends with a `RunDirError` that
    says what the storage answered.

    Args:
        url: of the folder, ``s3://bucket/folder``.
        setting: that has it, for messages.
        patience_s: as `PATIENCE_S`.

    Raises:
        RunDirError: it is no address of a folder.
    """

    def __init__(self, url: str, setting: str = "run_dir", patience_s: float = PATIENCE_S) -> None:
        from obstore.store import from_url

        self.url = url.rstrip("/")
        self._setting = setting
        self._patience_s = patience_s
        options: ClientConfig = {"timeout": timedelta(seconds=_REQUEST_S)}
        if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
            options["allow_http"] = True
        try:
            # What is tried again, and for how long, is decided here: the library's own tries end too early for a link
            # that is down, and writing is none of what it tries again.
            self._store: Any = from_url(self.url, client_options=options, retry_config={"max_retries": 0})
        except Exception as error:  # noqa: BLE001 - what kinds there are is not documented
            raise RunDirError(
                f"{setting} {self.url!r} is no folder in object storage ({_first_line(error)}); give one such as "
                "s3://bucket/pools/first"
            ) from None

    def read(self, name: str) -> bytes | None:
        """Return an object's content; None where there is none."""
        found = self.read_with_version(name)
        return found[0] if found else None

    def read_with_version(self, name: str) -> tuple[bytes, str] | None:
        """Return an object's content and its version; None where there is none."""
        import obstore

        def read() -> tuple[bytes, str] | None:
            try:
                found = obstore.get(self._store, name)
                return bytes(found.bytes()), str(found.meta["e_tag"])
            except FileNotFoundError as error:
                self._check_bucket(error)
                return None

        return self._tried(f"read {name}", read)

    def fetch(self, name: str, path: Path) -> bool:
        """Write an object's content to a file; return False where there is no such object."""
        import obstore

        def fetch() -> bool:
            try:
                found = obstore.get(self._store, name)
            except FileNotFoundError as error:
                self._check_bucket(error)
                return False
            with path.open("wb") as file:
                for chunk in found.stream(min_chunk_size=_CHUNK):
                    file.write(chunk)
            return True

        return self._tried(f"read {name}", fetch)

    def write(self, name: str, content: bytes | Path) -> str:
        """Write an object, in the place of one that is there; return its version.

        Args:
            name: of the object.
            content: what it is to hold, or the file that does.
        """
        import obstore

        return self._tried(f"write {name}", lambda: str(obstore.put(self._store, name, content)["e_tag"]))

    def create(self, name: str, content: bytes) -> str | None:
        """Write an object that is not there yet; return its version, None where it is there with other content."""
        return self._written_if(name, content, "create")

    def replace(self, name: str, content: bytes, version: str) -> str | None:
        """Write an object in the place of a version of it; return the new version, None where it has another by now."""
        return self._written_if(name, content, {"e_tag": version})

    def _written_if(self, name: str, content: bytes, mode: Any) -> str | None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        def write() -> str | None:
            try:
                return str(obstore.put(self._store, name, content, mode=mode, use_multipart=False)["e_tag"])
            except (AlreadyExistsError, PreconditionError):
                # It may have been us, with a request whose answer was lost.
                found = self.read_with_version(name)
                return found[1] if found and found[0] == content else None

        return self._tried(f"write {name}", write)

    def listed(self, prefix: str = "") -> dict[str, Listed]:
        """Return the objects in a folder and the folders in it, by their names."""
        import obstore

        def listed() -> dict[str, Listed]:
            found = obstore.list(self._store, prefix or None).collect()
            return {each["path"]: Listed(each["size"], str(each["e_tag"])) for each in found}

        return self._tried(f"list {prefix}", listed)

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects; what is not there is none of them."""
        import obstore

        gone = list(names)
        if gone:
            self._tried(f"remove {gone[0]}", lambda: obstore.delete(self._store, gone))

    def _check_bucket(self, error: Exception) -> None:
        """Raise where it is the bucket that is not there."""
        if "NoSuchBucket" in str(error):
            raise RunDirError(
                f"there is no bucket of {self.url!r}; make it, or correct {self._setting} ({_first_line(error)})"
            ) from None

    def _tried(self, what: str, do: Callable[[], Result]) -> Result:
        """Do something until it works, or cannot work, or has not worked for too long.

        Raises:
            RunDirError: the two last.
        """
        from obstore.exceptions import (
            BaseError,
            GenericError,
            InvalidPathError,
            NotSupportedError,
            PermissionDeniedError,
            UnauthenticatedError,
        )

        until, pause_s = time.monotonic() + self._patience_s, 0.1
        while True:
            try:
                return do()
            except (PermissionDeniedError, UnauthenticatedError) as error:
                raise RunDirError(
                    f"{self.url!r} refuses to {what} ({_first_line(error)}); set the keys of an account that may "
                    "list, read, write and delete there, as in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                ) from None
            except (NotSupportedError, InvalidPathError, FileNotFoundError) as error:
                self._check_bucket(error)
                raise RunDirError(f"{self.url!r} cannot {what} ({_first_line(error)})") from None
            except (BaseError, GenericError, OSError) as error:
                self._check_bucket(error)
                if time.monotonic() >= until:
                    raise RunDirError(
                        f"{self.url!r} could not be reached for {self._patience_s:.0f} s to {what} "
                        f"({_first_line(error)}); what was committed is intact, and the same command goes on once it "
                        "can be reached again"
                    ) from None
            time.sleep(random.uniform(0, pause_s))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return shown(lines[0] if lines else repr(error))[:500]
