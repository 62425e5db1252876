"""Errors for aliases and versions that do not exist: they list those that do, and show how to make a first champion."""

from __future__ import annotations

import shlex
from urllib.parse import quote

from atelier_contracts import names

from atelier_infer.errors import InferError, NoChampionError, TrackingError, UnknownAliasError, UnknownVersionError
from atelier_infer.registry.model_store import ModelStore, RegisteredModel

MAX_LISTED = 50


class NotFoundErrors:
    def __init__(self, *, store: ModelStore, model: str, registry_url: str | None) -> None:
        self._store, self._model, self._registry_url = store, model, registry_url

    def alias(self, alias: str, registered: RegisteredModel) -> InferError:
        if alias == names.CHAMPION:
            return NoChampionError(f"{self._model} has no {alias} yet; create one with: {self._promote_command()}")
        listed = ", ".join(sorted(registered.aliases)) or "none"
        return UnknownAliasError(f"{self._model} has no alias {alias!r}; existing aliases: {listed}; name one or a version")

    def version(self, error: UnknownVersionError) -> UnknownVersionError:
        """Adds the existing versions to the error's message."""
        numbers = [version.number for version in self._store.versions()]
        listed = ", ".join(str(number) for number in numbers[-MAX_LISTED:]) or "none"
        older = f" and {len(numbers) - MAX_LISTED} older ones" if len(numbers) > MAX_LISTED else ""
        return UnknownVersionError(f"{error}; existing versions: {listed}{older}; name one of these")

    def _promote_command(self) -> str:
        """Promotes the newest version; unknown values are placeholders."""
        try:
            newest = str(max((version.number for version in self._store.versions()), default="N"))
        except TrackingError:
            newest = "N"
        url = f"{self._registry_url or 'http://REGISTRY-API'}/models/{quote(self._model, safe='')}/versions/{newest}/promote"
        body = f'{{"alias":"{names.CHAMPION}","reason":"first version"}}'
        return (
            f'curl -X POST {shlex.quote(url)} -H "Authorization: Bearer $ATELIER_TOKEN" '
            f"-H 'Content-Type: application/json' -d '{body}'"
        )
