"""The cost of LoRA inputs for a step (`speed.py ranks`), and of several adapters (`speed.py mixed`)."""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any


def write_variants(graph: Path, folder: Path) -> None:
    """Writes two variants of the served UNet: `plain.onnx` without LoRA, `layers.onnx` with one A and one B per layer."""
    import onnx

    served = onnx.load(graph, load_external_data=False)
    for name, rewrite in (("plain", _without_lora), ("layers", _input_per_layer)):
        model = onnx.ModelProto()
        model.CopyFrom(served)
        rewrite(model.graph)
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
        onnx.load_external_data_for_model(model, str(graph.parent))
        onnx.save(model, folder / f"{name}.onnx", save_as_external_data=True, location=f"{name}.onnx.data")


def _without_lora(graph: Any) -> None:
    """Every sum of a layer's own output and what LoRA adds becomes the layer's own output."""
    lora, instead = {item.name for item in graph.input if ".lora_" in item.name}, dict[str, str]()
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = instead.get(name, name)
        from_lora = [name for name in node.input if name in lora]
        if node.op_type == "Add" and len(from_lora) == 1:
            instead[node.output[0]] = next(name for name in node.input if name not in lora)
        elif from_lora and node.op_type != "Shape":
            lora |= set(node.output)


def _input_per_layer(graph: Any) -> None:
    """Every slice of a packed input becomes an input of its own, named after the packed one and its rows."""
    from onnx import TensorProto, helper, numpy_helper

    packed = {item.name for item in graph.input if item.name.endswith((".lora_A", ".lora_B"))}
    weights = {item.name: item for item in graph.initializer}
    made, nodes = dict[str, str](), list[Any]()
    for node in graph.node:
        if node.op_type == "Slice" and node.input[0] in packed:
            first, last = (int(numpy_helper.to_array(weights[name])[0]) for name in node.input[1:3])
            own = f"{node.input[0]}_{first}_{last}"
            if own not in made.values():
                shape = [last - first, f"r {node.input[0].split('.')[0]}"]
                graph.input.append(helper.make_tensor_value_info(own, TensorProto.FLOAT, shape))
            made[node.output[0]] = own
        else:
            for at, name in enumerate(node.input):
                node.input[at] = made.get(name, name)
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


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
    layout, loads = LoraLayout(manifest.lora["unet"]), dict[str, float]()
    runtime, sessions = Runtime(options.provider, options.threads), dict[str, Any]()
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        served = options.bundle / (names.FUSED_UNET_FILE if runtime.fuses else names.UNET_FILE)
        # in a child process, so that the memory for rewriting gigabytes is free before the measurement
        process = multiprocessing.get_context("spawn").Process(target=write_variants, args=(served, Path(name)))
        process.start()
        process.join()
        files = {"plain": Path(name) / "plain.onnx", "packed": served, "layers": Path(name) / "layers.onnx"}
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
        none = lora_feeds(layout, "none", 0, rows)
        shapes_read = {item.name for item in sessions["plain"].get_inputs()} & none.keys()
        calls: dict[tuple[str, str, int], Any] = {("plain", "-", 0): step | {name: none[name] for name in shapes_read}}
        for layers, rank in (("none", 0), *((layers, rank) for layers in KINDS for rank in options.ranks)):
            lora = lora_feeds(layout, layers, rank, rows)
            calls["packed", layers, rank] = step | lora
            names_of_layers = [item.name for item in sessions["layers"].get_inputs() if ".lora_" in item.name]
            sliced = {name: np.ascontiguousarray(_rows_of(lora, name)) for name in names_of_layers}
            calls["layers", layers, rank] = step | sliced
        seconds: dict[Any, list[float]] = {kind: [] for kind in calls}
        busy: dict[Any, list[float]] = {kind: [] for kind in calls}
        first: dict[Any, Any] = {}
        for turn in range(options.rounds + 1):
            for kind, feeds in list(calls.items()):  # type: ignore[assignment]
                started_at = now()
                try:
                    out = sessions[kind[0]].run(None, feeds)[0]
                except Exception as error:  # noqa: BLE001  ONNX Runtime's exceptions have no narrower common base
                    print(f"{kind[0]}, {kind[1]} layers at rank {kind[2]} cannot run: {str(error).strip().splitlines()[-1]}")
                    del calls[kind], seconds[kind], busy[kind]  # type: ignore[index]
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
        apart = float(np.abs(first["packed", "none", 0] - first[plain]).max())
        found.append({"rows": rows, "no adapter apart from plain": apart})
        print(f"{rows:4} rows: the served graph without an adapter is {apart} from the plain base", flush=True)
    return {"ranks": found, "open_seconds": loads}


def _rows_of(lora: dict[str, Any], name: str) -> Any:
    """The array of an input of `_input_per_layer`, or of one that both graphs have."""
    if name in lora:
        return lora[name]
    packed, first, last = name.rsplit("_", 2)
    return lora[packed][int(first) : int(last)]


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
