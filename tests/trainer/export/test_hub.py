"""What is uploaded to the hub: the adapter's files, pictures, and a model card that says how to use it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from atelier_contracts import names
from atelier_contracts.manifests import file_sha256
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.export import hub
from huggingface_hub import ModelCard
from PIL import Image

from ..conftest import run_training

pytestmark = pytest.mark.timeout(1200)  # an export takes minutes on a machine that is busy


def test_an_upload_has_a_card_with_pictures_trigger_words_and_licence(
    small: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub itself is the one thing that is not there."""

    def keep(folder: Path, repository: str) -> str:
        shutil.copytree(folder, tmp_path / "uploaded")
        return f"https://huggingface.co/{repository}"

    monkeypatch.setattr(hub, "check_login", lambda: None)
    monkeypatch.setattr(hub, "push", keep)
    options = small.with_flags(
        push_to_hub=True, hub_model_id="me/ink", validation_prompt="a cat", num_validation_images=2, register="hub",
        title="Ink", trigger_words="inkwash, sumi", licence="cc-by-4.0",
    )  # fmt: skip
    run_training(options, publish=True)
    uploaded = tmp_path / "uploaded"
    weights = uploaded / names.WEIGHTS_FILE
    card = ModelCard.load(uploaded / hub.CARD_FILE)
    assert yaml.safe_load(card.data.to_yaml()) == {
        "library_name": "diffusers",
        "license": "cc-by-4.0",
        "pipeline_tag": "text-to-image",
        "tags": ["diffusers", "lora", "text-to-image"],
        "instance_prompt": "inkwash, sumi",
    }
    texts = ("# Ink", "Trigger words: inkwash, sumi", "LoRA of rank 2 for small-sd", "validation loss", file_sha256(weights))
    for text in texts:
        assert text in card.text
    for number in range(2):
        assert f"](images/validation_{number}.png)" in card.text
        with Image.open(uploaded / f"images/validation_{number}.png") as image:
            assert image.size == (16, 16)
    assert {file.name for file in uploaded.iterdir()} == {
        names.WEIGHTS_FILE, names.ADAPTER_FILE, names.EVIDENCE_FILE, names.PREVIEW_FILE, hub.CARD_FILE, "images",
    }  # fmt: skip
