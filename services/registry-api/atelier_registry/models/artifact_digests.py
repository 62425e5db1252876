"""What a version is: the digest of its adapter.json, which holds the sha256 of its weights. Both are read from the files."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from atelier_contracts.manifests import AdapterManifest, Evidence
from atelier_contracts.names import ADAPTER_FILE, EVIDENCE_FILE, KIND_ADAPTER, TAG_PROMOTED_DIGEST, WEIGHTS_FILE

from atelier_registry.errors import StageBusyError, UnreadableFileError
from atelier_registry.models.catalogue import parsed
from atelier_registry.models.model_registry import ModelRegistry, Version
from atelier_registry.storage.ledger import Ledger


@dataclass(frozen=True)
class AdapterIdentity:
    """An adapter's files, checked against each other.

    Attributes:
        digest: of adapter.json; None where the files do not make an adapter, for the reason in `problem`.
        evidence: what was measured on exactly these weights; None where it is missing, or is about others.
        problem: why there is no digest; empty where there is.
        evidence_problem: why there is no evidence; empty where there is.
    """

    digest: str | None
    evidence: Evidence | None
    problem: str = ""
    evidence_problem: str = ""


class AdapterDigests:
    """The digest of a version's files now, and the one that was decided on.

    Args:
        registry: where the files are.
        ledger: where the decisions are.
        at_once: versions whose files are read at the same time; None: any number.
    """

    def __init__(self, registry: ModelRegistry, ledger: Ledger, at_once: int | None = None) -> None:
        self._registry, self._ledger = registry, ledger
        self._free = threading.BoundedSemaphore(at_once) if at_once else None

    def present(self, version: Version) -> AdapterIdentity:
        """Reads all files of an adapter.

        Raises:
            StageBusyError: as many versions are read as may be read at the same time.
            TrackingUnavailableError: MLflow does not answer.
        """
        if self._free is None:
            return self._read(version)
        if not self._free.acquire(blocking=False):
            raise StageBusyError("the files of as many versions are read now as may be at a time; ask again in some seconds")
        try:
            return self._read(version)
        finally:
            self._free.release()

    def _read(self, version: Version) -> AdapterIdentity:
        try:
            files = self._registry.adapter_files(version.model, version.number)
        except UnreadableFileError as error:
            return AdapterIdentity(None, None, str(error), f"{EVIDENCE_FILE} cannot be read: {error}")
        problems: list[str] = []
        manifest = parsed(AdapterManifest, ADAPTER_FILE, _present(ADAPTER_FILE, files.manifest), problems)
        if manifest is None:
            problem = problems[0] if problems else f"it has no {ADAPTER_FILE}"
        elif files.weights_sha256 is None:
            problem = f"it has no {WEIGHTS_FILE}"
        elif files.weights_sha256 != manifest.weights_sha256:
            problem = f"{WEIGHTS_FILE} has sha256 {files.weights_sha256}; {ADAPTER_FILE} says {manifest.weights_sha256}"
        else:
            problem = ""
        evidence, evidence_problem = _bound(files.evidence, files.weights_sha256)
        digest = manifest.digest() if manifest and not problem else None
        return AdapterIdentity(digest, evidence, problem, evidence_problem)

    def decided(self, version: Version) -> str | None:
        """The digest that the last decision to point an alias at the version was about; None where there is none.

        Raises:
            DatabaseUnavailableError: the database does not answer.
        """
        return self._ledger.adapter_digest(version.model, version.number, version.created_at)

    def fix(self, version: Version) -> str | None:
        """The digest to hold a version to that an alias points at already: the one decided on, or else that of its files now.

        Raises:
            UnavailableError: MLflow or the database does not answer.
        """
        if version.kind != KIND_ADAPTER:
            return None
        return self.decided(version) or self.present(version).digest

    def publish(self, version: Version, digest: str) -> bool:
        """Tags the version with its digest, for infer. False where the version was deleted.

        Raises:
            TrackingUnavailableError: MLflow does not answer.
        """
        if version.tags.get(TAG_PROMOTED_DIGEST) == digest:
            return True
        return self._registry.set_tag(version.model, version.number, TAG_PROMOTED_DIGEST, digest)


def _present(file: str, text: str | None) -> dict[str, str]:
    return {} if text is None else {file: text}


def _bound(text: str | None, weights_sha256: str | None) -> tuple[Evidence | None, str]:
    """Evidence counts for the weights that it names, and for no others."""
    problems: list[str] = []
    evidence = parsed(Evidence, EVIDENCE_FILE, _present(EVIDENCE_FILE, text), problems)
    if evidence is None:
        return None, problems[0] if problems else f"it has no {EVIDENCE_FILE}"
    if evidence.weights_sha256 is None:
        return None, f"{EVIDENCE_FILE} does not say which weights were measured; register the version again with the trainer"
    if evidence.weights_sha256 != weights_sha256:
        return None, (
            f"{EVIDENCE_FILE} was measured on weights with sha256 {evidence.weights_sha256}; these have {weights_sha256}"
        )
    return evidence, ""
