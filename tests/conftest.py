"""What several groups of tests need, made once per session."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .servers import MlflowServer, mlflow_running

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real MLflow server, the same for all tests that ask for it."""
    with mlflow_running(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


@pytest.fixture(scope="session")
def launch_chromium() -> Iterator[Callable[..., Browser]]:
    """Starts Chromium with further arguments. Playwright is one for the whole session: a thread takes no second one.

    Fails, and does not pass over, where Chromium is missing: who asks for these tests is told.
    """
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.fail("these tests need Chromium: the command `chromium` is missing (Debian: apt-get install chromium)")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        yield lambda *more: playwright.chromium.launch(executable_path=path, args=[*arguments, *more], timeout=120_000)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all workers of a session."""
    folder = tmp_path_factory.getbasetemp()
    shared = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "shared"
    shared.mkdir(exist_ok=True)
    return shared


@pytest.fixture(scope="session")
def bundle_cache(shared: Path) -> Path:
    """A --cache_dir whose bundles all workers of a session share: a base model is exported once."""
    return shared / "cache"


@pytest.fixture(scope="session")
def small_base(shared: Path) -> Path:
    """A Stable Diffusion of random numbers for images of 16 px: a step takes a hundredth of a second."""
    from .trainer.small_base import write_small_base

    return written_once(shared / "small-sd", write_small_base)


@pytest.fixture(scope="session")
def small_xl_base(shared: Path) -> Path:
    """SDXL of random numbers, for images of 16 px."""
    from .trainer.small_base import write_small_xl_base

    return written_once(shared / "small-xl", write_small_xl_base)


def written_once(folder: Path, write: Callable[[Path], Path]) -> Path:
    """Written by the first worker that asks; another folder would be another base model, as token ids differ between runs."""
    with folder.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            write(folder.with_suffix(".incoming")).rename(folder)
    return folder
