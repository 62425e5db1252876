"""The exported graphs compute what torch computes: with an adapter, without one, at other sizes and batches."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from atelier_contracts import names
from atelier_contracts.manifests import BundleManifest, file_sha256
from atelier_trainer.errors import ExportError
from atelier_trainer.export import adapter
from atelier_trainer.export.bundle import export_bundle, source_digest
from atelier_trainer.export.lora_inputs import lora_layers
from atelier_trainer.export.onnx_export import OPSET
from atelier_trainer.export.parity import measure_parity

from ..conftest import TINY

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.timeout(1200)  # an export takes minutes on a machine that is busy


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def feeds(bundle: BundleManifest, rows: int, side: int, rank: int, seed: int = 0):
    draw = np.random.default_rng(seed)
    inputs = {
        "sample": draw.standard_normal((rows, bundle.latent_channels, side, side), np.float32),
        "timestep": np.linspace(1, 999, rows).astype(np.float32),
        "encoder_hidden_states": draw.standard_normal((rows, bundle.text_tokens, 128), np.float32),
        names.LORA_SCALE: draw.standard_normal((rows, 1, rank), np.float32),
    }
    for layer, (inner, outer) in bundle.lora_targets.items():
        a, b = names.lora_inputs(layer)
        inputs[a] = draw.standard_normal((inner, rank), np.float32) * 0.05
        inputs[b] = draw.standard_normal((rank, outer), np.float32) * 0.05
    return inputs


def test_the_manifest_lists_every_file_with_its_digest(bundle):
    folder, manifest = bundle
    files = {file.name for file in folder.iterdir()} - {names.BUNDLE_FILE}
    assert set(manifest.files) == files
    assert all(file_sha256(folder / name) == digest for name, digest in manifest.files.items())
    assert BundleManifest.model_validate_json((folder / names.BUNDLE_FILE).read_text()) == manifest


def test_no_file_holds_a_path_of_this_machine(bundle):
    folder, _ = bundle
    paths = [str(TINY.parents[1]), sys.prefix, torch.__file__.removesuffix("/__init__.py")]
    assert [(file.name, path) for file in folder.iterdir() for path in paths if path.encode() in file.read_bytes()] == []


def test_graphs_have_the_opset_and_pass_the_checker(bundle):
    folder, _ = bundle
    for name in (names.UNET_FILE, names.TEXT_ENCODER_FILE, names.VAE_DECODER_FILE):
        onnx.checker.check_model(str(folder / name))
        assert {
            entry.version for entry in onnx.load(folder / name, load_external_data=False).opset_import if entry.domain == ""
        } == {OPSET}


@pytest.mark.parametrize("file", [names.UNET_FILE, names.FUSED_UNET_FILE])
@pytest.mark.parametrize(("rows", "side", "rank"), [(1, 16, 4), (2, 16, 0), (3, 24, 12), (5, 8, 1)])
def test_the_unet_computes_what_torch_computes(bundle, pipeline, rows, side, rank, file):
    folder, manifest = bundle
    inputs = feeds(manifest, rows, side, rank)
    unet = pipeline.unet
    for name, linear in lora_layers(unet).items():
        a, b = (torch.from_numpy(inputs[key]) for key in names.lora_inputs(name))
        scale = torch.from_numpy(inputs[names.LORA_SCALE])
        linear.register_forward_hook(lambda _m, x, y, a=a, b=b, scale=scale: y + ((x[0] @ a) * scale) @ b)
    with torch.inference_mode():
        tensors = [torch.from_numpy(inputs[key]) for key in ("sample", "timestep", "encoder_hidden_states")]
        expected = unet(*tensors).sample.numpy()
    computed = session(folder / file).run(None, inputs)[0]
    assert np.abs(computed - expected).max() <= 1e-5 * np.abs(expected).max()


def test_one_graph_has_standard_operators_and_the_other_fused_attention(bundle):
    folder, _ = bundle
    standard, fused = (onnx.load(folder / name, load_external_data=False) for name in (names.UNET_FILE, names.FUSED_UNET_FILE))
    assert {node.domain for node in standard.graph.node} == {""}
    kinds = [node.op_type for node in fused.graph.node]
    assert kinds.count("MultiHeadAttention") == [node.op_type for node in standard.graph.node].count("Softmax") > 0
    assert "Softmax" not in kinds


@pytest.mark.parametrize("file", [names.UNET_FILE, names.FUSED_UNET_FILE])
def test_a_row_does_not_depend_on_the_other_rows(bundle, file):
    folder, manifest = bundle
    inputs, unet = feeds(manifest, 5, 16, 0), session(folder / file)
    alone = {name: value[2:3] if len(value) == 5 else value for name, value in inputs.items()}
    assert np.array_equal(unet.run(None, inputs)[0][2:3], unet.run(None, alone)[0])


def test_each_row_has_its_own_lora_scale(bundle):
    folder, manifest = bundle
    unet, inputs = session(folder / names.UNET_FILE), feeds(manifest, 2, 16, 4)
    inputs["sample"][1], inputs["timestep"][1], inputs["encoder_hidden_states"][1] = (
        inputs[key][0] for key in ("sample", "timestep", "encoder_hidden_states")
    )
    inputs[names.LORA_SCALE][:] = 1
    same = unet.run(None, inputs)[0]
    assert np.array_equal(same[0], same[1])
    inputs[names.LORA_SCALE][1] = 0
    different = unet.run(None, inputs)[0]
    assert np.array_equal(different[0], same[0])
    assert not np.allclose(different[1], same[1], atol=1e-3)


def test_without_an_adapter_it_equals_the_plain_base_model(bundle, pipeline, tmp_path):
    """Against a graph of the same UNet that has no LoRA inputs at all."""
    folder, manifest = bundle
    inputs = feeds(manifest, 2, 16, 0)
    plain = tmp_path / "plain.onnx"
    example = tuple(torch.from_numpy(inputs[key]) for key in ("sample", "timestep", "encoder_hidden_states"))
    rows, latents = (
        torch.export.Dim.DYNAMIC,
        {2: 4 * torch.export.Dim("h", min=1, max=64), 3: 4 * torch.export.Dim("w", min=1, max=64)},
    )
    shapes = ({0: rows, **latents}, {0: rows}, {0: rows})
    with torch.inference_mode():
        program = torch.onnx.export(
            pipeline.unet.eval(), example, dynamic_shapes=shapes, opset_version=OPSET, dynamo=True, verbose=False
        )
    program.save(str(plain), external_data=True)
    unet = session(plain)
    expected = unet.run(None, {item.name: value.numpy() for item, value in zip(unet.get_inputs(), example, strict=True)})[0]
    assert np.array_equal(session(folder / names.UNET_FILE).run(None, inputs)[0], expected)


def test_text_encoder_and_decoder_compute_what_torch_computes(bundle, pipeline):
    folder, manifest = bundle
    tokens = pipeline.tokenizer(["a cat", "a red car under a tree"], padding="max_length", return_tensors="pt").input_ids
    latents = torch.randn(2, manifest.latent_channels, 12, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        states = pipeline.text_encoder(tokens).last_hidden_state.numpy()
        image = pipeline.vae.decode(latents).sample.numpy()
    onnx_states = session(folder / names.TEXT_ENCODER_FILE).run(None, {"input_ids": tokens.numpy()})[0]
    onnx_image = session(folder / names.VAE_DECODER_FILE).run(None, {"latents": latents.numpy()})[0]
    assert np.abs(onnx_states - states).max() < 1e-4
    assert np.abs(onnx_image - image).max() < 1e-4


def test_the_source_digest_follows_the_files_and_not_the_folder(tmp_path):
    import shutil

    copy = tmp_path / "elsewhere"
    shutil.copytree(TINY, copy)
    assert source_digest(copy) == source_digest(TINY)
    config = json.loads((copy / "unet/config.json").read_text())
    (copy / "unet/config.json").write_text(json.dumps(config | {"sample_size": 24}))
    assert source_digest(copy) != source_digest(TINY)


def test_a_failed_export_leaves_the_model_unchanged(pipeline, tmp_path):
    before = [type(layer) for layer in pipeline.unet.modules()]
    with pytest.raises(ExportError, match="no attention layer"):
        unet = pipeline.unet
        pipeline.unet = torch.nn.Linear(1, 1)
        export_bundle(pipeline, tmp_path, base="x", revision=None, source="0" * 64)
    assert [type(layer) for layer in unet.modules()] == before


def test_parity_is_measured_with_the_adapter_injected(bundle, pipeline):
    folder, manifest = bundle
    adapter.inject_lora(pipeline.unet, rank=4, alpha=8.0)
    for parameter in (p for p in pipeline.unet.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(1))
    finite, error = measure_parity(pipeline.unet, folder, manifest)
    assert finite
    assert 0 < error < 1e-5
    pipeline.unet.conv_out.weight.data *= 1.01
    with pytest.raises(ExportError, match="differ by"):
        measure_parity(pipeline.unet, folder, manifest)


def test_large_images_stay_within_the_services_memory_limit(bundle, tmp_path):
    """The largest size there is, with the service's own parts: attention that holds all scores would take 19 GB."""
    report = tmp_path / "report.json"
    command = [sys.executable, ROOT / "benchmarks/infer/memory.py", "--bundle", bundle[0], "--memory-mib", "800"]
    rest = ["--size", "640", "1024", "--steps", "1", "--threads", "1", "--json", report]
    answer = subprocess.run([*command, *rest], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    sizes = json.loads(report.read_text())["sizes"]
    assert [one["px"] for one in sizes] == [640, 1024]
    assert all(0 < one["step_peak_mib"] <= 800 and 0 < one["decode_peak_mib"] <= 800 for one in sizes)
