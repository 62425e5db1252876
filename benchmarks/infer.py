"""How fast the inference service is, beside diffusers and torch.compile, and what sharing a batch costs.

Everything runs in processes of its own, one at a time, in alternating rounds: no variant profits from being first, and none
keeps memory from another. *busy* are seconds of the process's threads: with `--threads 1` they tell what a step costs even
where the machine has other work; *relative* is of them. Five measurements:

* `steps`: seconds of one UNet step with guidance, per environment.
* `mixed`: a step of four images with no adapter, with the same one, and with four different ones, in turn.
* `ranks`: a step of the base without any LoRA input, and of the served graph with all adapters' ranks adding up to 0 … 128, in
  turn, for several numbers of rows at mixed time steps; how far their outputs are apart where no adapter is fed.
* `service`: images per minute through POST /generate for several numbers of clients, with one adapter and with four mixed,
  and the 95th percentile of the latency when far more clients come than the queue holds.
* `start`: seconds from nothing, and from a filled cache, until the base is in memory, and resident memory then.

    python benchmarks/infer.py steps --base FOLDER --bundle FOLDER --environment ort-cpu --environment compile-bf16
    python benchmarks/infer.py service --bundle FOLDER
    python benchmarks/infer.py start --bundle FOLDER

`--base` is a folder as diffusers saves it, `--bundle` what the trainer exports of it. `--python openvino=/path/to/python` names
the interpreter of an environment that needs packages of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PATHS = os.pathsep.join(str(ROOT / part) for part in ("contracts", "services/infer", "benchmarks"))
ENVIRONMENTS = ("ort-cpu", "ort-plain", "openvino", "eager-fp32", "eager-bf16", "compile-fp32", "compile-bf16")
PROMPT = "a cat on a chair"


def main() -> int:
    """Runs what the command line asks for."""
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
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if options.what == "worker":
        print(json.dumps(WORKERS[options.environment[0]](options)), flush=True)
        return 0
    from infer_ranks import measure_mixed, measure_ranks
    from infer_service import measure_service

    measures = {
        "steps": measure_steps,
        "mixed": measure_mixed,
        "ranks": measure_ranks,
        "service": measure_service,
        "start": measure_start,
    }
    found = measures[options.what](options)
    if options.json:
        from classifier.report import machine

        command = shlex.join(["python", "benchmarks/infer.py", *sys.argv[1:]])
        where = {"command": command, "machine": machine(), "versions": versions()}
        options.json.write_text(json.dumps(found | where, indent=2) + "\n")
    return 0


def versions() -> dict[str, str]:
    """Of Python and of the packages that this environment has."""
    found = {"python": platform.python_version()}
    for name in ("onnxruntime", "torch", "diffusers", "peft", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def measure_steps(options: argparse.Namespace) -> dict[str, Any]:
    """Alternates the environments; prints the medians and what each is beside the first."""
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
    """The service's own code: a drawing with guidance and an adapter."""
    from atelier_infer.engine.denoising_state import DenoisingState, SamplingParams, WeightedAdapter
    from atelier_infer.engine.denoising_step import DenoisingStep
    from atelier_infer.onnx.providers import Runtime
    from atelier_infer.pipeline.bundle import open_bundle

    begun = time.monotonic()
    bundle = open_bundle(options.bundle, runtime=Runtime(provider, options.threads))
    loaded = time.monotonic()
    side = options.size or bundle.manifest.native_size_px
    ids = bundle.prompts.read(PROMPT).ids
    plan = SamplingParams(ids, bundle.prompts.read("").ids, options.steps + 1, 7.5, 0, side, side, "ddim")
    mix = [WeightedAdapter(random_adapter(bundle.manifest, options.rank, 0))] if options.rank else []
    drawing, batch, found = DenoisingState(bundle, mix, plan), DenoisingStep(), []
    drawing.begin()
    while not drawing.done:
        started = now()
        if fault := batch.step([drawing])[0]:
            raise fault
        found.append(since(started))
    return told(found[1:], loaded - begun)


def work_plain(options: argparse.Namespace) -> dict[str, Any]:
    """ONNX Runtime as it is: a session with every default, fed by hand, adapters of rank 0."""
    import numpy as np
    import onnxruntime as ort
    from atelier_contracts import names
    from atelier_contracts.manifests import BundleManifest

    manifest = BundleManifest.model_validate_json((options.bundle / names.BUNDLE_FILE).read_bytes())
    begun = time.monotonic()
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    session = ort.InferenceSession(str(options.bundle / names.UNET_FILE), settings, providers=["CPUExecutionProvider"])
    loaded = time.monotonic()
    side = (options.size or manifest.native_size_px) // manifest.vae_factor
    width = next(item.shape[2] for item in session.get_inputs() if item.name == "encoder_hidden_states")
    feeds: dict[str, Any] = {
        "sample": np.zeros((2, manifest.latent_channels, side, side), np.float32),
        "timestep": np.full(2, 500, np.float32),
        "encoder_hidden_states": np.zeros((2, manifest.text_tokens, width), np.float32),
        names.LORA_SCALE: np.zeros((2, 1, 0), np.float32),
    }
    for layer, (inner, outer) in manifest.lora_targets.items():
        a, b = names.lora_inputs(layer)
        feeds |= {a: np.zeros((inner, 0), np.float32), b: np.zeros((0, outer), np.float32)}
    return told(_timed(lambda: session.run(None, feeds), options.steps), loaded - begun)


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
    return told(found, loaded - begun)


Times = tuple[float, float]
"""Of the clock on the wall, and of all threads of this process."""


def now() -> Times:
    """Both clocks."""
    return time.monotonic(), time.process_time()


def since(started: Times) -> Times:
    """Seconds of both clocks."""
    return time.monotonic() - started[0], time.process_time() - started[1]


def told(found: list[Times], load_s: float) -> dict[str, Any]:
    """What a worker answers."""
    seconds, busy = zip(*found, strict=True)
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


def random_matrices(manifest: Any, rank: int, seed: int) -> dict[str, Any]:
    """A [in, rank] and B [rank, out] of every target, of small random numbers."""
    import numpy as np
    from atelier_contracts import names

    draw, feeds = np.random.default_rng(seed), {}
    for layer, (inner, outer) in manifest.lora_targets.items():
        a, b = names.lora_inputs(layer)
        feeds[a] = draw.normal(scale=0.01, size=(inner, rank)).astype(np.float32)
        feeds[b] = draw.normal(scale=0.01, size=(rank, outer)).astype(np.float32)
    return feeds


def random_adapter(manifest: Any, rank: int, seed: int) -> Any:
    """In memory."""
    from atelier_contracts.manifests import AdapterManifest
    from atelier_infer.pipeline.adapter import Adapter

    told = AdapterManifest(
        bundle_digest=manifest.digest(),
        weights_sha256="0" * 64,
        rank=rank,
        alpha=rank,
        targets=tuple(manifest.lora_targets),
        run_id="benchmark",
        dataset_digest="0" * 64,
        git_revision=None,
    )
    return Adapter(f"random {seed}", told, random_matrices(manifest, rank, seed), 1.0)


def resident_mib(process: int | str = "self") -> float:
    """Of a process, file-mapped pages included."""
    text = Path(f"/proc/{process}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def measure_start(options: argparse.Namespace) -> dict[str, Any]:
    """From nothing, from a filled cache, and memory with 0 and with 100 adapters."""
    code = """
import json, sys, time
from pathlib import Path
from atelier_infer.pipeline.bundle import open_bundle
from atelier_infer.onnx.providers import Runtime
from infer import random_adapter, resident_mib
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
