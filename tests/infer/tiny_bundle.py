"""A base of a few hundred random numbers whose graphs keep the contract, and adapters that change what it draws."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest, BundleManifest, Evidence, file_sha256
from atelier_infer.pipeline.adapter import Adapter, load_adapter
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

TARGETS = {"mid.to_q": (4, 6, 1), "mid.to_out.0": (6, 4, 1)}
TEXT_TARGETS = {"layer.q_proj": (8, 8, 1)}
LORA = {"unet": {"attention": TARGETS}, "text_encoder": {"attention": TEXT_TARGETS}}
TEXT_ENCODER_FILE, TOKENIZER_FILE = "text_encoder.onnx", "tokenizer.json"
TEXT_TOKENS, TEXT_WIDTH, CHANNELS = 16, 8, 4
START, END = "<|startoftext|>", "<|endoftext|>"
SCHEDULE = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "timestep_spacing": "leading",
    "prediction_type": "epsilon",
    "clip_sample": False,
}


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's layout at small size: bytes, bytes that end a word, merges, start and end."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>")]
    words = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges), START, END]
    return {word: index for index, word in enumerate(words)}, merges


def tokenizer() -> Tokenizer:
    words, merges = vocabulary()
    built = Tokenizer(BPE(words, merges, end_of_word_suffix="</w>", unk_token=END))
    built.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = Regex(r"'s|'t|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(split, "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    built.post_processor = processors.RobertaProcessing((END, words[END]), (START, words[START]), False, False)
    built.add_special_tokens([START, END])
    return built


def build_bundle(
    folder: Path, *, seed: int = 0, manifest_changes: dict[str, Any] | None = None, schedule: dict[str, Any] | None = None
) -> BundleManifest:
    """Writes a bundle; `seed` makes another base."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    _save(_text_encoder(draw), folder / TEXT_ENCODER_FILE)
    _save(_unet(draw), folder / names.UNET_FILE, external=True)
    _save(_vae_decoder(draw), folder / names.VAE_DECODER_FILE)
    tokenizer().save(str(folder / TOKENIZER_FILE))
    (folder / names.SCHEDULER_FILE).write_text(json.dumps(SCHEDULE | (schedule or {})))
    return write_manifest(folder, seed=seed, **(manifest_changes or {}))


def write_manifest(folder: Path, *, seed: int = 0, **changes: Any) -> BundleManifest:
    values = {
        "family": "sd",
        "base": "tiny/base",
        "revision": None,
        "source_digest": hashlib.sha256(str(seed).encode()).hexdigest(),
        "opset": 20,
        "latent_channels": CHANNELS,
        "latent_scale": 0.5,
        "vae_factor": 8,
        "size_multiple_px": 16,
        "native_size_px": 32,
        "prediction_type": "epsilon",
        "text_encoders": {
            "text_encoder": {"graph": TEXT_ENCODER_FILE, "tokenizer": TOKENIZER_FILE, "tokens": TEXT_TOKENS, "pad_token_id": 0}
        },
        "lora": LORA,
        "files": {file.name: file_sha256(file) for file in sorted(folder.iterdir()) if file.name != names.BUNDLE_FILE},
    }
    manifest = BundleManifest(**(values | changes))
    (folder / names.BUNDLE_FILE).write_text(manifest.model_dump_json(indent=1))
    return manifest


def change_unet(folder: Path, constants: dict[str, np.ndarray], nodes: list[onnx.NodeProto]) -> BundleManifest:
    """Puts nodes behind a base's UNet: from `plain`, which it gave before, and `shape`, that of its input, to `out_sample`."""
    path = folder / names.UNET_FILE
    graph = onnx.load(path).graph
    (last,) = (node for node in graph.node if "out_sample" in node.output)
    last.output[:] = ["plain"]
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    graph.node.extend(nodes)
    path.with_name(f"{path.name}.data").unlink()
    _save(graph, path, external=True)
    return write_manifest(folder)


def adapter_tensors(
    *,
    seed: int = 1,
    rank: int = 2,
    scale: float = 1.0,
    layers: list[str] | tuple[str, str] = tuple(TARGETS),  # type: ignore[assignment]
) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    found = {}
    for layer in layers:
        inner, outer, _ = TARGETS[layer]
        found[f"unet.{layer}.lora_A.weight"] = draw.normal(size=(rank, inner)).astype(np.float32)
        found[f"unet.{layer}.lora_B.weight"] = (scale * draw.normal(size=(outer, rank))).astype(np.float32)
    return found


def build_adapter(
    folder: Path,
    bundle_digest: str,
    tensors: dict[str, np.ndarray] | None = None,
    *,
    rank: int = 2,
    alpha: float = 4.0,
    **changes: Any,
) -> AdapterManifest:
    """Writes weights, adapter.json and evidence.json into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = adapter_tensors() if tensors is None else tensors
    save_file(tensors, folder / names.WEIGHTS_FILE)
    layers = {key.rsplit(".lora_", 1)[0] for key in tensors}
    values = {
        "bundle_digest": bundle_digest,
        "weights_sha256": file_sha256(folder / names.WEIGHTS_FILE),
        "layers": {layer: {"rank": rank, "alpha": alpha} for layer in sorted(layers)},
        "run_id": "run",
        "dataset_digest": "d" * 64,
        "git_revision": None,
    }
    manifest = AdapterManifest(**(values | changes))
    (folder / names.ADAPTER_FILE).write_text(manifest.model_dump_json(indent=1))
    evidence = Evidence(
        weights_sha256=manifest.weights_sha256,
        output_finite=True,
        onnx_max_error=1e-6,
        validation_loss=0.1,
        base_validation_loss=0.2,
        validation_digest="e" * 64,
        validation_images=4,
    )
    (folder / names.EVIDENCE_FILE).write_text(evidence.model_dump_json())
    return manifest


def _save(graph: onnx.GraphProto, path: Path, *, external: bool = False) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path, save_as_external_data=external, location=f"{path.name}.data", size_threshold=64)


def _weights(draw: np.random.Generator, **shapes: tuple[int, ...]) -> list[onnx.TensorProto]:
    return [
        numpy_helper.from_array(draw.normal(scale=0.5, size=shape).astype(np.float32), name) for name, shape in shapes.items()
    ]


def _values(**kinds: Any) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in kinds.items()]


def _text_encoder(draw: np.random.Generator) -> onnx.GraphProto:
    return helper.make_graph(
        [
            helper.make_node("Gather", ["words", "input_ids"], ["states"]),
            *_lora("layer.q_proj", "states", "last_hidden_state"),
        ],
        "text_encoder",
        _values(input_ids=(TensorProto.INT64, [1, TEXT_TOKENS]), **_lora_inputs(TEXT_TARGETS, 1)),
        _values(last_hidden_state=(TensorProto.FLOAT, [1, TEXT_TOKENS, TEXT_WIDTH])),
        [
            *_weights(draw, words=(len(vocabulary()[0]), TEXT_WIDTH)),
            numpy_helper.from_array(np.eye(TEXT_WIDTH, dtype=np.float32), "W layer.q_proj"),
            *_lora_rows(TEXT_TARGETS),
        ],
    )


def _vae_decoder(draw: np.random.Generator) -> onnx.GraphProto:
    return helper.make_graph(
        [
            helper.make_node("ConvTranspose", ["latents", "kernel"], ["up"], strides=[8, 8]),
            helper.make_node("Tanh", ["up"], ["image"]),
        ],
        "vae_decoder",
        _values(latents=(TensorProto.FLOAT, ["b", CHANNELS, "h", "w"])),
        _values(image=(TensorProto.FLOAT, ["b", 3, "H", "W"])),
        _weights(draw, kernel=(CHANNELS, 3, 8, 8)),
    )


def _lora(layer: str, x: str, out: str) -> list[onnx.NodeProto]:
    inputs = names.lora_inputs("attention")
    return [
        helper.make_node("MatMul", [x, f"W {layer}"], [f"{out} plain"]),
        helper.make_node("Slice", [inputs.a, f"{layer} A from", f"{layer} A to", "axis 0"], [f"{out} A"]),
        helper.make_node("Slice", [inputs.b, f"{layer} B from", f"{layer} B to", "axis 0"], [f"{out} B"]),
        helper.make_node("Transpose", [f"{out} B"], [f"{out} B^T"], perm=[1, 0]),
        helper.make_node("MatMul", [x, f"{out} A"], [f"{out} down"]),
        helper.make_node("Mul", [f"{out} down", inputs.scale], [f"{out} scaled"]),
        helper.make_node("MatMul", [f"{out} scaled", f"{out} B^T"], [f"{out} up"]),
        helper.make_node("Add", [f"{out} plain", f"{out} up"], [out]),
    ]


def _lora_rows(targets: dict[str, tuple[int, int, int]]) -> list[onnx.TensorProto]:
    """Where each layer's rows begin and end."""
    rows, ends = [numpy_helper.from_array(np.array([0], np.int64), "axis 0")], {"A": 0, "B": 0}
    for layer, (inner, outer, _) in targets.items():
        for half, size in (("A", inner), ("B", outer)):
            rows.append(numpy_helper.from_array(np.array([ends[half]], np.int64), f"{layer} {half} from"))
            ends[half] += size
            rows.append(numpy_helper.from_array(np.array([ends[half]], np.int64), f"{layer} {half} to"))
    return rows


def _lora_inputs(targets: dict[str, tuple[int, int, int]], batch: int | str) -> dict[str, tuple[int, list[int | str]]]:
    inputs = names.lora_inputs("attention")
    return {
        inputs.a: (TensorProto.FLOAT, [sum(inner for inner, _, _ in targets.values()), "r"]),
        inputs.b: (TensorProto.FLOAT, [sum(outer for _, outer, _ in targets.values()), "r"]),
        inputs.scale: (TensorProto.FLOAT, [batch, 1, "r"]),
    }


def _unet(draw: np.random.Generator) -> onnx.GraphProto:
    first, second = TARGETS
    nodes = [
        helper.make_node("Conv", ["sample", "kernel"], ["mixed"], pads=[1, 1, 1, 1]),
        helper.make_node("Shape", ["sample"], ["shape"]),
        helper.make_node("Reshape", ["mixed", "flat"], ["columns"]),
        helper.make_node("Transpose", ["columns"], ["rows"], perm=[0, 2, 1]),  # [b, h*w, c]
        *_lora(first, "rows", "q"),
        helper.make_node("ReduceMean", ["encoder_hidden_states", "axis 1"], ["text mean"], keepdims=1),
        helper.make_node("MatMul", ["text mean", "W text"], ["text"]),
        helper.make_node("Reshape", ["timestep", "column"], ["time column"]),
        helper.make_node("Mul", ["time column", "W time"], ["time part"]),
        helper.make_node("Sum", ["q", "text", "time part"], ["added"]),
        helper.make_node("Tanh", ["added"], ["bent"]),
        *_lora(second, "bent", "o"),
        helper.make_node("Transpose", ["o"], ["back"], perm=[0, 2, 1]),
        helper.make_node("Reshape", ["back", "shape"], ["out_sample"]),
    ]
    weights = [
        *_weights(draw, kernel=(CHANNELS, CHANNELS, 3, 3)),
        *(_weights(draw, **{f"W {layer}": shape[:2] for layer, shape in TARGETS.items()})),
        *_lora_rows(TARGETS),
        *_weights(draw, **{"W text": (TEXT_WIDTH, 6)}),
        numpy_helper.from_array((draw.normal(size=6) / 1000).astype(np.float32), "W time"),
        numpy_helper.from_array(np.array([0, CHANNELS, -1], np.int64), "flat"),
        numpy_helper.from_array(np.array([-1, 1, 1], np.int64), "column"),
        numpy_helper.from_array(np.array([1], np.int64), "axis 1"),
    ]
    inputs = {
        "sample": (TensorProto.FLOAT, ["b", CHANNELS, "h", "w"]),
        "timestep": (TensorProto.FLOAT, ["b"]),
        "encoder_hidden_states": (TensorProto.FLOAT, ["b", TEXT_TOKENS, TEXT_WIDTH]),
        **_lora_inputs(TARGETS, "b"),
    }
    outputs = _values(out_sample=(TensorProto.FLOAT, ["b", CHANNELS, "h", "w"]))
    return helper.make_graph(nodes, "unet", _values(**inputs), outputs, weights)


def read_adapter(folder: Path, bundle: BundleManifest) -> Adapter:
    """Loads an adapter by its own manifest."""
    manifest = AdapterManifest.model_validate_json((folder / names.ADAPTER_FILE).read_bytes())
    return load_adapter(folder, manifest, bundle)
