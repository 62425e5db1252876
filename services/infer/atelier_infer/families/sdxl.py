"""Stable Diffusion XL: the states of two text encoders side by side, one text's embedding, and the image's sizes.

Notation: s text tokens, d text width of both encoders together, p width of the text's embedding.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from atelier_infer.families.family import Conditioning, Family, TextOutputs


def _conditioning(texts: Mapping[str, TextOutputs], width: int, height: int) -> Conditioning:
    """encoder_hidden_states float32 [1, s, d], text_embeds float32 [1, p], time_ids float32 [1, 6].

    The sizes are those of an image that was not cropped: original, corner of the crop, target, each as height and width.
    Source: arXiv:2307.01952, section 2.2.
    """
    states = [texts[part]["hidden_states"] for part in ("text_encoder", "text_encoder_2")]
    return {
        "encoder_hidden_states": np.concatenate(states, axis=-1),
        "text_embeds": texts["text_encoder_2"]["text_embeds"],
        "time_ids": np.array([[height, width, 0, 0, height, width]], np.float32),
    }


SDXL = Family(
    text_outputs={"text_encoder": ("hidden_states",), "text_encoder_2": ("hidden_states", "text_embeds")},
    unet_inputs=("encoder_hidden_states", "text_embeds", "time_ids"),
    conditioning=_conditioning,
)
