"""Converts a checkpoint in one file, as A1111 and ComfyUI load it, to a diffusers folder; kept in the cache by content.

The conversion itself is diffusers'. Weights come from the file alone; configurations and tokenizers, which such a file does
not have, come from a diffusers folder of the same kind.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from atelier_contracts.manifests import file_sha256
from diffusers import AutoencoderKL

from atelier_trainer.adapter_formats.weights_file import read_header
from atelier_trainer.errors import AdapterFileError, BaseModelError, first_line
from atelier_trainer.families import FAMILIES
from atelier_trainer.families.family import Family

FORMAT = "atelier-base-1"
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
UNET, VAE = "model.diffusion_model.", "first_stage_model."
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
IMAGE_CHANNELS = 4
"""Of the UNet's input: those of a latent. UNets for inpainting and editing have more."""


@dataclass(frozen=True)
class _Checkpoint:
    """What the header of a file says.

    Attributes:
        shapes: by key.
        dtype: of most of the UNet's tensors.
        family: whose keys it has.
        text_width: of the states that the UNet attends to.
    """

    file: Path
    shapes: Mapping[str, list[int]]
    dtype: torch.dtype
    family: Family
    text_width: int

    @property
    def has_vae(self) -> bool:
        return any(key.startswith(VAE) for key in self.shapes)


def convert_checkpoint(
    file: Path, prediction_type: str | None, configuration: Callable[[str | None], Path], bases: Path
) -> Path:
    """The diffusers folder of a checkpoint file; without a VAE's weights where the file has none.

    Args:
        file: safetensors file with the keys of the original code.
        prediction_type: of its UNet; what the file says, or epsilon, by default.
        configuration: from the hub id of the published model of its kind, if there is one, to a diffusers folder.
        bases: folder of converted checkpoints.

    Raises:
        BaseModelError: it is no checkpoint of a family, or does not fit the configuration.
    """
    checkpoint = _read(file)
    prediction_type = prediction_type or ("v_prediction" if "v_pred" in checkpoint.shapes else None)
    architectures, width = checkpoint.family.architectures, checkpoint.text_width
    architecture = architectures.get((width, prediction_type or "epsilon")) or architectures.get((width, "epsilon"))
    folder = configuration(architecture.published if architecture else None)

    def convert(scratch: Path) -> None:
        _copy_configuration(folder, scratch / "configuration")
        arguments: dict[str, Any] = dict(checkpoint.family.pipeline_arguments)
        if not checkpoint.has_vae:
            arguments["vae"] = None
        pipeline = checkpoint.family.pipeline_class.from_single_file(
            str(file), config=str(scratch / "configuration"), dtype=checkpoint.dtype, local_files_only=True, **arguments
        )
        _check_complete(checkpoint, pipeline.components)
        if prediction_type is not None:
            pipeline.scheduler.register_to_config(prediction_type=prediction_type)
        pipeline.save_pretrained(scratch / "base")
        if not checkpoint.has_vae:
            _copy_configuration(folder / "vae", scratch / "base/vae")

    return _cached(file, folder, bases, convert, str(prediction_type))


def convert_vae(file: Path, configuration: Path, bases: Path) -> Path:
    """The diffusers folder of a VAE in one file.

    Args:
        file: safetensors file with the keys of the original code.
        configuration: folder of a VAE's config.json.
        bases: folder of converted checkpoints.

    Raises:
        BaseModelError: it is no VAE, or does not fit the configuration.
    """

    def convert(scratch: Path) -> None:
        _copy_configuration(configuration, scratch / "configuration/vae")
        vae = AutoencoderKL.from_single_file(
            str(file), config=str(scratch / "configuration"), subfolder="vae", dtype=torch.float32, local_files_only=True
        )
        _check_loaded({"vae": vae})
        vae.save_pretrained(scratch / "base")

    _read_header(file)
    return _cached(file, configuration, bases, convert, "vae")


def _cached(file: Path, configuration: Path, bases: Path, convert: Callable[[Path], None], kind: str) -> Path:
    """The folder `base` that `convert` writes into a scratch folder; made once, whichever process comes first."""
    identity = [FORMAT, kind, file_sha256(file)]
    identity += [
        f"{one.relative_to(configuration).as_posix()} {file_sha256(one)}" for one in sorted(configuration.rglob("*.json"))
    ]
    home = bases / hashlib.sha256("\n".join(identity).encode()).hexdigest()
    bases.mkdir(parents=True, exist_ok=True)
    with home.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.is_dir():
            with tempfile.TemporaryDirectory(prefix="incoming-", dir=bases) as name:
                try:
                    convert(Path(name))
                except (OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
                    raise BaseModelError(f"{file.name}: it does not fit its configuration: {first_line(error)}") from error
                (Path(name) / "base").rename(home)
    return home


def _copy_configuration(folder: Path, copy: Path) -> None:
    """Everything but weights, so that none of the configuration's own can get into the base model."""
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.safetensors*", "*.bin*", "*.msgpack", "*.onnx*", "*.ckpt"))


def _read(file: Path) -> _Checkpoint:
    header = _read_header(file)
    shapes = {key: entry["shape"] for key, entry in header.items()}
    unet = [key for key in shapes if key.startswith(UNET)]
    if not unet:
        raise BaseModelError(
            f"{file.name}: it is no Stable Diffusion checkpoint: it has no key that begins with {UNET!r}; its first is "
            f"{next(iter(shapes), None)!r}"
        )
    families = [
        family
        for family in FAMILIES.values()
        if all(any(key.startswith(prefix) for key in shapes) for prefix in family.checkpoint_encoders.values())
    ]
    if len(families) != 1:
        wanted = "; ".join(f"{family.name}: {', '.join(family.checkpoint_encoders.values())}" for family in FAMILIES.values())
        raise BaseModelError(f"{file.name}: it lacks text encoders, or they are those of no family ({wanted})")
    first = shapes.get(f"{UNET}input_blocks.0.0.weight", [])
    attended = [shape for key, shape in shapes.items() if key.startswith(UNET) and key.endswith("attn2.to_k.weight")]
    if len(first) != 4 or not attended or len(attended[0]) != 2:
        raise BaseModelError(f"{file.name}: its UNet has no first convolution or no attention to a text: it is damaged")
    if first[1] != IMAGE_CHANNELS:
        raise BaseModelError(
            f"{file.name}: its UNet takes {first[1]} channels, as for inpainting or editing; the base model's must take "
            f"{IMAGE_CHANNELS}"
        )
    if "edm_mean" in shapes:
        raise BaseModelError(f"{file.name}: it was trained with EDM's noise schedule, which is not supported")
    ((dtype, _),) = Counter(str(header[key].get("dtype")) for key in unet).most_common(1)
    if dtype not in DTYPES:
        raise BaseModelError(f"{file.name}: weights must be {', '.join(DTYPES)}; they are {dtype}")
    return _Checkpoint(file, shapes, DTYPES[dtype], families[0], attended[0][1])


def _read_header(file: Path) -> dict[str, Any]:
    try:
        header = read_header(file)
    except AdapterFileError as error:
        raise BaseModelError(str(error)) from error
    header.pop("__metadata__", None)
    return header


def _check_complete(checkpoint: _Checkpoint, parts: Mapping[str, Any]) -> None:
    """Raises ValueError where the UNet has other tensors than the file."""
    _check_loaded(parts)
    expected, found = len(parts["unet"].state_dict()), sum(key.startswith(UNET) for key in checkpoint.shapes)
    if expected != found:
        raise ValueError(f"the UNet has {found} tensors in the file and {expected} in the configuration")


def _check_loaded(parts: Mapping[str, Any]) -> None:
    """Raises ValueError where a part's weights are not in the file."""
    for part, model in parts.items():
        if isinstance(model, torch.nn.Module):
            missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
            if missing:
                raise ValueError(f"{len(missing)} tensors of the {part} are missing, for example {missing[0]}")
