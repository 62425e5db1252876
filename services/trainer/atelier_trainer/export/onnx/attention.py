"""Attention as one fused operator of ONNX Runtime, which never holds the scores of all queries at once.

Notation: b batch, s query tokens, t key tokens, n heads, d width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

DOMAIN, OPERATOR = "com.microsoft", "MultiHeadAttention"


class FusedAttention:
    """An attention processor for diffusers that exports as one MultiHeadAttention node; it computes nothing in torch.

    Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md, com.microsoft.MultiHeadAttention
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: None = None,
        temb: None = None,
    ) -> torch.Tensor:
        """[b, s, width], and [b, t, text width] for cross-attention → [b, s, width]."""
        states = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(states), attn.to_v(states)  # [b, s or t, n * d]
        attended = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{OPERATOR}",
            (query, key, value),
            {"num_heads": attn.heads, "scale": float(attn.scale)},
            dtype=query.dtype,
            shape=query.shape,
            version=1,
        )
        out: torch.Tensor = attn.to_out[0](attended)
        return out


@contextmanager
def fused_attention(unet: Any) -> Iterator[None]:
    """Sets the processor on every layer that is plain attention, and restores the previous ones afterwards."""
    previous = dict(unet.attn_processors)
    fused = {
        name: FusedAttention() if _is_plain(unet.get_submodule(name.removesuffix(".processor"))) else processor
        for name, processor in previous.items()
    }
    unet.set_attn_processor(fused)
    try:
        yield
    finally:
        unet.set_attn_processor(previous)


def _is_plain(attn: Any) -> bool:
    extras = (attn.group_norm, attn.spatial_norm, attn.norm_q, attn.norm_k, attn.norm_cross, attn.add_k_proj)
    return all(extra is None for extra in extras) and not attn.residual_connection and attn.rescale_output_factor == 1
