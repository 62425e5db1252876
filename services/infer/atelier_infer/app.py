"""The application, put together from its parts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from atelier_contracts.access import TokenFile
from fastapi import FastAPI

from atelier_infer.adapter import Adapter
from atelier_infer.bundle import Bundle, open_bundle
from atelier_infer.drawing import probe
from atelier_infer.engine import Engine
from atelier_infer.following import Following
from atelier_infer.gate import Gate
from atelier_infer.loader import Loader
from atelier_infer.problems import add_handlers
from atelier_infer.requestlog import RequestLog
from atelier_infer.routes import make_router
from atelier_infer.settings import Settings, events
from atelier_infer.shelf import Shelf
from atelier_infer.staging import make_staging_router
from atelier_infer.store import Store
from atelier_infer.versions import Versions


def create_app(*, engine: Engine, store: Store, tokens: TokenFile, settings: Settings) -> FastAPI:
    """Wires the parts. Threads start with the application's lifespan and end with it.

    Args:
        engine: not started yet.
        store: the model registry.
        tokens: who may come in.
        settings: complete.
    """
    shelf = Shelf(store, settings.cache_dir)

    def probe_between_steps(bundle: Bundle, adapter: Adapter) -> None:
        engine.errand(partial(probe, bundle, adapter))

    loader = Loader(
        shelf=shelf,
        open_bundle=partial(open_bundle, intra_op_threads=settings.intra_op_threads),
        probe=probe_between_steps,
        adapter_cache_mib=settings.adapter_cache_mib,
    )
    versions = Versions(
        store=store,
        loader=loader,
        alias_poll_s=settings.alias_poll_s,
        model=settings.model,
        registry_url=settings.registry_url,
    )

    following = None
    if source := events(settings):
        following = Following(url=source[0], token=source[1], model=settings.model, moved=versions.look_again)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        shelf.tidy()
        engine.start()
        versions.start()
        if following:
            following.start()
        yield
        if following:
            following.stop()
        versions.stop()
        engine.stop()

    app = FastAPI(
        title="Atelier infer",
        summary="A prompt in, a picture out, drawn with a version of the registry.",
        lifespan=lifespan,
        docs_url=None,  # the pages load scripts from elsewhere
        redoc_url=None,
    )
    app.include_router(make_router(engine=engine, versions=versions, loader=loader, settings=settings))
    app.include_router(make_staging_router(engine=engine, loader=loader, settings=settings))
    add_handlers(app)
    app.add_middleware(Gate, tokens=tokens)
    app.add_middleware(RequestLog)  # added last, so outermost
    return app
