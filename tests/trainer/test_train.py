"""What one small training publishes to a real MLflow server; stock MLflow and diffusers read it."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlflow
import pytest
import torch
from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest, Evidence, file_sha256
from atelier_trainer.adapter_formats.preview import make_preview
from atelier_trainer.errors import TrackingError

from .conftest import MODEL, TINY, PublishedTraining, run_training

pytestmark = pytest.mark.timeout(1200)  # an export takes minutes on a machine that is busy


def test_the_run_has_params_curves_and_images(published: PublishedTraining) -> None:
    run = published.client.get_run(published.result.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["learning_rate"] == "0.01"
    assert run.data.tags["atelier.dataset_digest"]
    assert [metric.step for metric in published.client.get_metric_history(run.info.run_id, "loss")] == [1, 2, 3, 4]
    assert len(published.client.get_metric_history(run.info.run_id, "validation_loss")) == 2
    images = published.client.list_artifacts(run.info.run_id, "images")
    assert len([file for file in images if file.path.endswith(".png")]) == 2


def test_the_version_has_tags_manifest_and_evidence(published: PublishedTraining, tmp_path: Path) -> None:
    version = published.client.get_model_version(MODEL, str(published.result.version))
    assert version.tags[names.TAG_KIND] == names.KIND_ADAPTER
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{MODEL}/{version.version}", dst_path=str(tmp_path)))
    manifest = AdapterManifest.model_validate_json((folder / names.ADAPTER_FOLDER / names.ADAPTER_FILE).read_text())
    evidence = Evidence.model_validate_json((folder / names.ADAPTER_FOLDER / names.EVIDENCE_FILE).read_text())
    assert manifest.bundle_digest == version.tags[names.TAG_BUNDLE_DIGEST]
    assert manifest.run_id == published.result.run_id
    preview, run_id = folder / names.ADAPTER_FOLDER / names.PREVIEW_FILE, published.result.run_id
    kept = f"images/validation_0+step+{published.result.losses.step}+"
    (picture,) = (
        file.path
        for file in published.client.list_artifacts(run_id, "images")
        if file.path.startswith(kept) and file.path.endswith(".png")
    )
    original = Path(published.client.download_artifacts(run_id, picture, str(tmp_path)))
    assert preview.read_bytes() == make_preview(original.read_bytes())
    assert manifest.preview_sha256 == file_sha256(preview)
    assert evidence.weights_sha256 == file_sha256(folder / names.ADAPTER_FOLDER / names.WEIGHTS_FILE)
    assert evidence.output_finite
    assert evidence.onnx_max_error < 1e-5
    assert evidence.validation_loss == published.result.losses.validation_loss
    assert evidence.base_validation_loss != evidence.validation_loss


def test_stock_mlflow_and_diffusers_load_the_version_with_a_moved_base_model(
    published: PublishedTraining, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "moved" / "base"
    shutil.copytree(TINY, elsewhere)
    mlflow.set_tracking_uri(published.options.tracking.tracking_uri)
    loaded = mlflow.diffusers.load_model(f"models:/{MODEL}/{published.result.version}")
    pipeline = loaded.load_pipeline(base_model=str(elsewhere), torch_dtype=torch.float32)
    assert pipeline.get_active_adapters() == ["default_0"]
    weights = dict(pipeline.unet.named_parameters())
    assert any("lora_B" in name and weight.abs().max() > 0 for name, weight in weights.items())


def test_mlflow_gets_no_path_of_this_machine(published: PublishedTraining, tmp_path: Path) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{MODEL}/{published.result.version}", dst_path=str(tmp_path)))
    run = published.client.get_run(published.result.run_id)
    texts = [file.read_text() for file in folder.rglob("*") if file.suffix in ("", ".json", ".yaml", ".yml") and file.is_file()]
    texts.append(str(run.data.params) + str({k: v for k, v in run.data.tags.items() if k != "mlflow.source.name"}))
    for path in (
        str(TINY.parent),
        published.options.output.output_dir,
        published.options.data.cache_dir,
        str(published.options.data.train_data_dir),
    ):
        assert not any(path in text for text in texts)


def test_a_second_run_reuses_the_bundle_and_registers_version_two(
    published: PublishedTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atelier_trainer.export.publish.export_bundle", lambda *_, **__: pytest.fail("exported again"))
    again = run_training(published.options.with_flags(max_train_steps=1), publish=True)
    assert again.version == published.result.version + 1
    assert again.losses.base_validation_loss == published.result.losses.base_validation_loss
    bundles = published.client.search_model_versions(
        f"tags.`{names.TAG_KIND}` = '{names.KIND_BUNDLE}' and name = 'tiny-sd-base'"
    )
    assert len(bundles) == 1


def test_a_server_that_does_not_answer_is_one_clear_error(
    published: PublishedTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match=r"MLflow at http://127.0.0.1:9 failed"):
        run_training(published.options.with_flags(tracking_uri="http://127.0.0.1:9"), publish=True)
