"""Digests of adapters: of the files as they are now, and as they were when a decision was made.

An adapter's digest is that of its adapter.json, which holds the sha256 of the weights; both are computed from the files.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from atelier_contracts.manifests import AdapterManifest, Evidence
from atelier_contracts.names import ADAPTER_FILE, EVIDENCE_FILE, KIND_ADAPTER, PREVIEW_FILE, TAG_PROMOTED_DIGEST, WEIGHTS_FILE

from atelier_registry.errors import StageBusyError, UnreadableFileError
from atelier_registry.models.catalogue import parse_file
from atelier_registry.models.model_registry import ModelRegistry, Version
from atelier_registry.storage.ledger import Ledger


@dataclass(frozen=True)
class AdapterIdentity:
    """An adapter's files, checked against each other.

    Attributes:
        digest: of adapter.json; None where the files do not form an adapter, for the reason in `problem`.
        evidence: what the trainer measured on exactly these weights; None where it is missing or about others.
        problem: why there is no digest; empty where there is one.
        evidence_problem: why there is no evidence; empty where there is.
    """

    digest: str | None
    evidence: Evidence | None
    problem: str = ""
    evidence_problem: str = ""


class AdapterDigests:
    """Computes and looks up digests.

    Args:
        registry: the files.
        ledger: the decisions.
        max_concurrent: versions whose files are read at the same time; None: no limit.
    """

    def __init__(self, registry: ModelRegistry, ledger: Ledger, max_concurrent: int | None = None) -> None:
        self._registry, self._ledger = registry, ledger
        self._slots = threading.BoundedSemaphore(max_concurrent) if max_concurrent else None

    def read(self, version: Version) -> AdapterIdentity:
        """Reads every byte of an adapter's files.

        Raises:
            StageBusyError: `max_concurrent` versions are being read.
            TrackingUnavailableError: MLflow does not answer.
        """
        if self._slots is None:
            return self._read(version)
        if not self._slots.acquire(blocking=False):
            raise StageBusyError("the limit of versions that are read at the same time is reached; try again in a few seconds")
        try:
            return self._read(version)
        finally:
            self._slots.release()

    def _read(self, version: Version) -> AdapterIdentity:
        try:
            files = self._registry.adapter_files(version.model, version.number)
        except UnreadableFileError as error:
            return AdapterIdentity(None, None, str(error), f"{EVIDENCE_FILE} cannot be read: {error}")
        problems: list[str] = []
        manifest = parse_file(AdapterManifest, ADAPTER_FILE, _by_name(ADAPTER_FILE, files.manifest), problems)
        if manifest is None:
            problem = problems[0] if problems else f"it has no {ADAPTER_FILE}"
        elif files.weights_sha256 is None:
            problem = f"it has no {WEIGHTS_FILE}"
        elif files.weights_sha256 != manifest.weights_sha256:
            problem = f"{WEIGHTS_FILE} has the sha256 {files.weights_sha256}; {ADAPTER_FILE} names {manifest.weights_sha256}"
        elif files.preview_sha256 != manifest.preview_sha256:
            problem = f"{PREVIEW_FILE} has the sha256 {files.preview_sha256}; {ADAPTER_FILE} names {manifest.preview_sha256}"
        else:
            problem = ""
        evidence, evidence_problem = _evidence_on(files.evidence, files.weights_sha256)
        digest = manifest.digest() if manifest and not problem else None
        return AdapterIdentity(digest, evidence, problem, evidence_problem)

    def decided(self, version: Version) -> str | None:
        """The digest in the last decision that pointed an alias at the version; None without such a decision.

        Raises:
            DatabaseUnavailableError: the database does not answer.
        """
        return self._ledger.alias_moves.decided_digest(version.model, version.number, version.created_at)

    def decided_or_current(self, version: Version) -> str | None:
        """The digest for a version that an alias already points at: as decided, or else that of its files now.

        Raises:
            UnavailableError: MLflow or the database does not answer.
        """
        if version.kind != KIND_ADAPTER:
            return None
        return self.decided(version) or self.read(version).digest

    def tag(self, version: Version, digest: str) -> bool:
        """Tags the version with its digest, which infer checks. False where the version was deleted.

        Raises:
            TrackingUnavailableError: MLflow does not answer.
        """
        if version.tags.get(TAG_PROMOTED_DIGEST) == digest:
            return True
        return self._registry.set_tag(version.model, version.number, TAG_PROMOTED_DIGEST, digest)


def _by_name(file: str, text: str | None) -> dict[str, str]:
    return {} if text is None else {file: text}


def _evidence_on(text: str | None, weights_sha256: str | None) -> tuple[Evidence | None, str]:
    """Evidence counts only for the weights that it names; otherwise the second value says why there is none."""
    problems: list[str] = []
    evidence = parse_file(Evidence, EVIDENCE_FILE, _by_name(EVIDENCE_FILE, text), problems)
    if evidence is None:
        return None, problems[0] if problems else f"it has no {EVIDENCE_FILE}"
    if evidence.weights_sha256 is None:
        return None, f"{EVIDENCE_FILE} does not name the weights it is about; register the version again with the trainer"
    if evidence.weights_sha256 != weights_sha256:
        return None, (
            f"{EVIDENCE_FILE} was measured on weights with the sha256 {evidence.weights_sha256}; these have {weights_sha256}"
        )
    return evidence, ""
