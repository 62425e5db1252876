"""`GET /events`: moved aliases and edited styles as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from atelier_contracts.tokens import Role
from atelier_service.auth import require_role
from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from atelier_registry.errors import InvalidArgumentError
from atelier_registry.events.event_stream import EventStream
from atelier_registry.problems import documented

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "server-sent events; `id` is the cursor", "content": {"text/event-stream": {}}}
}


def _cursor(
    after: Annotated[
        int | None,
        Query(ge=0, lt=2**63, description="id of the last event received; 0: from the first; absent: from now on"),
    ] = None,
    last_event_id: Annotated[
        str | None, Header(alias="Last-Event-ID", max_length=20, description="as `after`, sent by browsers")
    ] = None,
) -> int | None:
    if after is not None or not last_event_id:
        return after
    if not last_event_id.isascii() or not last_event_id.isdecimal() or int(last_event_id) >= 2**63:
        raise InvalidArgumentError(f"Last-Event-ID must be the id of an event; received {last_event_id!r}")
    return int(last_event_id)


def event_router(event_stream: EventStream) -> APIRouter:
    router = APIRouter(tags=["events"], dependencies=[Depends(require_role(Role.reader))])

    @router.get("/events", response_class=EventSourceResponse, responses=documented() | _STREAM)
    async def get_events(
        request: Request,
        cursor: Annotated[int | None, Depends(_cursor)],
        follow: Annotated[bool, Query(description="false: end after the newest event")] = True,
    ) -> AsyncIterator[ServerSentEvent]:
        """Moved aliases and edited styles, oldest first, then as they happen. A comment every 15 s keeps the stream alive."""
        async for event in event_stream.stream(cursor, follow, request.state.token_is_valid):
            yield event

    return router
