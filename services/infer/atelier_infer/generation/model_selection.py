"""What a request is generated with: one version, a weighted blend of several, or the base model alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from atelier_contracts import names
from atelier_contracts.generate import AppliedAdapter, GenerateRequest, GenerationMetadata
from starlette.concurrency import run_in_threadpool

from atelier_infer.aliases.alias_tracker import AliasTracker, VersionSelector
from atelier_infer.artifacts.version_loader import Version, VersionLoader
from atelier_infer.engine.denoising_state import SamplingParams
from atelier_infer.errors import BlendError, VersionChangedError
from atelier_infer.generation.recommended_values import CompleteRequest
from atelier_infer.pipeline.adapter import WeightedAdapter
from atelier_infer.pipeline.bundle import Bundle


@dataclass(frozen=True)
class ModelSelection:
    """Versions of one bundle, each with its weight, which the request's scale multiplies; the base model has no adapter.

    Attributes:
        alias: that led to the version; None if the version was named, and for blends and the base model.
    """

    versions: tuple[Version, ...]
    weights: tuple[float, ...]
    alias: str | None = None

    @property
    def bundle(self) -> Bundle:
        return self.versions[0].bundle

    @property
    def label(self) -> str:
        """As in the response header."""
        return "+".join(version.label for version in self.versions)

    @property
    def metric_label(self) -> str:
        """All blends share one label, to bound the number of time series."""
        return self.label if len(self.versions) == 1 else "blend"

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of the versions with an adapter."""
        return tuple(version.number for version in self.versions if version.number is not None)

    @property
    def adapters(self) -> tuple[WeightedAdapter, ...]:
        pairs = zip(self.versions, self.weights, strict=True)
        return tuple(WeightedAdapter(version.adapter, weight) for version, weight in pairs if version.adapter)

    def scaled(self, scale: float | None) -> ModelSelection:
        """With every weight multiplied by a request's scale."""
        return self if scale is None else replace(self, weights=tuple(weight * scale for weight in self.weights))

    def metadata(self, model: str, complete: CompleteRequest, params: SamplingParams) -> GenerationMetadata:
        """Of one image, by a selection that was scaled."""
        request = complete.request
        adapters = [
            AppliedAdapter(version=version.number, digest=version.adapter.digest, weight=weight)
            for version, weight in zip(self.versions, self.weights, strict=True)
            if version.adapter and version.number is not None
        ]
        return GenerationMetadata(
            model=model,
            version=self.label,
            adapter_digest=adapters[0].digest if len(adapters) == 1 else None,
            bundle_digest=self.bundle.digest,
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            steps=params.steps,
            guidance_scale=params.guidance_scale,
            guidance_until=params.guidance_until,
            seed=params.seed,
            width=params.width,
            height=params.height,
            scheduler=params.scheduler,
            adapters=adapters,
            recommended=complete.recommended,
        )


class ModelSelector:
    """Finds the versions that a request names, and keeps them in memory while the request is under way."""

    def __init__(self, tracker: AliasTracker, loader: VersionLoader) -> None:
        self._tracker, self._loader = tracker, loader

    async def select(self, request: GenerateRequest) -> ModelSelection:
        """Uses a thread if something must be loaded.

        Raises:
            BlendError: the adapters have different base models.
            InferError: see `AliasTracker.find`.
        """
        cached = [self._tracker.cached(selector) for selector in selectors(request)]
        versions = [version for version in cached if version]
        if len(versions) == len(cached):
            return _combine(request, versions)
        return await run_in_threadpool(self.find, request)

    def find(self, request: GenerateRequest) -> ModelSelection:
        """Like `select`; may wait for a download."""
        return _combine(request, [self._tracker.find(selector) for selector in selectors(request)])

    def find_recorded(self, request: GenerateRequest, metadata: GenerationMetadata) -> ModelSelection:
        """What an image was made with; may wait for a download.

        Args:
            request: that makes the image again.
            metadata: of the image.

        Raises:
            VersionChangedError: a version has other files now.
            InferError: see `AliasTracker.find`.
        """
        if not metadata.adapters:
            return ModelSelection((self._loader.base(metadata.bundle_digest),), (1.0,))
        selection = self.find(request)
        digests = [version.adapter.digest if version.adapter else "" for version in selection.versions]
        for recorded, current in zip(metadata.adapters, digests, strict=True):
            if recorded.digest != current:
                raise VersionChangedError(
                    f"the image was made with adapter {recorded.digest} as version {recorded.version}; that version is now "
                    f"{current}, because the model was created again, so the image cannot be reproduced"
                )
        return selection

    @contextmanager
    def pinned(self, selection: ModelSelection) -> Iterator[None]:
        """Keeps the adapters in memory during the block."""
        with self._loader.pinned(selection.versions):
            yield


def names_no_version(request: GenerateRequest) -> bool:
    """Whether the service chooses: the champion or the canary."""
    return request.version is None and request.alias is None and not request.adapters and not request.base


def selectors(request: GenerateRequest) -> list[VersionSelector]:
    """One per adapter."""
    if request.adapters:
        return [VersionSelector(choice.version, choice.alias) for choice in request.adapters]
    return [VersionSelector(request.version, request.alias, request.base)]


def _combine(request: GenerateRequest, versions: list[Version]) -> ModelSelection:
    weights = [choice.weight for choice in request.adapters] or [1.0]
    if len({version.bundle.digest for version in versions}) > 1:
        named = ", ".join(f"version {version.label}: {version.bundle.digest[:12]}" for version in versions)
        raise BlendError(f"the adapters of a blend must have the same base model; received {named}")
    alias = names.CHAMPION if names_no_version(request) else request.alias
    return ModelSelection(tuple(versions), tuple(weights), alias)
