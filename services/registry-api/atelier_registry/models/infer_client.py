"""Asks infer whether a version loads, and for images by it, with this service's own token."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

import requests
from atelier_contracts.problem import Problem
from atelier_contracts.stage import StageImage, StageRequest, StageResponse
from pydantic import ValidationError

from atelier_registry.errors import StageBusyError, StageRefusedError, StageUnavailableError

CONNECT_TIMEOUT_S = 3.0


class InferClient(Protocol):
    """Loads versions without serving them."""

    def stage(
        self, model: str, version: int, images: Sequence[StageImage] = (), *, adapter_digest: str | None = None
    ) -> StageResponse:
        """Loads a version as serving would, and generates images.

        Args:
            model: a registered model.
            version: of it.
            images: to generate.
            adapter_digest: of the files that must be loaded; None: any.

        Raises:
            StageRefusedError: the version failed a check, or an image cannot be generated.
            StageUnavailableError: infer does not answer, is busy, or is not configured.
        """


class NoInferClient:
    """Stands in where no infer is configured."""

    def stage(
        self, model: str, version: int, images: Sequence[StageImage] = (), *, adapter_digest: str | None = None
    ) -> StageResponse:
        raise StageUnavailableError(
            "no infer is configured to load the version; set ATELIER_REGISTRY_INFER_URL and ATELIER_REGISTRY_INFER_TOKEN, "
            "or use a policy with `loads: false`"
        )


class HttpInferClient:
    """Calls `POST /stage`."""

    def __init__(self, url: str, token: str, timeout_s: float) -> None:
        self._url, self._timeout_s = f"{url}/stage", timeout_s
        self._headers = {"Authorization": f"Bearer {token}"}

    def stage(
        self, model: str, version: int, images: Sequence[StageImage] = (), *, adapter_digest: str | None = None
    ) -> StageResponse:
        request = StageRequest(model=model, version=version, images=list(images), adapter_digest=adapter_digest)
        try:
            response = requests.post(
                self._url,
                json=request.model_dump(mode="json"),
                headers=self._headers,
                timeout=(CONNECT_TIMEOUT_S, self._timeout_s),
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise StageUnavailableError(f"infer does not answer ({type(error).__name__})") from error
        if response.status_code == 200:
            return _staged(response, adapter_digest)
        detail = _detail(response)
        if response.status_code in (401, 403):
            raise StageUnavailableError(f"infer refuses this service's own token: {detail}")
        if response.status_code in (429, 503) or not detail:
            raise StageUnavailableError(f"infer cannot load it now: {detail or f'status {response.status_code}'}")
        raise StageRefusedError(f"infer cannot load version {version}: {detail}")


class BoundedInferClient:
    """Limits the requests to infer that run at the same time; further ones fail at once.

    Requests that wait for infer hold worker threads, which all other requests need too.

    Args:
        infer_client: does the work.
        max_concurrent: requests at the same time.
        purpose: of these requests, for the error message.
    """

    def __init__(self, infer_client: InferClient, max_concurrent: int, purpose: str) -> None:
        self._infer_client, self._max_concurrent, self._purpose = infer_client, max_concurrent, purpose
        self._slots = threading.BoundedSemaphore(max_concurrent)

    def stage(
        self, model: str, version: int, images: Sequence[StageImage] = (), *, adapter_digest: str | None = None
    ) -> StageResponse:
        """Raises also `StageBusyError`: the limit is reached."""
        if not self._slots.acquire(blocking=False):
            raise StageBusyError(
                f"at most {self._max_concurrent} requests for {self._purpose} may wait for infer at the same time; "
                "try again in a few seconds"
            )
        try:
            return self._infer_client.stage(model, version, images, adapter_digest=adapter_digest)
        finally:
            self._slots.release()


def _staged(response: requests.Response, adapter_digest: str | None) -> StageResponse:
    try:
        staged = StageResponse.model_validate_json(response.content)
    except ValidationError as error:
        raise StageUnavailableError("infer's answer is not a staged version") from error
    if adapter_digest not in (None, staged.adapter_digest):
        raise StageRefusedError(f"infer loaded files with the digest {staged.adapter_digest} instead of {adapter_digest}")
    return staged


def _detail(response: requests.Response) -> str:
    try:
        return Problem.model_validate_json(response.content).detail
    except ValidationError:
        return ""
