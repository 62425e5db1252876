"""One whole UNet as an ONNX graph, with the adapter merged into its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch.export import Dim

from atelier_trainer.base_model import BaseModel
from atelier_trainer.errors import ExportError
from atelier_trainer.export.onnx_export import GraphSignature, write_graph
from atelier_trainer.export.parity import PARITY_BOUND

FILE = "unet_merged.onnx"


class _PlainUNet(torch.nn.Module):
    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor) -> torch.Tensor:
        predicted: torch.Tensor = self.unet(sample, timestep, encoder_hidden_states, return_dict=False)[0]
        return predicted


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
    generator, side = torch.Generator().manual_seed(0), int(unet.config.sample_size)
    tokens, channels = int(base.load_tokenizer(base.family.text_encoders[0]).model_max_length), int(unet.config.in_channels)
    sample = torch.randn(2, channels, side, side, generator=generator)
    states = torch.randn(2, tokens, unet.config.cross_attention_dim, generator=generator)
    times = torch.tensor([999.0, 1.0])
    with torch.inference_mode():
        expected = unet(sample, times, states).sample.numpy()
    unet.fuse_lora()
    unet.unload_lora()
    multiple = 2 ** (len(unet.config.block_out_channels) - 1)
    h, w = Dim("h", min=1, max=64), Dim("w", min=1, max=64)
    shapes = ({0: Dim.DYNAMIC, 2: multiple * h, 3: multiple * w}, {0: Dim.DYNAMIC}, {0: Dim.DYNAMIC})
    inputs = ["sample", "timestep", "encoder_hidden_states"]
    with torch.inference_mode():
        write_graph(_PlainUNet(unet), GraphSignature(inputs, ["out_sample"], [sample, times, states], shapes), folder / FILE)
    session = onnxruntime.InferenceSession(str(folder / FILE), providers=["CPUExecutionProvider"])
    computed = session.run(None, dict(zip(inputs, (sample.numpy(), times.numpy(), states.numpy()), strict=True)))[0]
    error = float(np.abs(computed - expected).max() / np.abs(expected).max())
    if not error <= PARITY_BOUND:
        raise ExportError(
            f"the merged graph and torch differ by {error:.1e} of the largest value; at most {PARITY_BOUND:.0e} is allowed"
        )
    return folder / FILE
