"""Whether a version loads, and what it draws: asked of infer, with a token of this service's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import requests
from atelier_contracts.generate import Problem
from atelier_contracts.stage import StageImage, StageRequest, StageResponse
from pydantic import ValidationError

from atelier_registry.errors import StageRefusedError, StageUnavailableError

CONNECT_S = 3.0


class InferClient(Protocol):
    """Loads versions without serving them."""

    def stage(
        self, model: str, version: int, images: Sequence[StageImage] = (), *, adapter_digest: str | None = None
    ) -> StageResponse:
        """Loads a version as serving would, and draws.

        Args:
            model: a registered model.
            version: of it.
            images: what to draw.
            adapter_digest: of the files that must be loaded; None: whatever the version has.

        Raises:
            StageRefusedError: the version failed a check, or an image cannot be drawn.
            StageUnavailableError: infer does not answer, is busy, or is not set up.
        """


class NoInferClient:
    """For a service that was told of no infer."""

    def stage(
        self, model: str, version: int, images: Sequence[StageImage] = (), *, adapter_digest: str | None = None
    ) -> StageResponse:
        """See `Stager`."""
        raise StageUnavailableError(
            "no infer is set up to load it with; set ATELIER_REGISTRY_INFER_URL and ATELIER_REGISTRY_INFER_TOKEN, or set "
            "`loads: false` in a policy of your own"
        )


class HttpInferClient:
    """Asks `POST /stage` of one infer."""

    def __init__(self, url: str, token: str, timeout_s: float) -> None:
        self._url, self._timeout_s = f"{url}/stage", timeout_s
        self._login = {"Authorization": f"Bearer {token}"}

    def stage(
        self, model: str, version: int, images: Sequence[StageImage] = (), *, adapter_digest: str | None = None
    ) -> StageResponse:
        """See `Stager`."""
        request = StageRequest(model=model, version=version, images=list(images), adapter_digest=adapter_digest)
        body = request.model_dump(mode="json")
        try:
            answer = requests.post(
                self._url, json=body, headers=self._login, timeout=(CONNECT_S, self._timeout_s), allow_redirects=False
            )
        except requests.RequestException as error:
            raise StageUnavailableError(f"infer does not answer ({type(error).__name__})") from error
        if answer.status_code == 200:
            try:
                staged = StageResponse.model_validate_json(answer.content)
            except ValidationError as error:
                raise StageUnavailableError("infer answered with something else than a staged version") from error
            if adapter_digest not in (None, staged.adapter_digest):
                raise StageRefusedError(
                    f"infer loaded files with the digest {staged.adapter_digest} instead of {adapter_digest}"
                )
            return staged
        detail = _detail(answer)
        if answer.status_code in (401, 403):
            raise StageUnavailableError(f"infer refuses this service's own token: {detail}")
        if answer.status_code in (429, 503) or not detail:
            raise StageUnavailableError(f"infer cannot load it now: {detail or f'status {answer.status_code}'}")
        raise StageRefusedError(f"infer cannot load version {version}: {detail}")


def _detail(answer: requests.Response) -> str:
    try:
        return Problem.model_validate_json(answer.content).detail
    except ValidationError:
        return ""
