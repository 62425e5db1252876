"""Endpoints about styles: what people should know of a model's versions, with a picture."""

from __future__ import annotations

import hashlib
from typing import Annotated

from atelier_contracts.identifiers import VersionNumber
from atelier_contracts.names import CHAMPION
from atelier_contracts.promotion import Decision, EditStyleRequest
from atelier_contracts.tokens import Role
from atelier_service import previews
from atelier_service.auth import require_role
from fastapi import APIRouter, Body, Depends, Header, Query, Response

from atelier_registry.api import openapi_examples
from atelier_registry.api.caller import caller
from atelier_registry.api.catalogue import CacheControl, Name, Number
from atelier_registry.api.schemas import EffectiveStyle
from atelier_registry.decisions.caller import Caller
from atelier_registry.decisions.styles.style_editor import StyleEditor, style_etag
from atelier_registry.errors import UnknownImageError
from atelier_registry.models.cached_registry import CachedRegistry
from atelier_registry.models.catalogue import find_model, find_version
from atelier_registry.problems import documented
from atelier_registry.storage.ledger import Ledger

Promoter = Annotated[Caller, Depends(caller(Role.promoter))]
IfNoneMatch = Annotated[str | None, Header(alias="If-None-Match", max_length=500, description="ETags that the client has")]


def style_router(registry: CachedRegistry, editor: StyleEditor, ledger: Ledger) -> APIRouter:
    """Endpoints are plain functions, so that they wait for MLflow in worker threads."""
    router = APIRouter(prefix="/models/{name}", tags=["styles"])

    @router.get(
        "/style",
        dependencies=[Depends(require_role(Role.reader))],
        responses=documented(404) | openapi_examples.of(openapi_examples.STYLE),
    )
    def get_style(
        name: Name,
        response: Response,
        version: Annotated[VersionNumber | None, Query(description="of this version; of the champion if absent")] = None,
        cache_control: CacheControl = None,
    ) -> EffectiveStyle:
        """The effective style of a version, and where each field comes from. The ETag of the champion's is for If-Match."""
        shown = editor.show(registry.reader(cache_control), name, version)
        response.headers["ETag"] = shown.etag
        return EffectiveStyle(
            model=shown.model,
            version=shown.version,
            style=shown.style,
            sources=shown.sources,
            edits=shown.recorded.edits,
            decision=shown.recorded.decision or None,
            preview=shown.preview,
            problem=shown.problem,
        )

    @router.patch("/style", responses=documented(400, 403, 404, 412) | openapi_examples.of(openapi_examples.STYLE_DECISION))
    def edit_style(
        name: Name,
        request: Annotated[EditStyleRequest, Body(openapi_examples=openapi_examples.EDIT_STYLE)],
        caller: Promoter,
        response: Response,
    ) -> Decision:
        """Edits the style of a model, for all of its versions. Repeating an edit changes nothing."""
        decision = editor.edit(caller, name, request)
        champion = find_model(registry, name).aliases.get(CHAMPION)
        response.headers["ETag"] = style_etag(champion, ledger.style_changes.last(name))
        return decision

    @router.get(
        "/versions/{version}/preview",
        dependencies=[Depends(require_role(Role.reader))],
        response_class=Response,
        responses=documented(404, 409) | {200: {"description": "a WebP", "content": {previews.MEDIA_TYPE: {}}}},
    )
    def get_preview(name: Name, version: Number, if_none_match: IfNoneMatch = None) -> Response:
        """A picture of the version's style."""
        find_version(registry, find_model(registry, name).name, version)
        content = registry.preview(name, version)
        if content is None:
            raise UnknownImageError(f"version {version} of {name} has no preview; import or train a version with one")
        try:
            picture = previews.reencode(content)
        except previews.InvalidPreview as error:
            raise UnknownImageError(f"version {version} of {name} has no preview: {error}") from error
        etag = f'"{hashlib.sha256(picture).hexdigest()[:32]}"'
        headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
        if etag in [part.strip().removeprefix("W/") for part in (if_none_match or "").split(",")]:
            return Response(status_code=304, headers=headers)
        return Response(picture, media_type=previews.MEDIA_TYPE, headers=headers)

    return router
