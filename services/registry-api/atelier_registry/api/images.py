"""Endpoints that show: the training's pictures and curves, and what versions draw now."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Annotated
from urllib.parse import quote

from atelier_contracts.tokens import Role
from fastapi import APIRouter, Body, Depends, Query, Response
from fastapi import Path as InPath

from atelier_registry.api import openapi_examples
from atelier_registry.api.auth import needs
from atelier_registry.api.catalogue import Name, Number
from atelier_registry.api.schemas import Curve, CurvePoint, Drawings, Drawn, DrawRequest, PictureInfo, Pictures
from atelier_registry.errors import StageError, UnknownPictureError
from atelier_registry.models import catalogue
from atelier_registry.models.cached_registry import CachedRegistry
from atelier_registry.models.infer_client import InferClient
from atelier_registry.models.model_registry import Version
from atelier_registry.problems import documented


def picture_router(recent: CachedRegistry, infer_client: InferClient) -> APIRouter:
    """The endpoints. They are plain functions, so that waiting happens in worker threads."""
    router = APIRouter(prefix="/models/{name}", tags=["pictures"], dependencies=[Depends(needs(Role.reader))])

    def found(name: str, number: int) -> Version:
        return catalogue.find_version(recent, catalogue.find_model(recent, name).name, number)

    @router.get("/versions/{version}/pictures", responses=documented(404) | openapi_examples.of(openapi_examples.PICTURES))
    def list_pictures(name: Name, version: Number) -> Pictures:
        """The validation pictures that the training logged, by key and step."""
        run_id = found(name, version).run_id
        root = f"/models/{quote(name, safe='')}/versions/{version}/picture?path="
        return Pictures(
            pictures=[
                PictureInfo(key=picture.key, step=picture.step, path=root + quote(picture.path, safe=""))
                for picture in (recent.pictures(run_id) if run_id else [])
            ]
        )

    @router.get(
        "/versions/{version}/picture",
        response_class=Response,
        responses=documented(404) | {200: {"description": "a PNG", "content": {"image/png": {}}}},
    )
    def get_picture(
        name: Name, version: Number, path: Annotated[str, Query(min_length=1, max_length=500, description="as listed")]
    ) -> Response:
        """One of these pictures."""
        run_id = found(name, version).run_id
        png = recent.picture(run_id, path) if run_id else None
        if png is None:
            raise UnknownPictureError(f"version {version} of {name} has no picture {path!r}; its /pictures lists those it has")
        return Response(png, media_type="image/png", headers={"Cache-Control": "private, max-age=86400, immutable"})

    @router.get(
        "/versions/{version}/curves/{metric:path}", responses=documented(404) | openapi_examples.of(openapi_examples.CURVE)
    )
    def get_curve(
        name: Name,
        version: Number,
        metric: Annotated[str, InPath(min_length=1, max_length=250, description="name of a metric", examples=["ema_loss"])],
    ) -> Curve:
        """The course of one metric over the training's steps."""
        run_id = found(name, version).run_id
        points = recent.curve(run_id, metric) if run_id else []
        if not points:
            raise UnknownPictureError(
                f"version {version} of {name} has no metric {metric!r}; GET the version lists those it has"
            )
        return Curve(metric=metric, points=[CurvePoint(step=point.step, value=point.value) for point in points])

    @router.post("/draw", responses=documented(400, 404) | openapi_examples.of(openapi_examples.DRAWINGS))
    def draw(name: Name, request: Annotated[DrawRequest, Body(openapi_examples=openapi_examples.DRAW)]) -> Drawings:
        """The same pictures by several versions, drawn now by infer, which serves what it served before."""
        model = catalogue.find_model(recent, name)
        numbers = list(dict.fromkeys(request.versions))
        for number in numbers:
            catalogue.find_version(recent, model.name, number)

        def one(number: int) -> Drawn:
            try:
                return Drawn(version=number, staged=infer_client.stage(model.name, number, request.pictures), problem=None)
            except StageError as error:
                return Drawn(version=number, staged=None, problem=str(error))

        with ThreadPoolExecutor(len(numbers)) as pool:
            return Drawings(drawn=list(pool.map(one, numbers)))

    return router
