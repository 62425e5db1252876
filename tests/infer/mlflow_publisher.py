"""Registers in a real MLflow server what the trainer and registry-api would."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest
from atelier_contracts.styles import RecordedEdits, StyleEdits
from mlflow import MlflowClient


class MlflowPublisher:
    """Registers what a trainer registers, without the trainer."""

    def __init__(self, url: str) -> None:
        self.client, self.model = MlflowClient(url, url), f"a model {uuid.uuid4().hex[:8]}"
        self.run = self.client.create_run("0").info
        self.digests: dict[int, str] = {}

    def publish_adapter(self, folder: Path, kind: str | None = names.KIND_ADAPTER) -> int:
        place = f"adapter-{uuid.uuid4().hex[:8]}"
        if any(folder.iterdir()):
            self.client.log_artifacts(self.run.run_id, str(folder), f"{place}/{names.ADAPTER_FOLDER}")
        number = self.register(self.model, place, {names.TAG_KIND: kind} if kind else {})
        if (file := folder / names.ADAPTER_FILE).is_file():
            self.digests[number] = AdapterManifest.model_validate_json(file.read_bytes()).digest()
        return number

    def publish_bundle(self, folder: Path, digest: str) -> None:
        place = f"bundle-{uuid.uuid4().hex[:8]}"
        self.client.log_artifacts(self.run.run_id, str(folder), f"{place}/data")
        tags = {names.TAG_KIND: names.KIND_BUNDLE, names.TAG_BUNDLE_DIGEST: digest}
        self.register(f"base-{uuid.uuid4().hex[:8]}", place, tags)

    def register(self, model: str, place: str, tags: dict[str, str]) -> int:
        if not self.client.search_registered_models(f'name = "{model}"'):
            self.client.create_registered_model(model)
        source = f"{self.run.artifact_uri}/{place}"
        return int(self.client.create_model_version(model, source, self.run.run_id, tags=tags).version)

    def set_alias(self, alias: str, version: int) -> None:
        if digest := self.digests.get(version):
            self.client.set_model_version_tag(self.model, str(version), names.TAG_PROMOTED_DIGEST, digest)
        self.client.set_registered_model_alias(self.model, alias, str(version))

    def edit_style(self, decision: int, **edits: Any) -> None:
        recorded = RecordedEdits(decision=decision, edits=StyleEdits.model_validate(edits))
        self.client.set_registered_model_tag(self.model, names.TAG_STYLE, recorded.tag())

    def delete_alias(self, alias: str) -> None:
        self.client.delete_registered_model_alias(self.model, alias)
