"""Makes glibc's allocator return large freed blocks to the system."""

from __future__ import annotations

import ctypes

M_MMAP_THRESHOLD = -3
LARGE_BYTES = 2**20
"""Blocks of this size or more are mapped separately; by default glibc raises the threshold to 32 MiB and keeps freed memory."""


def return_large_blocks() -> bool:
    """For the whole process; False with another C library. Source: mallopt(3)."""
    try:
        return bool(ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BYTES))
    except (OSError, AttributeError):
        return False
