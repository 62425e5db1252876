"""Locating a base model: what is refused, in one line each."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from atelier_trainer.base_models.load import load_base_model
from atelier_trainer.config.option_groups import ModelOptions
from atelier_trainer.errors import BaseModelError


def test_another_prediction_type_than_the_base_models_is_refused(small_base: Path) -> None:
    options = ModelOptions(pretrained_model_name_or_path=str(small_base), prediction_type="epsilon")
    with pytest.raises(BaseModelError, match=r"says 'v_prediction'; received 'epsilon'"):
        load_base_model(options)


def test_a_pipeline_of_another_class_is_refused(small_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(small_base, folder)
    index = (folder / "model_index.json").read_text()
    (folder / "model_index.json").write_text(index.replace("StableDiffusionPipeline", "FluxPipeline"))
    with pytest.raises(BaseModelError, match="is a FluxPipeline; the base model must be a StableDiffusionPipeline"):
        load_base_model(ModelOptions(pretrained_model_name_or_path=str(folder)))


def test_a_hub_id_without_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BaseModelError, match="is neither a folder nor on the hub") as refusal:
        load_base_model(ModelOptions(pretrained_model_name_or_path="nobody/nothing-of-that-name"))
    assert "\n" not in str(refusal.value)
