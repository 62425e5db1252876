"""The cost of LoRA inputs for a step (`speed.py ranks`), and of several adapters (`speed.py mixed`)."""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any


def write_plain(graph: Path, file: Path) -> None:
    """Writes the served UNet without LoRA."""
    import onnx

    model = onnx.load(graph)
    _without_lora(model.graph)
    wanted, kept = {item.name for item in model.graph.output}, []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    inputs = [item for item in model.graph.input if item.name in wanted]
    weights = [item for item in model.graph.initializer if item.name in wanted]
    del model.graph.node[:], model.graph.input[:], model.graph.initializer[:]
    model.graph.node.extend(reversed(kept))
    model.graph.input.extend(inputs)
    model.graph.initializer.extend(weights)
    onnx.save(model, file, save_as_external_data=True, location=f"{file.name}.data")


def _without_lora(graph: Any) -> None:
    """Every sum of a layer's own output and what LoRA adds becomes the layer's own output."""
    lora, instead = {item.name for item in graph.input if ".lora_" in item.name}, dict[str, str]()
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = instead.get(name, name)
        from_lora = [name for name in node.input if name in lora]
        if node.op_type == "Add" and len(from_lora) == 1:
            own = next(name for name in node.input if name not in lora)
            instead[node.output[0]] = own
            node.op_type, node.input[:] = "Identity", [own]  # read only where it is the graph's output
        elif from_lora and node.op_type != "Shape":
            lora |= set(node.output)


KINDS = ("attention", "all")
"""The layers that an adapter touches."""


def lora_feeds(layout: Any, kind: str, rank: int, rows: int) -> dict[str, Any]:
    """Of one adapter of small random numbers; groups that it does not touch have the smallest rank."""
    import numpy as np
    from atelier_infer.pipeline.lora_layout import GroupWeights

    random = np.random.default_rng(rank)
    part = {
        group: GroupWeights(*(random.standard_normal(one.shape, np.float32) * 0.01 for one in (zero.a, zero.b)), 1.0)  # type: ignore[call-arg]
        for group, zero in layout.uniform(rank).items()
        if rank and kind in ("all", group)
    }
    return layout.arrays([part]) | layout.scales([part], [{0: 1.0}] * rows)  # type: ignore[no-any-return]


def measure_ranks(options: argparse.Namespace) -> dict[str, Any]:
    """Runs in this process and alternates call by call."""
    import numpy as np
    from atelier_contracts import names
    from atelier_contracts.manifests import BundleManifest
    from atelier_infer.onnx.providers import Runtime
    from atelier_infer.pipeline.lora_layout import LoraLayout
    from common import now, since

    manifest = BundleManifest.model_validate_json((options.bundle / names.BUNDLE_FILE).read_bytes())
    groups, loads = manifest.lora["unet"], dict[str, float]()
    runtime, sessions = Runtime(options.provider, options.threads), dict[str, Any]()
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        served = {
            "packed": names.UNET_FILE if options.provider == "openvino" else names.FUSED_UNET_FILE,
            "layers": names.CPU_UNET_FILE,
        }
        if options.provider != "cpu":
            del served["layers"]
        layouts = {kind: LoraLayout(groups, by_layer=kind == "layers") for kind in served}
        # in a child process, so that the memory for rewriting gigabytes is free before the measurement
        plain_file = Path(name) / "plain.onnx"
        process = multiprocessing.get_context("spawn").Process(
            target=write_plain, args=(options.bundle / served["packed"], plain_file)
        )
        process.start()
        process.join()
        files = {"plain": plain_file} | {kind: options.bundle / file for kind, file in served.items()}
        for kind, file in files.items():
            started = time.monotonic()
            sessions[kind] = runtime.session(file, kind)
            loads[kind] = time.monotonic() - started
            print(f"{kind}: {len(sessions[kind].get_inputs())} inputs, opened in {loads[kind]:.1f} s", flush=True)
    side = (options.size or manifest.native_size_px) // manifest.vae_factor
    width = next(item.shape[2] for item in sessions["plain"].get_inputs() if item.name == "encoder_hidden_states")
    tokens = next(iter(manifest.text_encoders.values())).tokens
    draw, found = np.random.default_rng(0), []
    print(f"{'rows':>4} {'inputs':>7} {'layers':>9} {'rank':>4} {'median s/step':>13} {'busy s/step':>11} {'to plain':>9}")
    for rows in options.rows:
        step: dict[str, Any] = {
            "sample": draw.standard_normal((rows, manifest.latent_channels, side, side), np.float32),
            "timestep": np.linspace(999, 1, rows, dtype=np.float32).round(),
            "encoder_hidden_states": draw.standard_normal((rows, tokens, width), np.float32),
        }
        calls: dict[tuple[str, str, int], Any] = {("plain", "-", 0): step}
        for layers, rank in (("none", 0), *((layers, rank) for layers in KINDS for rank in options.ranks)):
            for kind, layout in layouts.items():
                calls[kind, layers, rank] = step | lora_feeds(layout, layers, rank, rows)
        seconds: dict[Any, list[float]] = {kind: [] for kind in calls}
        busy: dict[Any, list[float]] = {kind: [] for kind in calls}
        first: dict[Any, Any] = {}
        for turn in range(options.rounds + 1):
            for kind, feeds in list(calls.items()):
                started_at = now()
                try:
                    out = sessions[kind[0]].run(None, feeds)[0]
                except Exception as error:  # noqa: BLE001  ONNX Runtime's exceptions have no narrower common base
                    print(f"{kind[0]}, {kind[1]} layers at rank {kind[2]} cannot run: {str(error).strip().splitlines()[-1]}")
                    del calls[kind], seconds[kind], busy[kind]
                    continue
                if turn:
                    wall, own = since(started_at)
                    seconds[kind].append(wall)
                    busy[kind].append(own)
                else:
                    first[kind] = out
        plain = "plain", "-", 0
        for kind, times in busy.items():
            # each call relative to the plain one of its own round, which other load affects alike
            over = 100 * (statistics.median(one / other for one, other in zip(times, busy[plain], strict=True)) - 1)
            wall, own = statistics.median(seconds[kind]), statistics.median(times)
            inputs, layers, rank = kind
            found.append(
                {
                    "rows": rows,
                    "inputs": inputs,
                    "layers": layers,
                    "rank": rank,
                    "over_plain_percent": over,
                    "seconds": seconds[kind],
                    "busy_seconds": times,
                }
            )
            print(f"{rows:4} {inputs:>7} {layers:>9} {rank:4} {wall:13.3f} {own:11.3f} {over:+8.1f} %", flush=True)
        apart = max(float(np.abs(first[kind, "none", 0] - first[plain]).max()) for kind in layouts)
        found.append({"rows": rows, "no adapter apart from plain": apart})
        print(f"{rows:4} rows: the served graph without an adapter is {apart} from the plain base", flush=True)
    return {"ranks": found, "open_seconds": loads}


def measure_mixed(options: argparse.Namespace) -> dict[str, Any]:
    """Runs in this process and alternates step by step, so that other load affects all three alike."""
    from atelier_infer.engine.denoising_state import DenoisingState, SamplingParams
    from atelier_infer.engine.denoising_step import DenoisingStep
    from atelier_infer.onnx.providers import Runtime
    from atelier_infer.pipeline.adapter import WeightedAdapter
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
        name: [  # type: ignore[var-annotated]
            DenoisingState(bundle, mix, SamplingParams(*ids, steps, 1.0, seed, side, side, "ddim"))  # type: ignore[arg-type, call-arg]
            for seed, mix in enumerate(mixes)  # type: ignore[arg-type]
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
