"""Difference between the images of two execution providers, to judge a faster one by its images.

The same requests, each with an adapter and guidance, run with `cpu` in fp32 and with the other provider, each in a process of
its own. Reports the peak signal-to-noise ratio of each pair in dB (20 log10(255 / rms difference)), and that between two seeds
of the reference, which is the value of unrelated images.

    python benchmarks/infer/image_difference.py --bundle FOLDER --provider openvino --python /path/to/python

`--bundle` is an export by the trainer; `--python` names the interpreter of an environment with the provider.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import PATHS, PROMPT, machine, random_adapter, versions


def generate(options: argparse.Namespace) -> None:
    """Generates with one provider and writes uint8 [images, height, width, 3] to a file."""
    from atelier_infer.engine.denoising_state import DenoisingState, SamplingParams
    from atelier_infer.engine.denoising_step import DenoisingStep
    from atelier_infer.onnx.providers import Runtime
    from atelier_infer.pipeline.adapter import WeightedAdapter
    from atelier_infer.pipeline.bundle import open_bundle

    bundle = open_bundle(options.bundle, runtime=Runtime(options.provider, options.threads))
    adapters = [WeightedAdapter(random_adapter(bundle.manifest, options.rank, 0))] if options.rank else []
    side = options.size or bundle.manifest.native_size_px
    ids = [bundle.tokenizer.encode(text).ids for text in (PROMPT, "")]
    images, begun = [], time.monotonic()
    for seed in range(options.seeds):
        state, step = (
            DenoisingState(bundle, adapters, SamplingParams(*ids, options.steps, 7.5, seed, side, side, options.scheduler)),  # type: ignore[arg-type, call-arg]
            DenoisingStep(),
        )
        state.prepare()
        while not state.done:
            if error := step.step([state])[0]:
                raise error
        images.append(state.finish())
    seconds = (time.monotonic() - begun) / options.seeds
    np.savez(options.out, images=np.stack(images), seconds=seconds)


def psnr_db(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio of uint8 images of one shape; infinite where they are equal."""
    square = float(np.mean((one.astype(np.float64) - other) ** 2))
    return float(10 * np.log10(255**2 / square)) if square else float("inf")


def main() -> int:
    """Exit status; 1 if an image differs by more than the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="exported bundle")
    parser.add_argument("--provider", default="openvino", help="compared with cpu (%(default)s)")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has it")
    parser.add_argument("--size", type=int, help="px; the bundle's native size when absent")
    parser.add_argument("--rank", type=int, default=16, help="of the adapter; 0 for none")
    parser.add_argument("--steps", type=int, default=20, help="(%(default)s)")
    parser.add_argument("--seeds", type=int, default=4, help="images (%(default)s)")
    parser.add_argument("--scheduler", default="ddim", help="(%(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="0: one per core")
    parser.add_argument("--min-psnr-db", type=float, help="exit with 1 if the ratio of an image is lower")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)  # of the child processes
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if options.out:
        generate(options)
        return 0
    images, seconds = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for provider, python in (("cpu", sys.executable), (options.provider, options.python)):
            out = Path(folder) / f"{provider}.npz"
            names = ("bundle", "size", "rank", "steps", "seeds", "scheduler", "threads")
            flags = [f"--{name}={value}" for name in names if (value := getattr(options, name)) is not None]
            command = [python, __file__, *flags, f"--provider={provider}", f"--out={out}"]
            subprocess.run(command, env=os.environ | {"PYTHONPATH": PATHS}, check=True)
            with np.load(out) as result:
                images[provider], seconds[provider] = result["images"], float(result["seconds"])
    pairs = [psnr_db(one, other) for one, other in zip(images["cpu"], images[options.provider], strict=True)]
    seeds = [psnr_db(one, other) for one, other in zip(images["cpu"], images["cpu"][1:], strict=False)]
    found = {"psnr_db": pairs, "psnr_between_seeds_db": seeds, "seconds_per_image": seconds}
    print(json.dumps(found, indent=2))
    if options.json:
        command = {"command": shlex.join(["python", *sys.argv]), "machine": machine(), "versions": versions()}  # type: ignore[assignment]
        options.json.write_text(json.dumps(found | command, indent=2) + "\n")  # type: ignore[operator]
    return int(options.min_psnr_db is not None and min(pairs) < options.min_psnr_db)


if __name__ == "__main__":
    sys.exit(main())
