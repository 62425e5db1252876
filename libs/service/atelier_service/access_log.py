"""JSON logs: one object a line, and one such line for each request. Never a token, a query string, a prompt or a body."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import IO, Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499
"""Status in the log, as nginx writes it, for a request whose sender closed the connection before the response."""

REQUEST_ID_HEADER = "X-Request-ID"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

Measure = Callable[[str, str, int, float], None]
"""Receives the route's path template, the method, the status and the seconds of each request."""


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON; `extra={"fields": {...}}` adds fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logging(stream: IO[str]) -> None:
    """Sends every logger of the process to a stream, one JSON object a line, from INFO up."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class AccessLog:
    """ASGI middleware that logs each request when its response has ended, and gives it an id.

    The id is that of the request's `X-Request-ID` header where it is legal (1 to 64 letters, digits, `.`, `_`, `-`), else a new
    one; it is in the log line, in the response's header and in `request.state.request_id`. Routes add fields to
    `request.state.log`.

    Args:
        app: the application behind it.
        measure: called with each request that is logged.
        quiet: paths that are neither logged nor measured, such as health checks.
    """

    def __init__(self, app: ASGIApp, measure: Measure | None = None, quiet: Collection[str] = ()) -> None:
        self._app, self._measure, self._quiet = app, measure, frozenset(quiet)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), CLIENT_CLOSED_REQUEST
        received = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        request_id = received if _REQUEST_ID.fullmatch(received) else uuid.uuid4().hex
        extra: dict[str, Any] = {}
        state = scope.setdefault("state", {})
        state["request_id"], state["log"] = request_id, extra

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            status = 500  # the response is written further out
            raise
        finally:
            if scope["path"] not in self._quiet:
                seconds = time.perf_counter() - started
                if self._measure:
                    self._measure(getattr(scope.get("route"), "path", "other"), scope["method"], status, seconds)
                token = state.get("token")
                fields = {
                    "request_id": request_id,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "duration_ms": round(seconds * 1000, 1),
                    "token_id": token.id if token else None,
                    "role": token.role.name if token else None,
                }
                log.info("request", extra={"fields": fields | extra})
