"""A model registry in memory. It holds to the same tests as the one that asks MLflow (test_model_registry.py)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from threading import Lock
from typing import Any, Self

from atelier_contracts.names import ADAPTER_FILE, EVIDENCE_FILE, TAG_RETIRED, WEIGHTS_FILE
from atelier_registry.errors import InvalidArgumentError, TrackingUnavailableError, UnreadableFileError
from atelier_registry.models.model_registry import FILES, READY, AdapterFiles, Image, Model, Page, Point, Run, Version


class FakeRegistry:
    """The Protocol's methods, ways to fill it (`add_...`), and ways to break it (`down`, `before_alias`, `after_alias`)."""

    def __init__(self, adapter_files: Mapping[str, str] | None = None) -> None:
        self._default_files = dict(adapter_files or {})
        self._chain_head: str | None = None
        self._models: dict[str, Model] = {}
        self._versions: dict[tuple[str, int], Version] = {}
        self._runs: dict[str, Run] = {}
        self._files: dict[tuple[str, int], dict[str, str] | UnreadableFileError] = {}
        self._images: dict[str, dict[Image, bytes]] = {}
        self._points: dict[tuple[str, str], list[Point]] = {}
        self._previews: dict[tuple[str, int], bytes] = {}
        self._lock = Lock()
        self._serial = count(1)
        self.down = False
        self.calls: list[str] = []
        self.before_alias: Callable[[], None] = lambda: None
        self.after_alias: Callable[[], None] = lambda: None

    # The Protocol.

    def ping(self) -> None:
        self._called("ping")

    def models(self, limit: int, page_token: str | None) -> Page[Model]:
        self._called("models")
        return _page([self._told(self._models[name]) for name in sorted(self._models)], limit, page_token)

    def model(self, name: str) -> Model | None:
        self._called("model")
        if ":" in name or "/" in name:
            raise InvalidArgumentError(f"Invalid model name '{name}'. Names cannot contain '/' or ':'.")
        return self._told(self._models[name]) if name in self._models else None

    def versions(self, name: str, limit: int, page_token: str | None) -> Page[Version]:
        self._called("versions")
        return _page(sorted(self._of(name), key=lambda version: -version.number), limit, page_token)  # type: ignore[union-attr]

    def version(self, name: str, number: int) -> Version | None:
        self._called("version")
        return self._versions.get((name, number))

    def run(self, run_id: str) -> Run | None:
        self._called("run")
        return self._runs.get(run_id)

    def runs(self, run_ids: Sequence[str]) -> dict[str, Run]:
        self._called("runs")
        return {run_id: self._runs[run_id] for run_id in run_ids if run_id in self._runs}

    def curve(self, run_id: str, metric: str) -> list[Point]:
        self._called("curve")
        return self._points.get((run_id, metric), [])

    def images(self, run_id: str) -> list[Image]:
        self._called("images")
        return sorted(self._images.get(run_id, {}), key=lambda image: (image.key, image.step))

    def image(self, run_id: str, path: str) -> bytes | None:
        self._called("image")
        return next((png for image, png in self._images.get(run_id, {}).items() if image.path == path), None)

    def set_tag(self, name: str, number: int, key: str, value: str) -> bool:
        if key == TAG_RETIRED:
            self.before_alias()
        self._called("set_tag")
        if (name, number) not in self._versions:
            return False
        version = self._versions[name, number]
        self._versions[name, number] = replace(version, tags={**version.tags, key: value})
        if key == TAG_RETIRED:
            self.after_alias()
        return True

    def preview(self, name: str, number: int) -> Any:
        self._called("preview")
        return self._previews.get((name, number))

    def set_model_tag(self, name: str, key: str, value: str | None) -> Any:
        self.before_alias()
        self._called("set_model_tag")
        if name not in self._models:
            return False
        self.tag_model(name, key, value)
        self.after_alias()
        return True

    def files(self, name: str, number: int, wanted: Collection[str] = FILES) -> dict[str, str]:
        self._called("files")
        found = self._files.get((name, number), {})
        if isinstance(found, UnreadableFileError):
            raise found
        return {file: text for file, text in found.items() if file in wanted}

    def adapter_files(self, name: str, number: int) -> AdapterFiles:
        self._called("adapter_files")
        found = self._files.get((name, number), {})
        if isinstance(found, UnreadableFileError):
            raise found
        weights = found.get(WEIGHTS_FILE)
        sha256 = hashlib.sha256(weights.encode()).hexdigest() if weights is not None else None
        preview = self._previews.get((name, number))
        preview_sha256 = hashlib.sha256(preview).hexdigest() if preview is not None else None
        return AdapterFiles(found.get(ADAPTER_FILE), found.get(EVIDENCE_FILE), sha256, preview_sha256)

    def chain_head(self) -> str | None:
        self._called("chain_head")
        return self._chain_head

    def set_chain_head(self, value: str) -> None:
        self._called("set_chain_head")
        self._chain_head = value

    def set_alias(self, name: str, alias: str, number: int) -> bool:
        self.before_alias()
        self._called("set_alias")
        if alias == "latest":
            raise InvalidArgumentError("'latest' alias name (case insensitive) is reserved.")
        with self._lock:
            if (name, number) not in self._versions:
                return False
            self._point(name, alias, number)
        self.after_alias()
        return True

    # For tests.

    @property
    def registry(self) -> Self:
        return self

    def add_model(self, name: str, description: str = "") -> str:
        self._models[name] = Model(name, description)
        return name

    def add_version(
        self,
        name: str,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        files: Mapping[str, str] | None = None,
        run_tags: Mapping[str, str] | None = None,
        preview: bytes | None = None,
    ) -> int:
        run = Run(f"run{next(self._serial)}", "a run", "FINISHED", params or {}, metrics or {}, run_tags or {})
        self._runs[run.id] = run
        number = max([version.number for version in self._of(name)], default=0) + 1
        self._versions[name, number] = Version(name, number, datetime.now(UTC), READY, "", run.id, dict(tags or {}))
        if files is None and (tags or {}).get("atelier.kind") == "adapter":
            files = self._default_files
        self._files[name, number] = {WEIGHTS_FILE: "weights", **(files or {})}
        if preview is not None:
            self._previews[name, number] = preview
        return number

    def overwrite(self, name: str, number: int, file: str, text: str) -> None:
        """Changes a file of a version, by whatever road."""
        found = self._files[name, number]
        assert isinstance(found, dict)
        found[file] = text

    def keep_files_elsewhere(self, name: str, number: int) -> None:
        self._files[name, number] = UnreadableFileError("its files are not stored by the tracking server")

    def point(self, name: str, alias: str, number: int) -> None:
        """Moves an alias as somebody with an MLflow client would."""
        with self._lock:
            self._point(name, alias, number)

    def unpoint(self, name: str, alias: str) -> None:
        model = self._models[name]
        self._models[name] = replace(model, aliases={k: v for k, v in model.aliases.items() if k != alias})

    def tag_model(self, name: str, key: str, value: str | None) -> None:
        """Tags a model as somebody with an MLflow client would; None deletes the tag."""
        model = self._models[name]
        tags = {other: text for other, text in model.tags.items() if other != key}
        self._models[name] = replace(model, tags=tags | ({key: value} if value is not None else {}))

    def add_image(self, name: str, number: int, key: str, step: int, png: bytes) -> None:
        run = self._versions[name, number].run_id
        path = f"images/{key}%step%{step}%timestamp%1%{len(self._images)}.png"
        self._images.setdefault(run, {})[Image(path, key, step)] = png

    def add_point(self, name: str, number: int, metric: str, step: int, value: float) -> None:
        self._points.setdefault((self._versions[name, number].run_id, metric), []).append(Point(step, value))

    def make_pending(self, name: str, number: int) -> None:
        self._versions[name, number] = replace(self._versions[name, number], status="PENDING_REGISTRATION")

    def delete_version(self, name: str, number: int) -> None:
        del self._versions[name, number]
        model = self._models[name]
        self._models[name] = replace(model, aliases={k: v for k, v in model.aliases.items() if v != number})

    def delete_model(self, name: str) -> None:
        del self._models[name]
        self._versions = {key: version for key, version in self._versions.items() if key[0] != name}

    def delete_run(self, run_id: str) -> None:
        del self._runs[run_id]

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.down:
            raise TrackingUnavailableError from ConnectionError("the fake is down")

    def _of(self, name: str) -> list[Version]:
        return [version for (model, _), version in self._versions.items() if model == name]

    def _told(self, model: Model) -> Model:
        return replace(model, latest=max(self._of(model.name), key=lambda version: version.number, default=None))

    def _point(self, name: str, alias: str, number: int) -> None:
        model = self._models[name]
        self._models[name] = replace(model, aliases={**model.aliases, alias: number})


def _page(items: list[Model | Version], limit: int, page_token: str | None) -> Page[Any]:
    if page_token is not None and not page_token.isdigit():
        raise InvalidArgumentError("Invalid page token, could not base64-decode")
    start = int(page_token or 0)
    end = start + limit
    return Page(items[start:end], str(end) if end < len(items) else None)
