"""What every HTTP service asks of a request's body before a route sees it: a size, and JSON that can be written again."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

MAX_DEPTH = 32
"""Levels of nesting; the deepest legal request has four."""

_METHODS = ("POST", "PUT", "PATCH", "DELETE")


class BodyError(ValueError):
    """A body that no route takes. `status` is the HTTP status."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def check_json(body: bytes) -> None:
    """Refuses JSON that cannot be kept or answered with: lone surrogates, deep nesting, something else than UTF-8.

    Bodies that are no JSON at all are left to the route, which says where the fault is.

    Raises:
        BodyError: with the status 422; the message names the rule.
    """
    try:
        value = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BodyError(422, f"the body must be UTF-8; byte {error.start} is not. Encode it and send it again") from None
    except RecursionError:
        raise BodyError(422, f"the body may be nested at most {MAX_DEPTH} levels deep") from None
    except json.JSONDecodeError:
        return
    except ValueError:  # Python's own limit, against numbers that take quadratic time
        raise BodyError(
            422, f"a whole number may have at most {sys.get_int_max_str_digits()} digits; send a smaller one"
        ) from None
    _check(value, 0)


def _check(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise BodyError(422, f"the body may be nested at most {MAX_DEPTH} levels deep")
    if isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise BodyError(422, f"text must be Unicode without lone surrogates; received {ascii(value)[:80]}")
    elif isinstance(value, dict):
        for name, item in value.items():
            _check(name, depth + 1)
            _check(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, depth + 1)


class RequestBodies:
    """ASGI middleware that reads a body up to a limit and checks it, and answers 413 or 422 itself.

    Args:
        app: what comes behind it.
        limit_bytes: of a body on a path; None leaves that path's bodies alone.
    """

    def __init__(self, app: App, limit_bytes: Callable[[str], int | None]) -> None:
        self._app, self._limit_bytes = app, limit_bytes

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Passes on with a `receive` that gives the whole body in one message."""
        if scope["type"] != "http" or (limit := self._limit_bytes(scope["path"])) is None:
            await self._app(scope, receive, send)
            return
        try:
            messages = await _read(receive, limit)
            if scope["method"] in _METHODS and _is_json(scope) and messages[0].get("body"):
                check_json(messages[0]["body"])
        except BodyError as error:
            await _answer(error, send)
            return

        async def again() -> Message:
            return messages.pop(0) if messages else await receive()

        await self._app(scope, again, send)


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
            raise BodyError(413, f"a body may have at most {limit} bytes here; received more. Shorten the request")
        if not message.get("more_body", False):
            return [{"type": "http.request", "body": b"".join(parts), "more_body": False}]


def _is_json(scope: MutableMapping[str, Any]) -> bool:
    media = next((value for name, value in scope["headers"] if name == b"content-type"), b"application/json")
    return media.split(b";")[0].strip().lower().endswith(b"json")


async def _answer(error: BodyError, send: Send) -> None:
    titles = {413: "Content Too Large", 422: "Unprocessable Content"}
    body = json.dumps({"type": "about:blank", "title": titles[error.status], "status": error.status, "detail": str(error)})
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})
