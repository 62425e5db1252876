"""The adapter folder: LoRA weights as diffusers writes them, with the manifest and the evidence beside them."""

from __future__ import annotations

import subprocess
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
from peft.utils import get_peft_model_state_dict

from atelier_trainer.bundle import ATTENTION_LAYERS
from atelier_trainer.errors import ExportError

PARITY_BOUND = 1e-4  # of the largest |torch|; 1.2e-6 is usual in float32


def inject(unet: Any, rank: int, alpha: float) -> list[torch.nn.Parameter]:
    """Freezes the UNet and adds peft's LoRA to its attention layers; returns the trainable parameters (float32)."""
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=list(ATTENTION_LAYERS)))
    cast_training_params(unet)
    return [parameter for parameter in unet.parameters() if parameter.requires_grad]


def save_weights(unet: Any, folder: Path) -> Path:
    """Writes pytorch_lora_weights.safetensors with rank and alpha in its metadata; stock diffusers loads it."""
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=get_peft_model_state_dict(unet),
        unet_lora_adapter_metadata=unet.peft_config["default"].to_dict(),
    )
    return folder / names.WEIGHTS_FILE


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
        names.LORA_SCALE: np.full((2, 1, config.r), config.lora_alpha / config.r, np.float32),
    }
    weights = get_peft_model_state_dict(unet)
    for layer in bundle.lora_targets:
        name_a, name_b = names.lora_inputs(layer)
        feeds[name_a] = weights[f"{layer}.lora_A.weight"].detach().float().numpy().T
        feeds[name_b] = weights[f"{layer}.lora_B.weight"].detach().float().numpy().T
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
