"""The base bundle: one base model as ONNX graphs whose UNet takes LoRA weights as inputs. Exported once per base.

Notation: b batch, h w latent size, s text tokens, r sum of the ranks of the adapters in the batch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from atelier_contracts import names
from atelier_contracts.manifests import BundleManifest, file_sha256
from torch.export import Dim
from torch.nn import functional as F

from atelier_trainer.errors import ExportError
from atelier_trainer.export.attention import fused_attention, split_graphs

OPSET = 20  # OpenVINO's provider has no Attention operator, which opset 23 would use
FORMAT = "atelier-bundle-3"  # part of the source digest: a new way of exporting makes new bundles
ATTENTION_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")


def lora_layers(unet: torch.nn.Module, suffixes: Sequence[str] = ATTENTION_LAYERS) -> dict[str, torch.nn.Linear]:
    """The UNet's linear layers whose name ends in one of the suffixes, in the order of the model."""
    return {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, torch.nn.Linear) and any(name.endswith("." + suffix) for suffix in suffixes)
    }


def source_digest(folder: Path) -> str:
    """Identity of what a bundle is exported from: every weight and config file of a diffusers folder, and how we export.

    Args:
        folder: a complete pipeline folder with `model_index.json`.
    """
    digest = hashlib.sha256(f"{FORMAT} opset {OPSET} {' '.join(ATTENTION_LAYERS)}\n".encode())
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        for file in sorted((folder / part).rglob("*")):
            if file.is_file():
                digest.update(f"{file.relative_to(folder).as_posix()} {file_sha256(file)}\n".encode())
    return digest.hexdigest()


def export_bundle(pipeline: Any, out: Path, *, base: str, revision: str | None, source: str) -> BundleManifest:
    """Writes the bundle of a loaded StableDiffusionPipeline (float32, CPU) to `out`.

    Args:
        pipeline: diffusers' StableDiffusionPipeline.
        out: an empty folder.
        base: hub id or given name, never a path.
        revision: commit of the hub repository, if there is one.
        source: what `source_digest` gave for the pipeline's folder.

    Returns:
        The manifest, which is also written to bundle.json.

    Raises:
        ExportError: the pipeline has no attention layer to target.
    """
    unet, vae = pipeline.unet.float().eval(), pipeline.vae.float().eval()
    text_encoder, tokenizer = pipeline.text_encoder.float().eval(), pipeline.tokenizer
    layers = lora_layers(unet)
    if not layers:
        raise ExportError(f"the base {base!r} has no attention layer named {', '.join(ATTENTION_LAYERS)}")
    multiple = 2 ** (len(unet.config.block_out_channels) - 1)
    with torch.inference_mode():
        _export_text_encoder(text_encoder, tokenizer.model_max_length, out / names.TEXT_ENCODER_FILE)
        _export_unet(unet, layers, multiple, tokenizer.model_max_length, out / names.UNET_FILE)
        _export_vae_decoder(vae, out / names.VAE_DECODER_FILE)
    tokenizer.backend_tokenizer.save(str(out / names.TOKENIZER_FILE))
    (out / names.SCHEDULER_FILE).write_text(json.dumps(dict(pipeline.scheduler.config), indent=2, sort_keys=True, default=str))
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    manifest = BundleManifest(
        base=base,
        revision=revision,
        source_digest=source,
        opset=OPSET,
        latent_channels=vae.config.latent_channels,
        latent_scale=vae.config.scaling_factor,
        vae_factor=factor,
        size_multiple_px=factor * multiple,
        native_size_px=unet.config.sample_size * factor,
        prediction_type=pipeline.scheduler.config.prediction_type,
        text_tokens=tokenizer.model_max_length,
        pad_token_id=tokenizer.pad_token_id,
        lora_targets={name: (layer.in_features, layer.out_features) for name, layer in layers.items()},
        files={file.name: file_sha256(file) for file in sorted(out.iterdir())},
    )
    (out / names.BUNDLE_FILE).write_text(manifest.model_dump_json(indent=2))
    return manifest


class _LoraLinear(torch.nn.Module):
    """y = W x + ((x A) * lora_scale) B; A, B and lora_scale lie in `slot` while the graph is traced."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.slot: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b, scale = self.slot  # [in, r], [r, out], [b, 1, r]
        return F.linear(x, self.linear.weight, self.linear.bias) + ((x @ a) * scale) @ b


class _UNetWithLora(torch.nn.Module):
    def __init__(self, unet: torch.nn.Module, layers: list[_LoraLinear]) -> None:
        super().__init__()
        self.unet = unet
        self.layers = layers  # a plain list: the modules are registered through the unet

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        lora_scale: torch.Tensor,
        *weights: torch.Tensor,
    ) -> torch.Tensor:
        for layer, a, b in zip(self.layers, weights[::2], weights[1::2], strict=True):
            layer.slot[:] = (a, b, lora_scale)
        out: torch.Tensor = self.unet(sample, timestep, encoder_hidden_states, return_dict=False)[0]
        return out


@contextmanager
def _lora_inputs_in(unet: torch.nn.Module, layers: dict[str, torch.nn.Linear]) -> Iterator[_UNetWithLora]:
    """Swaps the target layers for ones with LoRA inputs, and puts the old ones back."""
    wrapped = {name: _LoraLinear(linear) for name, linear in layers.items()}
    for name, module in wrapped.items():
        unet.set_submodule(name, module)
    try:
        yield _UNetWithLora(unet, list(wrapped.values()))
    finally:
        for name, linear in layers.items():
            unet.set_submodule(name, linear)


def _export_unet(unet: Any, layers: dict[str, torch.nn.Linear], multiple: int, tokens: int, out: Path) -> None:
    side = unet.config.sample_size
    # b is left to the exporter: with a range of our own it guards against some sizes, fails, and traces all over again
    b, h, w, r = Dim.DYNAMIC, Dim("h", min=1, max=64), Dim("w", min=1, max=64), Dim("r", min=0, max=4096)
    rank = 3
    example: list[torch.Tensor] = [
        torch.randn(2, unet.config.in_channels, side, side),
        torch.tensor([10.0, 500.5]),  # float: some schedulers stop between two training steps
        torch.randn(2, tokens, unet.config.cross_attention_dim),
        torch.randn(2, 1, rank),
    ]
    shapes: list[dict[int, Any]] = [{0: b, 2: multiple * h, 3: multiple * w}, {0: b}, {0: b}, {0: b, 2: r}]
    input_names = ["sample", "timestep", "encoder_hidden_states", names.LORA_SCALE]
    for name, linear in layers.items():
        example += [torch.randn(linear.in_features, rank), torch.randn(rank, linear.out_features)]
        shapes += [{1: r}, {0: r}]
        input_names += names.lora_inputs(name)
    with _lora_inputs_in(unet, layers) as module, fused_attention(unet):
        write_graph(module, example, (*shapes[:4], tuple(shapes[4:])), input_names, ["out_sample"], out)
    split_graphs(out.with_name(names.FUSED_UNET_FILE), out)


def _export_text_encoder(text_encoder: torch.nn.Module, tokens: int, out: Path) -> None:
    class LastHiddenState(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text_encoder = text_encoder

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            states: torch.Tensor = self.text_encoder(input_ids).last_hidden_state
            return states

    example = [torch.zeros(2, tokens, dtype=torch.long)]
    write_graph(LastHiddenState(), example, ({0: Dim("b", min=1, max=256)},), ["input_ids"], ["last_hidden_state"], out)


def _export_vae_decoder(vae: Any, out: Path) -> None:
    class Decode(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vae = vae

        def forward(self, latents: torch.Tensor) -> torch.Tensor:
            image: torch.Tensor = self.vae.decode(latents, return_dict=False)[0]
            return image

    side = vae.config.sample_size // 2 ** (len(vae.config.block_out_channels) - 1)
    example = [torch.randn(2, vae.config.latent_channels, side, side)]
    shape = {0: Dim("b", min=1, max=256), 2: Dim("h", min=2, max=512), 3: Dim("w", min=2, max=512)}
    write_graph(Decode(), example, (shape,), ["latents"], ["image"], out)


def write_graph(
    module: torch.nn.Module,
    example: list[torch.Tensor],
    shapes: tuple[Any, ...],
    input_names: list[str],
    output_names: list[str],
    out: Path,
) -> None:
    """Traces a module and writes it as an ONNX file with its weights beside it, free of this machine's paths."""
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            tuple(example),
            dynamic_shapes=shapes,
            input_names=input_names,
            output_names=output_names,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)  # holds this machine's paths
    program.save(str(out), external_data=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own deprecations and logs each pass; errors still raise."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    exporter.setLevel(level)
