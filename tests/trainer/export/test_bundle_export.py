"""The exported graphs compute what torch computes: with an adapter, without one, at other sizes and batches."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from atelier_contracts import names
from atelier_contracts.manifests import BundleManifest, file_sha256
from atelier_trainer.base_models.load import load_base_model
from atelier_trainer.config.option_groups import ModelOptions
from atelier_trainer.errors import ExportError
from atelier_trainer.export import adapter
from atelier_trainer.export.bundle import export_bundle, source_digest
from atelier_trainer.export.onnx.graph_writer import OPSET
from atelier_trainer.export.parity import measure_parity
from atelier_trainer.families.sd import SD
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

from ..conftest import TINY
from .graph_inputs import UNETS, add_lora_hooks, feeds, inputs_of, session

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.timeout(1200)  # an export takes minutes on a machine that is busy


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
