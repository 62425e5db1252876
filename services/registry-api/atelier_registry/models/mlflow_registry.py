"""The `ModelRegistry` on an MLflow server."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

from atelier_contracts.names import CHAIN_MODEL, TAG_CHAIN_HEAD
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient

from atelier_registry.errors import InvalidArgumentError
from atelier_registry.models.mlflow_artifacts import MlflowArtifacts
from atelier_registry.models.mlflow_client import call
from atelier_registry.models.model_registry import FILES, AdapterFiles, Image, Model, Page, Point, Run, Version

_MAX_VERSION = 2**31 - 1  # MLflow stores version numbers in a 32-bit column, and fails on larger ones
_CHAIN_MODEL_DESCRIPTION = "Holds the newest hash of registry-api's decisions. It has no versions."


class MlflowRegistry:
    """Uses MLflow's own client; each method makes one request unless it says otherwise. Safe to use from several threads."""

    def __init__(self, tracking_uri: str) -> None:
        self._client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        self._artifacts = MlflowArtifacts(self._client, tracking_uri)
        self._experiment_ids: list[str] = []  # a search for runs must name every experiment

    def ping(self) -> None:
        call(lambda: self._client.search_registered_models(max_results=1))

    def models(self, limit: int, page_token: str | None) -> Page[Model]:
        _check_page_token(page_token)
        page = call(
            lambda: self._client.search_registered_models(max_results=limit, order_by=["name ASC"], page_token=page_token)
        )
        return Page([_model(item) for item in page], page.token or None) if page is not None else Page([])

    def model(self, name: str) -> Model | None:
        """A search: MLflow's request by name loads every version of the model."""
        if {"'", '"'} <= set(name) or set(":/") & set(name):  # cannot be searched for, or be a name: MLflow says so
            item = call(lambda: self._client.get_registered_model(name))
            return _model(item) if item is not None else None
        page = call(lambda: self._client.search_registered_models(f"name = {_quoted(name)}", max_results=1))
        return next((_model(item) for item in page or [] if item.name == name), None)

    def versions(self, name: str, limit: int, page_token: str | None) -> Page[Version]:
        _check_page_token(page_token)
        page = call(
            lambda: self._client.search_model_versions(
                f"name = {_quoted(name)}", max_results=limit, order_by=["version_number DESC"], page_token=page_token
            )
        )
        return Page([_version(item) for item in page], page.token or None) if page is not None else Page([])

    def version(self, name: str, number: int) -> Version | None:
        if number > _MAX_VERSION:
            return None
        item = call(lambda: self._client.get_model_version(name, str(number)))
        return _version(item) if item is not None else None

    def run(self, run_id: str) -> Run | None:
        item = call(lambda: self._client.get_run(run_id))
        return _run(item) if item is not None else None

    def runs(self, run_ids: Sequence[str]) -> dict[str, Run]:
        """One request, and two more when a run belongs to an experiment that is not known yet."""
        ids = sorted({run_id for run_id in run_ids if re.fullmatch(r"[0-9a-f]{32}", run_id)})
        if not ids:
            return {}
        runs = self._search_runs(ids, self._experiments(refresh=False))
        if len(runs) < len(ids):
            runs = self._search_runs(ids, self._experiments(refresh=True))
        return runs

    def curve(self, run_id: str, metric: str) -> list[Point]:
        points = call(lambda: self._client.get_metric_history(run_id, metric)) or []
        return [Point(int(point.step), float(point.value)) for point in points]

    def images(self, run_id: str) -> list[Image]:
        return self._artifacts.images(run_id)

    def image(self, run_id: str, path: str) -> bytes | None:
        """Two requests."""
        return self._artifacts.image(run_id, path)

    def preview(self, name: str, number: int) -> bytes | None:
        """Three requests."""
        return self._artifacts.preview(name, number)

    def files(self, name: str, number: int, wanted: Collection[str] = FILES) -> dict[str, str]:
        """Two requests, and one per file."""
        return self._artifacts.files(name, number, wanted)

    def adapter_files(self, name: str, number: int) -> AdapterFiles:
        """Two requests, and one per file."""
        return self._artifacts.adapter_files(name, number)

    def set_alias(self, name: str, alias: str, number: int) -> bool:
        def request() -> bool:
            self._client.set_registered_model_alias(name, alias, str(number))
            return True

        return number <= _MAX_VERSION and bool(call(request))

    def set_tag(self, name: str, number: int, key: str, value: str) -> bool:
        def request() -> bool:
            self._client.set_model_version_tag(name, str(number), key, value)
            return True

        return number <= _MAX_VERSION and bool(call(request))

    def set_model_tag(self, name: str, key: str, value: str) -> bool:
        def request() -> bool:
            self._client.set_registered_model_tag(name, key, value)
            return True

        return bool(call(request))

    def chain_head(self) -> str | None:
        model = call(lambda: self._client.get_registered_model(CHAIN_MODEL))
        return dict(model.tags).get(TAG_CHAIN_HEAD) if model is not None else None

    def set_chain_head(self, value: str) -> None:
        """Creates the registered model where it is missing."""
        if not self.set_model_tag(CHAIN_MODEL, TAG_CHAIN_HEAD, value):
            call(lambda: self._client.create_registered_model(CHAIN_MODEL, description=_CHAIN_MODEL_DESCRIPTION))
            self.set_model_tag(CHAIN_MODEL, TAG_CHAIN_HEAD, value)

    def _search_runs(self, ids: list[str], experiment_ids: list[str]) -> dict[str, Run]:
        quoted = ", ".join(f"'{run_id}'" for run_id in ids)
        page = call(
            lambda: self._client.search_runs(
                experiment_ids,
                f"attributes.run_id IN ({quoted})",
                run_view_type=ViewType.ALL,
                max_results=len(ids),
            )
        )
        return {item.info.run_id: _run(item) for item in page or []}

    def _experiments(self, *, refresh: bool) -> list[str]:
        if refresh or not self._experiment_ids:
            ids: list[str] = []
            token = None
            while True:
                page = call(lambda: self._client.search_experiments(ViewType.ALL, max_results=1000, page_token=token))
                ids += [experiment.experiment_id for experiment in page or []]
                if page is None or not (token := page.token):
                    break
            self._experiment_ids = ids
        return self._experiment_ids


def _check_page_token(page_token: str | None) -> None:
    """Refuses what MLflow's base64 decoder would answer with a status that looks like an outage."""
    if page_token is not None and not re.fullmatch(r"[A-Za-z0-9+/=_-]+", page_token):
        raise InvalidArgumentError(f"page_token must be the next_page_token of the previous page; received {page_token!r}")


def _quoted(name: str) -> str:
    """A name as a string of MLflow's filter language, which has two quotation marks and no way to escape them."""
    if "'" in name and '"' in name:
        raise InvalidArgumentError(
            f"a name with both kinds of quotes cannot be searched for; received {name!r}: rename the model"
        )
    return f'"{name}"' if "'" in name else f"'{name}'"


def _model(item: Any) -> Model:
    latest = max(map(_version, item.latest_versions or []), key=lambda version: version.number, default=None)
    aliases = {alias: int(number) for alias, number in item.aliases.items()}
    return Model(item.name, item.description or "", aliases, latest, dict(item.tags))


def _run(item: Any) -> Run:
    info, data = item.info, item.data
    return Run(
        id=info.run_id,
        name=info.run_name or "",
        status=info.status,
        params=dict(data.params),
        metrics=dict(data.metrics),
        tags=dict(data.tags),
    )


def _version(item: Any) -> Version:
    return Version(
        model=item.name,
        number=int(item.version),
        created_at=datetime.fromtimestamp(item.creation_timestamp / 1000, UTC),
        status=item.status,
        description=item.description or "",
        run_id=item.run_id or None,
        tags=dict(item.tags),
    )
