"""Compiling a kernel: ahead of its first call, and once for all processes of a machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import config, njit, types

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


def _cache_dir() -> str:
    """Return the folder for machine code: another one when any kernel has changed.

    numba would look at the file of a kernel alone, and not at those of the kernels that it has inside.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - it never raises
    return str(Path(caches) / "rayfactory" / "kernels" / digest.hexdigest()[:16])


_CACHE_DIR = _cache_dir()


def compiled(signature: Any, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile for one signature, ahead of the first call, and keep the machine code on disk for the next process."""

    def compile_kernel(kernel: Callable[..., Any]) -> Callable[..., Any]:
        others_dir, config.CACHE_DIR = config.CACHE_DIR, _CACHE_DIR
        try:
            return njit(signature, cache=True, nogil=True, **options)(kernel)  # type: ignore[no-any-return]
        except (RuntimeError, OSError):
            # The cache cannot be written: every process compiles for itself.
            return njit(signature, nogil=True, **options)(kernel)  # type: ignore[no-any-return]
        finally:
            config.CACHE_DIR = others_dir

    return compile_kernel
