"""Speed of the inference service compared with diffusers and torch.compile, and the cost of sharing a batch.

Every variant runs in a process of its own, one at a time, in alternating rounds, so that none profits from being first or keeps
memory from another. *busy* is the CPU time of the process's threads: with `--threads 1` it shows the cost of a step even if the
machine has other work; *relative* is based on it. Five measurements:

* `steps`: seconds of one UNet step with guidance, per environment.
* `mixed`: a step of four images with no adapter, with the same one, and with four different ones, alternating.
* `ranks`: a step of the base model without any LoRA input, and of the served graph with adapters of 0 … 128 ranks in total,
  alternating, for several numbers of rows at mixed time steps; and the difference of their outputs without an adapter.
* `service`: images per minute through POST /generate for several numbers of clients, with one adapter and with four mixed,
  and the 95th percentile of the latency with far more clients than the queue holds.
* `start`: seconds until the base model is in memory, without and with a filled cache, and resident memory then.

    python benchmarks/infer/speed.py steps --base FOLDER --bundle FOLDER --environment ort-cpu --environment compile-bf16
    python benchmarks/infer/speed.py service --bundle FOLDER
    python benchmarks/infer/speed.py start --bundle FOLDER

`--base` is a folder saved by diffusers, `--bundle` its export by the trainer. `--python openvino=/path/to/python` names the
interpreter of an environment with other packages.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import PATHS, PROMPT, Times, machine, now, random_adapter, resident_mib, since, versions

ENVIRONMENTS = ("ort-cpu", "ort-plain", "openvino", "eager-fp32", "eager-bf16", "compile-fp32", "compile-bf16")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("steps", "mixed", "ranks", "service", "start", "worker"))
    parser.add_argument("--base", type=Path, help="diffusers folder, for the environments with torch")
    parser.add_argument("--bundle", type=Path, help="exported bundle, for ONNX Runtime")
    parser.add_argument("--environment", action="append", choices=ENVIRONMENTS, help="again for more; default all")
    parser.add_argument("--python", action="append", default=[], metavar="ENVIRONMENT=PATH")
    parser.add_argument("--size", type=int, help="px; the bundle's native size when absent")
    parser.add_argument("--rank", type=int, default=16, help="of the adapters; 0 for none")
    parser.add_argument("--steps", type=int, default=4, help="measured per round, after one that is not")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="0: one per core")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--images", type=int, default=4, help="per client")
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--rows", type=int, nargs="+", default=[2, 4, 8], help="of `ranks`")
    parser.add_argument("--ranks", type=int, nargs="+", default=[16, 64, 128], help="of `ranks`")
    parser.add_argument("--scratch", type=Path, help="folder for two more copies of the UNet, for `ranks`")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if options.what == "worker":
        print(json.dumps(WORKERS[options.environment[0]](options)), flush=True)
        return 0
    from lora_cost import measure_mixed, measure_ranks
    from service import measure_service

    measures = {
        "steps": measure_steps,
        "mixed": measure_mixed,
        "ranks": measure_ranks,
        "service": measure_service,
        "start": measure_start,
    }
    found = measures[options.what](options)
    if options.json:
        command = shlex.join(["python", "benchmarks/infer/speed.py", *sys.argv[1:]])
        where = {"command": command, "machine": machine(), "versions": versions()}
        options.json.write_text(json.dumps(found | where, indent=2) + "\n")
    return 0


def measure_steps(options: argparse.Namespace) -> dict[str, Any]:
    """Alternates the environments; prints the medians, and each relative to the first."""
    pythons = {"ort-cpu": sys.executable} | dict(pair.split("=", 1) for pair in options.python)
    environments = options.environment or list(ENVIRONMENTS)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in environments}
    for _ in range(options.rounds):
        for name in environments:
            command = [pythons.get(name, sys.executable), __file__, "worker", "--environment", name]
            for option in ("base", "bundle", "size", "rank", "steps", "threads"):
                if (value := getattr(options, option)) is not None:
                    command += [f"--{option}", str(value)]
            found[name].append(_worker(command))
    print(
        f"{'environment':14} {'median s/step':>13} {'fastest':>8} {'busy s/step':>11} {'load s':>7} {'resident MiB':>12}"
        "  relative"
    )
    medians: dict[str, float] = {}
    for name, runs in found.items():
        seconds, busy = ([second for run in runs for second in run[key]] for key in ("seconds", "busy_seconds"))
        medians[name] = statistics.median(busy)
        relative = medians[name] / next(iter(medians.values()))
        load, memory = (statistics.median(run[key] for run in runs) for key in ("load_s", "resident_mib"))
        print(
            f"{name:14} {statistics.median(seconds):13.3f} {min(seconds):8.3f} {medians[name]:11.3f} {load:7.1f} {memory:12.0f}"
            f"  {relative:.2f}"
        )
    return found


def _worker(command: list[str]) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": PATHS}
    answer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(answer.stdout.strip().splitlines()[-1])
    return found


# --- one environment


def work_ort(options: argparse.Namespace, provider: str) -> dict[str, Any]:
    """Infer's own code: an image with guidance and an adapter."""
    from atelier_infer.engine.denoising_state import DenoisingState, SamplingParams
    from atelier_infer.engine.denoising_step import DenoisingStep
    from atelier_infer.onnx.providers import Runtime
    from atelier_infer.pipeline.adapter import WeightedAdapter
    from atelier_infer.pipeline.bundle import open_bundle

    begun = time.monotonic()
    bundle = open_bundle(options.bundle, runtime=Runtime(provider, options.threads))  # type: ignore[arg-type]
    loaded = time.monotonic()
    side = options.size or bundle.manifest.native_size_px
    ids = bundle.tokenizer.encode(PROMPT).ids
    params = SamplingParams(ids, bundle.tokenizer.encode("").ids, options.steps + 1, 7.5, 0, side, side, "ddim")
    adapters = [WeightedAdapter(random_adapter(bundle.manifest, options.rank, 0))] if options.rank else []
    state, step, durations = DenoisingState(bundle, adapters, params), DenoisingStep(), []
    state.prepare()
    while not state.done:
        started = now()
        if error := step.step([state])[0]:
            raise error
        durations.append(since(started))
    return result(durations[1:], loaded - begun)


def work_plain(options: argparse.Namespace) -> dict[str, Any]:
    """A plain ONNX Runtime session with default options, adapters of rank 0."""
    import numpy as np
    import onnxruntime as ort
    from atelier_contracts import names
    from atelier_contracts.manifests import BundleManifest
    from atelier_infer.pipeline.lora_layout import LoraLayout

    manifest = BundleManifest.model_validate_json((options.bundle / names.BUNDLE_FILE).read_bytes())
    begun = time.monotonic()
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    session = ort.InferenceSession(str(options.bundle / names.UNET_FILE), settings, providers=["CPUExecutionProvider"])
    loaded = time.monotonic()
    side = (options.size or manifest.native_size_px) // manifest.vae_factor
    width = next(item.shape[2] for item in session.get_inputs() if item.name == "encoder_hidden_states")
    tokens, layout = next(iter(manifest.text_encoders.values())).tokens, LoraLayout(manifest.lora["unet"])
    feeds: dict[str, Any] = {
        "sample": np.zeros((2, manifest.latent_channels, side, side), np.float32),
        "timestep": np.full(2, 500, np.float32),
        "encoder_hidden_states": np.zeros((2, tokens, width), np.float32),
        **layout.arrays([]),
        **layout.scales([], [{}] * 2),
    }
    return result(_timed(lambda: session.run(None, feeds), options.steps), loaded - begun)


def work_torch(options: argparse.Namespace, dtype: str, compiled: bool) -> dict[str, Any]:
    """Diffusers' UNet with a peft adapter, eager or compiled."""
    import torch
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig

    if options.threads:
        torch.set_num_threads(options.threads)
    begun = time.monotonic()
    kind = getattr(torch, dtype)
    unet = UNet2DConditionModel.from_pretrained(options.base, subfolder="unet", torch_dtype=kind).eval()
    if options.rank:
        unet.add_adapter(LoraConfig(r=options.rank, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
        unet.to(kind)
    model = torch.compile(unet) if compiled else unet
    loaded = time.monotonic()
    factor = 2 ** (len(json.loads((options.base / "vae/config.json").read_text())["block_out_channels"]) - 1)
    side = options.size // factor if options.size else unet.config.sample_size
    sample = torch.zeros(2, unet.config.in_channels, side, side, dtype=kind)
    states = torch.zeros(2, 77, unet.config.cross_attention_dim, dtype=kind)
    with torch.inference_mode():
        found = _timed(lambda: model(sample, torch.tensor(500), states), options.steps)
    return result(found, loaded - begun)


def result(durations: list[Times], load_s: float) -> dict[str, Any]:
    seconds, busy = zip(*durations, strict=True)
    return {"load_s": load_s, "seconds": seconds, "busy_seconds": busy, "resident_mib": resident_mib()}


def _timed(call: Any, times: int) -> list[Times]:
    call()  # warms up, and compiles
    found = []
    for _ in range(times):
        started = now()
        call()
        found.append(since(started))
    return found


WORKERS: dict[str, Any] = {
    "ort-cpu": lambda options: work_ort(options, "cpu"),
    "openvino": lambda options: work_ort(options, "openvino"),
    "ort-plain": work_plain,
    "eager-fp32": lambda options: work_torch(options, "float32", compiled=False),
    "eager-bf16": lambda options: work_torch(options, "bfloat16", compiled=False),
    "compile-fp32": lambda options: work_torch(options, "float32", compiled=True),
    "compile-bf16": lambda options: work_torch(options, "bfloat16", compiled=True),
}


def measure_start(options: argparse.Namespace) -> dict[str, Any]:
    """From nothing, from a filled cache, and memory with 0 and with 100 adapters."""
    code = """
import json, sys, time
from pathlib import Path
from atelier_infer.pipeline.bundle import open_bundle
from atelier_infer.onnx.providers import Runtime
from common import random_adapter, resident_mib
begun = time.monotonic()
bundle = open_bundle(Path(sys.argv[1]), runtime=Runtime(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])))
loaded, before = time.monotonic() - begun, resident_mib()
kept = [random_adapter(bundle.manifest, int(sys.argv[5]), seed) for seed in range(100)]
print(json.dumps({"load_s": loaded, "resident_mib": before, "hundred_adapters_mib": resident_mib() - before,
    "one_adapter_mib": kept[0].nbytes / 2**20}))
"""
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("from nothing", "from the cache"):
            arguments = [str(options.bundle), options.provider, str(options.threads), cache, str(options.rank)]
            found[name] = _worker([sys.executable, "-c", code, *arguments])
            told = ", ".join(f"{key} {value:.1f}" for key, value in found[name].items())
            print(f"{name}: {told}")
    return found


if __name__ == "__main__":
    sys.exit(main())
