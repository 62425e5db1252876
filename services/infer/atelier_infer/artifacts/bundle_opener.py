"""Opens base models: measured once, counted in the memory budget while they are in use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from atelier_contracts import names

from atelier_infer.engine.memory_budget import MemoryBudget
from atelier_infer.onnx.providers import Runtime
from atelier_infer.pipeline.bundle import Bundle, open_bundle, parse_bundle_manifest
from atelier_infer.pipeline.memory_model import MemoryModel


class BundleOpener:
    """Opens folders whose digests were verified.

    Args:
        memory: tracks each base model until it is garbage collected.
        runtime: runs the graphs.
        decode_tile_px: longest side of an image that is decoded whole, if memory allows.
        measure: memory model of the base model in a folder, measured within a number of bytes.
    """

    def __init__(
        self,
        *,
        memory: MemoryBudget,
        runtime: Runtime,
        decode_tile_px: int,
        measure: Callable[[Path, int], MemoryModel | None],
    ) -> None:
        self._memory, self._runtime, self._decode_tile_px, self._measure = memory, runtime, decode_tile_px, measure

    def __call__(self, folder: Path) -> Bundle:
        """Measures, opens and tracks.

        Raises:
            OutOfMemoryError: it does not fit in addition to the loaded base model.
            ProviderError, BundleError: see `bundle.open_bundle` and `memory_profiler.MemoryProfiler`.
        """
        memory = self._memory
        manifest = parse_bundle_manifest((folder / names.BUNDLE_FILE).read_bytes(), f"bundle in {folder.name}")
        digest = manifest.digest()
        memory.check_bundle(digest, sum((folder / file).stat().st_size for file in manifest.files))
        # while one base model is in use, the next one is measured in half of the free memory
        room = max(0, memory.free_bytes) // (2 if memory.usage().get("bundles") else 1)
        with memory.reserved("profiling", room):
            model = self._measure(folder, room)
        if model is None:
            return open_bundle(folder, runtime=self._runtime, decode_tile_px=self._decode_tile_px)
        memory.check_bundle(digest, model.resident_bytes)
        with memory.reserved("bundles", model.resident_bytes):
            bundle = open_bundle(folder, runtime=self._runtime, decode_tile_px=self._decode_tile_px, memory=model)
            bundle = replace(bundle, decode_tile_px=memory.decode_tile_px(bundle))
            memory.track(bundle, "bundles", model.resident_bytes)
        return bundle
