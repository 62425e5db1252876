"""Compares downloaded and cached files with the manifests that describe them."""

from __future__ import annotations

from pathlib import Path

from atelier_contracts import names
from atelier_contracts.identifiers import parse_file_name
from atelier_contracts.manifests import AdapterManifest, file_sha256, outdated_format
from pydantic import ValidationError

from atelier_infer.errors import AdapterError, BundleError, BundleMismatchError, CorruptFileError
from atelier_infer.pipeline.bundle import parse_bundle_manifest


def parse_adapter_manifest(text: bytes, where: str) -> AdapterManifest:
    """`where` begins the error's message.

    Raises:
        AdapterError: it is not a manifest.
    """
    try:
        return AdapterManifest.model_validate_json(text)
    except ValidationError as error:
        reason = outdated_format(text) or f"it is not an adapter manifest: {error}"
        raise AdapterError(f"{where}: {names.ADAPTER_FILE}: {reason}") from error


def check_bundle(folder: Path, digest: str) -> list[str]:
    """Names of the verified files.

    Raises:
        BundleError, BundleMismatchError, CorruptFileError: the files are not those of the digest.
    """
    where = f"bundle {digest}"
    manifest = parse_bundle_manifest((folder / names.BUNDLE_FILE).read_bytes(), where)
    if manifest.digest() != digest:
        raise BundleMismatchError("the registry's bundle", expected=digest, received=manifest.digest())
    required = {names.UNET_FILE, names.VAE_DECODER_FILE, names.SCHEDULER_FILE}
    required |= {file for encoder in manifest.text_encoders.values() for file in (encoder.graph, encoder.tokenizer)}
    if missing := required - set(manifest.files):
        raise BundleError(f"{where}: {names.BUNDLE_FILE} does not list {', '.join(sorted(missing))}; export the bundle again")
    for file, sha256 in manifest.files.items():
        check_file(where, folder / parse_file_name(file), sha256)
    return [names.BUNDLE_FILE, *manifest.files]


def check_file(where: str, path: Path, sha256: str) -> None:
    """`where` begins the error's message.

    Raises:
        CorruptFileError: the file is missing or has another sha256.
    """
    if not path.is_file():
        raise CorruptFileError(f"{where}: {path.name} is missing; register it again")
    if (actual := file_sha256(path)) != sha256:
        raise CorruptFileError(f"{where}: {path.name} must have sha256 {sha256}; received {actual}; register it again")
