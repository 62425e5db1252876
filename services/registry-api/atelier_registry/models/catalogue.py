"""Models and versions as this service tells them: MLflow's facts, put together with the files of a version."""

from __future__ import annotations

from math import isfinite
from typing import Any, TypeVar

from atelier_contracts.manifests import AdapterManifest, Evidence
from atelier_contracts.names import ADAPTER_FILE, CHAIN_MODEL, EVIDENCE_FILE, KIND_ADAPTER, KIND_BUNDLE, TAG_BUNDLE_DIGEST
from pydantic import BaseModel, ValidationError

from atelier_registry.api.schemas import Comparison, Lineage, ModelSummary, Pair, RunFacts, VersionDetail, VersionSummary
from atelier_registry.errors import UnknownModelError, UnknownVersionError, UnreadableFileError
from atelier_registry.models.model_registry import Model, RegistryReader, Run, Version

M = TypeVar("M", bound=BaseModel)

_SHOWN = 20  # names or numbers in a message
_COUNTED = 1000  # versions looked at to say how many more there are
_WILD = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}  # JSON has no such numbers
_GIT_COMMIT = "mlflow.source.git.commit"  # MLflow's own tag on a run


def find_model(registry: RegistryReader, name: str) -> Model:
    """The model of this name.

    Raises:
        UnknownModelError: there is none; the message names those that exist.
    """
    if (model := registry.model(name)) is not None:
        return model
    page = registry.models(_SHOWN, None)
    known = [other.name for other in page.items if other.name != CHAIN_MODEL]
    raise UnknownModelError(name, known, more=page.next_token is not None)


def find_version(registry: RegistryReader, name: str, number: int) -> Version:
    """The version of a model that is known to exist.

    Raises:
        UnknownVersionError: see `unknown_version`.
    """
    if (version := registry.version(name, number)) is not None:
        return version
    raise unknown_version(registry, name, number)


def unknown_version(registry: RegistryReader, name: str, number: int) -> UnknownVersionError:
    """The error that names the versions which do exist, newest first, and says how many others there are."""
    page = registry.versions(name, _COUNTED, None)
    known = [version.number for version in page.items]
    left = len(known) - _SHOWN
    more = f"more than {left}" if page.next_token else str(left) if left > 0 else None
    return UnknownVersionError(name, number, known[:_SHOWN], more)


def summarize_model(model: Model) -> ModelSummary:
    """A model in a list."""
    latest = summarize_version(model.latest, model) if model.latest else None
    return ModelSummary(
        name=model.name, description=model.description, aliases=dict(sorted(model.aliases.items())), latest_version=latest
    )


def summarize_version(version: Version, model: Model, run: Run | None = None) -> VersionSummary:
    """A version in a list."""
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
        run=_facts(run) if run else None,
    )


def inspect(registry: RegistryReader, name: str, number: int) -> VersionDetail:
    """Everything that is known of a version. What is wrong with its files is said in `problems`, not hidden.

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
    manifest = parsed(AdapterManifest, ADAPTER_FILE, files, problems)
    return VersionDetail(
        **summarize_version(version, model, run).model_dump(),
        lineage=_lineage(version, run, manifest, problems),
        evidence=parsed(Evidence, EVIDENCE_FILE, files, problems),
        problems=problems,
    )


def compare(registry: RegistryReader, name: str, left: int, right: int) -> Comparison:
    """Two versions, and where they differ.

    Raises:
        UnknownModelError: there is no such model.
        UnknownVersionError: one of the versions does not exist.
    """
    one, other = inspect(registry, name, left), inspect(registry, name, right)
    facts = [each.run or RunFacts(id="", name="", status="", params={}, metrics={}) for each in (one, other)]
    params = {key: _pair(facts[0].params.get(key), facts[1].params.get(key)) for key in _keys(*(each.params for each in facts))}
    metrics = {
        key: _pair(facts[0].metrics.get(key), facts[1].metrics.get(key)) for key in _keys(*(each.metrics for each in facts))
    }
    return Comparison(
        left=one,
        right=other,
        params={key: pair for key, pair in params.items() if pair.left != pair.right},
        metrics=metrics,
        losses_comparable=bool(
            one.evidence and other.evidence and one.evidence.validation_digest == other.evidence.validation_digest
        ),
    )


def _keys(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return sorted(one.keys() | other.keys())


def _pair(left: float | str | None, right: float | str | None) -> Pair:
    left, right = (_WILD.get(str(each), each) if isinstance(each, float) else each for each in (left, right))
    both = isinstance(left, float) and isinstance(right, float)
    return Pair(left=left, right=right, difference=right - left if both else None)  # type: ignore[operator]


def _facts(run: Run) -> RunFacts:
    return RunFacts(id=run.id, name=run.name, status=run.status, params=dict(run.params), metrics=dict(run.metrics))


def _lineage(version: Version, run: Run | None, manifest: AdapterManifest | None, problems: list[str]) -> Lineage:
    tagged, commit = version.tags.get(TAG_BUNDLE_DIGEST), run.tags.get(_GIT_COMMIT) if run else None
    if manifest is None:
        return Lineage(run_id=version.run_id, bundle_digest=tagged, git_revision=commit)
    if tagged and tagged != manifest.bundle_digest:
        problems.append(f"the tag {TAG_BUNDLE_DIGEST}={tagged} and {ADAPTER_FILE} name different bundles; the file is shown")
    return Lineage(
        run_id=version.run_id or manifest.run_id,
        bundle_digest=manifest.bundle_digest,
        dataset_digest=manifest.dataset_digest,
        git_revision=manifest.git_revision or commit,
        weights_sha256=manifest.weights_sha256,
    )


def parsed(kind: type[M], file: str, files: dict[str, str], problems: list[str]) -> M | None:
    """The file's content; None where it is absent, and where it is wrong, which is added to `problems`."""
    if file not in files:
        return None
    try:
        content = kind.model_validate_json(files[file])
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'content'}: {each['msg']}" for each in error.errors()[:3])
        problems.append(f"{file} is not a valid {kind.__name__}: {told}")
        return None
    wild = [name for name, value in content.model_dump().items() if isinstance(value, float) and not isfinite(value)]
    if wild:
        problems.append(f"{file}: {', '.join(wild)} must be finite")
        return None
    return content
