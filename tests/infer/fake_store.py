"""A registry in memory that passes the tests of the real one."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest
from atelier_contracts.styles import RecordedEdits, StyleEdits
from atelier_infer.errors import AdapterError, BundleMissingError, NotAnAdapterError, TrackingError, UnknownVersionError
from atelier_infer.registry.model_store import AdapterVersion, BundleVersion, RegisteredModel
from pydantic import ValidationError


@dataclass
class FakeStore:
    """Folders stand for artifacts; `down` stands for an outage."""

    model: str = "sketches"
    down: bool = False
    generation: str = ""
    aliases: dict[str, int] = field(default_factory=dict)
    folders: dict[int, Path] = field(default_factory=dict)
    kinds: dict[int, str] = field(default_factory=dict)
    bundle_folders: dict[str, list[Path]] = field(default_factory=dict)
    images: dict[int, bytes] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)
    promoted: dict[int, str] = field(default_factory=dict)
    style_tag: str | None = None

    # what a trainer and registry-api do

    def publish_adapter(self, folder: Path, kind: str = names.KIND_ADAPTER) -> int:
        number = max(self.folders, default=0) + 1
        self.generation = self.generation or "1"
        self.folders[number], self.kinds[number] = folder, kind
        return number

    def publish_bundle(self, folder: Path, digest: str) -> None:
        self.bundle_folders.setdefault(digest, []).append(folder)

    def set_alias(self, alias: str, version: int, digest: str | None = None) -> None:
        """As registry-api does it: the digest is kept the first time, and stays."""
        if digest is None and version in self.folders and (file := self.folders[version] / names.ADAPTER_FILE).is_file():
            with contextlib.suppress(ValidationError):
                digest = AdapterManifest.model_validate_json(file.read_bytes()).digest()
        if digest is not None:
            self.promoted.setdefault(version, digest)
        self.aliases[alias] = version

    def edit_style(self, decision: int, **edits: Any) -> None:
        self.style_tag = RecordedEdits(decision=decision, edits=StyleEdits.model_validate(edits)).tag()

    def make_model_again(self) -> None:
        """The model was deleted and made again: its version numbers mean other versions."""
        self.generation += "+"
        self.promoted.clear()

    def delete_alias(self, alias: str) -> None:
        del self.aliases[alias]

    # what this service asks

    def registered_model(self) -> RegisteredModel:
        self._answer()
        return RegisteredModel(self.generation, dict(self.aliases), self.style_tag)

    def versions(self) -> list[AdapterVersion]:
        self._answer()
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        return [AdapterVersion(number, moment) for number, kind in sorted(self.kinds.items()) if kind == names.KIND_ADAPTER]

    def validation_image(self, version: int) -> bytes | None:
        self._answer()
        self.fetched.append(f"image {version}")
        self._kind(version)
        return self.images.get(version)

    def promoted_digest(self, version: int) -> str | None:
        self._answer()
        self._kind(version)
        return self.promoted.get(version)

    def adapter_manifest(self, version: int) -> bytes:
        self._answer()
        self._kind(version)
        file = self.folders[version] / names.ADAPTER_FILE
        if not file.is_file():
            raise AdapterError(f"version {version} has no {names.ADAPTER_FILE}")
        return file.read_bytes()

    def fetch_weights(self, version: int, into: Path) -> Path | None:
        self._answer()
        self.fetched.append(f"version {version}")
        file = self.folders[version] / names.WEIGHTS_FILE
        return Path(shutil.copy(file, into)) if file.exists() else None

    def fetch_preview(self, version: int, into: Path) -> Path | None:
        self._answer()
        self.fetched.append(f"preview {version}")
        file = self.folders[version] / names.PREVIEW_FILE
        return Path(shutil.copy(file, into)) if file.exists() else None

    def bundles(self, digest: str) -> list[BundleVersion]:
        self._answer()
        if digest not in self.bundle_folders:
            raise BundleMissingError(f"bundle {digest} is not registered")
        return [BundleVersion(digest, number) for number in range(1, len(self.bundle_folders[digest]) + 1)]

    def fetch_bundle(self, version: BundleVersion, into: Path) -> None:
        self._answer()
        self.fetched.append(f"bundle {version.model}")
        shutil.copytree(self.bundle_folders[version.model][version.number - 1], into / "some" / "folders")

    def _kind(self, version: int) -> None:
        if version not in self.folders:
            raise UnknownVersionError(f"{self.model} has no version {version}")
        if self.kinds[version] != names.KIND_ADAPTER:
            raise NotAnAdapterError(f"version {version} is tagged {self.kinds[version]}")

    def _answer(self) -> None:
        if self.down:
            raise TrackingError("the tracking server cannot be reached")
