"""What stands for the content of a file: one digest that is exact, and one that is quick."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

WHOLE_BYTES = 256 * 2**20
"""A file up to this size is read whole for its content digest."""

_BLOCK_BYTES = 2**20
_NUM_BLOCKS = 64


def content_sha256(path: Path) -> str:
    """Return a digest of a file's content, the same on every machine that has the same file.

    Of a file larger than `WHOLE_BYTES` it covers the size and evenly spaced blocks, the first and the last among them.
    A write-ahead log beside the file is part of its content.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    for part in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + ".wal")):
        if part is path or (part.is_file() and part.stat().st_size):
            _add(digest, part, WHOLE_BYTES)
    return digest.hexdigest()


def quick_sha256(path: Path) -> str:
    """Return a digest that tells in milliseconds whether a file is the one seen before on this machine.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    for part in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + ".wal")):
        if part is path or (part.is_file() and part.stat().st_size):
            digest.update(str(part.stat().st_mtime_ns).encode())
            _add(digest, part, 2**20, block_bytes=2**14)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, path: Path, whole_bytes: int, block_bytes: int = _BLOCK_BYTES) -> None:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(f"{size}:".encode())
        if size <= whole_bytes:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
            return
        for number in range(_NUM_BLOCKS):
            file.seek((size - block_bytes) * number // (_NUM_BLOCKS - 1))
            digest.update(file.read(block_bytes))
