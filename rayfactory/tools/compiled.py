"""Compiling a kernel: ahead of its first call, and once for all processes of a machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit, types

# Arrays that come out of Ray's object store cannot be written to; a kernel that takes these takes the others too.
READ_U8 = types.Array(types.uint8, 1, "C", readonly=True)
READ_I32 = types.Array(types.int32, 1, "C", readonly=True)
READ_I64 = types.Array(types.int64, 1, "C", readonly=True)
READ_F32 = types.Array(types.float32, 1, "C", readonly=True)
READ_F64 = types.Array(types.float64, 1, "C", readonly=True)
ROWS_F32 = types.Array(types.float32, 2, "C", readonly=True)
I32 = types.int32[::1]
I64 = types.int64[::1]
F64 = types.float64[::1]
ROWS_I32 = types.int32[:, ::1]
ROWS_U64 = types.uint64[:, ::1]
U32 = types.uint32[::1]
U64 = types.uint64[::1]


def compiled(signature: Any, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile for one signature, ahead of the first call, and keep the machine code on disk for the next process."""

    def compile_kernel(kernel: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(signature, cache=True, nogil=True, **options)(kernel)  # type: ignore[no-any-return]
        except RuntimeError:
            # Neither the package's folder nor the user's cache can be written: every process compiles for itself.
            return njit(signature, nogil=True, **options)(kernel)  # type: ignore[no-any-return]

    return compile_kernel
