"""The adapter on the Hugging Face hub, with a model card; the login comes from HF_TOKEN or `hf auth login`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest, Evidence
from huggingface_hub import HfApi, ModelCardData

from atelier_trainer.base_models.base_model import BaseModel
from atelier_trainer.base_models.hub_file import hub_errors
from atelier_trainer.errors import OptionError, TrackingError

CARD_FILE = "README.md"


def check_login() -> None:
    """Raises OptionError where the hub does not accept the login or cannot be reached."""
    with hub_errors(OptionError, "--push_to_hub needs a login and the network: set HF_TOKEN"):
        HfApi().whoami()


def push(folder: Path, repository: str) -> str:
    """Uploads the folder as one commit, creating the repository where it is missing; returns its address.

    Raises:
        TrackingError: the hub did not answer or refused.
    """
    with hub_errors(TrackingError, f"upload to the hub repository {repository!r} failed"):
        created = HfApi().create_repo(repository, exist_ok=True)
        HfApi().upload_folder(repo_id=created.repo_id, folder_path=folder, commit_message="Upload a LoRA adapter")
    return str(created)


def write_model_card(folder: Path, name: str, manifest: AdapterManifest, base: BaseModel, images: Sequence[Path]) -> Path:
    """Writes README.md: what it is, how to use it with diffusers, what was measured, and pictures.

    Args:
        folder: with the weights and evidence.json.
        name: of the adapter, where its style has no title.
        manifest: of the adapter.
        base: model that it belongs to.
        images: in the folder.
    """
    style, evidence = manifest.style, Evidence.model_validate_json((folder / names.EVIDENCE_FILE).read_text())
    hub_base = base.name if base.revision is not None else None
    pipeline, trigger = base.family.pipeline_class.__name__, ", ".join(style.trigger_words)
    recommended = style.recommended.text()
    data = ModelCardData(
        base_model=hub_base,
        library_name="diffusers",
        license=style.licence,
        pipeline_tag="text-to-image",
        tags=sorted({"lora", "diffusers", "text-to-image", *style.tags}),
    )
    if trigger:
        data.__dict__["instance_prompt"] = trigger  # a field of LoRA cards that the class does not name
    losses = [
        ("validation loss", evidence.validation_loss),
        ("of the base model", evidence.base_validation_loss),
        ("largest difference between ONNX and PyTorch", evidence.onnx_max_error),
    ]
    lines = [
        "---", data.to_yaml(), "---", "",
        f"# {style.title or name}", "",
        *([style.description, ""] if style.description else []),
        f"A LoRA of rank {manifest.rank} for {base.name}, trained with Atelier.", "",
        *([f"Trigger words: {trigger}", ""] if trigger else []),
        *([f"Recommended: {recommended}", ""] if recommended else []),
        *(f"![{image.stem}]({image.relative_to(folder).as_posix()})" for image in images),
        "", "## Use", "",
        "```python",
        f"from diffusers import {pipeline}", "",
        f'pipeline = {pipeline}.from_pretrained("{hub_base or "PATH/OF/" + base.name}")',
        'pipeline.load_lora_weights("THIS/REPOSITORY")',
        f'image = pipeline("{trigger or "a cat"}").images[0]',
        "```", "", "## Measured", "",
        "| what | value |", "|---|---|",
        *(f"| {what} | {value:.4g} |" for what, value in losses if value is not None),
        "", f"sha256 of the weights: `{manifest.weights_sha256}`", "",
    ]  # fmt: skip
    (folder / CARD_FILE).write_text("\n".join(lines))
    return folder / CARD_FILE
