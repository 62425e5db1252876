"""A real MLflow server for the session, a fake registry, tokens, and the app with its parts."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tempfile
import uuid
from pathlib import Path

import pytest
from atelier_contracts.manifests import AdapterManifest, Evidence
from atelier_contracts.names import ADAPTER_FILE, ADAPTER_FOLDER, EVIDENCE_FILE, PREVIEW_FILE, WEIGHTS_FILE
from atelier_contracts.tokens import TokenFile
from atelier_registry.bootstrap import Intervals, build_app
from atelier_registry.config.policy import Policy
from atelier_registry.events.event_stream import EventStream
from atelier_registry.events.webhooks.dispatcher import WebhookDispatcher
from atelier_registry.events.webhooks.offsets import WebhookOffsets
from atelier_registry.models.mlflow_client import configure_client
from atelier_registry.models.mlflow_registry import MlflowRegistry
from atelier_registry.storage.database import open_database
from atelier_registry.storage.ledger import Ledger
from atelier_registry.storage.locks import open_locks
from atelier_registry.storage.migrate import migrate
from fastapi.testclient import TestClient

from ..servers import MlflowServer
from .fake_infer_client import FakeInferClient
from .fake_registry import FakeRegistry
from .postgres import postgres_running

TOKENS = {"rita": "reader", "tom": "trainer", "pia": "promoter", "ada": "admin"}

WEIGHTS = "weights"
WEIGHTS_SHA256 = hashlib.sha256(WEIGHTS.encode()).hexdigest()
ADAPTER = AdapterManifest(
    bundle_digest="b" * 64,
    weights_sha256=WEIGHTS_SHA256,
    layers={"unet.down.0.to_q": {"rank": 4, "alpha": 4.0}},
    run_id="run",
    dataset_digest="d" * 64,
    git_revision="1c2f7a9",
)
EVIDENCE = Evidence(
    weights_sha256=WEIGHTS_SHA256,
    output_finite=True,
    onnx_max_error=1.4e-6,
    validation_loss=0.13,
    base_validation_loss=0.15,
    validation_digest="e" * 64,
    validation_images=24,
)
FILES = {ADAPTER_FILE: ADAPTER.model_dump_json(), EVIDENCE_FILE: EVIDENCE.model_dump_json()}


@pytest.fixture(autouse=True)
def short_waiting():
    """What `__main__` does before it builds the client; undone after each test."""
    before = dict(os.environ)
    configure_client(2)
    yield
    os.environ.clear()
    os.environ.update(before)


class RealWorld:
    """Fills an MLflow server the way a trainer does. The same `add_...` methods as the fake's."""

    def __init__(self, server: MlflowServer) -> None:
        from mlflow.tracking import MlflowClient

        self.registry = MlflowRegistry(server.uri)
        self.client = MlflowClient(server.uri)
        self._database, self._shared = server.database, None
        self._experiment = self.client.create_experiment(f"e-{uuid.uuid4().hex}")

    def add_model(self, name, description=""):
        return self.client.create_registered_model(name, description=description or None).name

    def add_version(self, name, tags=None, params=None, metrics=None, files=None, run_tags=None, preview=None):
        if files is None and (tags or {}).get("atelier.kind") == "adapter":
            files = FILES
        run = self.client.create_run(self._experiment, run_name="a run", tags=dict(run_tags or {})).info.run_id
        for key, value in (params or {}).items():
            self.client.log_param(run, key, value)
        for key, value in (metrics or {}).items():
            self.client.log_metric(run, key, value)
        self.client.set_terminated(run)
        made = self._log_files(run, files or {}, preview)
        version = self.client.create_model_version(
            name, f"models:/{made}", run, tags=dict(tags or {}), model_id=made, await_creation_for=0
        )
        return int(version.version)

    def add_bare_version(self, name):
        """A version whose files all such versions share: one question instead of a dozen, for tests that need very many."""
        if self._shared is None:
            self._shared = self._log_files(self.client.create_run(self._experiment).info.run_id, FILES)
        made = self.client.create_model_version(
            name, f"models:/{self._shared}", tags={"atelier.kind": "adapter"}, model_id=self._shared, await_creation_for=0
        )
        return int(made.version)

    def _log_files(self, run, files, preview=None):
        from mlflow.entities import LoggedModelStatus

        made = self.client.create_logged_model(self._experiment, name="adapter", source_run_id=run)
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder, ADAPTER_FOLDER)
            weights.mkdir()
            for file, text in {WEIGHTS_FILE: WEIGHTS, **files}.items():
                (weights / file).write_text(text)
            if preview is not None:
                (weights / PREVIEW_FILE).write_bytes(preview)
            self.client.log_model_artifacts(made.model_id, folder)
        self.client.finalize_logged_model(made.model_id, LoggedModelStatus.READY)
        return made.model_id

    def keep_files_elsewhere(self, name, number, place="/etc"):
        self._write("UPDATE model_versions SET storage_location = ? WHERE name = ? AND version = ?", place, name, number)

    def point(self, name, alias, number):
        self.client.set_registered_model_alias(name, alias, str(number))

    def unpoint(self, name, alias):
        self.client.delete_registered_model_alias(name, alias)

    def tag_model(self, name, key, value):
        if value is None:
            self.client.delete_registered_model_tag(name, key)
        else:
            self.client.set_registered_model_tag(name, key, value)

    def add_image(self, name, number, key, step, png):
        import io

        from PIL import Image

        run = self.client.get_model_version(name, str(number)).run_id
        self.client.log_image(run, Image.open(io.BytesIO(png)), key=key, step=step, synchronous=True)

    def add_point(self, name, number, metric, step, value):
        self.client.log_metric(self.client.get_model_version(name, str(number)).run_id, metric, value, step=step)

    def make_pending(self, name, number):
        self._write("UPDATE model_versions SET status = ? WHERE name = ? AND version = ?", "PENDING_REGISTRATION", name, number)

    def delete_version(self, name, number):
        self.client.delete_model_version(name, str(number))

    def delete_model(self, name):
        self.client.delete_registered_model(name)

    def _write(self, statement, *values):
        with sqlite3.connect(self._database, timeout=10) as connection:
            connection.execute(statement, values)
        connection.close()


@pytest.fixture(scope="session")
def real_world(mlflow_server):
    return RealWorld(mlflow_server)


@pytest.fixture
def fake():
    return FakeRegistry(FILES)


@pytest.fixture(params=["fake", "mlflow"])
def world(request):
    """Both registries in turn: `world.add_...` fills it, `world.registry` is what the service sees."""
    if request.param == "mlflow":
        return request.getfixturevalue("real_world")
    fake = FakeRegistry(FILES)
    fake.registry = fake
    return fake


@pytest.fixture
def name():
    """A name for a model that no other test uses."""
    return f"pencil-{uuid.uuid4().hex[:8]}"


def write_tokens(file: Path, tokens: dict[str, str]) -> None:
    lines = (f"{id} {role} {hashlib.sha256(f'{id}-secret'.encode()).hexdigest()}\n" for id, role in tokens.items())
    file.write_text("".join(lines))


@pytest.fixture
def token_file(tmp_path):
    file = tmp_path / "tokens"
    write_tokens(file, TOKENS)
    return file


@pytest.fixture(scope="session")
def postgres():
    with postgres_running() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def database_url(request, tmp_path):
    """Every test with decisions runs on both; the ones on PostgreSQL where they are asked for."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgres").database()
    return f"sqlite:///{tmp_path / 'decisions.db'}"


@pytest.fixture
def engine(database_url):
    engine = open_database(database_url)
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def ledger(engine):
    return Ledger(engine)


@pytest.fixture
def locks(engine):
    return open_locks(engine, 60)


@pytest.fixture
def webhooks(ledger, engine, locks):
    """Without subscribers."""
    return WebhookDispatcher([], ledger.outbox, WebhookOffsets(engine), locks)


@pytest.fixture
def infer_client():
    return FakeInferClient()


class Api:
    """The app over HTTP, as one caller. `api.as_("rita")` is another one."""

    def __init__(self, client: TestClient, id: str = "pia") -> None:
        self.client, self._headers = client, {"Authorization": f"Bearer {id}-secret"}

    def as_(self, id):
        return Api(self.client, id)

    def get(self, path, headers=None, **params):
        return self.client.get(path, params=params or None, headers=self._headers | (headers or {}))

    def post(self, path, body, headers=None):
        return self.client.post(path, json=body, headers=self._headers | (headers or {}))

    def patch(self, path, body, headers=None):
        return self.client.patch(path, json=body, headers=self._headers | (headers or {}))

    def edit_style(self, name, style, reason="clearer", headers=None):
        return self.patch(f"/models/{name}/style", {"reason": reason, "style": style}, headers)

    def promote(self, name, number, reason="better", headers=None, **more):
        return self.post(f"/models/{name}/versions/{number}/promote", {"reason": reason, **more}, headers)

    def roll_back(self, name, reason="worse", headers=None, **more):
        return self.post(f"/models/{name}/rollback", {"reason": reason, **more}, headers)

    def history(self, name, **params):
        return self.get(f"/models/{name}/history", **params).json()["decisions"]

    def moves(self, name, **params):
        """Where the alias went, newest first."""
        return [decision["to_version"] for decision in self.history(name, outcome="done", **params)]


@pytest.fixture
def start(ledger, locks, webhooks, infer_client, token_file):
    """Starts the app with the given registry, as a new process would: what was left pending is looked at."""
    clients = []

    def starting(registry, ledger=ledger, policy=None, webhooks=webhooks, **intervals):
        defaults = {"alias_poll_s": 3600.0, "integrity_check_s": 3600.0}
        app = build_app(
            registry=registry,
            ledger=ledger,
            locks=locks,
            event_stream=EventStream(ledger.outbox),
            webhooks=webhooks,
            tokens=TokenFile(token_file),
            policy=policy or Policy(),
            infer_client=infer_client,
            intervals=Intervals(**defaults | intervals),
        )
        client = TestClient(app, raise_server_exceptions=False)
        clients.append(client)
        client.__enter__()
        return Api(client)

    yield starting
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def api(start, fake):
    """The app on the fake registry, called by a promoter."""
    return start(fake)


@pytest.fixture
def adapters(fake, name):
    """A model with five adapter versions in the fake registry."""
    fake.add_model(name, "pencil drawings")
    for _ in range(5):
        fake.add_version(name, tags={"atelier.kind": "adapter"}, files=FILES)
    return name
