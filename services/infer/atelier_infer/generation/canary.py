"""A canary: for a share of the requests that leave the version to the service, a second alias draws beside the champion."""

from __future__ import annotations

import hashlib
import json

from atelier_contracts import names
from atelier_contracts.generate import GenerateRequest

from atelier_infer.aliases.alias_tracker import AliasTracker
from atelier_infer.artifacts.version_loader import Version

HASH_BYTES = 6
LOTS = 2**48
"""So many there are: fewer than a float has values below 1, so that a lot is always below 100."""


def traffic_bucket(wish: GenerateRequest, *, token_id: str, key: str | None) -> float:
    """What a request draws: a number in [0, 100), evenly spread over requests, and always the same for the same one.

    It is the SHA-256 of the request with its seed, whoever sends it: the same request with the same seed gives the same
    image. A request that names no seed but an idempotency key has the hash of sender and key instead, so that it is
    drawn with the same version by another instance and after a restart too. One that names neither has no lot yet: see
    `plan.with_seed`; asked for again with the seed in its answer it draws the same lot.

    Args:
        wish: the request.
        token_id: who sent it.
        key: its idempotency key.
    """
    if wish.seed is None and key is None:
        raise ValueError("a request without a seed and without a key has no lot; give it a seed first")
    text = wish.model_dump_json(exclude_defaults=True) if wish.seed is not None else json.dumps([token_id, key])
    return 100 * int.from_bytes(hashlib.sha256(text.encode()).digest()[:HASH_BYTES]) / LOTS


class Canary:
    """Draws the lots below `percent`, so that raising it takes requests from the champion and gives none back.

    It never costs a request: where its version cannot draw, the champion does.

    Args:
        alias: what draws beside the champion.
        percent: its share, in [0, 100].
        versions: that follow the alias.
    """

    def __init__(self, *, alias: str, percent: float, versions: AliasTracker) -> None:
        self.alias, self.percent, self._versions = alias, percent, versions

    def has(self, drawn: float) -> bool:
        """Whether this lot is the canary's."""
        return drawn < self.percent

    def version(self) -> Version | None:
        """What draws its requests now; none while the champion draws them."""
        serving, why_not = self.standing()
        return None if why_not else serving

    def standing(self) -> tuple[Version | None, str | None]:
        """What its alias serves, and why it takes no requests; none where it does."""
        view, serving, failures = self._versions.snapshot()
        served, failure = serving.get(self.alias), failures.get(self.alias)
        struck = self._versions.reverted(self.alias)
        if view is None:
            return served, "tracking has not answered yet"
        if self.alias not in view.aliases:
            return served, f"the registry has no alias {self.alias!r}; promote a version as {self.alias}"
        if struck is not None:
            told = "drew blank or non-finite images; the champion draws until the alias serves another version"
            return served, f"version {struck} {told}"
        if served is None and failure:
            return served, f"version {failure.number} was refused: {failure.error}"
        if served is None:
            return served, f"version {view.aliases[self.alias]} is being loaded"
        if names.CHAMPION not in serving:
            return served, "there is no champion for it to stand beside"
        if not self.percent:
            return served, "its share is 0 percent"
        return served, None
