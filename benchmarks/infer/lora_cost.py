"""The cost of LoRA inputs for a step (`speed.py ranks`), and of several adapters (`speed.py mixed`)."""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def without_lora(bundle: Path, layers: Iterable[str], path: Path) -> None:
    """Writes the UNet without LoRA inputs: every `plain + up` becomes `plain`."""
    import onnx
    from atelier_contracts import names

    model = onnx.load(bundle / names.UNET_FILE, load_external_data=False)
    graph = model.graph
    inputs = {name for layer in layers for name in names.lora_inputs(layer)}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    instead: dict[str, str] = {}
    for layer in layers:
        [up] = readers[names.lora_inputs(layer)[1]]
        [add] = readers[up.output[0]]
        assert add.op_type == "Add", f"{layer} ends in {add.op_type}"
        instead[add.output[0]] = next(name for name in add.input if name != up.output[0])
    for node in graph.node:
        for at, name in enumerate(node.input):
            while name in instead:
                name = node.input[at] = instead[name]
    wanted, kept = {item.name for item in graph.output}, []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    left = sorted(wanted & inputs)  # the scales may remain: exports read the number of rows off them
    assert not left, f"still read: {left[:3]}"
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    del plain.graph.node[:], plain.graph.input[:], plain.graph.initializer[:]
    plain.graph.node.extend(reversed(kept))
    plain.graph.input.extend(item for item in graph.input if item.name in wanted)
    plain.graph.initializer.extend(item for item in graph.initializer if item.name in wanted)
    onnx.load_external_data_for_model(plain, str(bundle))
    onnx.save(plain, path, save_as_external_data=True, location=f"{path.name}.data")


def measure_ranks(options: argparse.Namespace) -> dict[str, Any]:
    """Runs in this process and alternates call by call."""
    import numpy as np
    from atelier_contracts import names
    from atelier_contracts.manifests import BundleManifest
    from atelier_infer.onnx.providers import Runtime
    from common import now, random_matrices, since

    manifest = BundleManifest.model_validate_json((options.bundle / names.BUNDLE_FILE).read_bytes())
    runtime = Runtime(options.provider, options.threads)
    with tempfile.TemporaryDirectory() as name:
        # in a child process, so that the memory for rewriting gigabytes is free before the measurement
        made = Path(name) / names.UNET_FILE
        maker = multiprocessing.get_context("spawn").Process(
            target=without_lora, args=(options.bundle, list(manifest.lora_targets), made)
        )
        maker.start()
        maker.join()
        plain = runtime.session(made, "plain")
    served = runtime.session(options.bundle / names.UNET_FILE, "served")
    side = (options.size or manifest.native_size_px) // manifest.vae_factor
    plain_inputs = {item.name for item in plain.get_inputs()}
    width = next(item.shape[2] for item in plain.get_inputs() if item.name == "encoder_hidden_states")
    draw, found = np.random.default_rng(0), []
    print(f"{'rows':>4} {'ranks':>6} {'median s/step':>13} {'fastest':>8} {'busy s/step':>11} {'to plain':>9}")
    for rows in options.rows:
        feeds: dict[str, Any] = {
            "sample": draw.standard_normal((rows, manifest.latent_channels, side, side), np.float32),
            "timestep": np.linspace(999, 1, rows, dtype=np.float32).round(),
            "encoder_hidden_states": draw.standard_normal((rows, manifest.text_tokens, width), np.float32),
        }
        more = {names.LORA_SCALE: np.zeros((rows, 1, 0), np.float32)} if names.LORA_SCALE in plain_inputs else {}
        calls: dict[str, Any] = {"plain": (plain, feeds | more)}
        for rank in (0, 4, 16, 64, 128):
            lora = {names.LORA_SCALE: draw.random((rows, 1, rank), np.float32)} | random_matrices(manifest, rank, rank)
            calls[str(rank)] = (served, feeds | lora)
        seconds: dict[str, list[float]] = {kind: [] for kind in calls}
        busy: dict[str, list[float]] = {kind: [] for kind in calls}
        first: dict[str, Any] = {}
        for turn in range(options.rounds + 1):
            for kind, (session, given) in calls.items():
                started = now()
                out = session.run(None, given)[0]
                if turn:
                    wall, own = since(started)
                    seconds[kind].append(wall)
                    busy[kind].append(own)
                else:
                    first[kind] = out
        for kind, times in busy.items():
            # each call relative to the plain one of its own round, which other load affects alike
            over = 100 * (statistics.median(one / other for one, other in zip(times, busy["plain"], strict=True)) - 1)
            wall, own = statistics.median(seconds[kind]), statistics.median(times)
            found.append(
                {"rows": rows, "ranks": kind, "over_plain_percent": over, "seconds": seconds[kind], "busy_seconds": times}
            )
            print(f"{rows:4} {kind:>6} {wall:13.3f} {min(seconds[kind]):8.3f} {own:11.3f} {over:+8.1f} %", flush=True)
        apart = float(np.abs(first["0"] - first["plain"]).max())
        found.append({"rows": rows, "no adapter apart from plain": apart})
        print(f"{rows:4} rows: the served graph without an adapter is {apart} from the plain base", flush=True)
    return {"ranks": found}


def measure_mixed(options: argparse.Namespace) -> dict[str, Any]:
    """Runs in this process and alternates step by step, so that other load affects all three alike."""
    from atelier_infer.engine.denoising_state import DenoisingState, SamplingParams, WeightedAdapter
    from atelier_infer.engine.denoising_step import DenoisingStep
    from atelier_infer.onnx.providers import Runtime
    from atelier_infer.pipeline.bundle import open_bundle
    from common import PROMPT, random_adapter

    bundle = open_bundle(options.bundle, runtime=Runtime(options.provider, options.threads))
    adapters = [WeightedAdapter(random_adapter(bundle.manifest, options.rank, seed)) for seed in range(4)]
    side = options.size or bundle.manifest.native_size_px
    ids = [bundle.tokenizer.encode(text).ids for text in (PROMPT, "")]
    steps = options.steps * options.rounds + 1
    kinds = {"no adapter": [[]] * 4, "one adapter": [adapters[:1]] * 4, "four adapters": [[one] for one in adapters]}
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    step = DenoisingStep()
    states = {
        name: [
            DenoisingState(bundle, mix, SamplingParams(*ids, steps, 1.0, seed, side, side, "ddim"))
            for seed, mix in enumerate(mixes)
        ]
        for name, mixes in kinds.items()
    }
    for group in states.values():
        for state in group:
            state.prepare()
    for _ in range(steps):
        for name, group in states.items():
            started = time.monotonic()
            if any(step.step(group)):
                raise SystemExit("a step failed")
            seconds[name].append(time.monotonic() - started)
    first = statistics.median(seconds["no adapter"][1:])
    for name, found in seconds.items():
        median = statistics.median(found[1:])
        print(f"{name:14} {median:8.4f} s a step of 4 rows, fastest {min(found[1:]):8.4f}, {100 * (median / first - 1):+.1f} %")
    return seconds
