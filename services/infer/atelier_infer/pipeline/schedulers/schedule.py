"""The noise schedule that a base model was trained with, and what every scheduler derives from it.

Notation: T training steps, n sampling steps, b batch, c channels, h and w latent height and width. At training step t an image
x0 and noise e are mixed to x_t = alpha_t * x0 + sigma_t * e with alpha_t^2 + sigma_t^2 = 1 (variance preserving, VP).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from atelier_infer.arrays import Array

Float64s = NDArray[np.float64]


class NoiseSchedule(BaseModel):
    """scheduler_config.json, in the spelling of diffusers' DDIMScheduler; its other fields do not change the image.

    Options that would change it and are not implemented (clipping, thresholding, zero terminal SNR, own betas) are refused.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    beta_start: float = Field(gt=0, lt=1)
    beta_end: float = Field(gt=0, lt=1)
    beta_schedule: Literal["scaled_linear", "linear"]
    num_train_timesteps: int = Field(ge=1)
    steps_offset: int = Field(0, ge=0, le=1)
    set_alpha_to_one: bool = True
    timestep_spacing: Literal["leading", "trailing", "linspace"]
    prediction_type: Literal["epsilon", "v_prediction"]
    clip_sample: Literal[False] = False
    thresholding: Literal[False] = False
    rescale_betas_zero_snr: Literal[False] = False
    trained_betas: None = None

    def alphas_cumprod(self) -> Float64s:
        """alpha_t^2 for t = 0 … T-1: float64 [T], decreasing, in (0, 1).

        Betas and 1 - beta are rounded to float32, because that is what a base is trained with.

        Source: arXiv:2006.11239 section 2 (linear betas); arXiv:2112.10752 released code's schedule (linear in sqrt beta).
        """
        power = 1 if self.beta_schedule == "linear" else 2
        first, last = self.beta_start ** (1 / power), self.beta_end ** (1 / power)
        betas: Array = np.linspace(first, last, self.num_train_timesteps, dtype=np.float32) ** power
        alphas: Array = 1 - betas
        products: Float64s = np.multiply.accumulate(alphas.astype(np.float64))
        return products

    def noise_levels(self) -> Float64s:
        """sigma_t / alpha_t for t = 0 … T-1, the noise level of the variance exploding form: float64 [T], increasing, > 0.

        Source: arXiv:2206.00364 table 1 (VP column).
        """
        products = self.alphas_cumprod()
        levels: Float64s = np.sqrt((1 - products) / products)
        return levels

    def spaced_timesteps(self, steps: int) -> Float64s:
        """Training steps to sample at: float64 [n], decreasing; integers except for `linspace`.

        Source: arXiv:2305.08891 table 2.
        """
        if self.timestep_spacing == "linspace":
            even: Float64s = np.linspace(0, self.num_train_timesteps - 1, steps, dtype=np.float64)
            return even[::-1].copy()
        if self.timestep_spacing == "leading":
            counted: Float64s = np.arange(steps).astype(np.float64)
            return counted[::-1] * (self.num_train_timesteps // steps) + self.steps_offset
        # halves round as they come out of arange, as in other implementations; rounding may give one too many
        spaced: Float64s = np.arange(self.num_train_timesteps, 0, -self.num_train_timesteps / steps)[:steps]
        return np.round(spaced) - 1


def split_output(output: Array, sample: Array, alpha: float, sigma: float, kind: str) -> tuple[Array, Array]:
    """Splits the output of the UNet into image and noise.

    Args:
        output: float32 [b, c, h, w], the noise e or the velocity v = alpha * e - sigma * x0.
        sample: float32 [b, c, h, w], x_t in VP form.
        alpha: alpha_t, in (0, 1].
        sigma: sigma_t, in [0, 1).
        kind: `epsilon` or `v_prediction`.

    Returns:
        x0 and e, float32 [b, c, h, w] each.

    Source: arXiv:2010.02502 equation 9 (x0 from e); arXiv:2202.00512 appendix D (x0 and e from v).
    """
    if kind == "epsilon":
        x0: Array = np.divide(sample - sigma * output, alpha)
        return x0, output
    return alpha * sample - sigma * output, alpha * output + sigma * sample
