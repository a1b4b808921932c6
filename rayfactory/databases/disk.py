"""Room on a disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from rayfactory.errors import BenchmarkError


def check_room(folder: Path, num_bytes: int) -> None:
    """Raise BenchmarkError where a folder's disk has less room than that."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < num_bytes:
        raise BenchmarkError(
            f"{str(folder)!r} has room for {free_bytes / 1e9:.1f} GB, and {num_bytes / 1e9:.1f} GB are needed; "
            "make room, or set data_dir to a folder on another disk"
        )
