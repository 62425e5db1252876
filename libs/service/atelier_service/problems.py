"""Errors as HTTP responses: one table from errors to problem types, one format (RFC 9457, `application/problem+json`)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar

from atelier_contracts.problem import Problem
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
PATH = "/problems"
"""`type` of a problem is this path with the problem type's name; both are served without a token."""

_SHOWN_CHARACTERS = 80


@dataclass(frozen=True)
class ProblemType:
    """A kind of error that a client can test for.

    Attributes:
        name: last part of the `type` URI, such as `unknown-version`.
        status: HTTP status.
        description: one sentence: when it happens.
    """

    name: str
    status: int
    description: str

    @property
    def uri(self) -> str:
        return f"{PATH}/{self.name}"

    @property
    def title(self) -> str:
        return self.name.replace("-", " ").capitalize()


INVALID_REQUEST = ProblemType("invalid-request", 422, "A value breaks a rule; `detail` names field, rule and value.")
BODY_TOO_LARGE = ProblemType("body-too-large", 413, "The body is larger than any legal request to this path.")
NO_SUCH_PATH = ProblemType("no-such-path", 404, "No endpoint has this path.")
METHOD_NOT_ALLOWED = ProblemType("method-not-allowed", 405, "The endpoint does not take this method.")
INTERNAL_ERROR = ProblemType("internal-error", 500, "A fault of the service; its log holds the traceback under the request id.")

COMMON = (INVALID_REQUEST, BODY_TOO_LARGE, NO_SUCH_PATH, METHOD_NOT_ALLOWED, INTERNAL_ERROR)
_OF_ROUTING = {404: NO_SUCH_PATH, 405: METHOD_NOT_ALLOWED}


class ProblemError(Exception):
    """An error of this package. `str()` is the problem's `detail`."""

    type: ProblemType
    headers: ClassVar[Mapping[str, str]] = {}


def document(type: ProblemType, detail: str) -> Problem:
    return Problem(type=type.uri, title=type.title, status=type.status, detail=detail)


def response(
    type: ProblemType, detail: str, headers: Mapping[str, str] | None = None, members: Mapping[str, Any] | None = None
) -> Response:
    """A problem document.

    Args:
        type: of the problem.
        detail: the rule, the value received and what to do.
        headers: of the response.
        members: further members of the document (RFC 9457, section 3.2).
    """
    return JSONResponse(document(type, detail).model_dump() | dict(members or {}), type.status, headers, MEDIA_TYPE)


def respond(error: ProblemError) -> Response:
    """The response to an error of this package, for ASGI middleware, which stands outside the exception handlers."""
    return response(error.type, str(error), error.headers)


def _nothing(_: Exception) -> Mapping[str, Any]:
    return {}


class ProblemTable:
    """The one place where a service's errors become problem types.

    Args:
        root: of the service's error tree; `str()` of its errors may be shown to clients.
        types: class of errors to problem type; the nearest ancestor counts.
        headers: of the response to an error.
        members: further members of the document of an error.
    """

    def __init__(
        self,
        root: type[Exception],
        types: Mapping[type[Any], ProblemType],
        headers: Callable[[Any], Mapping[str, str]] = _nothing,
        members: Callable[[Any], Mapping[str, Any]] = _nothing,
    ) -> None:
        self._root, self._types, self._headers, self._members = root, types, headers, members

    def type_of(self, error: Exception) -> ProblemType:
        """`INTERNAL_ERROR` where the table has no ancestor of the error."""
        return next((self._types[kind] for kind in type(error).__mro__ if kind in self._types), INTERNAL_ERROR)

    def document(self, error: Exception) -> Problem:
        """The problem document; errors outside the tree show nothing of themselves."""
        return document(self.type_of(error), self._detail(error))

    def response(self, error: Exception, headers: Mapping[str, str] | None = None) -> Response:
        more = dict(self._headers(error)) | dict(headers or {})
        return response(self.type_of(error), self._detail(error), more, self._members(error))

    def _detail(self, error: Exception) -> str:
        return str(error) if isinstance(error, self._root) else "Internal server error; see the log"

    def install(self, app: FastAPI, others: Iterable[ProblemType] = ()) -> None:
        """Makes every error leave the application as a problem document, and serves the list of problem types.

        Args:
            app: the application.
            others: types that middleware answers with.
        """

        @app.exception_handler(self._root)
        async def of_the_service(_: Request, error: Exception) -> Response:
            return self.response(error)

        @app.exception_handler(ProblemError)
        async def of_this_package(_: Request, error: ProblemError) -> Response:
            return respond(error)

        @app.exception_handler(RequestValidationError)
        async def of_validation(_: Request, error: RequestValidationError) -> Response:
            return response(INVALID_REQUEST, readable(error.errors()))

        @app.exception_handler(HTTPException)
        async def of_routing(request: Request, error: HTTPException) -> Response:
            kind = _OF_ROUTING.get(error.status_code)
            kind = kind or ProblemType("http-error", error.status_code, HTTPStatus(error.status_code).phrase)
            return response(kind, f"{request.method} {request.url.path}: {error.detail}", error.headers)

        @app.exception_handler(Exception)
        async def unexpected(request: Request, _: Exception) -> Response:
            id = getattr(request.state, "request_id", "unknown")
            return response(INTERNAL_ERROR, f"Internal server error; the service's log has the details of request {id}")

        app.include_router(_catalogue(sorted({*self._types.values(), *COMMON, *others}, key=lambda each: each.name)))


def _catalogue(types: Sequence[ProblemType]) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    entries = {each.name: {"type": each.uri, "title": each.title, "status": each.status, "description": each.description}
               for each in types}  # fmt: skip

    @router.get(PATH)
    async def all_types() -> list[dict[str, Any]]:
        return list(entries.values())

    @router.get(PATH + "/{name}")
    async def one_type(name: str) -> dict[str, Any]:
        if name not in entries:
            raise HTTPException(404, f"no problem type {name!r}; {PATH} lists them all")
        return entries[name]

    return router


def documented(*statuses: int, models: Mapping[int, Sequence[str]] | None = None) -> dict[int | str, dict[str, Any]]:
    """`responses` of an endpoint for OpenAPI: problem documents with these statuses, and with those that every endpoint has.

    Args:
        statuses: beside 401, 403, 422 and 503.
        models: names of further schemas by status; see `add_schemas`.
    """
    found: dict[int | str, dict[str, Any]] = {}
    for status in sorted({401, 403, 422, 503, *statuses}):
        names = ["Problem", *(models or {}).get(status, ())]
        schemas = [{"$ref": f"#/components/schemas/{name}"} for name in names]
        found[status] = {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}},
        }
    return found


def add_schemas(app: FastAPI, *models: type[BaseModel]) -> None:
    """Adds schemas that no route names as its model, but `documented` refers to, to the application's OpenAPI document."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schemas = generate().setdefault("components", {}).setdefault("schemas", {})
            kinds: tuple[type[BaseModel], ...] = (Problem, *models)
            for model in kinds:
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas.update(schema.pop("$defs", {}))
                schemas[model.__name__] = schema
        return generate()

    app.openapi = openapi  # type: ignore[method-assign]


def readable(errors: Sequence[Any]) -> str:
    """Validation errors of pydantic as one line: field, rule, value received; then what to do."""
    return "; ".join(map(_rule, errors)) + ". Correct this and send the request again; /openapi.json describes every field."


def _rule(error: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in error["loc"][error["loc"][:1] == ("body",) :])
    rule: str = error["msg"].removeprefix("Value error, ")
    match error["type"]:
        case "json_invalid":
            return f"the body must be JSON: {error['ctx']['error']} at character {place}"
        case "missing" | "model_attributes_type" | "dict_type" | "model_type" if not place:
            return "the body must be a JSON object, sent with the header `Content-Type: application/json`"
        case "missing":
            return f"{place} is required"
        case "extra_forbidden":
            return f"{place} is not a field of this request"
        case "value_error" if not place:  # a rule about several fields names them and their values itself
            return rule
    received = json.dumps(error.get("input"), ensure_ascii=False, default=str)
    if len(received) > _SHOWN_CHARACTERS:
        received = f"{received[:_SHOWN_CHARACTERS]}… ({len(received)} characters)"
    return f"{place or 'the body'}: {rule}; received {received}"
