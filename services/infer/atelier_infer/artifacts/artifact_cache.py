"""Adapters and bundles on disk, by digest: fetched once, checked at every use, never half there."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

from atelier_contracts import names
from atelier_contracts.identifiers import parse_digest, parse_file_name
from atelier_contracts.manifests import AdapterManifest, BundleManifest, file_sha256
from pydantic import ValidationError

from atelier_infer.errors import (
    AdapterError,
    BundleError,
    BundleMismatchError,
    CacheError,
    ChangedFilesError,
    CorruptError,
    RefusedError,
)
from atelier_infer.registry.model_store import ModelStore

log = logging.getLogger(__name__)

INCOMING = "incoming-"
ABANDONED_AFTER_S = 24 * 3600
"""An unfinished download older than this was left by a process that was killed."""

BUNDLE_FILES = {
    names.TEXT_ENCODER_FILE,
    names.UNET_FILE,
    names.VAE_DECODER_FILE,
    names.TOKENIZER_FILE,
    names.SCHEDULER_FILE,
}


Kind = Literal["adapters", "bundles"]
Check = Callable[[Path, str], Iterable[str]]
"""Folder and digest to the names of the files that make it up; raises RefusedError."""


class ArtifactCache:
    """`<folder>/adapters/<digest>/` and `<folder>/bundles/<digest>/`. Deleting any of it costs a download, nothing else.

    A digest is parsed before it becomes a path, so nothing outside these two levels is ever written or removed.
    """

    def __init__(self, store: ModelStore, folder: Path, used: Callable[[Path], None] = lambda home: None) -> None:
        """`used` is told of each folder that is handed out."""
        self._store, self._folder, self._used = store, folder, used

    def tidy(self) -> None:
        """Removes downloads that a killed process left behind."""
        with _disk():
            for path in self._folder.glob(INCOMING + "*"):
                if time.time() - path.stat().st_mtime > ABANDONED_AFTER_S:
                    shutil.rmtree(path)

    def adapter(self, version: int, promoted_digest: str | None = None) -> Path:
        """A folder with the version's adapter.json and weights, digests checked.

        Args:
            version: of the served model.
            promoted_digest: of the files that it must have; where the cache holds them, the registry is not asked. None: what
                the registry says, or whatever files a version has that was never promoted.

        Raises:
            ChangedFilesError: its files have another digest.
            UnknownVersionError, RefusedError, TrackingError, CacheError: see `errors`.
        """
        expected = self._store.promoted_digest(version) if promoted_digest is None else parse_digest(promoted_digest)
        if expected and (home := self._kept("adapters", expected, _check_adapter)):
            return home
        with _disk():
            text = self._store.adapter_manifest(version)
        digest = _adapter_manifest(text, f"version {version}").digest()
        if expected not in (None, digest):
            raise ChangedFilesError(
                f"version {version} was promoted with files of the digest {expected}, and has files of {digest} now: put the "
                "first ones back, or register these as a new version and promote that"
            )
        home = self._kept("adapters", digest, _check_adapter)
        return home or self._fetched(
            "adapters", digest, lambda into: self._store.fetch_adapter(version, into), names.ADAPTER_FILE, _check_adapter
        )

    def compare(self, version: int, digest: str) -> None:
        """Downloads a version's files, and holds them against a digest; nothing is kept.

        Raises:
            RefusedError: they are not of that digest, or are not there.
            UnknownVersionError, TrackingError, CacheError: see `errors`.
        """
        with _disk(), tempfile.TemporaryDirectory(prefix=INCOMING, dir=self._folder) as name:
            found = _adapter_manifest(self._store.adapter_manifest(version), f"version {version}").digest()
            if found != digest:
                raise ChangedFilesError(f"version {version} has files of the digest {found} now; {digest} is served")
            self._store.fetch_adapter(version, Path(name))
            _check_adapter(_only(Path(name), names.ADAPTER_FILE), digest)

    def bundle(self, digest: str) -> Path:
        """A folder with bundle.json and the files that it lists, digests checked.

        Raises:
            RefusedError, TrackingError, CacheError: see `errors`.
        """
        if home := self._kept("bundles", digest, _check_bundle):
            return home
        candidates = self._store.bundles(digest)
        for last, candidate in enumerate(candidates, 1 - len(candidates)):
            try:
                return self._fetched(
                    "bundles", digest, partial(self._store.fetch_bundle, candidate), names.BUNDLE_FILE, _check_bundle
                )
            except RefusedError as error:
                if not last:
                    raise
                fields = {"model": candidate.model, "version": candidate.number, "reason": str(error)}
                log.warning("a version is tagged as a bundle that it does not hold; trying the next", extra={"fields": fields})
        raise AssertionError("a store names at least one version")

    def _home(self, kind: Kind, digest: str) -> Path:
        return self._folder / kind / parse_digest(digest)

    def _kept(self, kind: Kind, digest: str, check: Check) -> Path | None:
        """The folder when it is there and intact; a damaged one is removed."""
        home = self._home(kind, digest)
        with _disk():
            if not home.exists():
                return None
            try:
                check(home, digest)
            except RefusedError as error:
                log.warning("cached copy dropped", extra={"fields": {"folder": str(home), "reason": str(error)}})
                shutil.rmtree(home)
                return None
        self._used(home)
        return home

    def _fetched(self, kind: Kind, digest: str, fetch: Callable[[Path], None], landmark: str, check: Check) -> Path:
        """Fetches, checks, and moves the checked files to their folder in one rename."""
        home = self._home(kind, digest)
        with _disk():
            home.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=INCOMING, dir=self._folder) as name:
                raw, clean = Path(name) / "raw", Path(name) / "clean"
                raw.mkdir()
                clean.mkdir()
                fetch(raw)
                found = _only(raw, landmark)
                # only what was checked moves on: an unlisted file beside a graph could be read as its weights
                for file in check(found, digest):
                    (found / file).rename(clean / file)
                if not home.exists():  # another process may have been quicker
                    clean.rename(home)
        self._used(home)
        return home


def _only(folder: Path, landmark: str) -> Path:
    """The folder of the one file of that name."""
    found = sorted(folder.rglob(landmark))
    if len(found) != 1:
        raise BundleError(f"expected one {landmark} among the version's files; found {len(found)}; register it again")
    return found[0].parent


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CacheError(f"the cache folder cannot be used: {error}; see the space and the rights of cache_dir") from error


def _adapter_manifest(text: bytes, where: str) -> AdapterManifest:
    try:
        return AdapterManifest.model_validate_json(text)
    except ValidationError as error:
        raise AdapterError(f"{where}: {names.ADAPTER_FILE} is not an adapter manifest: {error}") from error


def _check_adapter(folder: Path, digest: str) -> list[str]:
    where = f"adapter {digest}"
    manifest = _adapter_manifest((folder / names.ADAPTER_FILE).read_bytes(), where)
    if manifest.digest() != digest:
        raise CorruptError(f"{where}: {names.ADAPTER_FILE} has digest {manifest.digest()}; register the version anew")
    _check_file(where, folder / names.WEIGHTS_FILE, manifest.weights_sha256)
    return [names.ADAPTER_FILE, names.WEIGHTS_FILE]


def _check_bundle(folder: Path, digest: str) -> list[str]:
    where = f"bundle {digest}"
    try:
        manifest = BundleManifest.model_validate_json((folder / names.BUNDLE_FILE).read_bytes())
    except ValidationError as error:
        raise BundleError(f"{where}: {names.BUNDLE_FILE} is not a bundle manifest: {error}") from error
    if manifest.digest() != digest:
        raise BundleMismatchError(asked=digest, found=manifest.digest(), where="the registry's bundle")
    if missing := BUNDLE_FILES - set(manifest.files):
        raise BundleError(f"{where}: {names.BUNDLE_FILE} lists no {', '.join(sorted(missing))}; export the bundle anew")
    for file, sha256 in manifest.files.items():
        _check_file(where, folder / parse_file_name(file), sha256)
    return [names.BUNDLE_FILE, *manifest.files]


def _check_file(where: str, path: Path, expected: str) -> None:
    if not path.is_file():
        raise CorruptError(f"{where}: {path.name} is missing; register it anew")
    if (found := file_sha256(path)) != expected:
        raise CorruptError(f"{where}: {path.name} must have sha256 {expected}; received {found}; register it anew")
