"""Adapters and bundles on disk, by digest: fetched once, checked at every use, never half there."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest, BundleManifest, file_sha256
from pydantic import ValidationError

from atelier_infer.errors import AdapterError, BundleError, BundleMismatchError, CacheError, CorruptError, RefusedError
from atelier_infer.store import Store

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


class Shelf:
    """`<folder>/adapters/<digest>/` and `<folder>/bundles/<digest>/`. Deleting any of it costs a download, nothing else."""

    def __init__(self, store: Store, folder: Path, used: Callable[[Path], None] = lambda home: None) -> None:
        """`used` is told of each folder that is handed out."""
        self._store, self._folder, self._used = store, folder, used

    def tidy(self) -> None:
        """Removes downloads that a killed process left behind."""
        with _disk():
            for path in self._folder.glob(INCOMING + "*"):
                if time.time() - path.stat().st_mtime > ABANDONED_AFTER_S:
                    shutil.rmtree(path)

    def adapter(self, version: int) -> Path:
        """A folder with the version's adapter.json and weights, digests checked.

        Raises:
            UnknownVersionError, RefusedError, TrackingError, CacheError: see `errors`.
        """
        with _disk():
            text = self._store.adapter_manifest(version)
        digest = _adapter_manifest(text, f"version {version}").digest()
        return self._place(
            self._folder / "adapters" / digest,
            lambda into: self._store.fetch_adapter(version, into),
            names.ADAPTER_FILE,
            lambda folder: _check_adapter(folder, digest),
        )

    def bundle(self, digest: str) -> Path:
        """A folder with bundle.json and the files that it lists, digests checked.

        Raises:
            RefusedError, TrackingError, CacheError: see `errors`.
        """
        return self._place(
            self._folder / "bundles" / digest,
            lambda into: self._store.fetch_bundle(digest, into),
            names.BUNDLE_FILE,
            lambda folder: _check_bundle(folder, digest),
        )

    def _place(self, home: Path, fetch: Callable[[Path], None], landmark: str, check: Callable[[Path], Iterable[str]]) -> Path:
        """Returns `home` when it is intact; otherwise fetches, checks, and moves the checked files there in one rename."""
        with _disk():
            if home.exists():
                try:
                    check(home)
                except RefusedError as error:
                    log.warning("cached copy dropped", extra={"fields": {"folder": str(home), "reason": str(error)}})
                    shutil.rmtree(home)
                else:
                    self._used(home)
                    return home
            home.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=INCOMING, dir=self._folder) as name:
                raw, clean = Path(name) / "raw", Path(name) / "clean"
                raw.mkdir()
                clean.mkdir()
                fetch(raw)
                found = sorted(raw.rglob(landmark))
                if len(found) != 1:
                    raise BundleError(
                        f"expected one {landmark} among the version's files; found {len(found)}; register it anew"
                    )
                # only what was checked moves on: an unlisted file beside a graph could be read as its weights
                for file in check(found[0].parent):
                    (found[0].parent / file).rename(clean / file)
                if not home.exists():  # another process may have been quicker
                    clean.rename(home)
        self._used(home)
        return home


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
        if Path(file).name != file:
            raise BundleError(f"{where}: files must lie beside {names.BUNDLE_FILE}; received {file!r}; export the bundle anew")
        _check_file(where, folder / file, sha256)
    return [names.BUNDLE_FILE, *manifest.files]


def _check_file(where: str, path: Path, expected: str) -> None:
    if not path.is_file():
        raise CorruptError(f"{where}: {path.name} is missing; register it anew")
    if (found := file_sha256(path)) != expected:
        raise CorruptError(f"{where}: {path.name} must have sha256 {expected}; received {found}; register it anew")
