"""What a power cut may leave of the files that a process writes: each operation is recorded, and any beginning of them
is laid out again, with as much of what was not synced as one likes.

The model is a strict one. What a file holds is there once it was synced, and may be anything before. That it is there
at all, under its name, is certain once its folder was synced; of what was done in a folder since, any part may be
there, whatever the order.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

TORN = b"PAR1 torn {"
"""What a file holds that was not synced."""


@dataclass
class _Node:
    """A file or a folder, whatever its name is at the moment."""

    is_folder: bool


@dataclass(frozen=True)
class _Synced:
    """What a file holds is on the disk; of a folder (None), its names."""

    node: int
    content: bytes | None


@dataclass(frozen=True)
class _Named:
    """In a folder, names mean other nodes from now on, or none."""

    folder: int
    names: tuple[tuple[str, int | None], ...]


@dataclass
class Recording:
    """The operations on the files of a folder, which was empty."""

    root: Path
    operations: list[_Synced | _Named] = field(default_factory=list)
    _nodes: list[_Node] = field(default_factory=lambda: [_Node(is_folder=True)])
    _at: dict[Path, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._at[self.root] = 0

    # -- while it is recorded -------------------------------------------------

    def _covers(self, path: Path) -> bool:
        return path != self.root and path.is_relative_to(self.root)

    def created(self, path: Path, *, is_folder: bool) -> None:
        if self._covers(path) and path not in self._at:
            self._nodes.append(_Node(is_folder))
            self._at[path] = len(self._nodes) - 1
            self._name(path.parent, (path.name, self._at[path]))

    def removed(self, path: Path) -> None:
        if self._covers(path):
            del self._at[path]
            self._name(path.parent, (path.name, None))

    def renamed(self, source: Path, target: Path) -> None:
        if self._covers(source):
            assert source.parent == target.parent, "a move between folders is no part of the model"
            self._at[target] = self._at.pop(source)
            self._name(target.parent, (target.name, self._at[target]), (source.name, None))

    def synced(self, path: Path) -> None:
        if path in self._at:
            self.operations.append(_Synced(self._at[path], None if path.is_dir() else path.read_bytes()))

    def _name(self, folder: Path, *names: tuple[str, int | None]) -> None:
        self.operations.append(_Named(self._at[folder], names))

    # -- afterwards -----------------------------------------------------------

    def after(self, count: int, is_kept: Callable[[], bool]) -> dict[str, bytes | None]:
        """Return what is there after the first `count` operations: contents by path, None for a folder.

        Args:
            is_kept: asked for each change of a folder that was not synced: whether it is there all the same.
        """
        contents: dict[int, bytes] = {}
        changes: dict[int, list[tuple[_Named, bool]]] = {}
        for operation in self.operations[:count]:
            if isinstance(operation, _Named):
                changes.setdefault(operation.folder, []).append((operation, False))
            elif operation.content is not None:
                contents[operation.node] = operation.content
            else:
                folder = changes.get(operation.node, [])
                folder[:] = [(change, True) for change, _ in folder]

        def laid_out(folder: int, prefix: str) -> Iterator[tuple[str, bytes | None]]:
            names: dict[str, int] = {}
            for change, is_certain in changes.get(folder, []):
                if is_certain or is_kept():
                    for name, node in change.names:
                        if node is None:
                            names.pop(name, None)
                        else:
                            names[name] = node
            for name, node in sorted(names.items()):
                if self._nodes[node].is_folder:
                    yield prefix + name, None
                    yield from laid_out(node, f"{prefix}{name}/")
                else:
                    yield prefix + name, contents.get(node, TORN)

        return dict(laid_out(0, ""))


def lay_out(state: dict[str, bytes | None], folder: Path) -> Path:
    """Write what a power cut left into a folder, in the place of what was there, and return it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in state.items():
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)
    return folder


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return what a folder holds, as `Recording.after` does."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


@contextmanager
def recording(root: Path) -> Iterator[Recording]:
    """Record what this process does to the files under an empty folder, for the length of a with statement."""
    record = Recording(root)

    def after(function: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            where = _resolved(args[0], kwargs.get("dir_fd"))
            result = function(*args, **kwargs)
            note(where, *args[1:])
            return result

        return wrapper

    def opened(path: Path, mode: str = "r", *_: Any) -> None:
        if mode[0] in "wax":
            record.created(path, is_folder=False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", after(io.open, opened))
        patch.setattr(os, "mkdir", after(os.mkdir, lambda path, *_: record.created(path, is_folder=True)))
        patch.setattr(os, "fsync", after(os.fsync, record.synced))
        for name in ("unlink", "remove", "rmdir"):
            patch.setattr(os, name, after(getattr(os, name), lambda path, *_: record.removed(path)))
        for name in ("rename", "replace"):
            patch.setattr(
                os, name, after(getattr(os, name), lambda source, target, *_: record.renamed(source, Path(target)))
            )
        yield record


def _resolved(named: int | str | os.PathLike[str], dir_fd: int | None) -> Path:
    """Return the path of what a system call is about: a descriptor, a path, or a name in an open folder."""
    if isinstance(named, int):
        return Path(f"/proc/self/fd/{named}").readlink()
    return Path(f"/proc/self/fd/{dir_fd}").readlink() / named if dir_fd is not None else Path(named)
