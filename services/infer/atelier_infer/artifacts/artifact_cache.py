"""Adapters and bundles on disk by digest: downloaded once, verified at every use, complete or absent."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from atelier_contracts import names
from atelier_contracts.identifiers import parse_digest
from atelier_contracts.manifests import AdapterManifest

from atelier_infer.artifacts.verification import check_bundle, check_file, parse_adapter_manifest
from atelier_infer.errors import BundleError, CacheError, CorruptFileError, DigestMismatchError, RefusedError
from atelier_infer.registry.model_store import BundleVersion, ModelStore

log = logging.getLogger(__name__)

INCOMING = "incoming-"
ABANDONED_AFTER_S = 24 * 3600
"""An unfinished download older than this was left by a process that was killed."""


class CachedAdapter(NamedTuple):
    """A folder with verified weights, and the manifest that describes them."""

    folder: Path
    manifest: AdapterManifest


class ArtifactCache:
    """`<folder>/adapters/<digest>/` and `<folder>/bundles/<digest>/`. Deleting any of it costs a download, nothing else.

    A digest is parsed before it becomes part of a path, so nothing outside these two levels is ever written or removed.
    """

    def __init__(self, store: ModelStore, folder: Path, record_use: Callable[[Path], None] = lambda folder: None) -> None:
        """`record_use` is called with each folder that is returned."""
        self._store, self._folder, self._record_use = store, folder, record_use

    def remove_abandoned_downloads(self) -> None:
        with _cache_errors():
            for path in self._folder.glob(INCOMING + "*"):
                if time.time() - path.stat().st_mtime > ABANDONED_AFTER_S:
                    shutil.rmtree(path)

    def adapter(self, version: int, promoted_digest: str | None = None) -> CachedAdapter:
        """A version's files and manifest, digests verified. adapter.json is read once.

        Args:
            version: of the served model.
            promoted_digest: the digest that its files must have; if they are cached, the registry is not asked. None: what the
                registry recorded, or any files for a version that was never promoted.

        Raises:
            DigestMismatchError: its files have another digest.
            UnknownVersionError, RefusedError, TrackingError, CacheError: see `errors`.
        """
        expected = self._store.promoted_digest(version) if promoted_digest is None else parse_digest(promoted_digest)
        if expected and (cached := self._cached_adapter(expected)):
            return cached
        with _cache_errors():
            text = self._store.adapter_manifest(version)
        manifest = parse_adapter_manifest(text, f"version {version}")
        digest = manifest.digest()
        if expected not in (None, digest):
            raise DigestMismatchError(
                f"version {version} was promoted with files of digest {expected}, and its files now have digest {digest}: "
                "restore the original files, or register the new ones as another version and promote that"
            )
        if not expected and (cached := self._cached_adapter(digest)):
            return cached
        with self._installing(self._home("adapters", digest)) as incoming:
            (incoming / names.ADAPTER_FILE).write_bytes(text)
            self._download_files(version, manifest, incoming)
        return CachedAdapter(self._use(self._home("adapters", digest)), manifest)

    def preview(self, digest: str) -> bytes | None:
        """The preview of an adapter on disk; None where it has none, or is not on disk.

        Raises:
            CacheError: see `errors`.
        """
        file = self._home("adapters", digest) / names.PREVIEW_FILE
        with _cache_errors():
            return file.read_bytes() if file.exists() else None

    def compare_with_registry(self, version: int, digest: str) -> None:
        """Downloads a version's files and compares their digest; nothing is stored.

        Raises:
            RefusedError: they have another digest, or are missing.
            UnknownVersionError, TrackingError, CacheError: see `errors`.
        """
        with _cache_errors(), tempfile.TemporaryDirectory(prefix=INCOMING, dir=self._folder) as name:
            manifest = parse_adapter_manifest(self._store.adapter_manifest(version), f"version {version}")
            if manifest.digest() != digest:
                raise DigestMismatchError(f"version {version} has files of digest {manifest.digest()} now; {digest} is served")
            self._download_files(version, manifest, Path(name))

    def bundle(self, digest: str) -> Path:
        """A folder with bundle.json and the files that it lists, digests verified.

        Raises:
            RefusedError, TrackingError, CacheError: see `errors`.
        """
        home = self._home("bundles", digest)
        with _cache_errors():
            if home.exists():
                try:
                    check_bundle(home, digest)
                    return self._use(home)
                except RefusedError as error:
                    _remove_damaged(home, error)
        candidates = self._store.bundles(digest)
        for remaining, candidate in enumerate(candidates, 1 - len(candidates)):
            try:
                self._download_bundle(candidate, digest)
                return self._use(home)
            except RefusedError as error:
                if not remaining:
                    raise
                fields = {"model": candidate.model, "version": candidate.number, "reason": str(error)}
                log.warning("bundle version does not hold the tagged bundle; trying the next", extra={"fields": fields})
        raise AssertionError("ModelStore.bundles returns at least one version")

    def _home(self, kind: str, digest: str) -> Path:
        return self._folder / kind / parse_digest(digest)

    def _use(self, home: Path) -> Path:
        self._record_use(home)
        return home

    def _cached_adapter(self, digest: str) -> CachedAdapter | None:
        """Removes a damaged copy."""
        home = self._home("adapters", digest)
        with _cache_errors():
            if not home.exists():
                return None
            where = f"adapter {digest}"
            try:
                manifest = parse_adapter_manifest((home / names.ADAPTER_FILE).read_bytes(), where)
                if manifest.digest() != digest:
                    raise CorruptFileError(f"{where}: {names.ADAPTER_FILE} has digest {manifest.digest()}")
                check_file(where, home / names.WEIGHTS_FILE, manifest.weights_sha256)
                if manifest.preview_sha256 is not None:
                    check_file(where, home / names.PREVIEW_FILE, manifest.preview_sha256)
            except RefusedError as error:
                _remove_damaged(home, error)
                return None
        return CachedAdapter(self._use(home), manifest)

    def _download_files(self, version: int, manifest: AdapterManifest, into: Path) -> None:
        """The files that the manifest describes."""
        files: list[tuple[str, str, Callable[[int, Path], Path | None]]] = [
            (names.WEIGHTS_FILE, manifest.weights_sha256, self._store.fetch_weights)
        ]
        if manifest.preview_sha256 is not None:
            files.append((names.PREVIEW_FILE, manifest.preview_sha256, self._store.fetch_preview))
        for name, sha256, fetch in files:
            with tempfile.TemporaryDirectory(prefix=INCOMING, dir=self._folder) as folder:
                file = fetch(version, Path(folder)) or Path(folder) / name
                check_file(f"adapter {manifest.digest()}", file, sha256)
                file.rename(into / name)

    def _download_bundle(self, version: BundleVersion, digest: str) -> None:
        with (
            self._installing(self._home("bundles", digest)) as incoming,
            tempfile.TemporaryDirectory(prefix=INCOMING, dir=self._folder) as name,
        ):
            self._store.fetch_bundle(version, Path(name))
            manifests = sorted(Path(name).rglob(names.BUNDLE_FILE))
            if len(manifests) != 1:
                raise BundleError(
                    f"a bundle must hold one {names.BUNDLE_FILE}; received {len(manifests)}; register the bundle again"
                )
            # only verified files are kept: an unlisted file next to a graph could be read as its weights
            for file in check_bundle(manifests[0].parent, digest):
                (manifests[0].parent / file).rename(incoming / file)

    @contextmanager
    def _installing(self, home: Path) -> Iterator[Path]:
        """Yields a temporary folder that is renamed to `home` if the block succeeds."""
        with _cache_errors():
            home.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=INCOMING, dir=self._folder) as name:
                incoming = Path(name) / "files"
                incoming.mkdir()
                yield incoming
                if not home.exists():  # another process may have been faster
                    incoming.rename(home)


def _remove_damaged(home: Path, error: RefusedError) -> None:
    log.warning("damaged files removed from the cache", extra={"fields": {"folder": str(home), "reason": str(error)}})
    shutil.rmtree(home)


@contextmanager
def _cache_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"the cache folder cannot be used: {error}; check the free space and permissions of cache_dir"
        ) from error
