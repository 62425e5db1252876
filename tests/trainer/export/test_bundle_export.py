"""The exported graphs compute what torch computes: with an adapter, without one, at other sizes and batches."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from atelier_contracts import names
from atelier_contracts.manifests import BundleManifest, LoraGroups, file_sha256
from atelier_trainer.base_models.load import load_base_model
from atelier_trainer.config.option_groups import ModelOptions
from atelier_trainer.errors import ExportError
from atelier_trainer.export import adapter
from atelier_trainer.export.bundle import export_bundle, source_digest
from atelier_trainer.export.onnx.graph_writer import OPSET
from atelier_trainer.export.parity import measure_parity
from atelier_trainer.families.sd import SD
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_inference_collection import InferenceSession
from onnxruntime.capi.onnxruntime_pybind11_state import GraphOptimizationLevel
from torch.nn import functional as F

from ..conftest import TINY
from ..exported import exported_bundle

ROOT = Path(__file__).parents[3]
UNETS = (names.UNET_FILE, names.FUSED_UNET_FILE, names.CPU_UNET_FILE)
pytestmark = pytest.mark.timeout(1200)  # an export takes minutes on a machine that is busy


def session(path: Path, level: GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL) -> InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds(bundle: BundleManifest, rows: int, side: int, rank: int, seed: int = 0, width: int = 128) -> dict[str, NDArray[Any]]:
    """Random inputs; a rank of its own for each group, and the smallest ones for rank 0."""
    draw = np.random.default_rng(seed)
    tokens = bundle.text_encoders["text_encoder"].tokens
    inputs = {
        "sample": draw.standard_normal((rows, bundle.latent_channels, side, side), np.float32),
        "timestep": np.linspace(1, 999, rows).astype(np.float32),
        "encoder_hidden_states": draw.standard_normal((rows, tokens, width), np.float32),
    }
    for more, (group, layers) in enumerate(bundle.lora["unet"].items()):
        own = names.lora_rank(group, rank + more if rank > 1 else rank)
        a, b, scale = names.lora_inputs(group)
        strength = 0.05 if rank else 0
        inputs[a] = draw.standard_normal((sum(inner * k * k for inner, _, k in layers.values()), own), np.float32) * strength
        inputs[b] = draw.standard_normal((sum(outer for _, outer, _ in layers.values()), own), np.float32) * strength
        inputs[scale] = draw.standard_normal((rows, 1, own), np.float32)
    return inputs


def by_layer(inputs: dict[str, np.ndarray], groups: LoraGroups) -> dict[str, np.ndarray]:
    """The same inputs for the graph whose layers have inputs of their own."""
    changed = dict(inputs)
    for group, layers in groups.items():
        a, b = (changed.pop(name) for name in names.lora_inputs(group)[:2])
        ends_a = np.cumsum([inner * kernel**2 for inner, _, kernel in layers.values()])
        ends_b = np.cumsum([outer for _, outer, _ in layers.values()])
        for layer, own_a, own_b in zip(layers, np.split(a, ends_a[:-1]), np.split(b, ends_b[:-1]), strict=True):
            changed |= zip(names.layer_inputs(group, layer), (own_a, own_b), strict=True)
    return changed


def inputs_of(file: str, inputs: dict[str, np.ndarray], manifest: BundleManifest) -> dict[str, np.ndarray]:
    return by_layer(inputs, manifest.lora["unet"]) if file == names.CPU_UNET_FILE else inputs


def add_lora_hooks(model: torch.nn.Module, groups: LoraGroups, inputs: dict[str, np.ndarray]) -> None:
    """Computes in torch, layer by layer, what the graph's inputs say."""
    for group, layers in groups.items():
        a, b, scale = (torch.from_numpy(inputs[name]) for name in names.lora_inputs(group))
        first_a = first_b = 0
        for name, (inner, outer, kernel) in layers.items():
            rows_a, first_a = slice(first_a, first_a + inner * kernel**2), first_a + inner * kernel**2
            rows_b, first_b = slice(first_b, first_b + outer), first_b + outer
            layer = model.get_submodule(name)
            down, up = a[rows_a].T.reshape(-1, inner, kernel, kernel), b[rows_b]
            if isinstance(layer, torch.nn.Conv2d):
                hook = partial(convolution_hook, down=down, up=up[..., None, None], scale=scale.transpose(1, 2)[..., None])
            else:
                hook = partial(linear_hook, down=down[..., 0, 0], up=up, scale=scale)
            layer.register_forward_hook(hook)


def linear_hook(layer: Any, x: tuple[Any], y: Any, *, down: Any, up: Any, scale: Any) -> Any:
    return y + ((x[0] @ down.T) * (scale if x[0].dim() == 3 else scale[:, 0])) @ up.T


def convolution_hook(layer: Any, x: tuple[Any], y: Any, *, down: Any, up: Any, scale: Any) -> Any:
    return y + F.conv2d(F.conv2d(x[0], down, None, layer.stride, layer.padding) * scale, up)


def test_the_manifest_lists_every_file_with_its_digest(bundle: tuple[Path, BundleManifest]) -> None:
    folder, manifest = bundle
    files = {file.name for file in folder.iterdir()} - {names.BUNDLE_FILE}
    assert set(manifest.files) == files
    assert all(file_sha256(folder / name) == digest for name, digest in manifest.files.items())
    assert BundleManifest.model_validate_json((folder / names.BUNDLE_FILE).read_text()) == manifest


def test_no_file_holds_a_path_of_this_machine(bundle: tuple[Path, BundleManifest]) -> None:
    folder, _ = bundle
    paths = [str(TINY.parents[1]), sys.prefix, torch.__file__.removesuffix("/__init__.py")]
    assert [(file.name, path) for file in folder.iterdir() for path in paths if path.encode() in file.read_bytes()] == []


def test_graphs_have_the_opset_and_pass_the_checker(bundle: tuple[Path, BundleManifest]) -> None:
    folder, _ = bundle
    for name in (names.UNET_FILE, "text_encoder.onnx", names.VAE_DECODER_FILE):
        onnx.checker.check_model(str(folder / name))
        assert {
            entry.version for entry in onnx.load(folder / name, load_external_data=False).opset_import if entry.domain == ""
        } == {OPSET}


@pytest.mark.parametrize("file", UNETS)
@pytest.mark.parametrize(("rows", "side", "rank"), [(1, 16, 4), (2, 16, 0), (3, 24, 12), (5, 8, 1)])
def test_the_unet_computes_what_torch_computes(
    bundle: tuple[Path, BundleManifest], pipeline: StableDiffusionPipeline, rows: int, side: int, rank: int, file: str
) -> None:
    folder, manifest = bundle
    inputs = feeds(manifest, rows, side, rank)
    unet = pipeline.unet
    add_lora_hooks(unet, manifest.lora["unet"], inputs)
    with torch.inference_mode():
        tensors = [torch.from_numpy(inputs[key]) for key in ("sample", "timestep", "encoder_hidden_states")]
        expected = unet(*tensors).sample.numpy()
    computed = session(folder / file).run(None, inputs_of(file, inputs, manifest))[0]
    assert np.abs(expected).max() > 0.1
    assert np.abs(computed - expected).max() <= 1e-5 * np.abs(expected).max()


def test_one_graph_has_standard_operators_and_the_others_fused_attention(bundle: tuple[Path, BundleManifest]) -> None:
    folder, _ = bundle
    standard, fused, by_layer = (onnx.load(folder / name, load_external_data=False) for name in UNETS)
    assert {node.domain for node in standard.graph.node} == {""}
    kinds = [node.op_type for node in fused.graph.node]
    assert [node.op_type for node in by_layer.graph.node].count("Slice") < kinds.count("Slice"), "slices are copies"
    for graph in (standard.graph, fused.graph, by_layer.graph):
        subgraphs = [attribute.g for node in graph.node for attribute in node.attribute]
        used = {name for each in (graph, *subgraphs) for node in each.node for name in node.input}
        assert {item.name for item in graph.initializer} <= used, "ONNX Runtime warns of weights that nothing reads"
    weights = {item.name for item in standard.graph.initializer}
    assert all(node.input[1] in weights for node in standard.graph.node if node.op_type == "Conv"), "OpenVINO needs constants"
    assert kinds.count("MultiHeadAttention") == [node.op_type for node in standard.graph.node].count("Softmax") > 0
    assert "Softmax" not in kinds


@pytest.mark.parametrize("file", UNETS)
def test_a_row_does_not_depend_on_the_other_rows(bundle: tuple[Path, BundleManifest], file: str) -> None:
    folder, manifest = bundle
    inputs, unet = inputs_of(file, feeds(manifest, 5, 16, 0), manifest), session(folder / file)
    alone = {name: value if "lora_A" in name or "lora_B" in name else value[2:3] for name, value in inputs.items()}
    assert np.array_equal(unet.run(None, inputs)[0][2:3], unet.run(None, alone)[0])


def test_each_row_has_its_own_lora_scale(bundle: tuple[Path, BundleManifest]) -> None:
    folder, manifest = bundle
    unet, inputs = session(folder / names.UNET_FILE), feeds(manifest, 2, 16, 4)
    inputs["sample"][1], inputs["timestep"][1], inputs["encoder_hidden_states"][1] = (
        inputs[key][0] for key in ("sample", "timestep", "encoder_hidden_states")
    )
    scales = [names.lora_inputs(group).scale for group in manifest.lora["unet"]]
    for name in scales:
        inputs[name][:] = 1
    same = unet.run(None, inputs)[0]
    assert np.array_equal(same[0], same[1])
    for name in scales:
        inputs[name][1] = 0
    different = unet.run(None, inputs)[0]
    assert np.array_equal(different[0], same[0])
    assert not np.allclose(different[1], same[1], atol=1e-3)


def test_without_an_adapter_it_equals_the_plain_base_model(small_base: Path, bundle_cache: Path, tmp_path: Path) -> None:
    """Against a graph of the same UNet that has no LoRA inputs at all, with the same attention."""
    base = load_base_model(ModelOptions(pretrained_model_name_or_path=str(small_base)))
    folder, manifest = exported_bundle(base, bundle_cache)
    pipeline = base.load_pipeline()
    inputs = feeds(manifest, 2, 16, 0, width=pipeline.unet.config.cross_attention_dim)
    plain = tmp_path / "plain.onnx"
    example = tuple(torch.from_numpy(inputs[key]) for key in ("sample", "timestep", "encoder_hidden_states"))
    rows, latents = (
        torch.export.Dim.DYNAMIC,
        {2: 2 * torch.export.Dim("h", min=1, max=64), 3: 2 * torch.export.Dim("w", min=1, max=64)},
    )
    shapes = ({0: rows, **latents}, {0: rows}, {0: rows})
    with torch.inference_mode():
        program = torch.onnx.export(
            pipeline.unet.eval(), example, dynamic_shapes=shapes, opset_version=OPSET, dynamo=True, verbose=False
        )
    program.save(str(plain), external_data=True)
    # as infer opens a graph; the next level of optimization sums in another order around convolutions
    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    unet = session(plain, level)
    expected = unet.run(None, {item.name: value.numpy() for item, value in zip(unet.get_inputs(), example, strict=True)})[0]
    for _ in range(2):  # whatever the memory held before
        assert np.array_equal(session(folder / names.UNET_FILE, level).run(None, inputs)[0], expected)


@pytest.mark.parametrize("file", [names.FUSED_UNET_FILE, names.CPU_UNET_FILE])
def test_without_an_adapter_it_equals_the_same_graph_without_lora(
    bundle: tuple[Path, BundleManifest], tmp_path: Path, file: str
) -> None:
    folder, manifest = bundle
    model = onnx.load(folder / file)
    lora, own_output = {item.name for item in model.graph.input if ".lora_" in item.name}, dict[str, str]()
    for node in model.graph.node:
        from_lora = [name for name in node.input if name in lora]
        if node.op_type == "Add" and len(from_lora) == 1:
            own = next(name for name in node.input if name not in lora)
            own_output[node.output[0]] = own
            node.op_type, node.input[:] = "Identity", [own]
        elif from_lora:
            lora |= set(node.output)
        for at, name in enumerate(node.input):
            node.input[at] = own_output.get(name, name)
    assert len(own_output) == len([layer for layers in manifest.lora["unet"].values() for layer in layers])
    onnx.save(model, tmp_path / "plain.onnx")
    inputs = inputs_of(file, feeds(manifest, 2, 16, 0), manifest)
    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with_lora, plain = (session(path, level).run(None, inputs)[0] for path in (folder / file, tmp_path / "plain.onnx"))
    assert np.array_equal(with_lora, plain)


@pytest.mark.parametrize("file", UNETS)
def test_a_group_that_is_not_used_changes_nothing_of_the_others(bundle: tuple[Path, BundleManifest], file: str) -> None:
    """Ranks as infer feeds them: the largest for one group at a time, and those of no adapter for the others."""
    folder, manifest = bundle
    unet, zeros, ones = session(folder / file), feeds(manifest, 2, 16, 0), feeds(manifest, 2, 16, 6)
    for group in manifest.lora["unet"]:
        own = names.lora_inputs(group)
        alone = zeros | {name: ones[name] for name in own}
        padded = {
            name: np.zeros_like(ones[name]) for other in manifest.lora["unet"] for name in names.lora_inputs(other)
        }  # at the ranks of an adapter, but of zeros
        both = [
            unet.run(None, inputs_of(file, one, manifest))[0]
            for one in (alone, zeros | padded | {name: ones[name] for name in own})
        ]
        np.testing.assert_allclose(both[0], both[1], atol=2e-5 * np.abs(both[1]).max(), rtol=0)


def test_the_decoder_computes_what_torch_computes(
    bundle: tuple[Path, BundleManifest], pipeline: StableDiffusionPipeline
) -> None:
    folder, manifest = bundle
    latents = torch.randn(2, manifest.latent_channels, 12, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        image = pipeline.vae.decode(latents).sample.numpy()
    computed = session(folder / names.VAE_DECODER_FILE).run(None, {"latents": latents.numpy()})[0]
    assert np.abs(computed - image).max() < 1e-4


@pytest.mark.parametrize("rank", [0, 3])
def test_the_text_encoder_computes_what_torch_computes(
    bundle: tuple[Path, BundleManifest], pipeline: StableDiffusionPipeline, rank: int
) -> None:
    folder, manifest = bundle
    tokens = pipeline.tokenizer(["a red car under a tree"], padding="max_length", return_tensors="pt").input_ids
    draw, lora = np.random.default_rng(1), {}
    for group, layers in manifest.lora["text_encoder"].items():
        a, b, scale = names.lora_inputs(group)
        lora[a] = draw.standard_normal((sum(inner for inner, _, _ in layers.values()), rank), np.float32) * 0.3
        lora[b] = draw.standard_normal((sum(outer for _, outer, _ in layers.values()), rank), np.float32) * 0.3
        lora[scale] = np.ones((1, 1, rank), np.float32)
    with torch.inference_mode():
        plain = pipeline.text_encoder(tokens).last_hidden_state.numpy()
        add_lora_hooks(pipeline.text_encoder, manifest.lora["text_encoder"], lora)
        states = pipeline.text_encoder(tokens).last_hidden_state.numpy()
    computed = session(folder / "text_encoder.onnx").run(None, {"input_ids": tokens.numpy(), **lora})[0]
    assert np.abs(computed - states).max() < 1e-4
    assert (np.abs(states - plain).max() > 0.1) == (rank > 0)


def test_the_source_digest_follows_the_files_and_not_the_folder(tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "elsewhere"
    shutil.copytree(TINY, copy)
    base = load_base_model(ModelOptions(pretrained_model_name_or_path=str(TINY)))
    copied = load_base_model(ModelOptions(pretrained_model_name_or_path=str(copy)))
    assert source_digest(copied) == source_digest(base) != source_digest(dataclasses.replace(base, variant="fp16"))
    config = json.loads((copy / "unet/config.json").read_text())
    (copy / "unet/config.json").write_text(json.dumps(config | {"sample_size": 24}))
    assert source_digest(copied) != source_digest(base)


def test_a_failed_export_leaves_the_model_unchanged(pipeline: StableDiffusionPipeline, tmp_path: Path) -> None:
    before = [type(layer) for layer in pipeline.unet.modules()]
    with pytest.raises(ExportError, match="no layer that takes LoRA"):
        unet = pipeline.unet
        pipeline.unet = torch.nn.Linear(1, 1)
        export_bundle(pipeline, SD, tmp_path, base="x", revision=None, source="0" * 64)
    assert [type(layer) for layer in unet.modules()] == before


def test_parity_is_measured_with_the_adapter_injected(
    bundle: tuple[Path, BundleManifest], pipeline: StableDiffusionPipeline
) -> None:
    folder, manifest = bundle
    adapter.inject_lora(pipeline.unet, rank=4, alpha=8.0)
    for parameter in (p for p in pipeline.unet.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(1))
    models, pairs = {"unet": pipeline.unet}, adapter.lora_pairs(pipeline.unet)
    finite, error = measure_parity(models, SD, pairs, folder, manifest)
    assert finite
    assert 0 < error < 1e-5
    pipeline.unet.conv_out.weight.data *= 1.01
    with pytest.raises(ExportError, match="differ by"):
        measure_parity(models, SD, pairs, folder, manifest)


def test_large_images_stay_within_the_services_memory_limit(bundle: tuple[Path, BundleManifest], tmp_path: Path) -> None:
    """The largest size there is, with the service's own parts: attention that holds all scores would take 19 GB."""
    report = tmp_path / "report.json"
    command = [sys.executable, ROOT / "benchmarks/infer/memory.py", "--bundle", bundle[0], "--memory-mib", "800"]
    rest = ["--size", "640", "1024", "--steps", "1", "--threads", "1", "--json", report]
    answer = subprocess.run([*command, *rest], capture_output=True, text=True)  # type: ignore[list-item]
    assert answer.returncode == 0, answer.stdout + answer.stderr
    sizes = json.loads(report.read_text())["sizes"]
    assert [one["px"] for one in sizes] == [640, 1024]
    assert all(0 < one["step_peak_mib"] <= 800 and 0 < one["decode_peak_mib"] <= 800 for one in sizes)
