"""A bundle is opened only when it keeps the contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from atelier_contracts import names
from atelier_contracts.manifests import BundleManifest
from atelier_infer.errors import BundleError
from atelier_infer.onnx.providers import Runtime
from atelier_infer.pipeline.bundle import open_bundle

from ..tiny_bundle import LORA, SCHEDULE, TARGETS, TOKENIZER_FILE, build_bundle, write_manifest


def test_an_opened_bundle(bundle: tuple[Path, BundleManifest]) -> None:
    opened = open_bundle(bundle[0], runtime=Runtime(intra_op_threads=1))
    assert opened.digest == bundle[1].digest()
    none = opened.lora.arrays([])
    assert {name: array.shape for name, array in none.items()} == {"attention.lora_A": (10, 0), "attention.lora_B": (10, 0)}
    assert opened.unet.get_providers() == ["CPUExecutionProvider"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("manifest", "schedule", "message"),
    [
        ({}, {"clip_sample": True}, "scheduler_config.json is not supported: clip_sample.*received True"),
        ({}, {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ({}, {"beta_schedule": "squaredcos_cap_v2"}, "beta_schedule.*squaredcos"),
        ({}, {"prediction_type": "v_prediction"}, "prediction_type is epsilon.*and v_prediction"),
        ({"native_size_px": 40}, {}, "native_size_px must be a multiple"),
        ({"vae_factor": 5}, {}, "of vae_factor"),
        (
            {"lora": LORA | {"unet": {"attention": TARGETS | {"mid.to_q": (5, 6, 1)}}}},
            {},
            "unet.onnx: attention.lora_A must have the 11 rows of the layers in bundle.json; it has 10",
        ),
        ({"family": "sdxl"}, {}, "family sdxl has the parts unet, text_encoder, text_encoder_2; received text_encoder, unet"),
        (
            {"lora": LORA | {"unet": {}}},
            {},
            r"unet.onnx: its inputs.*missing nothing; unknown attention.lora_A tensor\(float\)",
        ),
        (
            {"lora": LORA | {"unet": {"attention": TARGETS, "feed_forward": {"up.ff": (4, 4, 1)}}}},
            {},
            r"missing feed_forward.lora_A tensor\(float\), feed_forward.lora_B.*unknown nothing",
        ),
    ],
)
def test_refusals(tmp_path: Path, manifest: dict[str, Any], schedule: dict[str, Any], message: str) -> None:
    build_bundle(tmp_path, manifest_changes=manifest, schedule=schedule)
    with pytest.raises(BundleError, match=message):
        open_bundle(tmp_path, runtime=Runtime(intra_op_threads=1))


@pytest.mark.parametrize("file", [TOKENIZER_FILE, names.UNET_FILE, names.VAE_DECODER_FILE])
def test_files_that_cannot_be_read(tmp_path: Path, file: str) -> None:
    build_bundle(tmp_path)
    (tmp_path / file).write_bytes(b"nonsense")
    with pytest.raises(BundleError, match=file):
        open_bundle(tmp_path, runtime=Runtime(intra_op_threads=1))


def test_an_output_of_another_name_is_refused(tmp_path: Path) -> None:
    build_bundle(tmp_path)
    model = onnx.load(tmp_path / names.VAE_DECODER_FILE)
    model.graph.output[0].name = model.graph.node[-1].output[0] = "pixels"
    onnx.save(model, tmp_path / names.VAE_DECODER_FILE)
    write_manifest(tmp_path)
    with pytest.raises(BundleError, match=r"vae_decoder.onnx: its outputs.*missing image tensor\(float\); unknown pixels"):
        open_bundle(tmp_path, runtime=Runtime(intra_op_threads=1))


def test_fields_that_diffusers_fills_in_may_be_absent(tmp_path: Path) -> None:
    build_bundle(tmp_path)
    short = {key: value for key, value in SCHEDULE.items() if key not in ("set_alpha_to_one", "steps_offset", "clip_sample")}
    (tmp_path / names.SCHEDULER_FILE).write_text(json.dumps(short))
    write_manifest(tmp_path)
    schedule = open_bundle(tmp_path, runtime=Runtime(intra_op_threads=1)).schedule
    assert (schedule.set_alpha_to_one, schedule.steps_offset) == (True, 0)


def test_an_input_of_another_type_is_refused(tmp_path: Path) -> None:
    build_bundle(tmp_path)
    model = onnx.load(tmp_path / names.VAE_DECODER_FILE)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    kernel = onnx.numpy_helper.to_array(model.graph.initializer[0]).astype("float64")
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(kernel, "kernel"))
    onnx.save(model, tmp_path / names.VAE_DECODER_FILE)
    write_manifest(tmp_path)
    with pytest.raises(BundleError, match=r"vae_decoder.onnx"):
        open_bundle(tmp_path, runtime=Runtime(intra_op_threads=1))


def test_a_bundle_of_the_first_format_says_what_to_do(tmp_path: Path) -> None:
    build_bundle(tmp_path)
    (tmp_path / names.BUNDLE_FILE).write_text(json.dumps({"format": 1, "base": "x"}))
    with pytest.raises(BundleError, match=r"has format 1, which.*python -m atelier_trainer import WEIGHTS"):
        open_bundle(tmp_path, runtime=Runtime(intra_op_threads=1))


@pytest.mark.parametrize("layer", [(2**40, 6, 1), (4, 0, 1), (4, 6, 10**6), (-4, 6, 1)])
def test_sizes_that_no_layer_has_are_refused_before_memory_is_taken(tmp_path: Path, layer: tuple[int, int, int]) -> None:
    build_bundle(tmp_path)
    manifest = json.loads((tmp_path / names.BUNDLE_FILE).read_text())
    manifest["lora"]["unet"]["attention"]["mid.to_q"] = layer
    (tmp_path / names.BUNDLE_FILE).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"(?s)is not a bundle manifest.*mid\.to_q"):
        open_bundle(tmp_path, runtime=Runtime(intra_op_threads=1))
