"""Limits on a request's body before a route sees it: its size, and JSON that can be stored and sent again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atelier_service.problems import BODY_TOO_LARGE, INVALID_REQUEST, ProblemError, ProblemType, respond

MAX_DEPTH = 32
"""Levels of nesting; the deepest legal request has four."""

_METHODS = ("POST", "PUT", "PATCH", "DELETE")


class BodyError(ProblemError):
    """A body that no route takes."""

    def __init__(self, type: ProblemType, detail: str) -> None:
        super().__init__(detail)
        self.type = type


def check_json(body: bytes) -> None:
    """Refuses JSON that cannot be stored or sent again: lone surrogates, deep nesting, other encodings than UTF-8.

    Bodies that are not JSON are left to the route, which says where the fault is.

    Raises:
        BodyError: of the type `invalid-request`; the message names the rule.
    """
    try:
        value = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BodyError(INVALID_REQUEST, f"the body must be UTF-8; byte {error.start} is not; encode it so") from None
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError:
        return
    except ValueError:  # Python's own limit, against numbers that take quadratic time
        limit = sys.get_int_max_str_digits()
        raise BodyError(INVALID_REQUEST, f"a whole number may have at most {limit} digits; send a smaller one") from None
    _check(value, 0)


def _too_deep() -> BodyError:
    return BodyError(INVALID_REQUEST, f"the body may be nested at most {MAX_DEPTH} levels deep; flatten it")


def _check(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise _too_deep()
    if isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise BodyError(INVALID_REQUEST, f"text must be Unicode without lone surrogates; received {ascii(value)[:80]}")
    elif isinstance(value, dict):
        for name, item in value.items():
            _check(name, depth + 1)
            _check(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, depth + 1)


class BodyLimit:
    """ASGI middleware that reads a body up to a limit and checks it, and responds with 413 or 422 itself.

    Args:
        app: the application behind it.
        limit_bytes: largest body for a path; None leaves that path's bodies alone.
    """

    def __init__(self, app: ASGIApp, limit_bytes: Callable[[str], int | None]) -> None:
        self._app, self._limit_bytes = app, limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (limit := self._limit_bytes(scope["path"])) is None:
            await self._app(scope, receive, send)
            return
        try:
            messages = await _read(receive, limit)
            if scope["method"] in _METHODS and _is_json(scope) and messages[0].get("body"):
                check_json(messages[0]["body"])
        except BodyError as error:
            await respond(error)(scope, receive, send)
            return

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        await self._app(scope, replay, send)


async def _read(receive: Receive, limit: int) -> list[Message]:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return [message]
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise BodyError(BODY_TOO_LARGE, f"the body may have at most {limit} bytes; received more; shorten the request")
        if not message.get("more_body", False):
            return [{"type": "http.request", "body": b"".join(parts), "more_body": False}]


def _is_json(scope: Scope) -> bool:
    media = Headers(scope=scope).get("content-type", "application/json")
    return media.split(";")[0].strip().lower().endswith("json")
