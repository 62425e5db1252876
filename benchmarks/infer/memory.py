"""Memory of a guided image at several sizes, compared with infer's memory budget, and seconds of a step.

    python benchmarks/infer/memory.py --bundle FOLDER [--memory-mib 7372] [--provider openvino --python PATH]

Each size runs in a process of its own with infer's own parts: memory model, limit, rows one after another if they do not fit
together, tiles. Peaks are resident memory of the whole process, mapped files included. Exits with 1 if a size that the budget
admits exceeds the limit.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join(str(ROOT / part) for part in ("contracts", "services/infer"))
MIB = 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="exported bundle")
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the provider's environment")
    parser.add_argument("--size", type=int, nargs="+", default=[256, 512, 768, 1024], help="px")
    parser.add_argument("--steps", type=int, default=2, help="measured, after one that is not")
    parser.add_argument("--threads", type=int, default=0, help="0: one per core")
    parser.add_argument("--memory-mib", type=int, help="the service's limit; without it, what the machine has")
    parser.add_argument("--cache", type=Path, help="cache folder; a temporary one without it")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        sys.stdout.write(json.dumps(work(options, options.worker)))
        return 0
    with tempfile.TemporaryDirectory() as cache:
        options.cache = options.cache or Path(cache)
        found = [measure_size(options, side) for side in options.size]
    lines = [
        "| px | rows at once | s a step | peak of the steps, MiB | expected | s to decode | peak of it, MiB | expected |",
        "|" + "---|" * 8,
    ]
    for one in found:
        if "refused" in one:
            lines.append(f"| {one['px']} | refused: {one['refused']} | | | | | | |")
            continue
        keys = (
            "px",
            "rows",
            "step_s",
            "step_peak_mib",
            "step_expected_mib",
            "decode_s",
            "decode_peak_mib",
            "decode_expected_mib",
        )
        lines.append("| " + " | ".join(str(one[key]) for key in keys) + " |")
    sys.stdout.write("\n".join(lines) + "\n")
    if options.json:
        machine = {"machine": platform.platform(), "cores": os.cpu_count(), "load": os.getloadavg(), "command": sys.argv}
        options.json.write_text(json.dumps(machine | {"sizes": found}, indent=2))
    above = [
        one for one in found if "refused" not in one and max(one["step_peak_mib"], one["decode_peak_mib"]) > one["limit_mib"]
    ]
    return 1 if above else 0


def measure_size(options: argparse.Namespace, side: int) -> dict[str, Any]:
    """Runs one size in a child process."""
    command = [options.python, __file__, *sys.argv[1:], "--cache", str(options.cache), "--worker", str(side)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": PATHS})
    if answer.returncode:
        raise SystemExit(f"{side} px: the process ended with status {answer.returncode}")
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def work(options: argparse.Namespace, side: int) -> dict[str, Any]:
    """Generates one image; runs in the child process."""
    from atelier_infer.artifacts.bundle_opener import BundleOpener
    from atelier_infer.engine.denoising_state import DenoisingState, SamplingParams
    from atelier_infer.engine.denoising_step import DenoisingStep
    from atelier_infer.engine.malloc import return_large_blocks
    from atelier_infer.engine.memory_budget import MemoryBudget
    from atelier_infer.engine.memory_limit import usable_bytes
    from atelier_infer.engine.memory_profiler import MemoryProfiler
    from atelier_infer.errors import ImageSizeError
    from atelier_infer.onnx.providers import Runtime

    return_large_blocks()
    runtime = Runtime(options.provider, options.threads, options.cache)
    runtime.check()
    limit = options.memory_mib * MIB if options.memory_mib else usable_bytes()
    memory = MemoryBudget(limit, shrinks=options.provider == "cpu")
    measure = MemoryProfiler(runtime, decode_tile_px=768, max_side_px=1024)
    bundle = BundleOpener(memory=memory, runtime=runtime, decode_tile_px=768, measure=measure)(options.bundle)
    assert bundle.memory is not None
    ids = [bundle.tokenizer.encode(text).ids for text in ("a cat on a chair", "")]
    state = DenoisingState(bundle, [], SamplingParams(*ids, options.steps + 1, 7.5, 1, side, side, "ddim"))  # type: ignore[arg-type, call-arg]
    try:
        memory.check_size(bundle, side, side)
    except ImageSizeError as error:
        return {"px": side, "refused": str(error)}
    step = DenoisingStep(
        max_rows=memory.max_rows, record_out_of_memory=memory.record_out_of_memory, shrink_after=memory.shrink_after
    )
    rows, rest = memory.max_rows([state]), memory.limit_bytes - memory.free_bytes
    state.prepare()
    step.step([state])
    reset_peak()
    began = time.monotonic()
    while not state.done:
        if error := step.step([state])[0]:  # type: ignore[misc]
            raise error
    step_s, step_peak = (time.monotonic() - began) / options.steps, peak_bytes()
    reset_peak()
    began = time.monotonic()
    state.finish()
    return {
        "px": side,
        "rows": rows,
        "step_s": round(step_s, 2),
        "step_peak_mib": step_peak // MIB,
        "step_expected_mib": (rest + bundle.memory.step.bytes(rows, side**2)) // MIB,
        "decode_s": round(time.monotonic() - began, 2),
        "decode_peak_mib": peak_bytes() // MIB,
        "decode_expected_mib": (rest + memory.decode_bytes(state)) // MIB,
        "decode_tile_px": bundle.decode_tile_px,
        "limit_mib": limit // MIB,
    }


def reset_peak() -> None:
    """Resets the peak of the resident memory. Source: proc(5), /proc/pid/clear_refs."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


if __name__ == "__main__":
    sys.exit(main())
