"""What a request is drawn with: a version, several with weights, or the base alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from atelier_contracts import names
from atelier_contracts.generate import Drawn, DrawnAdapter, GenerateRequest

from atelier_infer.aliases.alias_tracker import AliasTracker, VersionSelector
from atelier_infer.artifacts.version_loader import Version, VersionLoader
from atelier_infer.engine.denoising_state import SamplingParams, WeightedAdapter
from atelier_infer.errors import BlendError
from atelier_infer.pipeline.bundle import Bundle


@dataclass(frozen=True)
class ModelSelection:
    """Versions of one bundle, each with its weight; the base alone is one version without an adapter.

    Attributes:
        alias: what led to the version; none where it was named itself, and for blends and the base.
    """

    versions: tuple[Version, ...]
    weights: tuple[float, ...]
    alias: str | None = None

    @property
    def bundle(self) -> Bundle:
        """What all of them were trained on."""
        return self.versions[0].bundle

    @property
    def label(self) -> str:
        """What the answer's header says."""
        return "+".join(version.label for version in self.versions)

    @property
    def kind(self) -> str:
        """What it is counted as: of blends there are too many to count each by itself."""
        return self.label if len(self.versions) == 1 else "blend"

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of the versions with an adapter."""
        return tuple(version.number for version in self.versions if version.number is not None)

    @property
    def mix(self) -> tuple[WeightedAdapter, ...]:
        """What a drawing is made with."""
        pairs = zip(self.versions, self.weights, strict=True)
        return tuple(WeightedAdapter(version.adapter, weight) for version, weight in pairs if version.adapter)

    def drawn(self, model: str, wish: GenerateRequest, plan: SamplingParams) -> Drawn:
        """What the image's text says."""
        adapters = [
            DrawnAdapter(version=version.number, digest=version.adapter.digest, weight=weight)
            for version, weight in zip(self.versions, self.weights, strict=True)
            if version.adapter and version.number is not None
        ]
        return Drawn(
            model=model,
            version=self.label,
            adapter_digest=adapters[0].digest if len(adapters) == 1 else None,
            bundle_digest=self.bundle.digest,
            prompt=wish.prompt,
            negative_prompt=wish.negative_prompt,
            steps=plan.steps,
            guidance_scale=plan.guidance_scale,
            guidance_until=plan.guidance_until,
            seed=plan.seed,
            width=plan.width,
            height=plan.height,
            scheduler=plan.scheduler,
            adapters=adapters,
        )


class ModelSelector:
    """Finds what a request names, and keeps it in memory while the request is under way."""

    def __init__(self, versions: AliasTracker, loader: VersionLoader) -> None:
        self._versions, self._loader = versions, loader

    def cached(self, wish: GenerateRequest) -> ModelSelection | None:
        """What is asked for when all of it is in memory; never waits.

        Raises:
            BlendError: the adapters do not share a base.
        """
        found = [self._versions.cached(one) for one in wishes(wish)]
        loaded = [version for version in found if version]
        return _together(wish, loaded) if len(loaded) == len(found) else None

    def find(self, wish: GenerateRequest) -> ModelSelection:
        """What is asked for, loaded now if need be. May wait for a download.

        Raises:
            BlendError: the adapters do not share a base.
            InferError: see `versions.Versions.find`.
        """
        return _together(wish, [self._versions.find(one) for one in wishes(wish)])

    @contextmanager
    def pinned(self, chosen: ModelSelection) -> Iterator[None]:
        """Keeps it in memory meanwhile."""
        with self._loader.pinned(chosen.versions):
            yield


def names_nothing(wish: GenerateRequest) -> bool:
    """Whether what draws is left to the service."""
    return wish.version is None and wish.alias is None and not wish.adapters and not wish.base


def wishes(wish: GenerateRequest) -> list[VersionSelector]:
    """One per adapter."""
    if wish.adapters:
        return [VersionSelector(one.version, one.alias) for one in wish.adapters]
    return [VersionSelector(wish.version, wish.alias, wish.base)]


def _together(wish: GenerateRequest, versions: list[Version]) -> ModelSelection:
    weights = [one.weight * wish.scale for one in wish.adapters] or [wish.scale]
    digests = {version.bundle.digest for version in versions}
    if len(digests) > 1:
        named = ", ".join(f"version {version.label}: {version.bundle.digest[:12]}" for version in versions)
        raise BlendError(f"the adapters of a blend must share one base; received {named}; blend versions of one base")
    return ModelSelection(tuple(versions), tuple(weights), names.CHAMPION if names_nothing(wish) else wish.alias)
