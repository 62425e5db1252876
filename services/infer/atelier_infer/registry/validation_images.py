"""Validation pictures of versions, kept for the page that shows many of them at once."""

from __future__ import annotations

import threading
from collections import OrderedDict

from atelier_infer.errors import NoPictureError
from atelier_infer.registry.model_store import ModelStore

KEPT = 200
MAX_BYTES = 8 * 2**20
"""Of one picture; what is larger is no validation picture of ours."""


class ValidationImages:
    """Asks the registry once per version. May be used from any thread."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    def picture(self, version: int) -> bytes:
        """PNG.

        Raises:
            NoPictureError: its training logged none.
            UnknownVersionError, NotAnAdapterError, TrackingError: see `store.Store`.
        """
        with self._lock:
            if version in self._kept:
                self._kept.move_to_end(version)
                return self._kept[version]
        png = self._store.validation_picture(version)
        if png is None or not png.startswith(b"\x89PNG") or len(png) > MAX_BYTES:
            raise NoPictureError(f"version {version} was trained without validation pictures; draw with it to see its style")
        with self._lock:
            self._kept[version] = png
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return png

    def forget(self) -> None:
        """Version numbers mean something else now."""
        with self._lock:
            self._kept.clear()
