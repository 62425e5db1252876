"""A service's page: static files without a token, since they hold no data; what they show is fetched with the user's token."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, FastAPI
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

PREFIX = "/static"

_HEADERS = {
    # scripts and styles come from this service alone; images also from responses that a script fetched
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class _PageFiles(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


def is_public(path: str) -> bool:
    """Whether a path is part of the page."""
    return path == "/" or path.startswith(f"{PREFIX}/")


def mount_page(app: FastAPI, folder: Path) -> None:
    """Serves `index.html` of a folder at `/` and the folder's files below `/static/`, none of it in the OpenAPI document."""
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def index() -> FileResponse:
        return FileResponse(folder / "index.html", headers=_HEADERS)

    app.include_router(router)
    app.mount(PREFIX, _PageFiles(directory=folder), name="static")
