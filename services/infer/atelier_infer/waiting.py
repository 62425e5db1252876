"""Waiting for pixels while looking whether the request's sender is still there."""

from __future__ import annotations

import asyncio

from fastapi import Request

from atelier_infer.drawing import Pixels
from atelier_infer.engine import Job

HANG_UP_POLL_S = 0.1
"""How often a waiting request looks whether its sender is still there."""


async def pixels_of(job: Job, request: Request) -> Pixels | None:
    """Waits for the pixels; None when the request's sender hung up, in which case the job ends at its next step."""
    waiter = asyncio.wrap_future(job.future)
    try:
        while not waiter.done():
            await asyncio.wait({waiter}, timeout=HANG_UP_POLL_S)
            if not waiter.done() and await request.is_disconnected():
                return None
        if job.started_at is not None:
            request.state.log["queued_s"] = round(job.started_at - job.queued_at, 3)
        return waiter.result()
    finally:
        job.cancel()
        waiter.cancel()
