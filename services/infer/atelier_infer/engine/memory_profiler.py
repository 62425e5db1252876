"""Measures the memory of a base model in a child process: `python -m atelier_infer.engine.memory_profiler ARGUMENTS`.

A child process, because the measure is the peak of the resident memory, and because the kernel may kill it for lack of
memory; the values measured until then still count.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from atelier_contracts import names
from pydantic import ValidationError

from atelier_infer.engine.malloc import return_large_blocks
from atelier_infer.errors import BundleError
from atelier_infer.onnx.providers import Runtime
from atelier_infer.onnx.session import Feeds, run_graph
from atelier_infer.pipeline.bundle import Bundle, open_bundle, parse_bundle_manifest
from atelier_infer.pipeline.memory_model import MemoryModel, fit

log = logging.getLogger(__name__)

MODULE = "atelier_infer.engine.memory_profiler"

RANK = 16
"""Of the adapter used for the measurement."""

RATIOS = (0.5, 1, 2, 4, 8)
"""Measured sides, as multiples of the native size."""


@dataclass(frozen=True)
class MemoryProfiler:
    """Measures each base model once per runtime; the result is cached on disk.

    Attributes:
        decode_tile_px: longest side that is decoded whole.
        max_side_px: largest side of an image.
        seconds: for the steps, and for the decodes: no size is started that would end later.
    """

    runtime: Runtime
    decode_tile_px: int
    max_side_px: int
    seconds: float = 45.0

    def __call__(self, folder: Path, limit_bytes: int) -> MemoryModel | None:
        """Measures the base model in a folder whose digests were checked.

        Args:
            folder: bundle.json and the files that it lists.
            limit_bytes: sizes that are expected to need more are not tried.

        Returns:
            None for a provider that does not use the CPU's memory.

        Raises:
            BundleError: not even the smallest size could be run.
        """
        if self.runtime.provider == "cuda":
            return None
        digest = parse_bundle_manifest((folder / names.BUNDLE_FILE).read_bytes(), f"bundle in {folder.name}").digest()
        cached = self._cache_file(digest)
        if cached:
            try:
                return MemoryModel.model_validate_json(cached.read_bytes())
            except (OSError, ValidationError):
                pass  # not measured yet, or by another release
        started = time.monotonic()
        model = self._measure(folder, digest, limit_bytes)
        if cached:
            cached.parent.mkdir(parents=True, exist_ok=True)
            incoming = cached.with_suffix(".incoming")
            incoming.write_text(model.model_dump_json())
            incoming.rename(cached)
        fields = {"bundle_digest": digest, "seconds": round(time.monotonic() - started, 3)} | model.model_dump()
        log.info("bundle memory measured", extra={"fields": fields})
        return model

    def _cache_file(self, digest: str) -> Path | None:
        runtime = self.runtime
        if runtime.cache_dir is None:
            return None
        return (
            runtime.cache_dir
            / "memory"
            / f"{runtime.build}-{runtime.intra_op_threads}-{self.decode_tile_px}-{self.max_side_px}-{digest}.json"
        )

    def _measure(self, folder: Path, digest: str, limit_bytes: int) -> MemoryModel:
        values = {
            "folder": str(folder),
            "provider": self.runtime.provider,
            "threads": self.runtime.intra_op_threads,
            "cache_dir": str(self.runtime.cache_dir) if self.runtime.cache_dir else None,
            "decode_tile_px": self.decode_tile_px,
            "max_side_px": self.max_side_px,
            "seconds": self.seconds,
            "limit_bytes": limit_bytes,
        }
        lines, status, last_error = _run_child([sys.executable, "-m", MODULE, json.dumps(values)])
        samples: dict[str, Any] = {"rest": None, "step": [], "decode": []}
        for line in lines:
            kind, value = json.loads(line)
            samples[kind] = value if kind == "rest" else [*samples[kind], value]
        if not (samples["rest"] and samples["step"] and samples["decode"]):
            raise BundleError(
                f"bundle {digest}: its memory could not be measured within {limit_bytes / 2**20:.0f} MiB: the process ended "
                f"with status {status}, {last_error}; give the service more memory, or export the bundle again"
            )
        return MemoryModel(resident_bytes=samples["rest"], step=fit(samples["step"]), decode=fit(samples["decode"]))


def _run_child(command: list[str]) -> tuple[list[str], int, str]:
    """Lines of standard output, exit status, last line of standard error."""
    with tempfile.TemporaryFile("w+") as stderr:
        # the child ends when the pipe to it closes, so it does not outlive this process
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True)
        with process:
            assert process.stdout is not None
            lines = process.stdout.read().splitlines()
        stderr.seek(0)
        errors = [line for line in stderr.read().splitlines() if line.strip()]
    return lines, process.returncode, (errors or ["nothing on stderr"])[-1]


def measure(bundle: Bundle, before: int, *, max_side_px: int, seconds: float, limit_bytes: int) -> Iterator[tuple[str, Any]]:
    """Yields `rest` and bytes, then per size `decode` or `step` and (rows, px, bytes).

    Args:
        bundle: opened by this process.
        before: resident bytes before it was opened.
        max_side_px: as in `MemoryProfiler`.
        seconds: as in `MemoryProfiler`.
        limit_bytes: as in `MemoryProfiler`.
    """
    manifest = bundle.manifest
    multiple, native = manifest.size_multiple_px, manifest.native_size_px
    rounded = {max(multiple, int(native * ratio) // multiple * multiple) for ratio in RATIOS}
    sides = [side for side in sorted(rounded) if side <= max_side_px] or [multiple]
    ids = bundle.tokenizer.encode("").ids
    part = bundle.lora.uniform(RANK)
    adapter = bundle.lora.arrays([part])

    def step(rows: int, side: int) -> None:
        latent = side // manifest.vae_factor
        conditioning = bundle.conditioning(ids, (), side, side)
        feeds: Feeds = {
            "sample": np.zeros((rows, manifest.latent_channels, latent, latent), np.float32),
            "timestep": np.full(rows, 500.0, np.float32),
            **{name: np.repeat(array, rows, axis=0) for name, array in conditioning.items()},
            **adapter,
            **bundle.lora.scales([part], [{0: 1.0}] * rows),
        }
        run_graph(bundle.unet, feeds, shrink=True)

    def decode(rows: int, side: int) -> None:
        latent = side // manifest.vae_factor
        feeds: Feeds = {"latents": np.zeros((rows, manifest.latent_channels, latent, latent), np.float32)}
        run_graph(bundle.vae_decoder, feeds, shrink=True)

    step(1, sides[0])
    decode(1, sides[0])
    rest = status("VmRSS")
    yield "rest", rest - before
    small = [side for side in sides if side <= bundle.decode_tile_px] or sides[:1]
    for kind, run, sizes in (
        ("decode", decode, [(1, side) for side in small]),
        ("step", step, [(rows, side) for side in sides for rows in (1, 2)]),
    ):
        began, duration, last, last_px = time.monotonic(), 0.0, 0, 0
        for rows, side in sorted(sizes, key=lambda size: size[0] * size[1] ** 2):
            grows = rows * side**2 / last_px if last_px else 1.0
            too_slow = time.monotonic() - began + duration * grows > seconds
            if last_px and (too_slow or rest - before + last * grows**2 > limit_bytes):
                break
            started = time.monotonic()
            last = _peak(run, rows, side) - rest
            duration, last_px = time.monotonic() - started, rows * side**2
            yield kind, (rows, side**2, max(1, last))


def status(key: str) -> int:
    """A value of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def _peak(run: Callable[[int, int], None], rows: int, side: int) -> int:
    """Peak of the resident memory during a run, or since the start of the process if the kernel forbids resetting it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM becomes VmRSS
    run(rows, side)
    return status("VmHWM")


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    """Prints one JSON line per measurement."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    return_large_blocks()
    values = json.loads(sys.argv[1])
    before = status("VmRSS")
    cache_dir = Path(values["cache_dir"]) if values["cache_dir"] else None
    runtime = Runtime(values["provider"], values["threads"], cache_dir)
    bundle = open_bundle(Path(values["folder"]), runtime=runtime, decode_tile_px=values["decode_tile_px"])
    limits = {name: values[name] for name in ("max_side_px", "seconds", "limit_bytes")}
    for pair in measure(bundle, before, **limits):
        sys.stdout.write(json.dumps(pair) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
