"""Each service in a virtual environment that holds its own extra and nothing else."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from PIL import Image

from ..servers import MlflowServer, end, free_port, wait_for

pytestmark = [pytest.mark.extras, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
MODEL, SECRET = "extras", "a token for this test"
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "contracts", "embedded", "services", "twin")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to install from: a build leaves files beside the sources."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    return folder


def installed(extra: str, source: Path, folder: Path) -> Path:
    """The Python of a new environment with one extra."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin/python"
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", f"{source}[{extra}]"]
    subprocess.run(install, check=True)  # type: ignore[arg-type]
    return python


def lacks(python: Path, *modules: str) -> None:
    for module in modules:
        answer = subprocess.run([python, "-c", f"import {module}"], capture_output=True, text=True)
        assert f"No module named '{module}'" in answer.stderr, f"{module} can be imported"


@contextmanager
def served(python: Path, module: str, settings: Mapping[str, str], folder: Path) -> Iterator[httpx.Client]:
    port, log = free_port(), folder / f"{module}.log"
    prefix = f"{module.upper()}_"
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)} | {prefix + name: value for name, value in settings.items()}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [python, "-m", module],
            env=environment | {f"{prefix}PORT": str(port)},
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=folder,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{url}/readyz", process, log)
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {SECRET}"}, timeout=60) as client:
            yield client
    finally:
        end(process)


@pytest.fixture(scope="module")
def version(mlflow_server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> int:
    """A version of one step, made by the trainer of this environment."""
    from atelier_trainer.config.options import TrainOptions
    from atelier_trainer.synthetic.scenes.dataset import write_imagefolder
    from atelier_trainer.train import train
    from rich.console import Console

    folder = tmp_path_factory.mktemp("train")
    write_imagefolder(folder / "data", "sketch", 8, 1)
    options = TrainOptions.from_flags(
        pretrained_model_name_or_path=str(ROOT / "models/tiny-sd"),
        train_data_dir=str(folder / "data"),
        validation_samples=2,
        max_train_steps=1,
        cache_dir=str(folder / "cache"),
        output_dir=str(folder / "out"),
        tracking_uri=mlflow_server.uri,
        register=MODEL,
    )
    result = train(options, Console(file=io.StringIO()))
    assert result is not None
    assert result.version is not None
    return result.version


def test_promote_without_onnxruntime_and_draw_without_torch(
    mlflow_server: MlflowServer, version: int, source: Path, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens.txt"
    tokens.write_text(f"test admin {hashlib.sha256(SECRET.encode()).hexdigest()}\n")
    registry = installed("registry-api", source, tmp_path / "registry")
    lacks(registry, "onnxruntime", "torch", "pandas")
    infer = installed("infer", source, tmp_path / "infer")
    lacks(infer, "torch", "diffusers", "transformers", "pandas")
    shared = {"TRACKING_URI": mlflow_server.uri, "TOKEN_FILE": str(tokens)}
    database = f"sqlite:///{tmp_path / 'decisions.db'}"
    with served(registry, "atelier_registry", shared | {"DATABASE_URL": database}, tmp_path) as client:
        answer = client.post(f"/models/{MODEL}/versions/{version}/promote", json={"reason": "a test"})
        assert answer.status_code == 200, answer.text
    with served(infer, "atelier_infer", shared | {"MODEL": MODEL, "CACHE_DIR": str(tmp_path / "cache")}, tmp_path) as client:
        for _ in range(60):
            answer = client.post("/generate", json={"prompt": "a cat", "seed": 1, "steps": 4})
            if answer.status_code == 200:
                break
            time.sleep(0.5)
        assert answer.status_code == 200, answer.text
        assert answer.headers["X-Atelier-Version"] == str(version)
        assert Image.open(io.BytesIO(answer.content)).size == (128, 128)
