"""A cache of validation images, because the page shows many of them at once."""

from __future__ import annotations

import threading
from collections import OrderedDict

from atelier_infer.errors import NoValidationImageError
from atelier_infer.registry.model_store import ModelStore

CAPACITY = 200
MAX_BYTES = 8 * 2**20
"""Larger files are not validation images of the trainer."""


class ValidationImages:
    """May be used from any thread."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def get(self, generation: str, version: int) -> bytes:
        """PNG.

        Args:
            generation: of the registered model; its version numbers start over when it is created again.
            version: number.

        Raises:
            NoValidationImageError: its training logged none.
            UnknownVersionError, NotAnAdapterError, TrackingError: see `ModelStore`.
        """
        key = generation, version
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        png = self._store.validation_image(version)
        if png is None or not png.startswith(b"\x89PNG") or len(png) > MAX_BYTES:
            raise NoValidationImageError(
                f"version {version} was trained without validation images; generate an image with it to see its style"
            )
        with self._lock:
            self._cache[key] = png
            if len(self._cache) > CAPACITY:
                self._cache.popitem(last=False)
        return png
