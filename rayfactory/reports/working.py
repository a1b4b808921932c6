"""What a person sees of a task that takes a while: a line that says what is being worked out."""

from __future__ import annotations

import threading
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

    On a terminal that is a line which is replaced; elsewhere, as in a file, a line every few seconds.

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
        lines = Lines(where, what)
        ended = threading.Event()
        writes = threading.Thread(target=lines.write_until, args=(ended, display.interval_s), daemon=True)
        writes.start()
        try:
            yield lines.say
        finally:
            ended.set()
            writes.join()
    else:
        yield lambda _: None


class Lines:
    """Writes the last that was told as a line, again and again after some seconds, where it is another.

    Args:
        where: to.
        first: what is told at first.
    """

    def __init__(self, where: Console, first: str) -> None:
        self._where, self._told, self._written = where, first, ""

    def say(self, text: str) -> None:
        """Take what is being worked out; from any thread."""
        self._told = text

    def write_until(self, ended: threading.Event, interval_s: float) -> None:
        """Write every so many seconds, until it has ended."""
        while not ended.wait(interval_s):
            text = self._told
            if text != self._written:
                self._where.print(shown(text))
                self._written = text
