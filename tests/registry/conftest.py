"""A real MLflow server for the session, a fake registry, tokens, and the app with its parts."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import httpx
import pytest
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
from atelier_registry.storage.locks import AliasLocks, open_locks
from atelier_registry.storage.migrate import migrate
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from .adapter_files import FILES
from .fake_infer_client import FakeInferClient
from .fake_registry import FakeRegistry
from .postgres import postgres_running
from .real_registry import RealWorld

if TYPE_CHECKING:
    from ..servers import MlflowServer

TOKENS = {"rita": "reader", "tom": "trainer", "pia": "promoter", "ada": "admin"}


@pytest.fixture(autouse=True)
def short_waiting() -> Iterator[None]:
    """What `__main__` does before it builds the client; undone after each test."""
    before = dict(os.environ)
    configure_client(2)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def real_world(mlflow_server: MlflowServer) -> RealWorld:
    return RealWorld(mlflow_server)


@pytest.fixture
def fake() -> FakeRegistry:
    return FakeRegistry(FILES)


@pytest.fixture(params=["fake", "mlflow"])
def world(request: pytest.FixtureRequest) -> FakeRegistry | RealWorld:
    """Both registries in turn: `world.add_...` fills it, `world.registry` is what the service sees."""
    if request.param == "mlflow":
        return request.getfixturevalue("real_world")
    return FakeRegistry(FILES)


@pytest.fixture
def name() -> str:
    """A name for a model that no other test uses."""
    return f"pencil-{uuid.uuid4().hex[:8]}"


def write_tokens(file: Path, tokens: dict[str, str]) -> None:
    lines = (f"{id} {role} {hashlib.sha256(f'{id}-secret'.encode()).hexdigest()}\n" for id, role in tokens.items())
    file.write_text("".join(lines))


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    write_tokens(file, TOKENS)
    return file


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    with postgres_running() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Every test with decisions runs on both; the ones on PostgreSQL where they are asked for."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgres").database()
    return f"sqlite:///{tmp_path / 'decisions.db'}"


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = open_database(database_url)
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    return Ledger(engine)


@pytest.fixture
def locks(engine: Engine) -> AliasLocks:
    return open_locks(engine, 60)


@pytest.fixture
def webhooks(ledger: Ledger, engine: Engine, locks: AliasLocks) -> WebhookDispatcher:
    """Without subscribers."""
    return WebhookDispatcher([], ledger.outbox, WebhookOffsets(engine), locks)


@pytest.fixture
def infer_client() -> FakeInferClient:
    return FakeInferClient()


if TYPE_CHECKING:
    from httpx2 import Response as TestResponse

Response: TypeAlias = "TestResponse | httpx.Response"
"""Of the test client, or of a client of a real process."""


class Api:
    """The app over HTTP, as one caller. `api.as_("rita")` is another one."""

    def __init__(self, client: TestClient | httpx.Client, id: str = "pia") -> None:
        self.client, self._headers = client, {"Authorization": f"Bearer {id}-secret"}

    def as_(self, id: str) -> Api:
        return Api(self.client, id)

    def get(self, path: str, headers: dict[str, str] | None = None, **params: Any) -> Response:
        return self.client.get(path, params=params or None, headers=self._headers | (headers or {}))

    def post(self, path: str, body: dict[str, Any] | list[Any] | None, headers: dict[str, str] | None = None) -> Response:
        return self.client.post(path, json=body, headers=self._headers | (headers or {}))

    def patch(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Response:
        return self.client.patch(path, json=body, headers=self._headers | (headers or {}))

    def edit_style(
        self, name: str, style: dict[str, Any], reason: str = "clearer", headers: dict[str, str] | None = None
    ) -> Response:
        return self.patch(f"/models/{name}/style", {"reason": reason, "style": style}, headers)

    def promote(
        self, name: str, number: int, reason: str = "better", headers: dict[str, str] | None = None, **more: Any
    ) -> Response:
        return self.post(f"/models/{name}/versions/{number}/promote", {"reason": reason, **more}, headers)

    def roll_back(self, name: str, reason: str = "worse", headers: dict[str, str] | None = None, **more: Any) -> Response:
        return self.post(f"/models/{name}/rollback", {"reason": reason, **more}, headers)

    def history(self, name: str, **params: Any) -> list[Any]:
        return self.get(f"/models/{name}/history", **params).json()["decisions"]

    def moves(self, name: str, **params: Any) -> list[int]:
        """Where the alias went, newest first."""
        return [decision["to_version"] for decision in self.history(name, outcome="done", **params)]


@pytest.fixture
def start(
    ledger: Ledger, locks: AliasLocks, webhooks: WebhookDispatcher, infer_client: FakeInferClient, token_file: Path
) -> Iterator[Callable[..., Api]]:
    """Starts the app with the given registry, as a new process would: what was left pending is looked at."""
    clients = []

    def starting(
        registry: FakeRegistry | MlflowRegistry,
        ledger: Ledger = ledger,
        policy: Policy | None = None,
        webhooks: WebhookDispatcher = webhooks,
        **intervals: Any,
    ) -> Api:
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
def api(start: Callable[..., Api], fake: FakeRegistry) -> Api:
    """The app on the fake registry, called by a promoter."""
    return start(fake)


@pytest.fixture
def adapters(fake: FakeRegistry, name: str) -> str:
    """A model with five adapter versions in the fake registry."""
    fake.add_model(name, "pencil drawings")
    for _ in range(5):
        fake.add_version(name, tags={"atelier.kind": "adapter"}, files=FILES)
    return name
