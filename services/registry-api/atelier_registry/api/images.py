"""Endpoints that show: the training's images and curves, and what versions draw now."""

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
from atelier_registry.api.schemas import Curve, CurvePoint, Drawings, Drawn, DrawRequest, ImageInfo, Images
from atelier_registry.errors import StageError, UnknownImageError
from atelier_registry.models import catalogue
from atelier_registry.models.cached_registry import CachedRegistry
from atelier_registry.models.infer_client import InferClient
from atelier_registry.models.model_registry import Version
from atelier_registry.problems import documented


def image_router(recent: CachedRegistry, infer_client: InferClient) -> APIRouter:
    """The endpoints. They are plain functions, so that waiting happens in worker threads."""
    router = APIRouter(prefix="/models/{name}", tags=["images"], dependencies=[Depends(needs(Role.reader))])

    def found(name: str, number: int) -> Version:
        return catalogue.find_version(recent, catalogue.find_model(recent, name).name, number)

    @router.get("/versions/{version}/images", responses=documented(404) | openapi_examples.of(openapi_examples.IMAGES))
    def list_images(name: Name, version: Number) -> Images:
        """The validation images that the training logged, by key and step."""
        run_id = found(name, version).run_id
        root = f"/models/{quote(name, safe='')}/versions/{version}/image?path="
        return Images(
            images=[
                ImageInfo(key=image.key, step=image.step, path=root + quote(image.path, safe=""))
                for image in (recent.images(run_id) if run_id else [])
            ]
        )

    @router.get(
        "/versions/{version}/image",
        response_class=Response,
        responses=documented(404) | {200: {"description": "a PNG", "content": {"image/png": {}}}},
    )
    def get_image(
        name: Name, version: Number, path: Annotated[str, Query(min_length=1, max_length=500, description="as listed")]
    ) -> Response:
        """One of these images."""
        run_id = found(name, version).run_id
        png = recent.image(run_id, path) if run_id else None
        if png is None:
            raise UnknownImageError(f"version {version} of {name} has no image {path!r}; its /images lists those it has")
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
            raise UnknownImageError(f"version {version} of {name} has no metric {metric!r}; GET the version lists those it has")
        return Curve(metric=metric, points=[CurvePoint(step=point.step, value=point.value) for point in points])

    @router.post("/draw", responses=documented(400, 404) | openapi_examples.of(openapi_examples.DRAWINGS))
    def draw(name: Name, request: Annotated[DrawRequest, Body(openapi_examples=openapi_examples.DRAW)]) -> Drawings:
        """The same images by several versions, drawn now by infer, which serves what it served before."""
        model = catalogue.find_model(recent, name)
        numbers = list(dict.fromkeys(request.versions))
        for number in numbers:
            catalogue.find_version(recent, model.name, number)

        def one(number: int) -> Drawn:
            try:
                return Drawn(version=number, staged=infer_client.stage(model.name, number, request.images), problem=None)
            except StageError as error:
                return Drawn(version=number, staged=None, problem=str(error))

        with ThreadPoolExecutor(len(numbers)) as pool:
            return Drawings(drawn=list(pool.map(one, numbers)))

    return router
