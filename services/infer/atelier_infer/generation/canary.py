"""A canary: a second alias that serves a share of the requests that do not name a version."""

from __future__ import annotations

import hashlib
import json
from typing import Literal, NamedTuple

from atelier_contracts import names
from atelier_contracts.generate import GenerateRequest

from atelier_infer.aliases.alias_tracker import AliasTracker
from atelier_infer.artifacts.version_loader import Version

HASH_BYTES = 6
BUCKETS = 2**48
"""Fewer than a float has values below 1, so that a bucket is always below 100."""

Assignment = Literal["champion", "canary", "canary_unavailable", "canary_incompatible"]
"""Who serves a request. In the last two cases it fell to the canary, but the champion serves it: the canary's alias serves
nothing, or its base model cannot generate this size or so many steps."""


def traffic_bucket(request: GenerateRequest, *, token_id: str, key: str | None) -> float:
    """A number in [0, 100), evenly distributed over requests and equal for equal requests.

    It is a SHA-256 of the request with its seed, whoever sends it, so that an equal request with an equal seed gives an equal
    image. A request with an idempotency key and no seed has the hash of sender and key instead, so that other instances
    choose the same version, also after a restart. A request with neither must be given a seed first, see
    `sampling_params.with_seed`; sent again with the seed of its response it falls into the same bucket.
    """
    if request.seed is None and key is None:
        raise ValueError("a request without seed and key has no traffic bucket; give it a seed first")
    text = request.model_dump_json(exclude_defaults=True) if request.seed is not None else json.dumps([token_id, key])
    return 100 * int.from_bytes(hashlib.sha256(text.encode()).digest()[:HASH_BYTES]) / BUCKETS


class CanaryStatus(NamedTuple):
    """What the alias serves, and why the canary is inactive; no reason while it is active."""

    version: Version | None
    inactive_reason: str | None


class Canary:
    """Serves the buckets below `percent`, so that raising it moves requests from the champion and none back.

    It never fails a request: the champion serves what it cannot.

    Args:
        percent: in [0, 100].
    """

    def __init__(self, *, alias: str, percent: float, tracker: AliasTracker) -> None:
        self.alias, self.percent, self._tracker = alias, percent, tracker

    def covers(self, bucket: float) -> bool:
        return bucket < self.percent

    def assign(self, bucket: float) -> tuple[Assignment, Version | None]:
        """Who serves a request of this bucket, and the canary's version if it does."""
        if not self.covers(bucket):
            return "champion", None
        version, inactive_reason = self.status()
        if inactive_reason or version is None:
            return "canary_unavailable", None
        return "canary", version

    def status(self) -> CanaryStatus:
        registered, serving, failures = self._tracker.snapshot()
        version, failure, reverted = serving.get(self.alias), failures.get(self.alias), self._tracker.reverted(self.alias)
        reason = None
        if registered is None:
            reason = "the tracking server has not answered yet"
        elif self.alias not in registered.aliases:
            reason = f"the registry has no alias {self.alias!r}; promote a version as {self.alias}"
        elif reverted is not None:
            reason = (
                f"version {reverted} generated blank or non-finite images; the champion serves its share until the alias "
                "serves another version"
            )
        elif version is None and failure:
            reason = f"version {failure.number} was refused: {failure.error}"
        elif version is None:
            reason = f"version {registered.aliases[self.alias]} is being loaded"
        elif names.CHAMPION not in serving:
            reason = "there is no champion"
        elif not self.percent:
            reason = "its share is 0 percent"
        return CanaryStatus(version, reason)
