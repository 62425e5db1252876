"""The path from `POST /generate` to the ONNX session stays short: few calls, and few types that carry the request."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from atelier_contracts.generate import GenerateRequest
from atelier_contracts.manifests import AdapterManifest
from atelier_infer.engine.denoising_state import DenoisingState
from atelier_infer.engine.engine import Engine
from numpy.typing import NDArray

from ..conftest import Service
from ..fake_store import FakeStore
from ..support import wait_until_ready

MAX_FRAMES = 12
CARRIERS = {"GenerateRequest", "GenerationJob", "DenoisingState", "SamplingParams"}
OURS = ("atelier_infer.", "atelier_contracts.generate")


class Call:
    """One frame of infer: the function's name and its arguments."""

    def __init__(self, frame: FrameType) -> None:
        code = frame.f_code
        self.name = f"{frame.f_globals['__name__']}.{code.co_qualname}"
        arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        self.arguments = [frame.f_locals[name] for name in arguments if name in frame.f_locals]


def stack(frame: FrameType | None) -> list[Call]:
    """Frames of infer, innermost first, up to the route and without the middleware around it."""
    calls: list[Call] = []
    while frame:
        if frame.f_globals.get("__name__", "").startswith("atelier_infer."):
            calls.append(Call(frame))
            if frame.f_code.co_qualname == "make_generate_router.<locals>.generate":
                break
        frame = frame.f_back
    return calls


def types_on_the_way(root: object, ids: np.ndarray) -> set[str]:
    """Types of infer on the shortest way from an object to the prompt, as text or as token ids; empty if there is none."""
    if isinstance(root, GenerateRequest):
        return {"GenerateRequest"}
    queue, seen = deque([(root, ())]), set()
    while queue:
        thing, way = queue.popleft()
        if isinstance(thing, np.ndarray) and thing.dtype == np.int64 and np.array_equal(thing, ids):
            return set(way)
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, list | tuple):
            queue.extend((item, way) for item in thing)
        elif type(thing).__module__.startswith(OURS) and hasattr(thing, "__dict__") and not isinstance(thing, Engine):
            queue.extend((value, (*way, type(thing).__name__)) for value in vars(thing).values())  # type: ignore[misc]
    return set()


def test_a_request_passes_few_functions_and_types(
    make_service: Callable[..., Service],
    store: FakeStore,
    adapter: tuple[Path, AdapterManifest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store.set_alias("champion", store.publish_adapter(adapter[0]))
    service = make_service()
    wait_until_ready(service)
    (bundle,) = service.app.state.loader.loaded()[1].values()
    (ids,) = bundle.tokenizer.encode("a cat").ids
    created: dict[asyncio.Task[Any], list[Call]] = {}
    calls: dict[str, list[Call]] = {}
    create_task, submit, unet = asyncio.create_task, Engine.submit, bundle.unet

    def recording_create_task(coroutine: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        task = create_task(coroutine, **options)
        created[task] = stack(sys._getframe(1))
        return task

    def recording_submit(engine: Engine, task: DenoisingState, **options: Any) -> None:
        here, current = stack(sys._getframe(1)), asyncio.current_task()
        while current in created:  # a task continues the path of the code that created it
            here += created[current]
            current = None
        calls["event loop"] = here
        return submit(engine, task, **options)

    class RecordingSession:
        def run(self, *arguments: Any) -> list[NDArray[Any]]:
            calls["engine"] = stack(sys._getframe(1))
            carriers.update(*(types_on_the_way(value, ids) for call in path() for value in call.arguments))
            return unet.run(*arguments)

    def path() -> list[Call]:
        return [*calls["engine"], *calls["event loop"]]

    carriers: set[str] = set()
    monkeypatch.setattr(asyncio, "create_task", recording_create_task)
    monkeypatch.setattr(Engine, "submit", recording_submit)
    object.__setattr__(bundle, "unet", RecordingSession())
    assert service.generate(steps=1).status_code == 200
    names = [call.name for call in path()]
    assert names[0] == "atelier_infer.onnx.session.run_graph"
    assert names[-1].endswith("<locals>.generate")
    assert len(names) + 1 <= MAX_FRAMES, names  # and Engine.submit, which is replaced here
    assert carriers == CARRIERS
