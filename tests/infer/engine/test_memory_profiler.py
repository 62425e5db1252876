"""The memory model of a base model: the fit, and the child process that measures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from atelier_contracts import names
from atelier_contracts.manifests import BundleManifest
from atelier_infer.engine.memory_budget import MIB
from atelier_infer.engine.memory_profiler import MemoryProfiler
from atelier_infer.errors import BundleError
from atelier_infer.onnx.providers import Runtime
from atelier_infer.pipeline.memory_model import HEADROOM, Cost, fit

from ..conftest import wait
from ..tiny_bundle import build_bundle, write_manifest

PLENTY = 2**40


@pytest.mark.parametrize(("fixed", "per_px", "per_px2"), [(0, 900, 0), (3e6, 900, 0), (0, 900, 0.02), (2e6, 150, 0.3)])
def test_a_fit_recovers_the_coefficients(fixed: float, per_px: int, per_px2: float) -> None:
    made = Cost(fixed=fixed, per_px=per_px, per_px2=per_px2, measured_px=1)
    points = [(rows, side**2, made.bytes(rows, side**2)) for side in (64, 128, 256) for rows in (1, 2)]
    found = fit(points)
    assert all(found.bytes(rows, px) >= measured for rows, px, measured in points)
    assert found.bytes(2, 1024**2) == pytest.approx(HEADROOM * made.bytes(2, 1024**2), rel=0.02)


def test_noise_makes_no_square_and_no_point_is_above_the_fit() -> None:
    sides = ((64, 1.2), (128, 1), (256, 1.05))
    points = [(rows, side**2, int(900 * rows * side**2 * wobble)) for side, wobble in sides for rows in (1, 2)]
    found = fit(points)
    assert all(found.bytes(rows, px) >= measured for rows, px, measured in points)
    assert found.bytes(2, 1024**2) < 1.4 * 900 * 2 * 1024**2


def test_a_base_is_measured_in_a_process_of_its_own_once(bundle: tuple[Path, BundleManifest], tmp_path: Path) -> None:
    measure = MemoryProfiler(Runtime("cpu", 1, tmp_path), decode_tile_px=768, max_side_px=128)
    model = measure(bundle[0], PLENTY)
    assert 0 < model.resident_bytes < 500 * MIB
    (kept,) = (tmp_path / "memory").iterdir()
    kept.write_text(kept.read_text().replace(str(model.resident_bytes), "12345"))
    assert measure(bundle[0], PLENTY).resident_bytes == 12345
    kept.write_text("{")
    assert measure(bundle[0], PLENTY).resident_bytes != 12345


def test_a_base_that_cannot_be_run_is_refused_with_the_reason(tmp_path: Path) -> None:
    build_bundle(tmp_path / "base")
    (tmp_path / "base" / names.VAE_DECODER_FILE).write_bytes(b"nonsense")
    write_manifest(tmp_path / "base")
    with pytest.raises(BundleError, match=r"could not be measured within 64 MiB: .*vae_decoder\.onnx"):
        MemoryProfiler(Runtime("cpu", 1, None), decode_tile_px=768, max_side_px=128)(tmp_path / "base", 64 * MIB)


def test_a_measurement_does_not_outlive_the_service(bundle: tuple[Path, BundleManifest], tmp_path: Path) -> None:
    code = f"""
import os, subprocess, threading, time
from pathlib import Path
from atelier_infer.engine.memory_profiler import MemoryProfiler
from atelier_infer.onnx.providers import Runtime
real = subprocess.Popen
def started(command, **options):
    process = real(["{sys.executable}", "-c", WAITING], **options)
    print(process.pid, flush=True)
    return process
WAITING = "import threading, time; from atelier_infer.engine.memory_profiler import _end_with_parent as end; " \\
    "threading.Thread(target=end, daemon=True).start(); time.sleep(600)"
subprocess.Popen = started
MemoryProfiler(Runtime("cpu", 1, None), decode_tile_px=768, max_side_px=128)(Path({str(bundle[0])!r}), 2**40)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        child = Path(f"/proc/{int(parent.stdout.readline())}")
        assert child.exists()
        parent.kill()
    wait(lambda: not child.exists() or "Z" in (child / "stat").read_text().split()[2])
