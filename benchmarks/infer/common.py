"""What the benchmarks of infer share: clocks, random adapters, the machine."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join(str(ROOT / part) for part in ("contracts", "services/infer", "benchmarks/infer"))
PROMPT = "a cat on a chair"


Times = tuple[float, float]
"""Wall clock, and CPU time of all threads of this process."""


def now() -> Times:
    return time.monotonic(), time.process_time()


def since(started: Times) -> Times:
    return time.monotonic() - started[0], time.process_time() - started[1]


def random_weights(manifest: Any, rank: int, seed: int, groups: Iterable[str] = ("attention",)) -> dict[str, Any]:
    """`LayerWeights` of small random numbers for every layer of some groups of the UNet, by layer."""
    import numpy as np
    from atelier_infer.pipeline.lora_layout import LayerWeights

    random = np.random.default_rng(seed)
    return {
        layer: LayerWeights(
            random.normal(scale=0.01, size=(rank, inner * kernel**2)).astype(np.float32),
            random.normal(scale=0.01, size=(outer, rank)).astype(np.float32),
            1.0,
        )
        for group in groups
        for layer, (inner, outer, kernel) in manifest.lora["unet"][group].items()
    }


def random_manifest(manifest: Any, weights: dict[str, Any], weights_sha256: str = "0" * 64) -> Any:
    from atelier_contracts.manifests import AdapterLayer, AdapterManifest

    return AdapterManifest(
        bundle_digest=manifest.digest(),
        weights_sha256=weights_sha256,
        layers={f"unet.{name}": AdapterLayer(rank=len(one.down), alpha=len(one.down)) for name, one in weights.items()},
        run_id="benchmark",
        dataset_digest="0" * 64,
        git_revision=None,
    )


def random_adapter(manifest: Any, rank: int, seed: int) -> Any:
    from atelier_infer.pipeline.adapter import Adapter
    from atelier_infer.pipeline.lora_layout import LoraLayout

    weights = random_weights(manifest, rank, seed)
    layout = LoraLayout(manifest.lora["unet"])
    return Adapter(f"random {seed}", random_manifest(manifest, weights), {"unet": layout.pack(weights)})


def resident_mib(process: int | str = "self") -> float:
    """Including file-mapped pages."""
    text = Path(f"/proc/{process}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def versions() -> dict[str, str]:
    packages = {"python": platform.python_version()}
    for name in ("onnxruntime", "torch", "diffusers", "peft", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    return packages


def machine() -> dict[str, str | int]:
    sys.path.append(str(ROOT / "benchmarks"))
    from classifier.report import machine

    return machine()
