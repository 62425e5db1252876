"""Compares a mixed batch of the served graph with diffusers and peft row by row, for a base model of any size.

    python benchmarks/infer/parity.py --base FOLDER --bundle FOLDER [--max-error 1e-5]

One call of the served UNet, with rows of their own time steps: adapters of ranks 4, 8 and 16 on all layers, a blend of two, one
at half strength, and none. The same rows run one by one through diffusers' UNet in float32 with the same adapters in peft.
Prints the largest difference of each row, relative to the row's largest value; the exit status is 1 beyond the bound. `--base`
is a folder saved by diffusers, `--bundle` its export by the trainer.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RANKS = (4, 8, 16)
ROWS: list[dict[int, float]] = [{4: 1.0}, {8: 1.0}, {16: 1.0}, {4: 0.7, 16: -0.4}, {8: 0.5}, {}]
"""By row: rank of an adapter, and its weight."""


def main() -> int:
    """Exit status; 1 if the bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=0, help="0: one per core")
    parser.add_argument("--max-error", type=float, default=1e-5)
    options = parser.parse_args()
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    for part in ("contracts", "services/infer"):
        sys.path.insert(0, str(ROOT / part))
    feeds, weights, ours = served(options)
    theirs = one_by_one(options, feeds, weights)
    worst = 0.0
    for row, (mix, one, other) in enumerate(zip(ROWS, ours, theirs, strict=True)):
        error = float(abs(one - other).max() / abs(other).max())
        worst = max(worst, error)
        label = " + ".join(f"{weight:g} x rank {rank}" for rank, weight in mix.items()) or "no adapter"
        print(f"t = {feeds['timestep'][row]:3.0f}  {label:28} {error:.2e}")
    print(f"largest relative error {worst:.2e}, bound {options.max_error:.0e}")
    return int(not worst <= options.max_error)


def served(options: argparse.Namespace) -> tuple[dict[str, Any], dict[int, dict[str, Any]], Any]:
    """One call of the exported graph. Returns what it was fed, the weights by rank, and what it gave."""
    import numpy as np
    from atelier_contracts import names
    from atelier_contracts.manifests import BundleManifest
    from atelier_infer.onnx.providers import Runtime
    from atelier_infer.pipeline.lora_layout import LoraLayout
    from common import random_weights

    manifest = BundleManifest.model_validate_json((options.bundle / names.BUNDLE_FILE).read_bytes())
    runtime = Runtime("cpu", options.threads)
    file = runtime.choose_unet(manifest.files)
    session = runtime.session(options.bundle / file, "unet")
    side, draw = manifest.native_size_px // manifest.vae_factor, np.random.default_rng(0)
    width = next(item.shape[2] for item in session.get_inputs() if item.name == "encoder_hidden_states")
    weights = {rank: random_weights(manifest, rank, rank, manifest.lora["unet"]) for rank in RANKS}
    layout = LoraLayout(manifest.lora["unet"], by_layer=file == names.CPU_UNET_FILE)
    parts = [layout.pack(weights[rank]) for rank in RANKS]
    rows = [{RANKS.index(rank): weight for rank, weight in mix.items()} for mix in ROWS]
    tokens = next(iter(manifest.text_encoders.values())).tokens
    feeds: dict[str, Any] = {
        "sample": draw.standard_normal((len(ROWS), manifest.latent_channels, side, side), np.float32),
        "timestep": np.array([999, 750, 500, 250, 100, 1], np.float32),
        "encoder_hidden_states": draw.standard_normal((len(ROWS), tokens, width), np.float32),
    }
    return feeds, weights, session.run(None, feeds | layout.arrays(parts) | layout.scales(parts, rows))[0]


def one_by_one(options: argparse.Namespace, feeds: dict[str, Any], weights: dict[int, dict[str, Any]]) -> list[Any]:
    """What diffusers' UNet gives for each row by itself."""
    import torch
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig

    if options.threads:
        torch.set_num_threads(options.threads)
    unet = UNet2DConditionModel.from_pretrained(options.base, subfolder="unet", torch_dtype=torch.float32).eval()
    for rank, layers in weights.items():
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(layers)), f"rank_{rank}")
        with torch.no_grad():
            for layer, one in layers.items():
                module = unet.get_submodule(layer)
                for half, matrix in ((module.lora_A, one.down), (module.lora_B, one.up)):
                    weight = half[f"rank_{rank}"].weight
                    weight.copy_(torch.from_numpy(matrix).reshape(weight.shape))
    found = []
    with torch.inference_mode():
        for row, mix in enumerate(ROWS):
            if mix:
                unet.enable_adapters()
                unet.set_adapters([f"rank_{rank}" for rank in mix], list(mix.values()))
            else:
                unet.disable_adapters()
            given = {name: torch.from_numpy(array[row : row + 1]) for name, array in feeds.items()}
            found.append(unet(given["sample"], given["timestep"], given["encoder_hidden_states"]).sample.numpy()[0])
    return found


if __name__ == "__main__":
    sys.exit(main())
