"""One whole UNet as an ONNX graph, with the adapter merged into its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch.export import Dim

from atelier_trainer.base_models.base_model import BaseModel
from atelier_trainer.errors import ExportError
from atelier_trainer.export.bundle import UNetStep
from atelier_trainer.export.onnx.graph_writer import GraphSignature, write_graph
from atelier_trainer.export.parity import PARITY_BOUND

FILE = "unet_merged.onnx"


def export_merged(unet: Any, base: BaseModel, folder: Path) -> Path:
    """Merges the UNet's adapter into its weights and writes the graph; the UNet has no adapter afterwards.

    Args:
        unet: float32, on the CPU, with the adapter injected.
        base: of the UNet.
        folder: gets `unet_merged.onnx` and its weights.

    Raises:
        ExportError: the graph does not compute what the UNet with its adapter computes.
    """
    unet.eval()
    side, channels = int(unet.config.sample_size), int(unet.config.in_channels)
    tokens = min(int(base.load_tokenizer(part).model_max_length) for part in base.family.text_encoders)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sample = torch.randn(2, channels, side, side)
        conditioning = base.family.conditioning_example(unet, tokens, 2)
    times = torch.tensor([999.0, 1.0])
    inputs = {"sample": sample, "timestep": times, **conditioning}
    step = UNetStep(unet, list(conditioning))
    with torch.inference_mode():
        expected = step(*inputs.values()).numpy()
    unet.fuse_lora()
    unet.unload_lora()
    multiple = 2 ** (len(unet.config.block_out_channels) - 1)
    h, w = Dim("h", min=1, max=64), Dim("w", min=1, max=64)
    shapes = (
        {0: Dim.DYNAMIC, 2: multiple * h, 3: multiple * w},
        {0: Dim.DYNAMIC},
        tuple({0: Dim.DYNAMIC} for _ in conditioning),
    )
    signature = GraphSignature(list(inputs), ["out_sample"], list(inputs.values()), shapes)
    with torch.inference_mode():
        write_graph(step, signature, folder / FILE)
    session = onnxruntime.InferenceSession(str(folder / FILE), providers=["CPUExecutionProvider"])
    computed = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0]
    error = float(np.abs(computed - expected).max() / np.abs(expected).max())
    if not error <= PARITY_BOUND:
        raise ExportError(
            f"the merged graph and torch differ by {error:.1e} of the largest value; at most {PARITY_BOUND:.0e} is allowed"
        )
    return folder / FILE
