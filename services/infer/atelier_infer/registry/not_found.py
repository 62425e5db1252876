"""What is said of an alias or a version that does not exist: which do, and how the first one is made."""

from __future__ import annotations

import shlex
from urllib.parse import quote

from atelier_contracts import names

from atelier_infer.errors import InferError, NoChampionError, TrackingError, UnknownAliasError, UnknownVersionError
from atelier_infer.registry.model_store import ModelStore, View

SHOWN = 50
"""Versions listed in an error."""


class NotFoundMessages:
    """Writes the errors."""

    def __init__(self, *, store: ModelStore, model: str, registry_url: str | None) -> None:
        self._store, self._model, self._registry_url = store, model, registry_url

    def alias(self, alias: str, view: View) -> InferError:
        """The registry has no such alias."""
        if alias == names.CHAMPION:
            return NoChampionError(f"{self._model} has no {alias} yet; make one with: {self._promotion()}")
        listed = ", ".join(sorted(view.aliases)) or "none"
        return UnknownAliasError(
            f"{self._model} has no alias {alias!r}; aliases that exist: {listed}; name one of these or a version"
        )

    def version(self, error: UnknownVersionError) -> UnknownVersionError:
        """The registry has no such version, as the error says."""
        exist = [entry.number for entry in self._store.versions()]
        listed = ", ".join(str(item) for item in exist[-SHOWN:]) or "none"
        older = f" and {len(exist) - SHOWN} older ones" if len(exist) > SHOWN else ""
        return UnknownVersionError(f"{error}; versions that exist: {listed}{older}; name one of these")

    def _promotion(self) -> str:
        """The command that makes the newest version champion, with a placeholder for what is not known here."""
        try:
            newest = str(max((entry.number for entry in self._store.versions()), default="N"))
        except TrackingError:
            newest = "N"
        url = f"{self._registry_url or 'http://REGISTRY-API'}/models/{quote(self._model, safe='')}/versions/{newest}/promote"
        body = f'{{"alias":"{names.CHAMPION}","reason":"first version"}}'
        return (
            f'curl -X POST {shlex.quote(url)} -H "Authorization: Bearer $ATELIER_TOKEN" '
            f"-H 'Content-Type: application/json' -d '{body}'"
        )
