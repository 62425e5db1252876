"""glibc's allocator: freed memory goes back to the system."""

from __future__ import annotations

import ctypes

M_MMAP_THRESHOLD = -3
LARGE_BYTES = 2**20
"""Blocks from this size on have pages of their own; glibc would raise that to 32 MiB by itself, and keep what is freed."""


def give_back_large_blocks() -> bool:
    """From now on, in the whole process; False where the C library is another one. Source: mallopt(3)."""
    try:
        return bool(ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BYTES))
    except (OSError, AttributeError):
        return False
