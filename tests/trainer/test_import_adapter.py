"""A file of another tool becomes a version, with its evidence and where it comes from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest, Evidence, file_sha256
from atelier_trainer.__main__ import main
from atelier_trainer.errors import ExportError

from ..servers import MlflowServer
from .adapter_formats.lora_files import draw, load, to_kohya, write_diffusers

pytestmark = pytest.mark.timeout(1200)  # an export takes minutes on a machine that is busy
METADATA = {
    "ss_network_module": "networks.lora",
    "ss_tag_frequency": '{"10_zwx": {"zwx style": 12, "a cat": 3}}',
    "modelspec.title": "Ink and wash",
    "modelspec.license": "CC-BY-4.0",
}


@pytest.fixture(scope="module")
def files(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    file = write_diffusers(load(small_base), folder / "made")
    to_kohya(file, folder / "ink.safetensors", alpha=6.0, metadata=METADATA)
    file.rename(folder / "wash.safetensors")
    return folder


@pytest.fixture
def run_import(mlflow_server: MlflowServer, bundle_cache: Path, small_base: Path) -> Callable[..., int]:
    def run(source: Path, *arguments: str) -> int:
        where = [f"--base={small_base}", f"--tracking_uri={mlflow_server.uri}", f"--cache_dir={bundle_cache}"]
        return main(["import", str(source), *where, *arguments])

    return run


def download(client: mlflow.MlflowClient, model: str, folder: Path) -> Path:
    (version,) = client.search_model_versions(f"name = '{model}'")
    uri = f"models:/{model}/{version.version}"
    mlflow.artifacts.download_artifacts(uri, dst_path=str(folder), tracking_uri=client.tracking_uri)
    return folder / names.ADAPTER_FOLDER


def test_a_folder_of_files_becomes_one_model_each(
    run_import: Callable[..., int],
    mlflow_server: MlflowServer,
    small_base: Path,
    files: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_import(files, "--register={name}-style", "--author=Mori") == 0
    shown = capsys.readouterr().err
    for text in ("kohya", "12 of text_encoder", "Ink and wash", "zwx style", "CC-BY-4.0", "version 1 of wash-style"):
        assert text in shown
    assert shown.count("exporting the base model") <= 1, "the second file uses the bundle of the first"
    mlflow.set_tracking_uri(mlflow_server.uri)
    client = mlflow.MlflowClient(mlflow_server.uri)
    for name in ("ink", "wash"):
        source, folder = files / f"{name}.safetensors", download(client, f"{name}-style", tmp_path / name)
        manifest = AdapterManifest.model_validate_json((folder / names.ADAPTER_FILE).read_text())
        evidence = Evidence.model_validate_json((folder / names.EVIDENCE_FILE).read_text())
        assert manifest.imported_from is not None
        assert (manifest.imported_from.file, manifest.imported_from.sha256) == (source.name, file_sha256(source))
        assert (manifest.dataset_digest, manifest.rank, len(manifest.layers)) == (None, 3, 91)
        assert (manifest.style.author, manifest.style.title) == ("Mori", "Ink and wash" if name == "ink" else None)
        assert evidence.weights_sha256 == manifest.weights_sha256 == file_sha256(folder / names.WEIGHTS_FILE)
        assert evidence.output_finite and evidence.onnx_max_error < 1e-4
        assert evidence.validation_loss is None
        run = client.get_run(manifest.run_id)
        assert (run.info.status, run.data.params["sha256"]) == ("FINISHED", file_sha256(source))
        original, converted = load(small_base), load(small_base)
        original.load_lora_weights(source)
        converted.load_lora_weights(folder)
        torch.testing.assert_close(draw(converted), draw(original), atol=1e-4, rtol=0)
        assert (draw(original) - draw(load(small_base))).abs().max() > 0.05


def test_a_dry_run_asks_no_server(small_base: Path, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(files / "ink.safetensors"), f"--base={small_base}", "--dry_run"]) == 0
    assert "AutoV2" in capsys.readouterr().err


def test_one_bad_file_of_several_registers_none(
    run_import: Callable[..., int], mlflow_server: MlflowServer, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.safetensors").write_bytes((files / "ink.safetensors").read_bytes())
    (tmp_path / "b.safetensors").write_bytes(b"\x80\x02}q\x00.")
    assert run_import(tmp_path, "--register=bad-{name}") == 2
    assert "b.safetensors: it is not a safetensors file" in capsys.readouterr().err
    assert mlflow.MlflowClient(mlflow_server.uri).search_registered_models("name LIKE 'bad-%'") == []


def test_a_file_that_onnx_computes_otherwise_is_not_registered(
    run_import: Callable[..., int],
    mlflow_server: MlflowServer,
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def differ(*_: Any) -> None:
        raise ExportError("ONNX Runtime and torch differ")

    monkeypatch.setattr("atelier_trainer.exchange.import_adapter.measure_parity", differ)
    assert run_import(files / "ink.safetensors", "--register=other") == 2
    client = mlflow.MlflowClient(mlflow_server.uri)
    assert client.search_registered_models("name = 'other'") == []
    experiment = client.get_experiment_by_name("import")
    assert "FAILED" in {run.info.status for run in client.search_runs([experiment.experiment_id])}
