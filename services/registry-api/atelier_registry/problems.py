"""Errors as HTTP answers: one table gives the tree in `errors.py` its statuses; every body is a problem document (RFC 9457)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from atelier_contracts.generate import Problem
from atelier_contracts.promotion import RefusedProblem
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from atelier_registry import errors

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5

_LOGIN = {"WWW-Authenticate": 'Bearer realm="atelier"'}
_LOGIN_AGAIN = {"WWW-Authenticate": 'Bearer realm="atelier", error="invalid_token"'}
_LATER = {"Retry-After": str(RETRY_AFTER_S)}

STATUS: dict[type[errors.RegistryApiError], tuple[int, dict[str, str]]] = {
    errors.TokenMissingError: (401, _LOGIN),
    errors.TokenUnknownError: (401, _LOGIN_AGAIN),
    errors.RoleTooLowError: (403, {}),
    errors.SelfApprovalError: (403, {}),
    errors.UnknownModelError: (404, {}),
    errors.UnknownVersionError: (404, {}),
    errors.UnknownAliasError: (404, {}),
    errors.UnknownDecisionError: (404, {}),
    errors.UnknownImageError: (404, {}),
    errors.UnknownSubscriberError: (404, {}),
    errors.InvalidArgumentError: (422, {}),
    errors.PolicyRefusedError: (409, {}),
    errors.NoEarlierVersionError: (409, {}),
    errors.NotProposedError: (409, {}),
    errors.AliasedError: (409, {}),
    errors.PreconditionError: (412, {}),
    errors.KeyReusedError: (422, {}),
    errors.UnreadableFileError: (409, {}),
    errors.StageRefusedError: (409, {}),
    errors.StageUnavailableError: (503, _LATER),
    errors.StageBusyError: (503, _LATER),
    errors.TrackingUnavailableError: (503, _LATER),
    errors.DatabaseUnavailableError: (503, _LATER),
    errors.AliasBusyError: (503, _LATER),
    errors.AnchorUnavailableError: (503, _LATER),
}
"""The one place where an error becomes a status and headers; a test holds it complete."""


def answer(error: errors.RegistryApiError) -> JSONResponse:
    """The answer to an error of the tree. What was behind an `UnavailableError` goes to the log, not to the caller."""
    status, headers = STATUS[type(error)]
    if isinstance(error, errors.UnavailableError):
        log.warning("%s: %s", type(error).__name__, str(error.__cause__ or error)[:500])
    if isinstance(error, errors.PolicyRefusedError):
        decision = error.decision
        refused = RefusedProblem(
            title=HTTPStatus(status).phrase,
            status=status,
            detail=str(error),
            decision=decision.id,
            verdicts=decision.verdicts,
            chain_entry=decision.chain_entry,
            chain_hash=decision.chain_hash,
        )
        return JSONResponse(refused.model_dump(), status, headers, media_type=MEDIA_TYPE)
    return _document(status, str(error), headers)


def install(app: FastAPI) -> None:
    """Makes every error leave the app as a problem document."""

    @app.exception_handler(errors.RegistryApiError)
    async def of_the_tree(_: Request, error: errors.RegistryApiError) -> JSONResponse:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def of_validation(_: Request, error: RequestValidationError) -> JSONResponse:
        return _document(422, _readable(error.errors()))

    @app.exception_handler(HTTPException)
    async def of_routing(request: Request, error: HTTPException) -> JSONResponse:
        return _document(error.status_code, f"{request.method} {request.url.path}: {error.detail}", dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def of_us(_: Request, error: Exception) -> JSONResponse:
        return _document(500, "an error of this service, not of the request; the log of registry-api has the details")


def describe(app: FastAPI, *models: type[BaseModel]) -> None:
    """Adds the problem documents to the schemas that `documented` refers to."""
    made = app.openapi

    def with_problems() -> dict[str, Any]:
        if app.openapi_schema is None:
            schemas = made().setdefault("components", {}).setdefault("schemas", {})
            for model in models:
                found = model.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas.update(found.pop("$defs", {}))
                schemas[model.__name__] = found
        return made()

    app.openapi = with_problems  # type: ignore[method-assign]


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an endpoint in OpenAPI: problem documents of these statuses, and those that every endpoint has."""
    refused = {"anyOf": [_reference("Problem"), _reference("RefusedProblem")]}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": refused if status == 409 else _reference("Problem")}},
        }
        for status in sorted({401, 422, 503, *statuses})
    }


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _document(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    problem = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)
    return JSONResponse(problem.model_dump(), status, headers, media_type=MEDIA_TYPE)


def _readable(found: Sequence[Any]) -> str:
    """All validation errors in one line: where, the rule, the value received, and what to do."""
    return "; ".join(map(_rule, found)) + ". Correct this and send the request again; /openapi.json describes every field"


def _rule(error: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in error["loc"])
    match error["type"], error["loc"]:
        case "json_invalid", _:
            return f"body is not JSON: {error['ctx']['error']}"
        case _, ("body",):
            return "body must be a JSON object, sent with `Content-Type: application/json`"
        case "missing", _:
            return f"{place} is required and was not sent"
        case "extra_forbidden", _:
            return f"{place} is not a field of this request"
    received = repr(error["input"])
    return f"{place}: {error['msg']}; received {received if len(received) <= 80 else received[:80] + '…'}"
