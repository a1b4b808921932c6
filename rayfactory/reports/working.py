"""What a person sees of a task that takes a while: a line that says what is being worked out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rayfactory.config import DisplayConfig
from rayfactory.shown import shown

if TYPE_CHECKING:
    from rich.console import Console

Say = Callable[[str], None]
"""Is told what is being worked out."""


def console() -> Console:
    """Return standard error, for plain messages."""
    from rich.console import Console

    return Console(stderr=True, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def working(what: str, display: DisplayConfig) -> Iterator[Say]:
    """Show on standard error, for the length of a with statement, what is being worked out, as what is yielded is told.

    On a terminal that is a line which is replaced; elsewhere, as in a file, a line now and then of what takes long.

    Args:
        what: is worked out first.
        display: how it is shown, as for a run.
    """
    from rich.text import Text

    where = console()
    mode = display.mode if display.mode != "auto" else "panel" if where.is_terminal else "lines"
    if mode == "panel":
        with where.status(what) as status:
            yield lambda text: status.update(Text(shown(text)))
    elif mode == "lines":
        yield _Lines(where, what, display.interval_s).say
    else:
        yield lambda _: None


class _Lines:
    """Writes the last that was told, as a line, once it is some seconds since the line before it."""

    def __init__(self, where: Console, first: str, interval_s: float) -> None:
        self._where, self._last, self._interval_s = where, first, interval_s
        self._written_at = time.monotonic()
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        with self._lock:
            now = time.monotonic()
            if text != self._last and now - self._written_at >= self._interval_s:
                self._where.print(shown(text))
                self._last, self._written_at = text, now
