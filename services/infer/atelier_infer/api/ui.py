"""The page: static files that require no token; the requests that they send do."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files

from fastapi import APIRouter, Response

MEDIA_TYPES = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}

HEADERS = {
    # no third-party resources; images are blobs, previews data URLs
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page_files() -> dict[str, tuple[str, bytes]]:
    """Path to media type and content."""
    pages = {
        f"/{item.name}": (MEDIA_TYPES[item.name.rpartition(".")[2]], item.read_bytes())
        for item in files("atelier_infer.api").joinpath("static").iterdir()
        if item.is_file()
    }
    return {"/": pages.pop("/index.html"), **pages}


def make_page_router(pages: dict[str, tuple[str, bytes]]) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    for path, (media_type, content) in pages.items():
        router.add_api_route(path, _handler(media_type, content), methods=["GET", "HEAD"], response_model=None)
    return router


def _handler(media_type: str, content: bytes) -> Callable[[], Response]:
    def handle() -> Response:
        return Response(content, media_type=media_type, headers=HEADERS)

    return handle
