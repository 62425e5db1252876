"""Looks models and versions up, and combines MLflow's data with the files of a version."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import TypeVar
from urllib.parse import quote

from atelier_contracts.manifests import AdapterManifest, Evidence, outdated_format
from atelier_contracts.names import ADAPTER_FILE, CHAIN_MODEL, EVIDENCE_FILE, KIND_ADAPTER, KIND_BUNDLE, TAG_BUNDLE_DIGEST
from atelier_contracts.styles import Style
from pydantic import BaseModel, ValidationError

from atelier_registry.errors import UnknownModelError, UnknownVersionError, UnreadableFileError
from atelier_registry.models.model_registry import Model, RegistryReader, Run, Version
from atelier_registry.models.views import (
    Comparison,
    Lineage,
    ModelSummary,
    RunSummary,
    ValuePair,
    VersionDetail,
    VersionSummary,
)

M = TypeVar("M", bound=BaseModel)

_MAX_LISTED = 20  # names or numbers in a message
_MAX_COUNTED = 1000  # versions that are counted for a message
_NON_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}  # JSON has no such numbers
_GIT_COMMIT_TAG = "mlflow.source.git.commit"  # set by MLflow on a run


def find_model(registry: RegistryReader, name: str) -> Model:
    """The model of this name.

    Raises:
        UnknownModelError: there is none; the message lists existing models.
    """
    if (model := registry.model(name)) is not None:
        return model
    raise unknown_model(registry, name)


def unknown_model(registry: RegistryReader, name: str) -> UnknownModelError:
    """The error, with existing models."""
    page = registry.models(_MAX_LISTED, None)
    known = [other.name for other in page.items if other.name != CHAIN_MODEL]
    return UnknownModelError(name, known, more=page.next_token is not None)


def find_version(registry: RegistryReader, name: str, number: int) -> Version:
    """A version of a model that is known to exist.

    Raises:
        UnknownVersionError: there is none; the message lists existing versions.
    """
    if (version := registry.version(name, number)) is not None:
        return version
    raise unknown_version(registry, name, number)


def unknown_version(registry: RegistryReader, name: str, number: int) -> UnknownVersionError:
    """The error, with existing versions, newest first, and the number of those that are not listed."""
    page = registry.versions(name, _MAX_COUNTED, None)
    known = [version.number for version in page.items]
    unlisted = len(known) - _MAX_LISTED
    more = f"more than {unlisted}" if page.next_token else str(unlisted) if unlisted > 0 else None
    return UnknownVersionError(name, number, known[:_MAX_LISTED], more)


def summarize_model(model: Model) -> ModelSummary:
    latest = summarize_version(model.latest, model) if model.latest else None
    return ModelSummary(
        name=model.name, description=model.description, aliases=dict(sorted(model.aliases.items())), latest_version=latest
    )


def summarize_version(version: Version, model: Model, run: Run | None = None) -> VersionSummary:
    return VersionSummary(
        model=version.model,
        version=version.number,
        kind=version.kind,
        status=version.status,
        created_at=version.created_at,
        description=version.description,
        aliases=model.aliases_of(version.number),
        tags=dict(version.tags),
        run_id=version.run_id,
        run=_summarize_run(run) if run else None,
    )


def inspect(registry: RegistryReader, name: str, number: int) -> VersionDetail:
    """Everything known about a version. Faults in its files are listed in `problems`.

    Raises:
        UnknownModelError: there is no such model.
        UnknownVersionError: there is no such version of it.
    """
    model = find_model(registry, name)
    version = find_version(registry, name, number)
    run = registry.run(version.run_id) if version.run_id else None
    problems = [] if run or not version.run_id else [f"run {version.run_id} no longer exists"]
    files: dict[str, str] = {}
    try:
        files = registry.files(name, number) if version.kind != KIND_BUNDLE else {}
        if version.kind == KIND_ADAPTER and ADAPTER_FILE not in files:
            problems.append(f"{ADAPTER_FILE} is missing")
    except UnreadableFileError as error:
        problems.append(str(error))
    manifest = parse_file(AdapterManifest, ADAPTER_FILE, files, problems)
    return VersionDetail(
        **summarize_version(version, model, run).model_dump(),
        lineage=_lineage(version, run, manifest, problems),
        evidence=parse_file(Evidence, EVIDENCE_FILE, files, problems),
        style=manifest.style if manifest else None,
        preview=preview_path(name, number) if manifest and manifest.preview_sha256 else None,
        problems=problems,
    )


def own_style(registry: RegistryReader, version: Version) -> tuple[Style, str | None, str | None]:
    """A version's own style, the path of its preview, and why there is no style.

    The style is empty for a version without adapter.json, and where that cannot be read.
    """
    problems: list[str] = []
    try:
        files = registry.files(version.model, version.number, (ADAPTER_FILE,)) if version.kind == KIND_ADAPTER else {}
    except UnreadableFileError as error:
        return Style(), None, str(error)
    manifest = parse_file(AdapterManifest, ADAPTER_FILE, files, problems)
    if manifest is None:
        return Style(), None, problems[0] if problems else f"version {version.number} has no {ADAPTER_FILE}"
    return manifest.style, preview_path(version.model, version.number) if manifest.preview_sha256 else None, None


def preview_path(name: str, number: int) -> str:
    """On this service."""
    return f"/models/{quote(name, safe='')}/versions/{number}/preview"


def compare(registry: RegistryReader, name: str, left: int, right: int) -> Comparison:
    """Two versions and their differences.

    Raises:
        UnknownModelError: there is no such model.
        UnknownVersionError: one of the versions does not exist.
    """
    left_detail, right_detail = inspect(registry, name, left), inspect(registry, name, right)
    no_run = RunSummary(id="", name="", status="", params={}, metrics={})
    left_run, right_run = left_detail.run or no_run, right_detail.run or no_run
    params = _pairs(left_run.params, right_run.params)
    left_evidence, right_evidence = left_detail.evidence, right_detail.evidence
    return Comparison(
        left=left_detail,
        right=right_detail,
        params={key: pair for key, pair in params.items() if pair.left != pair.right},
        metrics=_pairs(left_run.metrics, right_run.metrics),
        losses_comparable=bool(
            left_evidence and right_evidence and left_evidence.validation_digest == right_evidence.validation_digest
        ),
    )


def _pairs(left: Mapping[str, float | str], right: Mapping[str, float | str]) -> dict[str, ValuePair]:
    return {key: _pair(left.get(key), right.get(key)) for key in sorted(left.keys() | right.keys())}


def _pair(left: float | str | None, right: float | str | None) -> ValuePair:
    left, right = (_NON_FINITE.get(str(value), value) if isinstance(value, float) else value for value in (left, right))
    difference = right - left if isinstance(left, float) and isinstance(right, float) else None
    return ValuePair(left=left, right=right, difference=difference)


def _summarize_run(run: Run) -> RunSummary:
    return RunSummary(id=run.id, name=run.name, status=run.status, params=dict(run.params), metrics=dict(run.metrics))


def _lineage(version: Version, run: Run | None, manifest: AdapterManifest | None, problems: list[str]) -> Lineage:
    tagged, commit = version.tags.get(TAG_BUNDLE_DIGEST), run.tags.get(_GIT_COMMIT_TAG) if run else None
    if manifest is None:
        return Lineage(run_id=version.run_id, bundle_digest=tagged, git_revision=commit)
    if tagged and tagged != manifest.bundle_digest:
        problems.append(f"the tag {TAG_BUNDLE_DIGEST}={tagged} and {ADAPTER_FILE} name different bundles; the file's is shown")
    return Lineage(
        run_id=version.run_id or manifest.run_id,
        bundle_digest=manifest.bundle_digest,
        dataset_digest=manifest.dataset_digest,
        git_revision=manifest.git_revision or commit,
        weights_sha256=manifest.weights_sha256,
        imported_from=manifest.imported_from,
    )


def parse_file(kind: type[M], file: str, files: dict[str, str], problems: list[str]) -> M | None:
    """The content of a JSON file; None where it is missing, or invalid, which is added to `problems`."""
    if file not in files:
        return None
    try:
        content = kind.model_validate_json(files[file])
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'content'}: {fault['msg']}" for fault in error.errors()[:3])
        outdated = outdated_format(files[file])
        problems.append(f"{file}: {outdated}" if outdated else f"{file} is not a valid {kind.__name__}: {details}")
        return None
    non_finite = [name for name, value in content.model_dump().items() if isinstance(value, float) and not isfinite(value)]
    if non_finite:
        problems.append(f"{file}: {', '.join(non_finite)} must be finite")
        return None
    return content
