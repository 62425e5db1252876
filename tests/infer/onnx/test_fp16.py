"""A UNet in float16 through IO binding, as CUDA gets it; here ONNX Runtime's CPU provider runs the same graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from atelier_contracts.manifests import BundleManifest
from atelier_infer.engine.denoising_state import DenoisingState, SamplingParams
from atelier_infer.engine.denoising_step import DenoisingStep
from atelier_infer.errors import BundleError
from atelier_infer.onnx import fp16, providers
from atelier_infer.onnx.graph_cache import GRAPH
from atelier_infer.onnx.io_binding import BoundSession
from atelier_infer.onnx.providers import Runtime
from atelier_infer.pipeline.adapter import WeightedAdapter
from atelier_infer.pipeline.bundle import Bundle, open_bundle
from onnx import TensorProto, helper, numpy_helper

from ..support import run_together
from ..tiny_bundle import TEXT_TOKENS, TEXT_WIDTH, adapter_tensors, build_adapter, read_adapter


@pytest.fixture
def opened(bundle: tuple[Path, BundleManifest]) -> Bundle:
    return open_bundle(bundle[0], runtime=Runtime(intra_op_threads=1))


@pytest.fixture
def as_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code for CUDA, run by the CPU provider."""
    monkeypatch.setitem(providers.NAMES, "cuda", "CPUExecutionProvider")
    monkeypatch.setitem(providers.DEVICES, "cuda", "cpu")


def graph_of_angles() -> onnx.ModelProto:
    """y = sin(1000.4 t) + w x, resized to twice the width: an angle, a weight, and an operator that insists on float32."""
    nodes = [
        helper.make_node("Mul", ["t", "frequency"], ["angle"], "angle"),
        helper.make_node("Sin", ["angle"], ["sine"], "sine"),
        helper.make_node("MatMul", ["x", "w"], ["product"], "product"),
        helper.make_node("Add", ["sine", "product"], ["sum"], "sum"),
        helper.make_node("Constant", [], ["one"], value=numpy_helper.from_array(np.float32(1.0))),
        helper.make_node("Mul", ["sum", "one"], ["same"], "same"),
        helper.make_node("Resize", ["same", "", "scales"], ["y"], "y", mode="nearest"),
    ]
    weights = {
        "frequency": np.float32(1000.4),
        "w": np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32),
        "scales": np.array([1, 2], np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "angles",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("t", "x")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    )


def run(model: onnx.ModelProto) -> np.ndarray:
    feeds = {"t": np.array([[0.1, 0.3, 0.7, 1.0]], np.float32), "x": np.ones((1, 4), np.float32)}
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)[0]


def test_weights_are_halved_and_angles_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    model = graph_of_angles()
    exact = run(model)
    fp16.convert_to_fp16(model.graph)
    kinds = {item.name: item.data_type for item in model.graph.initializer}
    assert kinds == {"frequency": TensorProto.FLOAT, "w": TensorProto.FLOAT16, "scales": TensorProto.FLOAT}
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(run(model), exact, atol=5e-3)
    monkeypatch.setattr(fp16, "ANGLES", ())  # what the exception is good for
    careless = graph_of_angles()
    fp16.convert_to_fp16(careless.graph)
    assert np.abs(run(careless) - exact).max() > 0.05


def test_an_output_that_is_read_inside_too() -> None:
    nodes = [helper.make_node("Neg", ["x"], ["y"], "y"), helper.make_node("Neg", ["y"], ["z"], "z")]
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xyz"}
    graph = helper.make_graph(nodes, "two", [values["x"]], [values["y"], values["z"]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    fp16.convert_to_fp16(model.graph)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y, z = session.run(None, {"x": np.array([1, 1 / 3], np.float32)})
    assert (y.dtype, z.dtype) == (np.float32, np.float32)
    np.testing.assert_array_equal(y, -z)
    assert y[1] == pytest.approx(-1 / 3, abs=1e-3)


def test_a_graph_with_graphs_inside_is_refused() -> None:
    inner = helper.make_graph([], "inner", [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])])
    node = helper.make_node("If", ["c"], ["y"], "choice", then_branch=inner, else_branch=inner)
    with pytest.raises(BundleError, match="received one in If 'choice'"):
        fp16.convert_to_fp16(helper.make_graph([node], "outer", [], []))


def test_images_are_the_references_but_for_rounding(
    bundle: tuple[Path, BundleManifest],
    tmp_path: Path,
    opened: Bundle,
    params: SamplingParams,
    as_cuda: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    runtime = Runtime("cuda", 1, tmp_path / "cache")
    convert_to_fp16 = open_bundle(bundle[0], runtime=runtime)
    assert isinstance(convert_to_fp16.unet, BoundSession)
    build_adapter(tmp_path / "a", bundle[1].digest(), adapter_tensors(seed=1))
    adapter = read_adapter(tmp_path / "a", bundle[1])
    adapters = [WeightedAdapter(adapter)]
    draw = np.random.default_rng(0)
    state = DenoisingState(opened, adapters, params)
    state.prepare()
    by_row, shared = DenoisingStep()._feeds([state])
    feeds = (
        by_row
        | shared
        | {
            "sample": draw.normal(size=(2, 4, 4, 6)).astype(np.float32),
            "timestep": np.full(2, 999, np.float32),
            "encoder_hidden_states": draw.normal(size=(2, TEXT_TOKENS, TEXT_WIDTH)).astype(np.float32),
        }
    )
    [exact], [rounded] = opened.unet.run(None, feeds), convert_to_fp16.unet.run(None, feeds)
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 5e-3 * np.abs(exact).max()
    pairs = [run_together(one, [([], params), ([], replace(params, steps=6))]) for one in (opened, convert_to_fp16)]
    for one, other in zip(*pairs, strict=True):
        assert np.abs(one.finish().astype(int) - other.finish()).max() <= 8
    [home] = (tmp_path / "cache/graphs").glob("*/*")
    kept = onnx.load(home / GRAPH)
    assert TensorProto.FLOAT not in {item.data_type for item in kept.graph.initializer}
    assert not caplog.records
    (home / GRAPH).write_bytes(b"")
    open_bundle(bundle[0], runtime=runtime)  # rebuilt
    assert ["damaged" in record.getMessage() for record in caplog.records] == [True]
    assert onnx.load(home / GRAPH) == kept


def test_an_adapter_travels_once(
    bundle: tuple[Path, BundleManifest], tmp_path: Path, opened: Bundle, params: SamplingParams
) -> None:
    """Its arrays are the same objects at every step; what a step makes anew travels with it."""
    build_adapter(tmp_path / "a", bundle[1].digest(), adapter_tensors(seed=1))
    adapters = [WeightedAdapter(read_adapter(tmp_path / "a", bundle[1]))]
    bound = BoundSession(opened.unet, "cpu")
    state, batch, counts = (
        DenoisingState(replace(opened, unet=bound), adapters, replace(params, steps=5)),
        DenoisingStep(),
        [],
    )
    state.prepare()
    while not state.done:
        before = bound.copied
        assert batch.step([state]) == [None]
        counts.append(bound.copied - before)
    inputs = len(opened.unet.get_inputs())  # type: ignore[attr-defined]
    assert counts == [inputs] + [4] * 4  # sample, timestep, text states, scales
    np.testing.assert_array_equal(state.sample, run_together(opened, [(adapters, replace(params, steps=5))])[0].sample)


def test_several_adapters_are_copied_when_they_change_and_give_the_same_images(
    bundle: tuple[Path, BundleManifest], tmp_path: Path, opened: Bundle, params: SamplingParams
) -> None:
    """Two in one batch stay on the device; alternating batches bind other arrays and must not see those of the last batch."""
    adapters = []
    for seed, rank in ((1, 2), (2, 4)):
        build_adapter(tmp_path / str(seed), bundle[1].digest(), adapter_tensors(seed=seed, rank=rank), rank=rank)
        adapters.append(WeightedAdapter(read_adapter(tmp_path / str(seed), bundle[1])))
    bound, step, counts = BoundSession(opened.unet, "cpu"), DenoisingStep(), []
    on_device = replace(opened, unet=bound)
    batches = [
        [DenoisingState(on_device, [adapter], params) for adapter in adapters],
        [DenoisingState(on_device, adapters[:1], params)],
        [DenoisingState(on_device, adapters[1:], params)],
    ]
    for batch in batches:
        for state in batch:
            state.prepare()
    for order in ([0, 0, 1, 2], [0, 1, 2], [2, 1, 0], [1, 1, 2, 2, 0]):
        for index in order:
            if batches[index][0].done:
                continue
            before = bound.copied
            assert step.step(batches[index]) == [None] * len(batches[index])
            counts.append(bound.copied - before)
    inputs = len(opened.unet.get_inputs())  # type: ignore[attr-defined]
    assert counts[:3] == [inputs, 4, inputs]  # the same batch again, then another adapter
    alone = run_together(opened, [([adapter], params) for adapter in adapters])
    for state, reference in zip([*batches[1], *batches[2]], alone, strict=True):
        assert state.done
        single = run_together(opened, [(reference.adapters, params)])[0]
        np.testing.assert_array_equal(state.sample, single.sample)
    for state, reference in zip(batches[0], alone, strict=True):
        np.testing.assert_array_equal(state.sample, reference.sample)
