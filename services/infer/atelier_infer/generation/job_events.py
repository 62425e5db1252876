"""Progress of a job for its subscribers: steps, previews, finished images, the end."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool

from atelier_infer.arrays import Array
from atelier_infer.engine.denoising_state import DenoisingState
from atelier_infer.engine.denoising_task import DenoisingTask
from atelier_infer.engine.engine import Engine
from atelier_infer.errors import GenerationError
from atelier_infer.generation import image_codec
from atelier_infer.pipeline.bundle import Bundle
from atelier_infer.pipeline.vae_decode import preview

QUEUE_SIZE = 256
"""Events that a slow subscriber may lag behind before it misses some."""

PREVIEW_PAUSE = 3
"""After a preview the next one waits this many times as long as the preview took."""

Subscription = asyncio.Queue[tuple[str, Any]]


class JobEvents:
    """Lives on the event loop's thread, except for `on_step`.

    Args:
        engine: decodes previews.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine, self._loop = engine, asyncio.get_running_loop()
        self._states: list[DenoisingState] = []
        self._subscriptions: list[Subscription] = []
        self._next_preview_at = 0.0
        self._previews: set[asyncio.Task[None]] = set()

    def follow(self, states: Sequence[DenoisingState]) -> None:
        """Steps of other states are ignored from now on."""
        self._states = list(states)

    @property
    def subscribers(self) -> int:
        return len(self._subscriptions)

    def subscribe(self) -> Subscription:
        """A queue of (name, data), until `unsubscribe`."""
        subscription: Subscription = asyncio.Queue(QUEUE_SIZE)
        self._subscriptions.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        self._subscriptions.remove(subscription)

    def publish(self, name: str, data: Any) -> None:
        for subscription in self._subscriptions:
            if subscription.full() and name in ("step", "preview"):
                continue
            if subscription.full():  # an image or the end must not be lost
                subscription.get_nowait()
            subscription.put_nowait((name, data))

    def on_step(self, task: DenoisingTask) -> None:
        """Implements `StepListener`, on the engine's thread."""
        assert isinstance(task, DenoisingState)
        latents = task.predicted_x0
        if self._subscriptions and latents is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._step, task, task.completed_steps, latents)

    def _step(self, state: DenoisingState, completed_steps: int, latents: Array) -> None:
        if state not in self._states:
            return
        index = self._states.index(state)
        self.publish("step", {"image": index, "step": completed_steps, "steps": state.steps})
        if not self._previews and time.monotonic() >= self._next_preview_at and completed_steps < state.steps:
            task = asyncio.create_task(self._preview(index, state.bundle, completed_steps, latents))
            self._previews.add(task)
            task.add_done_callback(self._previews.discard)

    async def _preview(self, index: int, bundle: Bundle, completed_steps: int, latents: Array) -> None:
        started = time.monotonic()
        try:
            pixels = await asyncio.wrap_future(self._engine.run_on_decoder(partial(preview, bundle, latents)))
        except (GenerationError, RuntimeError):  # early latents may not be finite; the decoder may have shut down
            return
        webp = await run_in_threadpool(image_codec.encode_preview, pixels)
        now = time.monotonic()
        self._next_preview_at = now + PREVIEW_PAUSE * (now - started)
        self.publish("preview", {"image": index, "step": completed_steps, "webp": base64.b64encode(webp).decode()})
