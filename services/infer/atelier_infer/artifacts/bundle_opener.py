"""Bases brought into memory: measured once, counted while they are there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from atelier_contracts import names
from atelier_contracts.manifests import BundleManifest

from atelier_infer.engine.memory_account import MemoryAccount
from atelier_infer.onnx.providers import Runtime
from atelier_infer.pipeline.bundle import Bundle, open_bundle
from atelier_infer.pipeline.memory_model import MemoryModel


class BundleOpener:
    """Opens a folder whose digests were checked.

    Args:
        memory: counts the base until nobody refers to it any more.
        runtime: what runs the graphs.
        decode_tile_px: longest side of an image that is decoded whole, if there is the memory for it.
        measure: what the base in a folder needs, found with so many bytes.
    """

    def __init__(
        self,
        *,
        memory: MemoryAccount,
        runtime: Runtime,
        decode_tile_px: int,
        measure: Callable[[Path, int], MemoryModel | None],
    ) -> None:
        self._memory, self._runtime, self._decode_tile_px, self._measure = memory, runtime, decode_tile_px, measure

    def __call__(self, folder: Path) -> Bundle:
        """The base in memory.

        Raises:
            MemoryFullError: it does not fit beside the base that is there.
            ProviderError, BundleError: see `bundle.open_bundle` and `memory_measurement.Measurement`.
        """
        memory = self._memory
        manifest = BundleManifest.model_validate_json((folder / names.BUNDLE_FILE).read_bytes())
        digest = manifest.digest()
        memory.check_bundle(digest, sum((folder / file).stat().st_size for file in manifest.files))
        # while one base draws, the next one is measured in half of what is left
        room = max(0, memory.free_bytes) // (2 if memory.parts().get("bundles") else 1)
        with memory.held("measurement", room):
            model = self._measure(folder, room)
        if model is None:
            return open_bundle(folder, runtime=self._runtime, decode_tile_px=self._decode_tile_px)
        memory.check_bundle(digest, model.resident_bytes)
        with memory.held("bundles", model.resident_bytes):
            bundle = open_bundle(folder, runtime=self._runtime, decode_tile_px=self._decode_tile_px, memory=model)
            bundle = replace(bundle, decode_tile_px=memory.tile_px(bundle))
            memory.hold(bundle, "bundles", model.resident_bytes)
        return bundle
