"""Infer, asked by so many threads at most: what waits for it must not keep every other request from a thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from atelier_contracts.stage import StageImage, StageResponse

from atelier_registry.errors import StageBusyError
from atelier_registry.models.infer_client import InferClient


class BoundedInferClient:
    """A stager that refuses at once what would be one too many.

    Args:
        stager: is asked.
        most: questions at the same time.
        who: whose questions these are, for the error.
    """

    def __init__(self, infer_client: InferClient, most: int, who: str) -> None:
        self._stager, self._most, self._who = infer_client, most, who
        self._free = threading.BoundedSemaphore(most)

    def stage(
        self, model: str, version: int, images: Sequence[StageImage] = (), *, adapter_digest: str | None = None
    ) -> StageResponse:
        """See `Stager`.

        Raises:
            StageBusyError: so many questions are under way.
        """
        if not self._free.acquire(blocking=False):
            raise StageBusyError(
                f"infer loads or draws for {self._most} other {self._who} now, which is as many as may wait for it at a time; "
                "send the request again in some seconds"
            )
        try:
            return self._stager.stage(model, version, images, adapter_digest=adapter_digest)
        finally:
            self._free.release()
