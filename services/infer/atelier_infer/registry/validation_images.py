"""Validation images of versions, kept for the page that shows many of them at once."""

from __future__ import annotations

import threading
from collections import OrderedDict

from atelier_infer.errors import NoImageError
from atelier_infer.registry.model_store import ModelStore

KEPT = 200
MAX_BYTES = 8 * 2**20
"""Of one image; what is larger is no validation image of ours."""


class ValidationImages:
    """Asks the registry once per version. May be used from any thread."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    def image(self, version: int) -> bytes:
        """PNG.

        Raises:
            NoImageError: its training logged none.
            UnknownVersionError, NotAnAdapterError, TrackingError: see `store.Store`.
        """
        with self._lock:
            if version in self._kept:
                self._kept.move_to_end(version)
                return self._kept[version]
        png = self._store.validation_image(version)
        if png is None or not png.startswith(b"\x89PNG") or len(png) > MAX_BYTES:
            raise NoImageError(f"version {version} was trained without validation images; draw with it to see its style")
        with self._lock:
            self._kept[version] = png
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return png

    def forget(self) -> None:
        """Version numbers mean something else now."""
        with self._lock:
            self._kept.clear()
