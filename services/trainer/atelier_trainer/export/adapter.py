"""The adapter folder: LoRA weights as diffusers writes them, with the manifest and the evidence beside them."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest, BundleManifest, Evidence, file_sha256
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict

from atelier_trainer.errors import CheckpointError, ExportError, OptionError
from atelier_trainer.export.bundle import ATTENTION_LAYERS, lora_layers

PARITY_BOUND = 1e-4  # of the largest |torch|; 1.2e-6 is usual in float32


def inject(
    unet: Any,
    rank: int,
    alpha: float,
    *,
    targets: Sequence[str] = ATTENTION_LAYERS,
    dropout: float = 0.0,
    rslora: bool = False,
) -> list[torch.nn.Parameter]:
    """Freezes the UNet and adds peft's LoRA to its attention layers; returns the trainable parameters (float32).

    Args:
        unet: diffusers' UNet2DConditionModel.
        rank: of the matrices.
        alpha: the scale is alpha / rank, or alpha / sqrt(rank) with rslora.
        targets: endings of layer names, for example `to_q` or `attn2.to_v`.
        dropout: share of a layer's inputs left out at each step.
        rslora: see alpha. Source: Kalajdzievski 2023, arXiv:2312.03732.

    Raises:
        OptionError: an ending fits no attention layer.
    """
    layers = lora_layers(unet)
    for target in targets:
        if not any(name.endswith("." + target) for name in layers):
            raise OptionError(
                f"--lora_targets: no attention layer ends in {target!r}; there are {', '.join(ATTENTION_LAYERS)}, each also "
                "with attn1. or attn2. before it"
            )
    unet.requires_grad_(False)
    unet.add_adapter(
        LoraConfig(
            r=rank, lora_alpha=alpha, lora_dropout=dropout, use_rslora=rslora, init_lora_weights="gaussian",
            target_modules=list(targets),
        )
    )  # fmt: skip
    cast_training_params(unet)
    return [parameter for parameter in unet.parameters() if parameter.requires_grad]


def scale(unet: Any) -> float:
    """What `(x A) B` is multiplied with."""
    config = unet.peft_config["default"]
    return float(config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r))


def weights_of(unet: Any) -> dict[str, torch.Tensor]:
    """A copy of the LoRA weights on the CPU, by peft's names."""
    return {name: value.detach().float().cpu().clone() for name, value in get_peft_model_state_dict(unet).items()}


def put_weights(unet: Any, weights: dict[str, torch.Tensor]) -> None:
    """Sets the LoRA weights to what `weights_of` once gave.

    Raises:
        CheckpointError: the names are not those of this UNet's LoRA layers.
    """
    mine = get_peft_model_state_dict(unet)
    if mine.keys() != weights.keys():
        raise CheckpointError(f"the LoRA weights belong to other layers: {len(weights)} tensors, and the UNet has {len(mine)}")
    set_peft_model_state_dict(unet, weights)


def save_weights(unet: Any, folder: Path) -> Path:
    """Writes pytorch_lora_weights.safetensors with rank and alpha in its metadata; stock diffusers loads it.

    The same weights give the same bytes, in every process.
    """
    metadata = {name: _ordered(value) for name, value in unet.peft_config["default"].to_dict().items()}
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=weights_of(unet), unet_lora_adapter_metadata=metadata)
    _order_header(folder / names.WEIGHTS_FILE)
    return folder / names.WEIGHTS_FILE


def _order_header(file: Path) -> None:
    """Sorts the header's metadata, which safetensors writes in an order that changes with the process.

    Layout: 8 bytes of header length, little endian; the header as JSON, padded with spaces; the tensors.
    Source: https://github.com/huggingface/safetensors, "Format".
    """
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    partial = file.with_suffix(".part")
    partial.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])
    partial.replace(file)


def _ordered(value: Any) -> Any:
    """Peft keeps layer names as sets, whose order changes with the process."""
    return sorted(value) if isinstance(value, set) else value


def describe(
    weights: Path,
    bundle: BundleManifest,
    *,
    rank: int,
    alpha: float,
    targets: tuple[str, ...],
    run_id: str,
    dataset_digest: str,
) -> AdapterManifest:
    """The manifest of a weights file, written beside it as adapter.json."""
    manifest = AdapterManifest(
        bundle_digest=bundle.digest(),
        weights_sha256=file_sha256(weights),
        rank=rank,
        alpha=alpha,
        targets=targets,
        run_id=run_id,
        dataset_digest=dataset_digest,
        git_revision=git_revision(),
    )
    (weights.parent / names.ADAPTER_FILE).write_text(manifest.model_dump_json(indent=2))
    return manifest


def measure_parity(unet: Any, bundle_dir: Path, bundle: BundleManifest) -> tuple[bool, float]:
    """Runs one UNet step of two rows at two time steps through ONNX Runtime and through torch, both with the adapter.

    Args:
        unet: with the adapter injected, float32, on the CPU.
        bundle_dir: folder that holds unet.onnx.
        bundle: its manifest.

    Returns:
        Whether both outputs are finite, and the largest absolute difference over the largest absolute torch value.

    Raises:
        ExportError: the difference is above PARITY_BOUND: the version would not draw what was trained.
    """
    config, draw = unet.peft_config["default"], torch.Generator().manual_seed(0)
    side = bundle.native_size_px // bundle.vae_factor
    sample = torch.randn(2, bundle.latent_channels, side, side, generator=draw)
    states = torch.randn(2, bundle.text_tokens, unet.config.cross_attention_dim, generator=draw)
    times = torch.tensor([999.0, 1.0])
    feeds = {
        "sample": sample.numpy(),
        "timestep": times.numpy(),
        "encoder_hidden_states": states.numpy(),
        names.LORA_SCALE: np.full((2, 1, config.r), scale(unet), np.float32),
    }
    weights = weights_of(unet)
    for layer, (wide, high) in bundle.lora_targets.items():
        name_a, name_b = names.lora_inputs(layer)
        has = f"{layer}.lora_A.weight" in weights  # a layer that is no target is fed with zeros, as infer does
        feeds[name_a] = weights[f"{layer}.lora_A.weight"].numpy().T if has else np.zeros((wide, config.r), np.float32)
        feeds[name_b] = weights[f"{layer}.lora_B.weight"].numpy().T if has else np.zeros((config.r, high), np.float32)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = onnxruntime.InferenceSession(str(bundle_dir / names.UNET_FILE), options, providers=["CPUExecutionProvider"])
    onnx_out = session.run(None, feeds)[0]
    with torch.inference_mode():
        torch_out = unet(sample, times, states).sample.numpy()
    finite = bool(np.isfinite(onnx_out).all() and np.isfinite(torch_out).all())
    error = float(np.abs(onnx_out - torch_out).max() / np.abs(torch_out).max()) if finite else float("inf")
    if finite and error > PARITY_BOUND:
        raise ExportError(f"ONNX and torch differ by {error:.1e} of the largest value; at most {PARITY_BOUND:.0e} is accepted")
    return finite, error


def write_evidence(folder: Path, evidence: Evidence) -> None:
    """evidence.json beside the weights it speaks of."""
    (folder / names.EVIDENCE_FILE).write_text(evidence.model_dump_json(indent=2))


def git_revision() -> str | None:
    """Commit of the source tree this package lies in, with `-dirty` when files differ; None outside a checkout."""
    here = Path(__file__).parent
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
