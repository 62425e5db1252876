"""The base bundle: a base model as ONNX graphs that take LoRA weights as inputs. Exported once per base model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from atelier_contracts import names
from atelier_contracts.manifests import BundleManifest, TextEncoder, file_sha256
from torch.export import Dim

from atelier_trainer.base_models.base_model import BaseModel
from atelier_trainer.errors import ExportError
from atelier_trainer.export.onnx.attention import fused_attention
from atelier_trainer.export.onnx.graph_variants import GraphVariant, write_variants
from atelier_trainer.export.onnx.graph_writer import OPSET, GraphSignature, write_graph
from atelier_trainer.export.onnx.lora_inputs import layer_shapes, lora_inputs, lora_signature
from atelier_trainer.families.family import Family, TextEncoderPart, unet_arguments
from atelier_trainer.families.lora_layers import Groups

FORMAT = "atelier-bundle-5"  # part of the source digest: a new way of exporting makes new bundles


def source_digest(base: BaseModel) -> str:
    """Identity of what a bundle is exported from: all files of the base model's parts, and the way of exporting."""
    variant = f" {base.variant}" if base.variant is not None else ""
    digest = hashlib.sha256(f"{FORMAT} opset {OPSET} {base.family.name}{variant}\n".encode())
    for line in base.part_files(*base.family.parts):
        digest.update(line.encode())
    return digest.hexdigest()


def export_bundle(
    pipeline: Any, family: Family, folder: Path, *, base: str, revision: str | None, source: str
) -> BundleManifest:
    """Exports a pipeline of diffusers (float32, CPU) to an empty folder.

    Args:
        pipeline: of the family's class.
        family: of the base model.
        folder: gets graphs, tokenizers, scheduler configuration and bundle.json.
        base: hub id or name of the base model, never a path.
        revision: commit of the hub repository, if there is one.
        source: `source_digest` of the base model.

    Returns:
        The content of bundle.json.

    Raises:
        ExportError: the UNet has no layer that takes LoRA.
    """
    unet, vae = pipeline.unet.float().eval(), pipeline.vae.float().eval()
    layers = family.lora_layers(pipeline.components)
    if not layers["unet"]:
        raise ExportError(f"the base model {base!r} has no layer that takes LoRA")
    encoders = {}
    with torch.inference_mode():
        for part in family.text_encoders:
            encoders[part.part] = _export_text_encoder(pipeline, part, layers[part.part], folder)
        _export_unet(pipeline, family, layers["unet"], folder / names.UNET_FILE)
        _export_vae_decoder(vae, folder / names.VAE_DECODER_FILE)
    scheduler_config = dict(pipeline.scheduler.config)
    (folder / names.SCHEDULER_FILE).write_text(json.dumps(scheduler_config, indent=2, sort_keys=True, default=str))
    vae_factor = _downsampling(vae)
    manifest = BundleManifest(
        family=family.name,
        base=base,
        revision=revision,
        source_digest=source,
        opset=OPSET,
        latent_channels=vae.config.latent_channels,
        latent_scale=vae.config.scaling_factor,
        vae_factor=vae_factor,
        size_multiple_px=vae_factor * _downsampling(unet),
        native_size_px=unet.config.sample_size * vae_factor,
        prediction_type=pipeline.scheduler.config.prediction_type,
        text_encoders=encoders,
        zero_empty_negative=bool(pipeline.config.get("force_zeros_for_empty_prompt", False)),
        lora={part: layer_shapes(groups) for part, groups in layers.items()},
        files={file.name: file_sha256(file) for file in sorted(folder.iterdir())},
    )
    (folder / names.BUNDLE_FILE).write_text(manifest.model_dump_json(indent=2))
    return manifest


def _downsampling(model: Any) -> int:
    """By how much a model divides its grid: it halves it once per block but the last."""
    return int(2 ** (len(model.config.block_out_channels) - 1))


class UNetStep(torch.nn.Module):
    """The UNet with plain tensors as arguments, conditioning in the order of its names."""

    def __init__(self, unet: Any, conditioning: list[str]) -> None:
        super().__init__()
        self.unet, self.conditioning = unet, conditioning

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, *conditioning: torch.Tensor) -> torch.Tensor:
        arguments = unet_arguments(dict(zip(self.conditioning, conditioning, strict=True)))
        out: torch.Tensor = self.unet(sample, timestep, **arguments, return_dict=False)[0]
        return out


def _export_unet(pipeline: Any, family: Family, layers: Groups, file: Path) -> None:
    """Writes the graph in standard operators to `file`, and the two for ONNX Runtime's own operators next to it."""
    unet, rows = pipeline.unet, 2
    side, multiple = unet.config.sample_size, _downsampling(unet)
    # b is left to the exporter: with a range given, it adds a guard for some sizes, fails, and traces everything again
    b, h, w = Dim.DYNAMIC, Dim("h", min=1, max=64), Dim("w", min=1, max=64)
    conditioning = family.conditioning_example(unet, pipeline.tokenizer.model_max_length, rows)
    example = [
        torch.randn(rows, unet.config.in_channels, side, side),
        torch.tensor([10.0, 500.5]),  # float: some schedulers use time steps between two of the training's
        *conditioning.values(),
    ]
    shapes: list[dict[int, Any]] = [{0: b, 2: multiple * h, 3: multiple * w}, {0: b}, *({0: b} for _ in conditioning)]
    lora = lora_signature(layers, b, rows)
    signature = GraphSignature(
        ["sample", "timestep", *conditioning, *lora.names],
        ["out_sample"],
        [*example, *lora.example],
        (tuple(shapes + lora.dynamic_shapes),),
    )
    step = UNetStep(unet, list(conditioning))
    with lora_inputs(unet, step, layers, len(example)) as module, fused_attention(unet):
        write_graph(module, signature, file)
    variants = {
        names.UNET_FILE: GraphVariant(standard=True),
        names.FUSED_UNET_FILE: GraphVariant(),
        names.CPU_UNET_FILE: GraphVariant(lora_by_layer=True),
    }
    write_variants(file, layer_shapes(layers), variants)


class TextEncoding(torch.nn.Module):
    def __init__(self, text_encoder: torch.nn.Module, part: TextEncoderPart) -> None:
        super().__init__()
        self.text_encoder, self.part = text_encoder, part

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.part.encode(self.text_encoder, input_ids)


def _export_text_encoder(pipeline: Any, part: TextEncoderPart, layers: Groups, folder: Path) -> TextEncoder:
    """Writes the graph, which encodes one text at a time, and the tokenizer."""
    text_encoder, tokenizer = getattr(pipeline, part.part).float().eval(), getattr(pipeline, part.tokenizer)
    files = f"{part.part}.onnx", f"{part.tokenizer}.json"
    lora = lora_signature(layers, None, 1)
    example = [torch.zeros(1, tokenizer.model_max_length, dtype=torch.long), *lora.example]
    signature = GraphSignature(["input_ids", *lora.names], list(part.outputs), example, (({}, *lora.dynamic_shapes),))
    with lora_inputs(text_encoder, TextEncoding(text_encoder, part), layers, 1) as module:
        write_graph(module, signature, folder / files[0])
    write_variants(folder / files[0], layer_shapes(layers), {files[0]: GraphVariant(standard=True)})
    tokenizer.backend_tokenizer.save(str(folder / files[1]))
    return TextEncoder(
        graph=files[0], tokenizer=files[1], tokens=tokenizer.model_max_length, pad_token_id=tokenizer.pad_token_id
    )


class Decode(torch.nn.Module):
    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        image: torch.Tensor = self.vae.decode(latents, return_dict=False)[0]
        return image


def _export_vae_decoder(vae: Any, file: Path) -> None:
    side = vae.config.sample_size // _downsampling(vae)
    example = [torch.randn(2, vae.config.latent_channels, side, side)]
    shapes = ({0: Dim("b", min=1, max=256), 2: Dim("h", min=2, max=512), 3: Dim("w", min=2, max=512)},)
    write_graph(Decode(vae), GraphSignature(["latents"], ["image"], example, shapes), file)
