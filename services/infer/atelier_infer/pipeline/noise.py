"""The noise that denoising starts from."""

from __future__ import annotations

import numpy as np

from atelier_infer.arrays import Array


def initial_noise(seed: int, channels: int, height: int, width: int) -> Array:
    """Equal for equal seed and shape on every machine.

    Pass the result to another pipeline (diffusers: `latents=`) to generate the same image there.

    Args:
        seed: in [0, 2^32).
        channels: c, of the latents.
        height: h, of the latents, not of the image.
        width: w, likewise.

    Returns:
        float32 [1, c, h, w], standard normal: NumPy's `Generator(PCG64(seed))`, in C order.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    return generator.standard_normal((1, channels, height, width), dtype=np.float32)
