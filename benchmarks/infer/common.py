"""What the benchmarks of infer share: clocks, random adapters, the machine."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import sys
import time
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


def random_matrices(manifest: Any, rank: int, seed: int) -> dict[str, Any]:
    """A [in, rank] and B [rank, out] of every target, small random numbers."""
    import numpy as np
    from atelier_contracts import names

    random, feeds = np.random.default_rng(seed), {}
    for layer, (inner, outer) in manifest.lora_targets.items():
        a, b = names.lora_inputs(layer)
        feeds[a] = random.normal(scale=0.01, size=(inner, rank)).astype(np.float32)
        feeds[b] = random.normal(scale=0.01, size=(rank, outer)).astype(np.float32)
    return feeds


def random_adapter(manifest: Any, rank: int, seed: int) -> Any:
    from atelier_contracts.manifests import AdapterManifest
    from atelier_infer.pipeline.adapter import Adapter

    adapter = AdapterManifest(
        bundle_digest=manifest.digest(),
        weights_sha256="0" * 64,
        rank=rank,
        alpha=rank,
        targets=tuple(manifest.lora_targets),
        run_id="benchmark",
        dataset_digest="0" * 64,
        git_revision=None,
    )
    return Adapter(f"random {seed}", adapter, random_matrices(manifest, rank, seed), 1.0)


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
    from fidelity_report import machine

    return machine()
