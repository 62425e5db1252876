"""LoRA inputs of the exported UNets: rows, scales, and groups that no adapter touches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from atelier_contracts import names
from atelier_contracts.manifests import BundleManifest
from atelier_trainer.base_models.load import load_base_model
from atelier_trainer.config.option_groups import ModelOptions
from atelier_trainer.export.onnx.graph_writer import OPSET

from ..exported import exported_bundle
from .graph_inputs import UNETS, feeds, inputs_of, session

pytestmark = pytest.mark.timeout(1200)  # an export takes minutes on a machine that is busy


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
