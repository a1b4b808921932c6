"""The words of a text, in the order in which they are compared."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

_LATIN_WORD = re.compile(r"[^\t-\r\x1c-\x20]+")


def sort_tokens(text: str) -> str:
    """Return the words of a text in ascending order: token_sort_ratio is the plain ratio of two of these."""
    # In a text of Latin-1 alone, RapidFuzz does not take these two for spaces; in any other it does, as Python.
    if ("\x85" in text or "\xa0" in text) and max(text) <= "\xff":
        words = _LATIN_WORD.findall(text)
    else:
        words = text.split()
    return " ".join(sorted(words))


def encode(text: str) -> npt.NDArray[np.uint8]:
    """Return a text as UTF-8, uint8[bytes]; lone surrogates are kept."""
    return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
