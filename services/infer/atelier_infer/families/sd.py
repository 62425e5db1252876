"""Stable Diffusion 1.x and 2.x: one text encoder, whose last hidden states the UNet attends to.

Notation: s text tokens, d text width.
"""

from __future__ import annotations

from collections.abc import Mapping

from atelier_infer.families.family import Conditioning, Family, TextOutputs


def _conditioning(texts: Mapping[str, TextOutputs], width: int, height: int) -> Conditioning:
    """encoder_hidden_states float32 [1, s, d]."""
    return {"encoder_hidden_states": texts["text_encoder"]["last_hidden_state"]}


SD = Family(
    text_outputs={"text_encoder": ("last_hidden_state",)},
    unet_inputs=("encoder_hidden_states",),
    conditioning=_conditioning,
)
