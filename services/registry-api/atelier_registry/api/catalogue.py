"""Endpoints that list, inspect and compare models and versions."""

from __future__ import annotations

from typing import Annotated

from atelier_contracts.identifiers import ModelName, VersionNumber
from atelier_contracts.names import CHAIN_MODEL
from atelier_contracts.tokens import Role
from atelier_service.auth import require_role
from fastapi import APIRouter, Depends, Header, Path, Query

from atelier_registry.api import openapi_examples
from atelier_registry.api.schemas import ModelPage, VersionPage
from atelier_registry.models import catalogue
from atelier_registry.models.cached_registry import CachedRegistry
from atelier_registry.models.integrity_monitor import IntegrityMonitor
from atelier_registry.models.views import Comparison, ModelSummary, VersionDetail
from atelier_registry.problems import documented

Limit = Annotated[int, Query(ge=1, le=100, description="entries on a page")]
PageToken = Annotated[str | None, Query(max_length=1000, description="next_page_token of the previous page")]
Name = Annotated[ModelName, Path(description="name of a registered model", examples=["pencil"])]
Number = Annotated[VersionNumber, Path(description="version number", examples=[4])]
CacheControl = Annotated[str | None, Header(max_length=200, description="no-cache: ask MLflow, whatever is cached")]


def catalogue_router(registry: CachedRegistry, integrity: IntegrityMonitor) -> APIRouter:
    """Endpoints are plain functions, so that they wait for MLflow in worker threads."""
    router = APIRouter(prefix="/models", tags=["catalogue"], dependencies=[Depends(require_role(Role.reader))])

    def with_problems(model: ModelSummary) -> ModelSummary:
        return model.model_copy(update={"problems": integrity.problems(model.name)})

    @router.get("", responses=documented() | openapi_examples.of({"models": [openapi_examples.MODEL], "next_page_token": None}))
    def list_models(limit: Limit = 20, page_token: PageToken = None, cache_control: CacheControl = None) -> ModelPage:
        """Models by name, with their aliases and latest versions."""
        page = registry.reader(cache_control).models(limit, page_token)
        models = [with_problems(catalogue.summarize_model(model)) for model in page.items if model.name != CHAIN_MODEL]
        return ModelPage(models=models, next_page_token=page.next_token)

    @router.get("/{name}", responses=documented(404) | openapi_examples.of(openapi_examples.MODEL))
    def get_model(name: Name, cache_control: CacheControl = None) -> ModelSummary:
        """A model, with its aliases and its latest version."""
        return with_problems(catalogue.summarize_model(catalogue.find_model(registry.reader(cache_control), name)))

    @router.get(
        "/{name}/versions",
        responses=documented(404) | openapi_examples.of({"versions": [openapi_examples.VERSION], "next_page_token": None}),
    )
    def list_versions(
        name: Name,
        limit: Limit = 20,
        page_token: PageToken = None,
        runs: Annotated[bool, Query(description="include each version's parameters and metrics")] = False,
        cache_control: CacheControl = None,
    ) -> VersionPage:
        """Versions of a model, newest first."""
        reader = registry.reader(cache_control)
        model = catalogue.find_model(reader, name)
        page = reader.versions(model.name, limit, page_token)
        run_of = reader.runs([version.run_id for version in page.items if version.run_id]) if runs else {}
        versions = [catalogue.summarize_version(version, model, run_of.get(version.run_id or "")) for version in page.items]
        return VersionPage(versions=versions, next_page_token=page.next_token)

    @router.get("/{name}/versions/{version}", responses=documented(404) | openapi_examples.of(openapi_examples.DETAIL))
    def inspect_version(name: Name, version: Number, cache_control: CacheControl = None) -> VersionDetail:
        """A version, with its run's parameters and metrics, its lineage and its evidence."""
        detail = catalogue.inspect(registry.reader(cache_control), name, version)
        problem = integrity.problem(name, version)
        return detail.model_copy(update={"problems": [*detail.problems, problem]}) if problem else detail

    @router.get("/{name}/compare", responses=documented(404) | openapi_examples.of(openapi_examples.COMPARISON))
    def compare(
        name: Name,
        left: Annotated[VersionNumber, Query(description="a version", examples=[3])],
        right: Annotated[VersionNumber, Query(description="another version", examples=[4])],
        cache_control: CacheControl = None,
    ) -> Comparison:
        """Two versions side by side: the parameters that differ, and every metric."""
        return catalogue.compare(registry.reader(cache_control), name, left, right)

    return router
