"""The page to decide on: static files beside this module, without a login; what they show is asked with the reader's token."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

FOLDER = Path(__file__).with_name("static")
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
PATH = "/page/"

_HEADERS = {
    # scripts and styles come from here alone; images also from answers that a script fetched
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def router() -> APIRouter:
    """`/` and the files below `/page/`; not part of the API's description."""
    made = APIRouter(include_in_schema=False)
    files = {file.name: file for file in FOLDER.iterdir() if file.suffix in KINDS}

    @made.get("/")
    async def index() -> FileResponse:
        return _answer(files["index.html"])

    @made.get(PATH + "{name}")
    async def part(name: str) -> FileResponse:
        if name not in files:
            raise HTTPException(404, "no such file")
        return _answer(files[name])

    return made


def _answer(file: Path) -> FileResponse:
    return FileResponse(file, media_type=KINDS[file.suffix], headers=_HEADERS)
