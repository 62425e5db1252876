"""Bounds how many images are under way, and estimates how long they take."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from atelier_infer.errors import QueueFullError

SMOOTHING = 0.2
"""Weight of the newest image in the mean cost."""


class Admission:
    """May be used from any thread.

    Args:
        queue_limit: images that may wait besides the first.
    """

    def __init__(self, queue_limit: int) -> None:
        self._limit, self._lock = queue_limit, threading.Lock()
        self._admitted, self.mean_s = 0, 1.0

    @property
    def admitted(self) -> int:
        """Images that are waiting, running, or loading their version."""
        return self._admitted

    @contextmanager
    def admit(self, images: int) -> Iterator[None]:
        """Counts the images of one request from arrival to response. A request that is alone is admitted whatever the limit.

        Raises:
            QueueFullError: the limit would be exceeded.
        """
        with self._lock:
            if self._admitted and self._admitted + images > self._limit + 1:
                raise QueueFullError(
                    f"at most {self._limit} images may wait besides the first; {self._admitted} are under way and "
                    f"{images} more were requested; send the request again later",
                    self.seconds_for(self._admitted),
                )
            self._admitted += images
        try:
            yield
        finally:
            with self._lock:
                self._admitted -= images

    def seconds_for(self, images: float) -> int:
        """Estimate from recent images; at least 1."""
        return max(1, math.ceil(self.mean_s * images))

    def record_cost(self, seconds: float) -> None:
        self.mean_s += SMOOTHING * (seconds - self.mean_s)
