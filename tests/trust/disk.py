"""A file system of a few kilobytes, in a mount namespace of its own, for what happens when there is no more room.

    python -m tests.trust.disk FOLDER KILOBYTES -- COMMAND

mounts it at FOLDER and runs the command, which may make it larger with `grow`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _unshare() -> list[str]:
    """Return what a command is put behind so that it may mount: as root that is its own mount table, else a user's."""
    return ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]


def on_small_disk(
    folder: Path, kilobytes: int, command: Sequence[str], timeout_s: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run a command with `folder` on a file system of a few kilobytes, that goes away with it; skip where none can be.

    Args:
        folder: exists, and is empty.
    """
    folder.mkdir(exist_ok=True)
    mounting = f"mount -t tmpfs -o size={kilobytes}k none '{folder}'"
    try:
        subprocess.run([*_unshare(), "sh", "-c", mounting], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here (unshare, mount)")
    return subprocess.run(
        [*_unshare(), "sh", "-c", f'{mounting} && exec "$@"', "sh", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )


def grow(folder: Path, kilobytes: int) -> None:
    """Give the file system at a folder, which this process is on, another size."""
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(folder)], check=True)


def module(name: str, *args: str) -> list[str]:
    """Return a command that runs a module of the tests."""
    return [sys.executable, "-m", name, *args]
