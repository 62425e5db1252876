"""From token ids to pixels: text encoder, denoising steps, decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from atelier_contracts import names
from numpy.typing import NDArray

from atelier_infer.adapter import Adapter
from atelier_infer.bundle import Bundle
from atelier_infer.errors import GraphError, NonFiniteError
from atelier_infer.noise import initial_noise
from atelier_infer.schedulers import Array, SchedulerName, make_scheduler

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Plan:
    """What to draw, with every default settled and every rule checked.

    Attributes:
        prompt: int64 [s], token ids.
        negative: int64 [s]; not read when guidance_scale is 1 or less.
        width: px, a multiple of the bundle's size_multiple_px.
        height: px, likewise.
    """

    prompt: NDArray[np.int64]
    negative: NDArray[np.int64]
    steps: int
    guidance_scale: float
    seed: int
    width: int
    height: int
    scheduler: SchedulerName


class Drawing:
    """One picture on its way. `begin`, `step` until `done`, `finish`; all from the engine's thread.

    Notation: b rows in the batch (1, or 2 with guidance: negative, then prompt), s text tokens, d text width, c latent
    channels, h and w latent height and width, r rank.
    """

    def __init__(self, bundle: Bundle, adapter: Adapter | None, plan: Plan, *, strength: float = 1.0) -> None:
        """`strength` multiplies the adapter's own scale: 0 draws what the base draws."""
        self._bundle, self._plan, self._index = bundle, plan, 0
        self._guided = plan.guidance_scale > 1
        self._rows = 2 if self._guided else 1
        rank, scale = (adapter.manifest.rank, adapter.scale * strength) if adapter else (0, 0.0)
        self._feeds: dict[str, NDArray[Any]] = dict(adapter.feeds if adapter else bundle.no_adapter)
        self._feeds[names.LORA_SCALE] = np.full((self._rows, 1, rank), scale, np.float32)
        self._scheduler = make_scheduler(plan.scheduler, bundle.schedule, plan.steps)

    @property
    def done(self) -> bool:
        """Whether every step was taken."""
        return self._index == self._plan.steps

    def begin(self) -> None:
        """Encodes the texts and draws the initial noise."""
        plan, manifest = self._plan, self._bundle.manifest
        ids = np.stack([plan.negative, plan.prompt] if self._guided else [plan.prompt])
        self._feeds["encoder_hidden_states"] = _run(self._bundle.text_encoder, {"input_ids": ids})  # [b, s, d]
        height, width = plan.height // manifest.vae_factor, plan.width // manifest.vae_factor
        noise = initial_noise(plan.seed, manifest.latent_channels, height, width)
        self._sample = noise * np.float32(self._scheduler.init_noise_sigma)

    def step(self) -> None:
        """One UNet call for all rows.

        Guidance: out = negative + guidance_scale * (prompt - negative).

        Raises:
            NonFiniteError: the sample is no longer finite.
            GraphError: ONNX Runtime raised.

        Source: arXiv:2207.12598 equation 6, with guidance_scale = 1 + w.
        """
        fed = self._scheduler.scale_model_input(self._sample, self._index)
        timestep = np.full(self._rows, self._scheduler.timesteps[self._index], np.float32)
        feeds: dict[str, NDArray[Any]] = self._feeds | {"sample": np.repeat(fed, self._rows, axis=0), "timestep": timestep}
        out = _run(self._bundle.unet, feeds)  # [b, c, h, w]
        with np.errstate(over="ignore", invalid="ignore"):  # looked for below
            if self._guided:
                out = out[:1] + self._plan.guidance_scale * (out[1:] - out[:1])
            self._sample = self._scheduler.step(out, self._index, self._sample)
        self._index += 1
        if not np.isfinite(self._sample).all():
            raise NonFiniteError(
                f"step {self._index} of {self._plan.steps} gave NaN or infinity; nothing was drawn; another seed, a lower "
                "guidance_scale or another version may help"
            )

    def finish(self) -> Pixels:
        """Decodes the latents.

        Returns:
            uint8 [height, width, 3], x / 2 + 0.5 clipped to [0, 1] and rounded to 255 levels, halves to even.

        Raises:
            NonFiniteError: the decoder's output is not finite.
            GraphError: ONNX Runtime raised.
        """
        image = _run(self._bundle.vae_decoder, {"latents": self._sample / np.float32(self._bundle.manifest.latent_scale)})
        if not np.isfinite(image).all():
            raise NonFiniteError("the decoder gave NaN or infinity; nothing was drawn; another seed or version may help")
        levels = np.clip(image[0] / 2 + np.float32(0.5), 0, 1).transpose(1, 2, 0) * 255  # [3, H, W] → [H, W, 3]
        pixels: Pixels = np.round(levels).astype(np.uint8)
        return pixels


def probe(bundle: Bundle, adapter: Adapter) -> None:
    """One step at native size with an empty prompt: whether a version's output is finite at all.

    Raises:
        NonFiniteError: it is not.
        GraphError: ONNX Runtime raised.
    """
    ids, side = bundle.prompts.read("").ids, bundle.manifest.native_size_px
    # of two steps the first lies amid the training steps, where a base does its work
    plan = Plan(ids, ids, steps=2, guidance_scale=1.0, seed=0, width=side, height=side, scheduler="ddim")
    drawing = Drawing(bundle, adapter, plan)
    drawing.begin()
    drawing.step()


def _run(session: ort.InferenceSession, feeds: dict[str, NDArray[Any]]) -> Array:
    """The graph's one output, float32."""
    try:
        (output,) = session.run(None, feeds)
    except Exception as error:  # the library's classes share no other base
        raise GraphError(f"ONNX Runtime failed: {error}") from error
    result: Array = output
    return result
