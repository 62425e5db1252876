"""Which provider runs the graphs, and what is kept of opening them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from atelier_contracts import names
from atelier_contracts.manifests import BundleManifest
from atelier_infer.engine.denoising_state import SamplingParams
from atelier_infer.errors import BundleError, ProviderError
from atelier_infer.onnx.graph_cache import GRAPH
from atelier_infer.onnx.providers import NAMES, Runtime
from atelier_infer.pipeline.bundle import Bundle, open_bundle
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi.onnxruntime_inference_collection import InferenceSession
from onnxruntime.capi.onnxruntime_pybind11_state import SessionOptions

from ..support import run_together
from ..tiny_bundle import build_bundle, write_manifest


@pytest.fixture
def opened(bundle: tuple[Path, BundleManifest]) -> Bundle:
    return open_bundle(bundle[0], runtime=Runtime())


def graphs(tmp_path: Path) -> list[Path]:
    return sorted(tmp_path.glob("graphs/*/*"))


def test_the_second_opening_takes_what_the_first_optimised(
    bundle: tuple[Path, BundleManifest], tmp_path: Path, params: SamplingParams
) -> None:
    runtime = Runtime("cpu", 1, tmp_path)
    first = open_bundle(bundle[0], runtime=runtime)
    homes = graphs(tmp_path)
    assert [home.name for home in homes] == [
        f"{bundle[1].digest()}-{graph}" for graph in ("text_encoder", "unet", "vae_decoder")
    ]
    stamps = [(home / GRAPH).stat().st_mtime_ns for home in homes]
    again = open_bundle(bundle[0], runtime=runtime)
    assert [(home / GRAPH).stat().st_mtime_ns for home in homes] == stamps
    images = [run_together(one, [([], params)])[0].finish() for one in (first, again)]
    np.testing.assert_array_equal(*images)  # type: ignore[arg-type]


def test_attention_in_one_operator_is_run_where_the_bundle_and_the_provider_have_it(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    build_bundle(folder)
    (folder / names.FUSED_UNET_FILE).write_bytes((folder / names.UNET_FILE).read_bytes())
    write_manifest(folder)
    open_bundle(folder, runtime=Runtime("cpu", 1, tmp_path))
    assert [home.name.partition("-")[2] for home in graphs(tmp_path)] == ["text_encoder", "unet_fused", "vae_decoder"]
    assert Runtime("cuda").choose_unet([names.UNET_FILE, names.FUSED_UNET_FILE, names.CPU_UNET_FILE]) == names.FUSED_UNET_FILE
    assert Runtime("openvino").choose_unet([names.UNET_FILE, names.FUSED_UNET_FILE]) == names.UNET_FILE


def test_the_cached_graph_is_what_is_opened(bundle: tuple[Path, BundleManifest], tmp_path: Path) -> None:
    """It is enough by itself: the bundle's own graph may be gone."""
    runtime = Runtime("cpu", 1, tmp_path)
    open_bundle(bundle[0], runtime=runtime)
    unet = next(home for home in graphs(tmp_path) if home.name.endswith("unet"))
    session = runtime.session(tmp_path / "nowhere.onnx", unet.name)
    assert "attention.lora_scale" in {item.name for item in session.get_inputs()}


def test_a_cached_graph_with_many_slices_opens(tmp_path: Path) -> None:
    """ONNX Runtime turns them into one Split, whose sizes must not end up in the file of weights."""
    count = 200
    integers = {"axis": [0]} | {f"{bound} {at}": [at + (bound == "end")] for at in range(count) for bound in ("first", "end")}
    weights = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in integers.items()]
    nodes = [helper.make_node("Slice", ["a", f"first {at}", f"end {at}", "axis"], [f"part {at}"]) for at in range(count)]
    nodes.append(helper.make_node("Sum", [f"part {at}" for at in range(count)], ["sum"]))
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, 3]) for name, rows in (("a", count), ("sum", 1))]
    graph = helper.make_graph(nodes, "slices", shapes[:1], shapes[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "slices.onnx")
    runtime, a = Runtime("cpu", 1, tmp_path / "cache"), np.ones((count, 3), np.float32)
    for _ in range(2):
        assert runtime.session(tmp_path / "slices.onnx", "slices").run(None, {"a": a})[0].tolist() == [[count] * 3]
    assert "Split" in {node.op_type for node in onnx.load(next(tmp_path.rglob(GRAPH))).graph.node}


@pytest.mark.parametrize("damage", ["changed", "cut", "no sums", "nonsense sums", "foreign sums"])
def test_a_damaged_graph_is_built_again(
    bundle: tuple[Path, BundleManifest], tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = Runtime("cpu", 1, tmp_path)
    open_bundle(bundle[0], runtime=runtime)
    for home in graphs(tmp_path):
        file, sums = home / GRAPH, home / "sha256.json"
        if damage == "changed":
            file.write_bytes(file.read_bytes()[:-1] + b"x")
        elif damage == "cut":
            file.write_bytes(b"")
        elif damage == "no sums":
            sums.unlink()
        else:
            sums.write_text({"nonsense sums": "[", "foreign sums": json.dumps({"../../x": "0"})}[damage])
    open_bundle(bundle[0], runtime=runtime)
    assert sum("damaged" in record.getMessage() for record in caplog.records) == 3
    caplog.clear()
    open_bundle(bundle[0], runtime=runtime)
    assert not caplog.records


def test_a_provider_that_this_build_lacks_is_refused_with_what_to_do() -> None:
    missing = next(name for name in NAMES if NAMES[name] not in ort.get_available_providers())
    with pytest.raises(ProviderError, match="into a separate environment"):
        Runtime(missing).check()
    Runtime("cpu").check()


def test_a_silent_fall_back_is_noticed(bundle: tuple[Path, BundleManifest], monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime only writes a line in its log, and runs the graph on the CPU."""
    real = ort.InferenceSession

    def falling_back(path: str, options: SessionOptions, providers: Any) -> InferenceSession:
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(ort, "InferenceSession", falling_back)
    with pytest.raises(ProviderError, match="fell back to CPUExecutionProvider"):
        open_bundle(bundle[0], runtime=Runtime("openvino"))


def test_a_graph_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"nonsense")
    for cache in (None, tmp_path / "cache"):
        with pytest.raises(BundleError, match=r"x\.onnx: ONNX Runtime cannot open it"):
            Runtime("cpu", 1, cache).session(tmp_path / "x.onnx", "key")
    assert list(tmp_path.glob("cache/graphs/*/*")) == []


def test_the_process_does_not_start_with_one_that_is_missing(tmp_path: Path, token_file: Path) -> None:
    missing = next(name for name in NAMES if NAMES[name] not in ort.get_available_providers())
    values = {"TRACKING_URI": "http://127.0.0.1:1", "MODEL": "m", "TOKEN_FILE": token_file, "CACHE_DIR": tmp_path}
    environment = {f"ATELIER_INFER_{name}": str(value) for name, value in (values | {"PROVIDER": missing}).items()}
    answer = subprocess.run([sys.executable, "-m", "atelier_infer"], env=environment, capture_output=True, text=True)
    assert answer.returncode == 2
    assert answer.stderr.startswith("atelier_infer cannot start:\nATELIER_INFER_PROVIDER: provider ")
