"""`python -m atelier_registry` as a process: it starts, serves, ends, and never waits long for a dead MLflow."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..servers import MlflowServer, end, free_port, wait_for
from .adapter_files import FILES
from .conftest import Api
from .real_registry import RealWorld


@pytest.fixture
def serve(
    tmp_path: Path, token_file: Path, database_url: str
) -> Iterator[Callable[..., tuple[Api, subprocess.Popen[bytes], Path]]]:
    """Starts the service against an MLflow address; gives a caller, the process and its log."""
    processes = []

    def serving(tracking_uri: str) -> tuple[Api, subprocess.Popen[bytes], Path]:
        port, log = free_port(), tmp_path / "service.log"
        (tmp_path / "policy.yaml").write_text("default: {champion: {output_finite: true}}\n")
        environment = os.environ | {
            "ATELIER_REGISTRY_PORT": str(port),
            "ATELIER_REGISTRY_TRACKING_URI": tracking_uri,
            "ATELIER_REGISTRY_DATABASE_URL": database_url,
            "ATELIER_REGISTRY_TOKEN_FILE": str(token_file),
            "ATELIER_REGISTRY_DRAIN_TIMEOUT_S": "5",
            "ATELIER_REGISTRY_POLICY_FILE": str(tmp_path / "policy.yaml"),
        }
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "atelier_registry"],
                stdout=output, stderr=output, env=environment, start_new_session=True,
            )  # fmt: skip
        processes.append(process)
        wait_for(f"http://127.0.0.1:{port}/healthz", process, log)
        return Api(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)), process, log

    yield serving
    for process in processes:
        if process.poll() is None:
            end(process)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Takes connections, and never answers on them."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_promotion_and_a_roll_back_from_end_to_end(
    serve: Callable[..., tuple[Api, subprocess.Popen[bytes], Path]],
    real_world: RealWorld,
    mlflow_server: MlflowServer,
    name: str,
) -> None:
    real_world.add_model(name)
    for _ in range(2):
        real_world.add_version(name, tags={"atelier.kind": "adapter"}, files=FILES)
    api, process, log = serve(mlflow_server.uri)
    assert api.client.get("/readyz").json() == {"status": "ready"}
    assert api.promote(name, 1).status_code == 200
    assert api.promote(name, 2).json()["from_version"] == 1
    refused = api.roll_back(name)
    assert refused.status_code == 409
    assert "set ATELIER_REGISTRY_INFER_URL" in refused.json()["detail"]
    back = api.as_("ada").roll_back(name, force=True).json()
    assert (back["to_version"], back["forced"]) == (1, True)
    assert dict(real_world.registry.model(name).aliases) == {"champion": 1}
    assert api.as_("rita").promote(name, 2).status_code == 403
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) in (0, -signal.SIGTERM)
    text = log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    promoted = next(line for line in lines if line.get("path", "").endswith("/versions/2/promote"))
    assert (promoted["token_id"], promoted["status"], promoted["method"]) == ("pia", 200, "POST")
    assert "secret" not in text


@pytest.mark.parametrize("kind", ["dead", "silent"])
def test_an_mlflow_that_does_not_answer_costs_five_seconds_at_most(
    serve: Callable[..., tuple[Api, subprocess.Popen[bytes], Path]], silent_server: str, kind: str
) -> None:
    api, _, _ = serve(silent_server if kind == "silent" else f"http://127.0.0.1:{free_port()}")

    def timed(ask: Callable[..., Any]) -> tuple[httpx.Response, float]:
        begun = time.perf_counter()
        return ask(), time.perf_counter() - begun

    asked = [lambda: api.get("/models"), lambda: api.promote("pencil", 1), lambda: api.get("/readyz")]
    with ThreadPoolExecutor(len(asked)) as pool:
        listed, promoted, ready = pool.map(timed, asked)
    for answer, took_s in (listed, promoted, ready):
        assert answer.status_code == 503
        assert took_s < 5
    assert listed[0].headers["retry-after"] == promoted[0].headers["retry-after"] == "5"
    assert ready[0].json() == {"status": "unavailable"}


def test_the_process_lists_all_problems_and_exits(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ATELIER_")}
    ended = subprocess.run(
        [sys.executable, "-m", "atelier_registry"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2
    for name in ("TRACKING_URI", "DATABASE_URL", "TOKEN_FILE"):
        assert f"ATELIER_REGISTRY_{name}: is required" in ended.stderr
    assert "Traceback" not in ended.stderr


IMPORT_ALL = """
import pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"{{name}} is not installed here", name=name)

sys.meta_path.insert(0, Absent())
import atelier_registry
for module in pkgutil.walk_packages(atelier_registry.__path__, "atelier_registry."):
    if module.name != "atelier_registry.storage.migrations.env":  # run by Alembic alone
        __import__(module.name)
print(*sorted(sys.modules), sep="\\n")
"""


def test_every_module_imports_without_heavy_packages() -> None:
    """All modules import where torch and ONNX Runtime are missing, and pandas too; nor are other services needed."""
    absent = {"torch", "onnxruntime", "onnx", "diffusers", "transformers", "peft", "pandas", "scipy", "pyarrow"}
    absent |= {"atelier_trainer", "atelier_infer", "atelier_embedded"}
    ended = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL.format(absent=absent)], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert {"atelier_registry.__main__", "atelier_registry.decisions.rules.rule_set"} <= set(ended.stdout.split())
