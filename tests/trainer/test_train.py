"""One small training against a real MLflow server: what it leaves there, and that stock MLflow and diffusers read it."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import mlflow
import pytest
import torch
from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest, Evidence, file_sha256
from atelier_trainer.errors import TrackingError
from atelier_trainer.train import train

from .conftest import MODEL, TINY, quiet

pytestmark = pytest.mark.timeout(1200)  # an export takes minutes on a machine that is busy


def test_the_run_holds_params_curves_and_images(left):
    run = left.client.get_run(left.trained.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["learning_rate"] == "0.01"
    assert run.data.tags["atelier.dataset_digest"]
    assert [metric.step for metric in left.client.get_metric_history(run.info.run_id, "loss")] == [1, 2, 3, 4]
    assert len(left.client.get_metric_history(run.info.run_id, "validation_loss")) == 2
    images = left.client.list_artifacts(run.info.run_id, "images")
    assert len([file for file in images if file.path.endswith(".png")]) == 2


def test_the_version_carries_its_tags_and_files(left, tmp_path):
    version = left.client.get_model_version(MODEL, str(left.trained.version))
    assert version.tags[names.TAG_KIND] == names.KIND_ADAPTER
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{MODEL}/{version.version}", dst_path=str(tmp_path)))
    manifest = AdapterManifest.model_validate_json((folder / names.ADAPTER_FOLDER / names.ADAPTER_FILE).read_text())
    evidence = Evidence.model_validate_json((folder / names.ADAPTER_FOLDER / names.EVIDENCE_FILE).read_text())
    assert manifest.bundle_digest == version.tags[names.TAG_BUNDLE_DIGEST]
    assert manifest.run_id == left.trained.run_id
    assert evidence.weights_sha256 == file_sha256(folder / names.ADAPTER_FOLDER / names.WEIGHTS_FILE)
    assert evidence.output_finite
    assert evidence.onnx_max_error < 1e-5
    assert evidence.validation_loss == left.trained.validation_loss
    assert evidence.base_validation_loss != evidence.validation_loss


def test_stock_mlflow_and_diffusers_load_it_with_a_base_from_another_folder(left, tmp_path):
    elsewhere = tmp_path / "moved" / "base"
    shutil.copytree(TINY, elsewhere)
    mlflow.set_tracking_uri(left.options.tracking_uri)
    loaded = mlflow.diffusers.load_model(f"models:/{MODEL}/{left.trained.version}")
    pipeline = loaded.load_pipeline(base_model=str(elsewhere), torch_dtype=torch.float32)
    assert pipeline.get_active_adapters() == ["default_0"]
    weights = dict(pipeline.unet.named_parameters())
    assert any("lora_B" in name and weight.abs().max() > 0 for name, weight in weights.items())


def test_the_registry_holds_no_path_of_this_machine(left, tmp_path):
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{MODEL}/{left.trained.version}", dst_path=str(tmp_path)))
    run = left.client.get_run(left.trained.run_id)
    texts = [file.read_text() for file in folder.rglob("*") if file.suffix in ("", ".json", ".yaml", ".yml") and file.is_file()]
    texts.append(str(run.data.params) + str({k: v for k, v in run.data.tags.items() if k != "mlflow.source.name"}))
    for path in (str(TINY.parent), left.options.output_dir, left.options.cache_dir, str(left.options.train_data_dir)):
        assert not any(path in text for text in texts)


def test_a_second_run_finds_the_bundle_and_makes_version_two(left, monkeypatch):
    monkeypatch.setattr("atelier_trainer.export.publish.export_bundle", lambda *_, **__: pytest.fail("exported again"))
    again = train(dataclasses.replace(left.options, max_train_steps=1), quiet())
    assert again.version == left.trained.version + 1
    assert again.base_validation_loss == left.trained.base_validation_loss
    bundles = left.client.search_model_versions(f"tags.`{names.TAG_KIND}` = '{names.KIND_BUNDLE}' and name = 'tiny-sd-base'")
    assert len(bundles) == 1


def test_no_server_is_one_clear_error(left, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match=r"MLflow at http://127.0.0.1:9 did not"):
        train(dataclasses.replace(left.options, tracking_uri="http://127.0.0.1:9"), quiet())
