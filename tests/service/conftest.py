"""A small application over `atelier_service`, put together as the services do it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from atelier_contracts.tokens import Role, Token, TokenFile
from atelier_service.access_log import AccessLog
from atelier_service.auth import Authentication, require_role
from atelier_service.etags import ETags
from atelier_service.problems import PATH, ProblemTable, ProblemType
from atelier_service.request_body import BodyLimit
from atelier_service.static_files import is_public, mount_page
from fastapi import Depends, FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.testclient import TestClient

SECRET = "a-reader's-token"
LIMIT_BYTES = 1000
UNKNOWN_COLOUR = ProblemType("unknown-colour", 404, "There is no such colour.")


class PaintError(Exception):
    """Root of the example's error tree."""


class UnknownColourError(PaintError):
    """A leaf."""


class UnknownShadeError(UnknownColourError):
    """A leaf below it, without a type of its own."""


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")

    colour: str = Field(max_length=10)
    litres: int = 1

    @model_validator(mode="after")
    def _enough(self) -> Order:
        if self.colour == "red" and self.litres > 5:
            raise ValueError("red comes in at most 5 litres; received 6")
        return self


def token_line(id: str, role: str, secret: str) -> str:
    return f"{id} {role} {hashlib.sha256(secret.encode()).hexdigest()}\n"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "tokens.txt"
    file.write_text(token_line("ana", "reader", SECRET))
    return file


@pytest.fixture
def measured() -> list[tuple[str, str, int, float]]:
    return []


@pytest.fixture
def app(token_file: Path, tmp_path: Path, measured: list[Any]) -> FastAPI:
    app = FastAPI()

    @app.post("/orders")
    def order(body: Order) -> dict[str, str]:
        if body.colour == "mauve":
            raise UnknownColourError("no colour 'mauve'; there are red and blue")
        if body.colour == "puce":
            raise UnknownShadeError("no shade 'puce'")
        if body.colour == "boom":
            raise RuntimeError("a secret detail")
        if body.colour == "odd":
            raise PaintError("an error without a type")
        return {"colour": body.colour}

    @app.get("/orders/{number}")
    def get(number: int, request: Request) -> dict[str, int]:
        request.state.log["number"] = number
        return {"number": number}

    @app.get("/promote")
    def promote(token: Annotated[Token, Depends(require_role(Role.promoter))]) -> str:
        return token.id

    page = tmp_path / "page"
    page.mkdir()
    (page / "index.html").write_text("<title>Paint</title>")
    (page / "page.js").write_text("export {};")
    (tmp_path / "outside.txt").write_text("not for you")
    mount_page(app, page)
    ProblemTable(PaintError, {UnknownColourError: UNKNOWN_COLOUR}).install(app)
    app.add_middleware(ETags)
    app.add_middleware(BodyLimit, limit_bytes=lambda path: LIMIT_BYTES)
    app.add_middleware(
        Authentication, tokens=TokenFile(token_file), is_public=lambda path: is_public(path) or path.startswith(PATH)
    )
    app.add_middleware(AccessLog, measure=lambda *each: measured.append(each), quiet=("/healthz",))
    return app


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False, headers={"Authorization": f"Bearer {SECRET}"}) as client:
        yield client


@pytest.fixture
def problem_of() -> Callable[[Any, int, str], str]:
    """Checks a problem document, and returns its detail."""

    def check(response: Any, status: int, type: str) -> str:
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        body = response.json()
        assert (body["type"], body["status"]) == (f"/problems/{type}", status)
        assert body["title"]
        return str(body["detail"])

    return check
