"""The access log: one JSON object per line, without tokens and prompts."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atelier_infer.api.auth import OPEN

log = logging.getLogger(__name__)

CLIENT_GONE = 499
"""nginx's status for a client that closed the connection."""


class JsonLines(logging.Formatter):
    """The message, and the dictionary given as `extra={"fields": ...}`."""

    def format(self, record: logging.LogRecord) -> str:
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
    """Logs every request when it ends. Routes add fields to `request.state.log`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        fields: dict[str, Any] = {"method": scope["method"], "path": scope["path"], "status": CLIENT_GONE}
        scope.setdefault("state", {})["log"] = fields

        async def send_and_record(message: Message) -> None:
            if message["type"] == "http.response.start":
                fields["status"] = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_record)
        except Exception:
            fields["status"] = 500  # an outer handler sends the response
            raise
        finally:
            if scope["path"] not in OPEN:
                log.info("request", extra={"fields": fields | {"seconds": round(time.monotonic() - started, 3)}})
