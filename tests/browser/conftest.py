"""Chromium against the tracking image as compose.yaml starts it: nginx, MLflow, PostgreSQL, LocalStack."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect

from ..containers import Project, docker, need_engine

log = logging.getLogger(__name__)

NAME = "tracking.atelier.test"  # no such host: Chromium is told where it is
PATIENCE_MS = 60_000
IMAGES = Path(__file__).parents[2] / ".cache" / "browser"  # what the page looked like, to look at
EXPERIMENT, MODEL = "pencil", "sketch"


@dataclass(frozen=True)
class Tracking:
    """A running server, and the two addresses that a browser elsewhere would use: neither is localhost."""

    project: Project
    address: str  # bare, as a Fargate task without a load balancer has it
    logins: dict[str, str]
    run_id: str


@pytest.fixture(scope="session")
def tracking(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracking]:
    need_engine()
    project = Project("atelier-browser")
    project.remove()  # what a run that was killed may have left
    request.addfinalizer(project.remove)
    project.compose("up", "--detach", "--wait", "--wait-timeout", "300", "tracking")
    told = project.compose("run", "--rm", "--no-deps", "-T", "--entrypoint", "cat", "secrets", "/secrets/secrets.json")
    logins = json.loads(told)["logins"]
    container = project.compose("ps", "--quiet", "tracking").strip()
    networks = json.loads(docker("inspect", "--format", "{{json .NetworkSettings.Networks}}", container).stdout)
    address = networks["atelier-browser_default"]["IPAddress"]
    os.environ |= {"MLFLOW_TRACKING_USERNAME": "trainer", "MLFLOW_TRACKING_PASSWORD": logins["trainer"]}
    run_id = log_a_run(project.url("TRACKING_PORT"), tmp_path_factory.mktemp("artifacts"))
    yield Tracking(project, address, logins, run_id)
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        del os.environ[name]


def log_a_run(address: str, folder: Path) -> str:
    """A run such as the trainer leaves: params, a curve, a validation image, two models; one of them registered."""
    mlflow.set_tracking_uri(address)
    mlflow.set_experiment(EXPERIMENT)
    (folder / "MLmodel").write_text("flavors: {python_function: {loader_module: none}}\nartifact_path: adapter\n")
    rows = np.linspace(0, 255, 128).astype(np.uint8)
    Image.fromarray(np.stack([np.tile(rows, (128, 1))] * 3, -1)).save(folder / "a red car.png")
    with mlflow.start_run(run_name="night") as run:
        mlflow.log_params({"rank": 16, "learning_rate": 2e-3})
        for step in range(40):
            mlflow.log_metric("loss", 1 / (1 + step), step)
        mlflow.log_artifact(str(folder / "a red car.png"), "validation")
        for place in ("first", "second"):
            mlflow.log_artifact(str(folder / "MLmodel"), place)
    client = mlflow.MlflowClient()
    client.create_registered_model(MODEL)
    client.create_model_version(MODEL, f"runs:/{run.info.run_id}/first", run.info.run_id)
    return str(run.info.run_id)


@pytest.fixture(scope="session")
def chromium(tracking: Tracking, launch_chromium: Callable[..., Browser]) -> Iterator[Browser]:
    browser = launch_chromium(f"--host-resolver-rules=MAP {NAME} {tracking.address}")
    yield browser
    browser.close()


@pytest.fixture(params=["name", "address"])
def origin(request: pytest.FixtureRequest, tracking: Tracking) -> str:
    return f"http://{NAME if request.param == 'name' else tracking.address}"


def open_context(chromium: Browser, tracking: Tracking, user: str) -> BrowserContext:
    """A browser window logged in as `user`, by HTTP basic authentication."""
    context = chromium.new_context(
        http_credentials={"username": user, "password": tracking.logins[user]}, viewport={"width": 1400, "height": 900}
    )
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    return context


@pytest.fixture
def page(chromium: Browser, tracking: Tracking, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page of a trainer that notes what it was refused, and leaves an image of what it showed last."""
    with open_context(chromium, tracking, "trainer") as context:
        page = context.new_page()
        failed: list[str] = []
        page.on("response", lambda answer: failed.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None)
        page.on("pageerror", lambda error: failed.append(f"script: {error}"))
        page.on("requestfailed", lambda asked: failed.append(f"{asked.failure} {asked.url}"))
        page.failed = failed  # type: ignore[attr-defined]
        yield page
        log.info("refused or failed: %s", failed)
        IMAGES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=IMAGES / f"{request.node.name.replace('[', '-').rstrip(']')}.png")
