"""Objects below an address such as ``s3://bucket/pools/bird``, read and written whole.

Keys, regions and endpoints come from the environment, under the names that the providers' own tools know them by
(``AWS_ACCESS_KEY_ID``, ``AWS_REGION``, ``AWS_ENDPOINT_URL``, ..), or from the role of the machine.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping
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

ENDING_S = 10.0
"""The same, once the storage could not be reached for all of that time."""

REQUEST_S = 60.0
"""A request that is not answered for so long has failed. Large objects are read and written in pieces."""

PIECE_BYTES = 8 * 2**20
_PIECES_AT_ONCE = 2
_LONGEST_PAUSE_S = 10.0
_SAY_AFTER_S = 10.0
_NO_KEYS = ("169.254.169.254", "metadata.google.internal", "credential")
"""What the library says where it has no keys, and asks the machine for them in vain."""

logger = logging.getLogger("rayfactory.bucket")

Result = TypeVar("Result")


def is_url(place: str) -> bool:
    """Return whether a run directory is in object storage."""
    return place.partition("://")[0] in SCHEMES and "://" in place


def is_plain(url: str) -> bool:
    """Return whether an address has nothing but a bucket and a folder: no key, no query."""
    return not set("@?#") & set(url)


def variables() -> dict[str, str]:
    """Return the variables of this process's environment that say how to reach object storage."""
    return {name: value for name, value in os.environ.items() if name.startswith(PREFIXES)}


def take_variables(taken: Mapping[str, str]) -> None:
    """Have the variables of another process for object storage in this one, and no others of that kind."""
    for name in variables().keys() - taken.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in taken.items() if name.startswith(PREFIXES)})


@dataclass(frozen=True, slots=True)
class Version:
    """What the storage calls a version of an object.

    Attributes:
        e_tag: as it stands in answers.
        number: beside it, where the provider has one; a condition on a version names both.
    """

    e_tag: str | None
    number: str | None = None

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Version:
        """Read it off an answer."""
        return cls(answer.get("e_tag"), answer.get("version"))

    @property
    def tag(self) -> str:
        """The same for one content wherever it is said: lists and answers quote it differently."""
        return (self.e_tag or "").strip('"')


@dataclass(frozen=True, slots=True)
class Listed:
    """An object that is there: its size in bytes, and the `Version.tag` of its content."""

    size: int
    tag: str


class Store:
    """The objects below an address. For any number of threads.

    Each method tries again while the storage cannot be reached, and ends with a `RunDirError` that says what the
    storage answered.

    Args:
        url: of the folder, ``s3://bucket/folder``.
        setting: that has it, for messages.
        patience_s: as `PATIENCE_S`.
        request_s: as `REQUEST_S`.

    Attributes:
        watch: called before each try; what it raises ends the request.

    Raises:
        RunDirError: it is no address of a folder.
    """

    def __init__(
        self, url: str, setting: str = "run_dir", *, patience_s: float = PATIENCE_S, request_s: float = REQUEST_S
    ) -> None:
        from obstore.store import from_url

        self.url = url.rstrip("/")
        self.watch: Callable[[], None] = lambda: None
        self._setting = setting
        self._patience_s = patience_s
        options: ClientConfig = {"timeout": timedelta(seconds=request_s)}
        if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
            options["allow_http"] = True
        try:
            if not is_plain(self.url):
                raise ValueError("it has more than a bucket and a folder; keys belong into the environment")
            # What is tried again, and for how long, is decided here: the library's own tries end too early for a link
            # that is down, and writing is none of what it tries again.
            self._store: Any = from_url(self.url, client_options=options, retry_config={"max_retries": 0})
        except Exception as error:  # noqa: BLE001 - what kinds there are is not documented
            raise RunDirError(
                f"{setting} {shown(self.url)!r} is no folder in object storage ({_first_line(error)}); give one such "
                "as s3://bucket/pools/first"
            ) from None

    def read(self, name: str) -> bytes | None:
        """Return an object's content; None where there is none."""
        found = self.read_with_version(name)
        return found[0] if found else None

    def read_with_version(self, name: str) -> tuple[bytes, Version] | None:
        """Return an object's content and its version; None where there is none."""
        return self._tried(f"read {name}", lambda: self._read(name))

    def _read(self, name: str) -> tuple[bytes, Version] | None:
        import obstore

        try:
            found = obstore.get(self._store, name)
            return bytes(found.bytes()), Version.of(found.meta)
        except FileNotFoundError as error:
            self._check_bucket(error)
            return None

    def fetch(self, name: str, path: Path) -> bool:
        """Write an object's content to a file; return False where there is no such object, or another by now.

        Raises:
            OSError: the file cannot be written.
        """
        import obstore
        from obstore.exceptions import PreconditionError

        def about() -> Mapping[str, Any] | None:
            try:
                return obstore.head(self._store, name)
            except FileNotFoundError as error:
                self._check_bucket(error)
                return None

        meta = self._tried(f"read {name}", about)
        if meta is None:
            return False
        size, e_tag = int(meta["size"]), meta["e_tag"]

        def piece(start: int) -> bytes | None:
            options: Any = {"range": (start, min(start + PIECE_BYTES, size)), "if_match": e_tag}
            try:
                return bytes(obstore.get(self._store, name, options=options).bytes())
            except (FileNotFoundError, PreconditionError):
                return None

        with path.open("wb") as file:
            for start in range(0, size, PIECE_BYTES):
                content = self._tried(f"read {name}", lambda start=start: piece(start))  # type: ignore[misc]
                if content is None:
                    return False
                file.write(content)
        return True

    def write(self, name: str, content: bytes | Path) -> Version:
        """Write an object, in the place of one that is there; return its version.

        Args:
            name: of the object.
            content: what it is to hold, or the file that does.
        """
        import obstore

        def write() -> Version:
            return Version.of(obstore.put(self._store, name, content, max_concurrency=_PIECES_AT_ONCE))

        return self._tried(f"write {name}", write)

    def create(self, name: str, content: bytes) -> Version | None:
        """Write an object that is not there yet; return its version, None where it is there with other content."""
        return self._written_if(name, content, None)

    def replace(self, name: str, content: bytes, version: Version) -> Version | None:
        """Write an object in the place of a version of it; return the new version, None where it has another by now."""
        return self._written_if(name, content, version)

    def _written_if(self, name: str, content: bytes, expected: Version | None) -> Version | None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, GenericError, PreconditionError

        mode: Any = "create"
        if expected is not None:
            named = {"e_tag": expected.e_tag, "version": expected.number}
            mode = {name: value for name, value in named.items() if value is not None}

        def write() -> Version | None:
            try:
                return Version.of(obstore.put(self._store, name, content, mode=mode, use_multipart=False))
            except (AlreadyExistsError, PreconditionError) as error:
                # It may have been us, with a request whose answer was lost.
                found = self.read_with_version(name)
                if found is not None and found[0] == content:
                    return found[1]
                if (found is None) == (expected is None) and (found is None or found[1] == expected):
                    # Nothing is in the way: the storage was at work on another try of ours.
                    raise GenericError(f"{_first_line(error)}, though nothing is in the way") from None
                return None

        return self._tried(f"write {name}", write)

    def listed(self, prefix: str = "") -> dict[str, Listed]:
        """Return the objects in a folder and the folders in it, by their names."""
        import obstore

        def listed() -> dict[str, Listed]:
            found = obstore.list(self._store, prefix or None).collect()
            return {each["path"]: Listed(each["size"], Version.of(each).tag) for each in found}

        return self._tried(f"list {prefix or 'what is there'}", listed)

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects; what is not there is none of them."""
        import obstore

        gone = list(names)

        def remove() -> None:
            try:
                obstore.delete(self._store, gone)
            except FileNotFoundError as error:  # some providers say so, and may have left the others
                self._check_bucket(error)
                for name in gone:
                    try:
                        obstore.delete(self._store, name)
                    except FileNotFoundError:
                        continue

        if gone:
            self._tried(f"remove {gone[0]}", remove)

    def _check_bucket(self, error: Exception) -> None:
        """Raise where it is the bucket that is not there."""
        if "NoSuchBucket" in str(error):
            raise RunDirError(
                f"there is no bucket of {self.url!r}; make it, or correct {self._setting} ({_first_line(error)})"
            ) from None

    def _tried(self, what: str, do: Callable[[], Result]) -> Result:
        """Do something until it works, or cannot work, or has not worked for too long.

        Raises:
            RunDirError: the two last; and what `watch` raises.
        """
        from obstore.exceptions import (
            BaseError,
            InvalidPathError,
            NotSupportedError,
            PermissionDeniedError,
            UnauthenticatedError,
        )

        begun, pause_s, has_said = time.monotonic(), 0.1, False
        while True:
            self.watch()
            try:
                return do()
            except (PermissionDeniedError, UnauthenticatedError) as error:
                raise RunDirError(
                    f"{self.url!r} refuses to {what} ({_first_line(error)}); set the keys of an account that may "
                    "list, read, write and delete there, as in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                ) from None
            except (NotSupportedError, InvalidPathError, FileNotFoundError) as error:
                self._check_bucket(error)
                raise RunDirError(
                    f"{self.url!r} cannot {what} ({_first_line(error)}); correct {self._setting}"
                ) from None
            except BaseError as error:
                self._check_bucket(error)
                waited_s = time.monotonic() - begun
                has_no_keys = any(sign in str(error).lower() for sign in _NO_KEYS)
                if waited_s >= (min(self._patience_s, ENDING_S) if has_no_keys else self._patience_s):
                    self._patience_s = min(self._patience_s, ENDING_S)
                    raise self._unreachable(what, waited_s, error, has_no_keys=has_no_keys) from None
                if waited_s >= _SAY_AFTER_S and not has_said:
                    has_said = True
                    logger.warning(
                        "%s cannot be reached to %s (%s); it is tried again for %.0f s",
                        self.url, what, _first_line(error), self._patience_s,
                    )  # fmt: skip
            time.sleep(random.uniform(0, pause_s))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _unreachable(self, what: str, waited_s: float, error: Exception, *, has_no_keys: bool) -> RunDirError:
        if has_no_keys:
            return RunDirError(
                f"there are no keys for {self.url!r} ({_first_line(error)}); set AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY and AWS_REGION, or those of your provider, or give the machine a role"
            )
        return RunDirError(
            f"{self.url!r} could not be reached for {waited_s:.0f} s to {what} ({_first_line(error)}); what was "
            "committed is intact, and the same command goes on once it can be reached again"
        )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return shown(lines[0] if lines else repr(error))[:500]
