"""Endpoints for images and curves: those that the training logged, and images that versions generate now."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Annotated
from urllib.parse import quote

from atelier_contracts.tokens import Role
from atelier_service.auth import require_role
from fastapi import APIRouter, Body, Depends, Query, Response
from fastapi import Path as InPath

from atelier_registry.api import openapi_examples
from atelier_registry.api.catalogue import Name, Number
from atelier_registry.api.schemas import (
    Curve,
    CurvePoint,
    GeneratedImages,
    GenerateImagesRequest,
    ImageInfo,
    Images,
    VersionImages,
)
from atelier_registry.errors import StageError, UnknownImageError
from atelier_registry.models import catalogue
from atelier_registry.models.cached_registry import CachedRegistry
from atelier_registry.models.infer_client import InferClient
from atelier_registry.problems import documented


def image_router(registry: CachedRegistry, infer_client: InferClient) -> APIRouter:
    """Endpoints are plain functions, so that they wait for MLflow and infer in worker threads."""
    router = APIRouter(prefix="/models/{name}", tags=["images"], dependencies=[Depends(require_role(Role.reader))])

    def run_id_of(name: str, number: int) -> str | None:
        return catalogue.find_version(registry, catalogue.find_model(registry, name).name, number).run_id

    @router.get("/versions/{version}/images", responses=documented(404) | openapi_examples.of(openapi_examples.IMAGES))
    def list_images(name: Name, version: Number) -> Images:
        """Validation images that the training logged, by key and step."""
        run_id = run_id_of(name, version)
        root = f"/models/{quote(name, safe='')}/versions/{version}/image?path="
        return Images(
            images=[
                ImageInfo(key=image.key, step=image.step, path=root + quote(image.path, safe=""))
                for image in (registry.images(run_id) if run_id else [])
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
        run_id = run_id_of(name, version)
        png = registry.image(run_id, path) if run_id else None
        if png is None:
            raise UnknownImageError(f"version {version} of {name} has no image {path!r}; GET …/images lists those it has")
        return Response(png, media_type="image/png", headers={"Cache-Control": "private, max-age=86400, immutable"})

    @router.get(
        "/versions/{version}/curves/{metric:path}", responses=documented(404) | openapi_examples.of(openapi_examples.CURVE)
    )
    def get_curve(
        name: Name,
        version: Number,
        metric: Annotated[str, InPath(min_length=1, max_length=250, description="name of a metric", examples=["ema_loss"])],
    ) -> Curve:
        """Values of a metric over the steps of the training."""
        run_id = run_id_of(name, version)
        points = registry.curve(run_id, metric) if run_id else []
        if not points:
            raise UnknownImageError(f"version {version} of {name} has no metric {metric!r}; GET the version for those it has")
        return Curve(metric=metric, points=[CurvePoint(step=point.step, value=point.value) for point in points])

    @router.post("/generate", responses=documented(400, 404) | openapi_examples.of(openapi_examples.GENERATED))
    def generate_images(
        name: Name, request: Annotated[GenerateImagesRequest, Body(openapi_examples=openapi_examples.GENERATE)]
    ) -> GeneratedImages:
        """The same images by several versions, generated now by infer. What infer serves does not change."""
        model = catalogue.find_model(registry, name)
        numbers = list(dict.fromkeys(request.versions))
        for number in numbers:
            catalogue.find_version(registry, model.name, number)

        def generate(number: int) -> VersionImages:
            try:
                staged = infer_client.stage(model.name, number, request.images)
            except StageError as error:
                return VersionImages(version=number, staged=None, problem=str(error))
            return VersionImages(version=number, staged=staged, problem=None)

        with ThreadPoolExecutor(len(numbers)) as pool:
            return GeneratedImages(results=list(pool.map(generate, numbers)))

    return router
