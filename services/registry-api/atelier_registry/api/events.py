"""`GET /events`: moved aliases as server-sent events."""

from __future__ import annotations

from typing import Annotated, Any

from atelier_contracts.tokens import Role
from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import StreamingResponse

from atelier_registry.api.auth import needs
from atelier_registry.errors import InvalidArgumentError
from atelier_registry.events.event_stream import EventStream
from atelier_registry.problems import documented

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "server-sent events; `id` is the cursor", "content": {"text/event-stream": {}}}
}


def event_router(event_stream: EventStream) -> APIRouter:
    router = APIRouter(tags=["events"], dependencies=[Depends(needs(Role.reader))])

    @router.get("/events", response_class=StreamingResponse, responses=documented() | _STREAM)
    async def get_events(
        request: Request,
        after: Annotated[
            int | None,
            Query(ge=0, lt=2**63, description="id of the last event received; 0: from the first; absent: from now on"),
        ] = None,
        follow: Annotated[bool, Query(description="false: end after the newest event")] = True,
        last_event_id: Annotated[
            str | None, Header(alias="Last-Event-ID", max_length=20, description="as `after`, sent by browsers")
        ] = None,
    ) -> StreamingResponse:
        """Moved aliases, oldest first, then as they happen. A comment every 15 s keeps an idle stream alive."""
        if after is None and last_event_id:
            if not last_event_id.isascii() or not last_event_id.isdecimal() or int(last_event_id) >= 2**63:
                raise InvalidArgumentError(f"Last-Event-ID must be the id of an event; received {last_event_id!r}")
            after = int(last_event_id)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # nginx would buffer events
        events = event_stream.stream(after, follow, request.state.still_allowed)
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    return router
