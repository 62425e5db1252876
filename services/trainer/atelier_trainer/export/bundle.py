"""The base bundle: a base model as ONNX graphs whose UNet takes LoRA weights as inputs. Exported once per base model.

Notation: b batch, h w latent size, s text tokens, r sum of the ranks of the adapters in the batch.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from atelier_contracts import names
from atelier_contracts.manifests import BundleManifest, file_sha256
from torch.export import Dim

from atelier_trainer.base_model import PARTS
from atelier_trainer.errors import ExportError
from atelier_trainer.export.attention import fused_attention, split_graphs
from atelier_trainer.export.lora_inputs import ATTENTION_LAYERS, EXPORTED_MODULE, lora_layers, with_lora_inputs
from atelier_trainer.export.onnx_export import OPSET, GraphSignature, write_graph

FORMAT = "atelier-bundle-3"  # part of the source digest: a new way of exporting makes new bundles


def source_digest(folder: Path) -> str:
    """Identity of what a bundle is exported from: all files of a diffusers folder's parts, and the way of exporting."""
    digest = hashlib.sha256(f"{FORMAT} opset {OPSET} {' '.join(ATTENTION_LAYERS)}\n".encode())
    for part in PARTS:
        for file in sorted((folder / part).rglob("*")):
            if file.is_file():
                digest.update(f"{file.relative_to(folder).as_posix()} {file_sha256(file)}\n".encode())
    return digest.hexdigest()


def export_bundle(pipeline: Any, folder: Path, *, base: str, revision: str | None, source: str) -> BundleManifest:
    """Exports a StableDiffusionPipeline (float32, CPU) to an empty folder.

    Args:
        pipeline: diffusers' StableDiffusionPipeline.
        folder: gets graphs, tokenizer, scheduler configuration and bundle.json.
        base: hub id or name of the base model, never a path.
        revision: commit of the hub repository, if there is one.
        source: `source_digest` of the pipeline's folder.

    Returns:
        The content of bundle.json.

    Raises:
        ExportError: the UNet has no attention layer for LoRA.
    """
    unet, vae = pipeline.unet.float().eval(), pipeline.vae.float().eval()
    text_encoder, tokenizer = pipeline.text_encoder.float().eval(), pipeline.tokenizer
    layers = lora_layers(unet)
    if not layers:
        raise ExportError(f"the base model {base!r} has no attention layer named {', '.join(ATTENTION_LAYERS)}")
    with torch.inference_mode():
        _export_text_encoder(text_encoder, tokenizer.model_max_length, folder / names.TEXT_ENCODER_FILE)
        _export_unet(unet, layers, tokenizer.model_max_length, folder / names.UNET_FILE)
        _export_vae_decoder(vae, folder / names.VAE_DECODER_FILE)
    tokenizer.backend_tokenizer.save(str(folder / names.TOKENIZER_FILE))
    scheduler_config = dict(pipeline.scheduler.config)
    (folder / names.SCHEDULER_FILE).write_text(json.dumps(scheduler_config, indent=2, sort_keys=True, default=str))
    vae_factor = _halvings(vae)
    manifest = BundleManifest(
        base=base,
        revision=revision,
        source_digest=source,
        opset=OPSET,
        latent_channels=vae.config.latent_channels,
        latent_scale=vae.config.scaling_factor,
        vae_factor=vae_factor,
        size_multiple_px=vae_factor * _halvings(unet),
        native_size_px=unet.config.sample_size * vae_factor,
        prediction_type=pipeline.scheduler.config.prediction_type,
        text_tokens=tokenizer.model_max_length,
        pad_token_id=tokenizer.pad_token_id,
        lora_targets={name: (layer.in_features, layer.out_features) for name, layer in layers.items()},
        files={file.name: file_sha256(file) for file in sorted(folder.iterdir())},
    )
    (folder / names.BUNDLE_FILE).write_text(manifest.model_dump_json(indent=2))
    return manifest


def _halvings(model: Any) -> int:
    """By how much a model divides its grid: it halves it once per block but the last."""
    return int(2 ** (len(model.config.block_out_channels) - 1))


def _export_unet(unet: Any, layers: dict[str, torch.nn.Linear], tokens: int, file: Path) -> None:
    """Writes the graph in standard operators to `file`, and the one with fused attention next to it."""
    side, multiple = unet.config.sample_size, _halvings(unet)
    # b is left to the exporter: with a range given, it adds a guard for some sizes, fails, and traces everything again
    b, h, w, r = Dim.DYNAMIC, Dim("h", min=1, max=64), Dim("w", min=1, max=64), Dim("r", min=0, max=4096)
    rank = 3
    example: list[torch.Tensor] = [
        torch.randn(2, unet.config.in_channels, side, side),
        torch.tensor([10.0, 500.5]),  # float: some schedulers use time steps between two of the training's
        torch.randn(2, tokens, unet.config.cross_attention_dim),
        torch.randn(2, 1, rank),
    ]
    shapes: list[dict[int, Any]] = [{0: b, 2: multiple * h, 3: multiple * w}, {0: b}, {0: b}, {0: b, 2: r}]
    input_names = ["sample", "timestep", "encoder_hidden_states", names.LORA_SCALE]
    for name, linear in layers.items():
        example += [torch.randn(linear.in_features, rank), torch.randn(rank, linear.out_features)]
        shapes += [{1: r}, {0: r}]
        input_names += names.lora_inputs(name)
    signature = GraphSignature(input_names, ["out_sample"], example, (*shapes[:4], tuple(shapes[4:])))
    with with_lora_inputs(unet, layers) as module, fused_attention(unet):
        write_graph(module, signature, file)
    split_graphs(file.with_name(names.FUSED_UNET_FILE), file)


class LastHiddenState(torch.nn.Module):
    __module__ = EXPORTED_MODULE
    __qualname__ = "_export_text_encoder.<locals>.LastHiddenState"

    def __init__(self, text_encoder: torch.nn.Module) -> None:
        super().__init__()
        self.text_encoder = text_encoder

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.text_encoder(input_ids).last_hidden_state
        return states


def _export_text_encoder(text_encoder: torch.nn.Module, tokens: int, file: Path) -> None:
    example = [torch.zeros(2, tokens, dtype=torch.long)]
    shapes = ({0: Dim("b", min=1, max=256)},)
    write_graph(LastHiddenState(text_encoder), GraphSignature(["input_ids"], ["last_hidden_state"], example, shapes), file)


class Decode(torch.nn.Module):
    __module__ = EXPORTED_MODULE
    __qualname__ = "_export_vae_decoder.<locals>.Decode"

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        image: torch.Tensor = self.vae.decode(latents, return_dict=False)[0]
        return image


def _export_vae_decoder(vae: Any, file: Path) -> None:
    side = vae.config.sample_size // _halvings(vae)
    example = [torch.randn(2, vae.config.latent_channels, side, side)]
    shapes = ({0: Dim("b", min=1, max=256), 2: Dim("h", min=2, max=512), 3: Dim("w", min=2, max=512)},)
    write_graph(Decode(vae), GraphSignature(["latents"], ["image"], example, shapes), file)
