"""What a person sees of a task that takes a while: a line that says what is being worked out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

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
def working(what: str) -> Iterator[Say]:
    """Show a line on standard error for the length of a with statement; what is yielded replaces it.

    Args:
        what: is worked out first.
    """
    from rich.text import Text

    with console().status(what) as status:
        yield lambda text: status.update(Text(shown(text)))
