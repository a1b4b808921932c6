"""The processes below a run, as Linux tells of them."""

from __future__ import annotations

from pathlib import Path


def descendants(pid: int) -> list[int]:
    """Return the process ids below `pid`, Ray's workers among them.

    Raises:
        OSError: one of them ends at this moment.
    """
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [found for child in map(int, children) for found in (child, *descendants(child))]


def command_line(pid: int) -> str:
    """Return a process's words, with zeros between them; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
