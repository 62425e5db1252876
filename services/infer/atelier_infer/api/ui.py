"""The drawing page: static files, open to everyone, since they hold nothing; what they ask for needs a token."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files

from fastapi import APIRouter, Response

KINDS = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}

HEADERS = {
    # nothing from elsewhere; images come as blobs, previews as data
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
    found = {
        f"/{item.name}": (KINDS[item.name.rpartition(".")[2]], item.read_bytes())
        for item in files("atelier_infer.api").joinpath("static").iterdir()
        if item.is_file()
    }
    return {"/": found.pop("/index.html"), **found}


def make_page_router(found: dict[str, tuple[str, bytes]]) -> APIRouter:
    """One route per file."""
    router = APIRouter(include_in_schema=False)
    for path, (media, content) in found.items():
        router.add_api_route(path, _sender(media, content), methods=["GET", "HEAD"], response_model=None)
    return router


def _sender(media: str, content: bytes) -> Callable[[], Response]:
    def send() -> Response:
        return Response(content, media_type=media, headers=HEADERS)

    return send
