"""Finds a base model: a diffusers folder, a repository of the hub, or one checkpoint file, with its own or another VAE."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from diffusers import DDPMScheduler
from huggingface_hub import snapshot_download

from atelier_trainer.base_models.base_model import BaseModel
from atelier_trainer.base_models.hub_file import SUFFIX, download_file, hub_errors, is_hub_location
from atelier_trainer.base_models.single_file import PICKLES, convert_checkpoint, convert_vae
from atelier_trainer.config.option_groups import DEFAULT_CACHE, ModelOptions
from atelier_trainer.errors import BaseModelError, first_line
from atelier_trainer.families import FAMILIES
from atelier_trainer.families.family import Family

CONFIGURATION = ["*.json", "*.txt", "*/*.json", "*/*.txt"]
WEIGHTS = [f"*{SUFFIX}", f"*/*{SUFFIX}"]


def load_base_model(options: ModelOptions, cache_dir: Path = Path(DEFAULT_CACHE)) -> BaseModel:
    """Locates a base model in a folder, on the hub or in one file, and reads its configuration; no weights are loaded yet.

    Args:
        options: name the model.
        cache_dir: keeps checkpoint files that were converted to diffusers' layout.

    Raises:
        BaseModelError: there is none, or it is not a Stable Diffusion model.
        HubError: the hub cannot be reached.
    """
    bases = cache_dir.expanduser() / "bases"
    base = _locate(options, bases)
    if options.pretrained_vae_model_name_or_path is not None:
        base = _with_vae(base, options.pretrained_vae_model_name_or_path, bases)
    models = {"unet", "vae", *(part.part for part in base.family.text_encoders)}
    missing = [
        part for part in base.family.parts if not any(base.part_folder(part).glob(f"*{SUFFIX}" if part in models else "*"))
    ]
    if missing:
        remedy = "; give a VAE with --pretrained_vae_model_name_or_path" if missing == ["vae"] else ""
        raise BaseModelError(
            f"{base.name!r} is not a complete {base.family.pipeline_class.__name__}: {', '.join(missing)} missing{remedy}"
        )
    return base


def _locate(options: ModelOptions, bases: Path) -> BaseModel:
    location = options.pretrained_model_name_or_path
    path = Path(location).expanduser()
    _refuse_pickle(path)
    if path.is_dir():
        return _open_folder(path, options, options.base_name or path.resolve().name, None)
    if path.suffix == SUFFIX:
        file = path if path.is_file() else None
        if file is None and is_hub_location(location):
            file = download_file(location, options.revision)
        if file is None:
            raise BaseModelError(f"there is no file {location!r}; give a checkpoint file, a diffusers folder or a hub id")
        return _open_file(file, options, bases)
    if location.startswith((".", "/", "~")):
        raise BaseModelError(f"there is no folder {location!r}; give a diffusers folder or a hub id")
    folder = _download(location, options.revision, CONFIGURATION + WEIGHTS)
    return _open_folder(folder, options, location, folder.name)


def _open_folder(folder: Path, options: ModelOptions, name: str, revision: str | None) -> BaseModel:
    family = _family(folder, name)
    try:
        noise_schedule = DDPMScheduler.from_pretrained(folder / "scheduler")
    except (OSError, ValueError, TypeError) as error:
        raise BaseModelError(f"the scheduler of {name!r} cannot be loaded: {first_line(error)}") from error
    if options.prediction_type not in (None, noise_schedule.config.prediction_type):
        raise BaseModelError(
            f"--prediction_type must be the base model's own, because whatever generates with it reads it there: "
            f"{name!r} says {noise_schedule.config.prediction_type!r}; received {options.prediction_type!r}"
        )
    return BaseModel(family, folder, options.variant, noise_schedule, name, revision)


def _open_file(file: Path, options: ModelOptions, bases: Path) -> BaseModel:
    """A checkpoint file, converted to a diffusers folder in the cache."""

    def configuration(published: str | None) -> Path:
        location = options.single_file_config or published
        if location is None:
            raise BaseModelError(
                f"{file.name}: it is of no published kind: name a diffusers folder or a hub id with its configuration and "
                "tokenizers as --single_file_config"
            )
        folder = Path(location).expanduser()
        return folder if folder.is_dir() else _download(location, None, CONFIGURATION)

    folder = convert_checkpoint(file, options.prediction_type, configuration, bases)
    return _open_folder(folder, replace(options, variant=None), options.base_name or file.stem, None)


def _with_vae(base: BaseModel, location: str, bases: Path) -> BaseModel:
    """The base model with another VAE.

    Raises:
        BaseModelError: there is none, or it has other latents than the base model.
    """
    path = Path(location).expanduser()
    _refuse_pickle(path)
    if path.suffix == SUFFIX:
        file = path if path.is_file() else download_file(location)
        folder = convert_vae(file, base.folder / "vae", bases)
    else:
        folder = path if path.is_dir() else _download(location, None, CONFIGURATION + WEIGHTS)
        folder = folder if (folder / "config.json").is_file() else folder / "vae"
    changed = replace(base, vae_folder=folder)
    try:
        vae, unet = changed.config("vae"), base.config("unet")
    except (OSError, ValueError) as error:
        raise BaseModelError(f"--pretrained_vae_model_name_or_path {location!r} holds no VAE of diffusers") from error
    if vae.get("latent_channels") != unet.get("in_channels"):
        raise BaseModelError(
            f"the VAE {location!r} has {vae.get('latent_channels')} latent channels; {base.name!r} needs "
            f"{unet.get('in_channels')}"
        )
    if (base.folder / "vae/config.json").is_file():
        scale, own_scale = vae.get("scaling_factor"), base.config("vae").get("scaling_factor")
        if scale != own_scale:
            raise BaseModelError(
                f"the VAE {location!r} has the latent scale {scale}; {base.name!r} was trained with {own_scale}: take a VAE of "
                "its own family"
            )
    return changed


def _refuse_pickle(path: Path) -> None:
    if path.suffix in PICKLES:
        raise BaseModelError(f"{path.name!r} is a pickle, which can run code and is never loaded: convert it to safetensors")


def _download(hub_id: str, revision: str | None, patterns: list[str]) -> Path:
    """The snapshot's folder, which is named after the commit."""
    message = (
        f"base model {hub_id!r} is neither a folder nor on the hub: check the id, the revision and the network, or give a "
        "diffusers folder"
    )
    with hub_errors(BaseModelError, message):
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns))


def _family(folder: Path, name: str) -> Family:
    try:
        pipeline_class = json.loads((folder / "model_index.json").read_text()).get("_class_name")
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{name!r} has no readable model_index.json, so it is not a diffusers folder") from error
    by_class = {family.pipeline_class.__name__: family for family in FAMILIES.values()}
    if pipeline_class not in by_class:
        raise BaseModelError(f"{name!r} is a {pipeline_class}; the base model must be a {' or a '.join(by_class)}")
    return by_class[pipeline_class]
