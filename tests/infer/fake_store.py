"""A registry in memory that passes the tests of the real one."""

import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from atelier_contracts import names
from atelier_infer.errors import AdapterError, BundleMissingError, NotAnAdapterError, TrackingError, UnknownVersionError
from atelier_infer.store import Entry, View


@dataclass
class FakeStore:
    """Folders stand for artifacts; `down` stands for an outage."""

    model: str = "sketches"
    down: bool = False
    generation: str = ""
    aliases: dict[str, int] = field(default_factory=dict)
    folders: dict[int, Path] = field(default_factory=dict)
    kinds: dict[int, str] = field(default_factory=dict)
    bundles: dict[str, Path] = field(default_factory=dict)
    pictures: dict[int, bytes] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)

    # what a trainer and registry-api do

    def publish_adapter(self, folder: Path, kind: str = names.KIND_ADAPTER) -> int:
        number = max(self.folders, default=0) + 1
        self.generation = self.generation or "1"
        self.folders[number], self.kinds[number] = folder, kind
        return number

    def publish_bundle(self, folder: Path, digest: str) -> None:
        self.bundles[digest] = folder

    def set_alias(self, alias: str, version: int) -> None:
        self.aliases[alias] = version

    def delete_alias(self, alias: str) -> None:
        del self.aliases[alias]

    # what this service asks

    def look(self) -> View:
        self._answer()
        return View(self.generation, dict(self.aliases))

    def versions(self) -> list[Entry]:
        self._answer()
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        return [Entry(number, moment) for number, kind in sorted(self.kinds.items()) if kind == names.KIND_ADAPTER]

    def validation_picture(self, version: int) -> bytes | None:
        self._answer()
        self.fetched.append(f"picture {version}")
        self._kind(version)
        return self.pictures.get(version)

    def adapter_manifest(self, version: int) -> bytes:
        self._answer()
        self._kind(version)
        file = self.folders[version] / names.ADAPTER_FILE
        if not file.is_file():
            raise AdapterError(f"version {version} has no {names.ADAPTER_FILE}")
        return file.read_bytes()

    def fetch_adapter(self, version: int, into: Path) -> None:
        self._answer()
        self.fetched.append(f"version {version}")
        shutil.copytree(self.folders[version], into / names.ADAPTER_FOLDER)

    def fetch_bundle(self, digest: str, into: Path) -> None:
        self._answer()
        self.fetched.append(f"bundle {digest}")
        if digest not in self.bundles:
            raise BundleMissingError(f"bundle {digest} is not registered")
        shutil.copytree(self.bundles[digest], into / "some" / "folders")

    def _kind(self, version: int) -> None:
        if version not in self.folders:
            raise UnknownVersionError(f"{self.model} has no version {version}")
        if self.kinds[version] != names.KIND_ADAPTER:
            raise NotAnAdapterError(f"version {version} is tagged {self.kinds[version]}")

    def _answer(self) -> None:
        if self.down:
            raise TrackingError("the tracking server cannot be reached")
