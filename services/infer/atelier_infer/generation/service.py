"""Where requests become orders: admitted, planned, drawn, and kept while somebody may ask for them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from atelier_contracts.generate import GenerateRequest
from fastapi import Request
from starlette.concurrency import run_in_threadpool

from atelier_infer.aliases.alias_tracker import AliasTracker
from atelier_infer.engine.denoising_state import DenoisingState
from atelier_infer.engine.engine import Engine
from atelier_infer.engine.memory_account import MemoryAccount
from atelier_infer.errors import CallerError, InferError, ReusedKeyError, UnknownJobError
from atelier_infer.generation.canary import Canary, traffic_bucket
from atelier_infer.generation.job import Attempt, GenerationJob, Outcome
from atelier_infer.generation.model_selection import ModelSelection, ModelSelector, names_nothing
from atelier_infer.generation.sampling_params import make_sampling_params, with_seed
from atelier_infer.generation.webhook_hosts import WebhookTarget
from atelier_infer.generation.webhooks import Webhook, WebhookSender
from atelier_infer.metrics import Metrics
from atelier_infer.settings import Settings

log = logging.getLogger(__name__)

HANG_UP_POLL_S = 0.1
"""How often a waiting request looks whether its sender is still there."""

PLAIN_GUIDANCE = 15.0
"""A request with more, with another size than the base's or scale than the adapter's, or a blend says nothing of a version."""


class GenerationService:
    """Takes requests. Lives on the event loop's thread."""

    def __init__(
        self,
        *,
        engine: Engine,
        versions: AliasTracker,
        chooser: ModelSelector,
        metrics: Metrics,
        settings: Settings,
        callbacks: WebhookSender,
        memory: MemoryAccount,
        canary: Canary | None = None,
    ) -> None:
        self._engine, self._versions, self._chooser, self._canary = engine, versions, chooser, canary
        self._metrics, self._settings, self._callbacks, self._memory = metrics, settings, callbacks, memory
        self._kept: dict[str, GenerationJob] = {}
        self._keys: dict[tuple[str, str], tuple[str, asyncio.Task[GenerationJob]]] = {}
        self._waiting: dict[str, int] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def nbytes(self) -> int:
        """Memory of the finished images that are kept."""
        return sum(order.nbytes for order in list(self._kept.values()))

    async def place(
        self,
        wish: GenerateRequest,
        token_id: str,
        *,
        key: str | None = None,
        keep: bool = False,
        chosen: ModelSelection | None = None,
        choose: Callable[[], ModelSelection] | None = None,
        target: WebhookTarget | None = None,
    ) -> GenerationJob:
        """An order that is being drawn from now on.

        Args:
            wish: the request.
            token_id: who sent it.
            key: an idempotency key; the same one with the same request gives the same order.
            keep: `find` it until job_keep_s after its end.
            chosen: what draws, when that is known already.
            choose: finds what draws, in a thread and after admission, so that requests which wait for a download are counted.
            target: where its end is told.

        Raises:
            ReusedKeyError: the key came with another request.
            InferError: it cannot be drawn.
        """
        self._forget()
        if key is None:
            return await self._place(wish, token_id, key, keep, chosen, choose, target)
        where = target.url if target else None
        fingerprint = hashlib.sha256(f"{keep} {where} {wish.model_dump_json()}".encode()).hexdigest()
        known = self._keys.get((token_id, key))
        if known and known[0] != fingerprint:
            raise ReusedKeyError(f"the key {key!r} came with another request; take a new one for a new request")
        if known is None:
            known = fingerprint, asyncio.create_task(self._place(wish, token_id, key, True, chosen, choose, target))
            self._keys[token_id, key] = known
        # a waiter that goes away leaves the order to whoever asks again; `_forget` frees the key of one that failed
        return await asyncio.shield(known[1])

    def find(self, job: str, token_id: str) -> GenerationJob:
        """A kept order of this sender.

        Raises:
            UnknownJobError: there is none.
        """
        self._forget()
        order = self._kept.get(job)
        if order is None or order.token_id != token_id:
            raise UnknownJobError(
                f"no job {job[:40]!r} of yours; one is kept for {self._settings.job_keep_s:.0f} s after its end; send it anew"
            )
        return order

    async def wait(self, order: GenerationJob, request: Request) -> bool:
        """Waits for the end; False when the sender hung up, whereupon the order ends unless somebody else waits for it."""
        self._waiting[order.id] = self._waiting.get(order.id, 0) + 1
        task = self._tasks.get(order.id)
        try:
            while order.ended_at is None and task:
                await asyncio.wait({task}, timeout=HANG_UP_POLL_S)
                if order.ended_at is None and await request.is_disconnected():
                    return False
            if order.error:
                raise order.error.with_traceback(None)
            return True
        finally:
            self._waiting[order.id] -= 1
            if not self._waiting[order.id]:
                del self._waiting[order.id]
                order.cancel()

    def cancel(self, order: GenerationJob) -> None:
        """Ends it, and forgets it."""
        order.cancel()
        self._kept.pop(order.id, None)

    async def ended(self) -> None:
        """Waits until every order has ended and was told of; once the engine has ended, that is at once."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _place(
        self,
        wish: GenerateRequest,
        token_id: str,
        key: str | None,
        keep: bool,
        chosen: ModelSelection | None,
        choose: Callable[[], ModelSelection] | None,
        target: WebhookTarget | None,
    ) -> GenerationJob:
        with ExitStack() as stack:
            stack.enter_context(self._engine.admit(wish.n))
            sent, wish = wish, with_seed(wish)
            if choose is not None:
                chosen = await run_in_threadpool(choose)
            by_lot = self._canary if chosen is None and names_nothing(wish) else None
            chosen = chosen or self._chooser.cached(wish)
            if chosen is None:
                chosen = await run_in_threadpool(self._chooser.find, wish)
            cast, fallback = self._cast(chosen, wish), None  # what the champion would refuse is refused whatever the lot
            stack.enter_context(self._chooser.pinned(chosen))
            if by_lot:
                drawn = traffic_bucket(wish if key is None else sent, token_id=token_id, key=key)
                if rival := self._rival(by_lot, drawn, wish):
                    stack.enter_context(self._chooser.pinned(rival[0]))
                    fallback = cast if rival[0].numbers != chosen.numbers else None
                    cast = rival[1]
            order = GenerationJob(engine=self._engine, token_id=token_id, cast=cast, fallback=fallback)
            if target:
                order.callback = Webhook(target, f"msg_{order.id}")
            held = stack.pop_all()
        if keep:
            self._kept[order.id] = order
        self._tasks[order.id] = asyncio.create_task(self._draw(order, held))
        return order

    def _rival(self, canary: Canary, drawn: float, wish: GenerateRequest) -> tuple[ModelSelection, Attempt] | None:
        """What the canary draws the request with; none where the champion does."""
        if not canary.has(drawn):
            self._metrics.traffic_bucket("champion")
            return None
        if not (version := canary.version()):
            self._metrics.traffic_bucket("aside")
            return None
        chosen = ModelSelection((version,), (wish.scale,), canary.alias)
        try:
            cast = self._cast(chosen, wish)
        except CallerError:
            self._metrics.traffic_bucket("unfit")
            return None
        self._metrics.traffic_bucket("canary")
        return chosen, cast

    def _cast(self, chosen: ModelSelection, wish: GenerateRequest) -> Attempt:
        settings = self._settings
        plans, warnings = make_sampling_params(
            wish, chosen.bundle, scheduler=settings.scheduler, max_side_px=settings.max_side_px, memory=self._memory
        )
        alone = len(chosen.versions) == 1 and chosen.weights == (1.0,)
        native = {chosen.bundle.manifest.native_size_px} == {plans[0].width, plans[0].height}
        numbers: Sequence[int] = chosen.numbers if alone and native and wish.guidance_scale <= PLAIN_GUIDANCE else ()
        kind, alias = chosen.kind, chosen.alias

        def seen(outcome: Outcome, seconds: float | None) -> None:
            self._metrics.image(kind, alias, outcome, seconds)
            if outcome in ("drawn", "unsound"):
                self._versions.report_outcome(numbers, sound=outcome == "drawn")

        return Attempt(
            alias=alias,
            drawings=[DenoisingState(chosen.bundle, chosen.mix, plan) for plan in plans],
            drawn=[chosen.drawn(settings.model, wish, plan) for plan in plans],
            warnings=warnings,
            seen=seen,
        )

    async def _draw(self, order: GenerationJob, held: ExitStack) -> None:
        with held:
            try:
                await order.draw()
            finally:
                self._tasks.pop(order.id, None)
        if order.redrawn:
            self._metrics.redrawn()
        if order.error and not isinstance(order.error, InferError):
            log.error("an error that nobody foresaw", exc_info=order.error)
        if order.error:  # its frames would keep the drawings in memory
            order.error = _without_frames(order.error)
        if order.callback:
            self._callbacks.send(order.callback, order.status().model_dump_json().encode())

    def _forget(self) -> None:
        """Drops orders that ended long ago, and the oldest where they need too much memory."""
        ended = sorted((order for order in self._kept.values() if order.ended_at is not None), key=_ended)
        size = sum(order.nbytes for order in ended)
        for order in ended:
            late = time.monotonic() - _ended(order) > self._settings.job_keep_s
            if not late and size <= self._settings.job_keep_mib * 2**20:
                break
            size -= order.nbytes
            del self._kept[order.id]
        for key, (_, task) in list(self._keys.items()):
            if not task.done():
                continue
            placed = None if task.cancelled() or task.exception() else task.result()
            # a failed order frees its key, so that the request can be tried again
            if placed is None or placed.id not in self._kept or placed.error:
                del self._keys[key]


def _without_frames(error: Exception) -> Exception:
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)


def _ended(order: GenerationJob) -> float:
    return order.ended_at or 0.0


def log_fields(order: GenerationJob) -> dict[str, Any]:
    """What the request's log line says; never a prompt."""
    first = order.drawn[0].model_dump(exclude={"prompt", "negative_prompt", "adapters"})
    return first | {
        "alias": order.alias,
        "images": len(order.drawn),
        "job": order.id,
        "queued_s": round(order.queued_s(), 3),
    }
