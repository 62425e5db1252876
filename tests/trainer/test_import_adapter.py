"""A file of another tool becomes a version, with its evidence and where it comes from."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest, Evidence, file_sha256
from atelier_trainer.__main__ import main
from atelier_trainer.adapter_formats.preview import make_preview, write_thumbnail
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.errors import ExportError
from atelier_trainer.export.outcome import read_outcome
from PIL import Image
from safetensors.torch import load_file, save_file

from ..servers import MlflowServer
from .adapter_formats.lora_files import draw, load, to_kohya, write_diffusers
from .conftest import run_training


def png(size: tuple[int, int]) -> bytes:
    stream = BytesIO()
    Image.new("RGB", size, "teal").save(stream, "png")
    return stream.getvalue()


pytestmark = pytest.mark.timeout(1200)  # an export takes minutes on a machine that is busy
METADATA = {
    "ss_network_module": "networks.lora",
    "ss_tag_frequency": '{"10_zwx": {"zwx style": 12, "a cat": 3}}',
    "modelspec.title": "Ink and wash",
    "modelspec.license": "CC-BY-4.0",
    "modelspec.thumbnail": write_thumbnail(make_preview(png((40, 30)))),
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
        preview = folder / names.PREVIEW_FILE
        assert preview.exists() == (name == "ink")
        assert manifest.preview_sha256 == (file_sha256(preview) if preview.exists() else None)
        assert name != "ink" or Image.open(preview).size == (40, 30)
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


def test_a_thumbnail_that_is_no_picture_is_left_out_with_the_reason(
    small_base: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata = METADATA | {"modelspec.thumbnail": "data:image/png;base64,PHN2Zz4="}
    save_file(load_file(files / "ink.safetensors"), tmp_path / "odd.safetensors", metadata)
    assert main(["import", str(tmp_path / "odd.safetensors"), f"--base={small_base}", "--dry_run"]) == 0
    assert "modelspec.thumbnail: it must be a PNG, JPEG or WebP" in " ".join(capsys.readouterr().err.split())


def test_a_preview_may_be_given(
    run_import: Callable[..., int], mlflow_server: MlflowServer, files: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.png").write_bytes(png((90, 60)))
    style = ["--recommended_steps=12", "--tags=wash"]
    assert run_import(files / "ink.safetensors", "--register=pictured", f"--preview={tmp_path / 'mine.png'}", *style) == 0
    folder = download(mlflow.MlflowClient(mlflow_server.uri), "pictured", tmp_path / "got")
    assert Image.open(folder / names.PREVIEW_FILE).size == (90, 60)
    manifest = AdapterManifest.model_validate_json((folder / names.ADAPTER_FILE).read_text())
    assert (manifest.style.recommended.steps, manifest.style.tags, manifest.style.title) == (12, ("wash",), "Ink and wash")


@pytest.mark.parametrize(
    ("source", "content", "message"),
    [
        ("ink.safetensors", b"nonsense", "--preview '{file}': it must be a PNG, JPEG or WebP"),
        ("ink.safetensors", None, "--preview '{file}': [Errno 2]"),
        ("", b"nonsense", "--preview is of one style; received 2 files"),
    ],
)
def test_a_preview_that_cannot_be_one_is_refused_in_one_line(
    small_base: Path, files: Path, tmp_path: Path, source: str, content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.png"
    if content is not None:
        file.write_bytes(content)
    assert main(["import", str(files / source), f"--base={small_base}", "--dry_run", f"--preview={file}"]) == 2
    err = capsys.readouterr().err
    assert message.format(file=file) in err
    assert err.count("\n") == 1


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


def evidence_of(client: mlflow.MlflowClient, model: str, folder: Path) -> Evidence:
    return Evidence.model_validate_json((download(client, model, folder) / names.EVIDENCE_FILE).read_text())


def test_with_a_data_set_the_validation_loss_is_that_of_a_training(
    run_import: Callable[..., int], mlflow_server: MlflowServer, small: TrainOptions, tmp_path: Path
) -> None:
    result = run_training(small)
    data = [f"--train_data_dir={small.data.train_data_dir}", "--validation_samples=4"]
    trained = Path(small.output.output_dir) / names.WEIGHTS_FILE
    assert run_import(trained, "--register=measured", *data) == 0
    client = mlflow.MlflowClient(mlflow_server.uri)
    evidence = evidence_of(client, "measured", tmp_path / "measured")
    outcome = read_outcome(Path(small.output.output_dir))
    assert outcome is not None
    assert (evidence.validation_digest, evidence.validation_images) == (outcome.validation_digest, 4)
    assert evidence.validation_loss == pytest.approx(result.losses.validation_loss, rel=1e-6)
    assert evidence.base_validation_loss == pytest.approx(result.losses.base_validation_loss, rel=1e-6)
    assert evidence.validation_loss != evidence.base_validation_loss
    (version,) = client.search_model_versions("name = 'measured'")
    assert client.get_run(version.run_id).data.metrics["validation_loss"] == evidence.validation_loss


def test_the_validation_loss_is_measured_with_the_text_encoders_that_the_file_changes(
    run_import: Callable[..., int], mlflow_server: MlflowServer, small_base: Path, sketches: Path, tmp_path: Path
) -> None:
    data = [f"--train_data_dir={sketches}", "--validation_samples=4"]
    client, losses = mlflow.MlflowClient(mlflow_server.uri), []
    for name, text in (("unet-only", False), ("unet-and-text", True), ("unet-again", False)):
        file = write_diffusers(load(small_base), tmp_path / name, text=text)
        assert run_import(file, f"--register={name}", *data) == 0
        losses.append(evidence_of(client, name, tmp_path / f"{name}-version"))
    unet, both, again = losses
    assert unet.validation_loss == again.validation_loss != both.validation_loss
    assert unet.base_validation_loss == both.base_validation_loss


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train_data_dir=/nowhere"], "--train_data_dir '/nowhere' is not a folder"),
        (["--train_data_dir=x", "--dataset_name=y"], "give at most one of --train_data_dir and --dataset_name"),
        (["--validation_samples=4"], "--validation_samples needs --train_data_dir or --dataset_name"),
        (["--width=24"], "--width needs --train_data_dir or --dataset_name"),
    ],
)
def test_a_data_set_that_cannot_be_measured_on_is_refused_first(
    run_import: Callable[..., int],
    mlflow_server: MlflowServer,
    files: Path,
    capsys: pytest.CaptureFixture[str],
    flags: dict[str, Any],
    message: str,
) -> None:
    assert run_import(files / "ink.safetensors", "--register=unmeasured", *flags) == 2
    assert message in capsys.readouterr().err
    assert mlflow.MlflowClient(mlflow_server.uri).search_registered_models("name = 'unmeasured'") == []
