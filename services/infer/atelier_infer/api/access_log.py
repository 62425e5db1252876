"""The log: one JSON object a line. Never a token, never a prompt."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atelier_infer.api.auth import OPEN

log = logging.getLogger(__name__)

CLIENT_GONE = 499
"""What nginx writes for a request whose sender hung up."""


class JsonLines(logging.Formatter):
    """A record's text, and the dictionary given as `extra={"fields": ...}`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class AccessLog:
    """Writes a line when a request ends. Routes add fields to `request.state.log`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Measures from the first byte to the last."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        fields: dict[str, Any] = {"method": scope["method"], "path": scope["path"], "status": CLIENT_GONE}
        scope.setdefault("state", {})["log"] = fields

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                fields["status"] = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception:
            fields["status"] = 500  # the answer is made further out
            raise
        finally:
            if scope["path"] not in OPEN:
                log.info("request", extra={"fields": fields | {"seconds": round(time.monotonic() - started, 3)}})
