"""Errors as HTTP responses: one table, one format (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from atelier_contracts.problem import Problem
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from atelier_infer import errors

MEDIA_TYPE = "application/problem+json"
INTERNAL_ERROR = "Internal server error; see the log"

STATUS: dict[type[errors.InferError], HTTPStatus] = {
    errors.LoginError: HTTPStatus.UNAUTHORIZED,
    errors.RoleError: HTTPStatus.FORBIDDEN,
    errors.BodySizeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.ImageSizeError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.StepsError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.BlendError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.NotAcceptableError: HTTPStatus.NOT_ACCEPTABLE,
    errors.InvalidImageError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.VersionChangedError: HTTPStatus.CONFLICT,
    errors.NoValidationImageError: HTTPStatus.NOT_FOUND,
    errors.WebhookUrlError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.UnknownJobError: HTTPStatus.NOT_FOUND,
    errors.IdempotencyConflictError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.UnknownModelError: HTTPStatus.NOT_FOUND,
    errors.UnknownVersionError: HTTPStatus.NOT_FOUND,
    errors.UnknownAliasError: HTTPStatus.NOT_FOUND,
    errors.NoChampionError: HTTPStatus.CONFLICT,
    errors.QueueFullError: HTTPStatus.TOO_MANY_REQUESTS,
    errors.UploadLimitError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.BodyTimeoutError: HTTPStatus.REQUEST_TIMEOUT,
    errors.VersionLoadingError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.OutOfMemoryError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.CancelledJobError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.DrainingError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.NotAnAdapterError: HTTPStatus.CONFLICT,
    errors.AdapterError: HTTPStatus.CONFLICT,
    errors.ArtifactSourceError: HTTPStatus.CONFLICT,
    errors.DigestMismatchError: HTTPStatus.CONFLICT,
    errors.NotPromotedError: HTTPStatus.CONFLICT,
    errors.BundleMismatchError: HTTPStatus.CONFLICT,
    errors.BundleMissingError: HTTPStatus.CONFLICT,
    errors.RevertedError: HTTPStatus.CONFLICT,
    errors.BundleError: HTTPStatus.BAD_GATEWAY,
    errors.CorruptFileError: HTTPStatus.BAD_GATEWAY,
    errors.NonFiniteError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.GraphError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.ProviderError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.CacheError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.TrackingError: HTTPStatus.SERVICE_UNAVAILABLE,
}

DOCUMENTED: dict[int | str, dict[str, Any]] = {
    status.value: {"description": text, "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}}
    for status, text in {
        HTTPStatus.UNAUTHORIZED: "No token, or an unknown one",
        HTTPStatus.FORBIDDEN: "The token's role does not allow this",
        HTTPStatus.NOT_FOUND: "No such version, alias, job or model; the detail lists those that exist",
        HTTPStatus.NOT_ACCEPTABLE: "Accept allows none of the available media types",
        HTTPStatus.REQUEST_TIMEOUT: "The body did not arrive in time",
        HTTPStatus.CONFLICT: "There is no champion, or the version does not fit its bundle",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is larger than any valid request",
        HTTPStatus.UNPROCESSABLE_ENTITY: "A value breaks a rule; the detail names rule, value and remedy",
        HTTPStatus.TOO_MANY_REQUESTS: "The queue is full; see Retry-After",
        HTTPStatus.INTERNAL_SERVER_ERROR: "The output was not finite, or running a graph failed",
        HTTPStatus.BAD_GATEWAY: "The registry returned damaged files",
        HTTPStatus.SERVICE_UNAVAILABLE: "Loading, out of memory, shutting down, or tracking is unavailable; see Retry-After",
    }.items()
}
"""For the OpenAPI document."""


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)
    return Response(body.model_dump_json(), status, headers, MEDIA_TYPE)


def as_problem(error: Exception) -> Problem:
    """Details of unexpected errors are not shown."""
    known = isinstance(error, errors.InferError)
    status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), HTTPStatus.INTERNAL_SERVER_ERROR)
    return Problem(title=status.phrase, status=status, detail=str(error) if known else INTERNAL_ERROR)


def problem_response(error: errors.InferError, *, close: bool = False) -> Response:
    """`close`: also closes the connection."""
    headers = {"Connection": "close"} if close else {}
    if isinstance(error, errors.BusyError):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, errors.TrackingError):
        headers["Retry-After"] = "5"
    if isinstance(error, errors.LoginError):
        headers["WWW-Authenticate"] = "Bearer"
    return Response(as_problem(error).model_dump_json(), as_problem(error).status, headers, MEDIA_TYPE)


def add_handlers(app: FastAPI) -> None:
    """Every error becomes a problem document."""

    async def known(request: Request, error: Exception) -> Response:
        assert isinstance(error, errors.InferError)
        return problem_response(error)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, describe(error.errors()))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return problem(error.status_code, str(error.detail), dict(error.headers or {}))

    async def unexpected(request: Request, error: Exception) -> Response:
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL_ERROR)

    app.add_exception_handler(errors.InferError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unexpected)


def describe(validation_errors: Sequence[Any]) -> str:
    """Pydantic's errors as text: field, rule, value received, remedy."""
    texts = []
    for error in validation_errors:
        where = ".".join(str(part) for part in error["loc"][1:])
        rule = error["msg"].removeprefix("Value error, ")
        if error["type"] == "json_invalid":
            texts.append(f"the body must be JSON: {error['ctx']['error']} at character {where}")
        elif not where and error["type"] in ("model_attributes_type", "dict_type", "model_type", "missing"):
            texts.append("the body must be a JSON object, sent with the header `Content-Type: application/json`")
        elif error["type"] == "missing":
            texts.append(f"{where or 'the body'} is required; received nothing")
        elif error["type"] == "value_error" and not where:  # a rule about several fields names them itself
            texts.append(rule)
        elif error["type"] == "extra_forbidden":
            texts.append(f"{where} is not a field of this request")
        else:
            texts.append(f"{where or 'the body'}: {rule}; received {_shown(error.get('input'))}")
    return "; ".join(texts) + ". Correct the request and send it again; /openapi.json lists all rules."


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:80] + f"… ({len(text)} characters)"
