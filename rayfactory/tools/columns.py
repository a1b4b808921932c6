"""Rows of different lengths in one array: texts and trees of a large pool without a Python object for each."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_GROWTH = 1.5
_FIRST_CAPACITY = 1024


class Column:
    """Values of one type, one behind the other; it grows at its end and is cut there.

    Memory is what the values need, and while it grows at most 2.5 times as much.
    """

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._buffer: npt.NDArray[Any] = np.empty(_FIRST_CAPACITY, dtype)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def values(self) -> npt.NDArray[Any]:
        """All values; a view to read from that holds until the next change."""
        view = self._buffer[: self._size]
        view.flags.writeable = False
        return view

    def extend(self, values: npt.NDArray[Any]) -> None:
        """Add values at the end."""
        size = self._size + len(values)
        if size > len(self._buffer):
            grown = np.empty(max(size, int(len(self._buffer) * _GROWTH)), self._buffer.dtype)
            grown[: self._size] = self.values
            self._buffer = grown
        self._buffer[self._size : size] = values
        self._size = size

    def cut(self, size: int) -> None:
        """Keep the first values only."""
        self._size = min(size, self._size)


class Ragged:
    """Rows of values of one type, of any length each.

    Attributes:
        values: all rows, one behind the other.
        ends: int64[rows], where each ends in them.
    """

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._values = Column(dtype)
        self._ends = Column(np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def values(self) -> npt.NDArray[Any]:
        """All rows, one behind the other; a view to read from that holds until the next change."""
        return self._values.values

    @property
    def ends(self) -> npt.NDArray[np.int64]:
        """int64[rows], where each row ends; a view to read from that holds until the next change."""
        return self._ends.values

    def append(self, row: npt.NDArray[Any]) -> None:
        """Add a row."""
        self._values.extend(row)
        self._ends.extend(np.array([len(self._values)]))

    def extend(self, values: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> None:
        """Add rows that lie one behind the other."""
        self._ends.extend(len(self._values) + np.cumsum(lengths))
        self._values.extend(values)

    def cut(self, num_rows: int) -> None:
        """Keep the first rows only."""
        self._ends.cut(num_rows)
        self._values.cut(int(self.ends[-1]) if len(self) else 0)
