"""`python -m atelier_infer` against a real MLflow server, in a process where training libraries cannot be imported."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest, BundleManifest
from atelier_infer.client import read_webhook

from ..servers import MlflowServer, free_port
from .conftest import SECRET, wait
from .mlflow_publisher import MlflowPublisher
from .tiny_bundle import adapter_tensors, build_adapter
from .webhook_receiver import SIGNING, Receiver

BLOCKED = """
import importlib.abc, pkgutil, runpy, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "diffusers", "transformers", "peft", "accelerate", "ray", "onnx"):
            raise ModuleNotFoundError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
"""
WATCHED = """
import os

def watch(event, arguments, told=set()):
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1] not in told:
        told.add(arguments[1])
        with open(os.environ["CALLS"], "a") as calls:
            calls.write("%s:%s\\n" % arguments[1][:2])

sys.addaudithook(watch)
"""
EVERYTHING = """
import atelier_infer, importlib
found = [module.name for module in pkgutil.walk_packages(atelier_infer.__path__, "atelier_infer.")]
for name in found:
    importlib.import_module(name)
assert "torch" not in sys.modules
print(len(found))
"""


def test_no_module_needs_a_training_library() -> None:
    answer = subprocess.run([sys.executable, "-c", BLOCKED + EVERYTHING], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert int(answer.stdout) > 20


@pytest.fixture
def start(
    mlflow_server: MlflowServer, tmp_path: Path, token_file: Path
) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], httpx.Client, Path]]]:
    """Starts the service for a model; yields process, client and the log's path. Kills it in the end if need be."""
    processes, home = [], tmp_path / "home"
    home.mkdir()

    def start(model: str, **changes: Any) -> tuple[subprocess.Popen[bytes], httpx.Client, Path]:
        port = free_port()
        values = {
            "PORT": port,
            "TRACKING_URI": mlflow_server.uri,
            "MODEL": model,
            "TOKEN_FILE": token_file,
            "CACHE_DIR": tmp_path / "cache",
            "ALIAS_POLL_S": 0.1,
            "REGISTRY_URL": "http://127.0.0.1:8001",
        }
        environment = {f"ATELIER_INFER_{name}": str(value) for name, value in (values | changes).items()}
        log = tmp_path / "log"
        with log.open("wb") as stream:
            surroundings = {"PATH": os.environ["PATH"], "HOME": str(home), "CALLS": str(tmp_path / "calls")}
            command = [sys.executable, "-c", BLOCKED + WATCHED + "runpy.run_module('atelier_infer', run_name='__main__')"]
            process = subprocess.Popen(command, env=surroundings | environment, stdout=stream, stderr=stream)
        processes.append(process)
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {SECRET}"}, timeout=60)

        def ready() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return client.get("/readyz").status_code == 200
            except httpx.TransportError:
                return False

        wait(ready, 60)
        return process, client, log

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def test_from_an_empty_registry_to_a_graceful_end(
    mlflow_server: MlflowServer,
    start: Callable[..., tuple[subprocess.Popen[bytes], httpx.Client, Path]],
    bundle: tuple[Path, BundleManifest],
    adapter: tuple[Path, AdapterManifest],
    tmp_path: Path,
) -> None:
    publisher = MlflowPublisher(mlflow_server.uri)
    process, client, log = start(publisher.model)
    fields = {"prompt": "a cat", "steps": 3, "seed": 1}
    answer = client.post("/generate", json=fields)
    assert answer.status_code == 409
    assert "curl -X POST" in answer.json()["detail"]

    publisher.publish_bundle(bundle[0], bundle[1].digest())
    publisher.set_alias("champion", publisher.publish_adapter(adapter[0]))
    first = client.post("/generate", json=fields)
    assert (first.status_code, first.headers[names.HEADER_VERSION]) == (200, "1"), first.text
    assert first.headers[names.HEADER_ADAPTER] == adapter[1].digest()

    build_adapter(tmp_path / "second", bundle[1].digest(), adapter_tensors(seed=2))
    publisher.set_alias("champion", publisher.publish_adapter(tmp_path / "second"))
    wait(lambda: client.post("/generate", json=fields).headers[names.HEADER_VERSION] == "2")
    assert client.post("/generate", json=fields | {"version": 1}).content == first.content

    answers = []
    long_wish = fields | {"steps": 150, "width": 512, "height": 512}
    thread = threading.Thread(target=lambda: answers.append(client.post("/generate", json=long_wish)))
    thread.start()
    with httpx.Client(base_url=client.base_url, headers=client.headers) as other:
        wait(lambda: answers or other.get("/models").json()["admitted_images"] == 1)
    process.send_signal(signal.SIGTERM)
    thread.join()
    assert answers[0].status_code == 200
    assert process.wait(20) == 0
    assert set((tmp_path / "calls").read_text().split()) == {
        mlflow_server.uri.removeprefix("http://")
    }  # nobody else was called
    assert list((tmp_path / "home").rglob("*")) == []  # neither ids nor telemetry of a library
    with pytest.raises(OSError), socket.create_connection((client.base_url.host, client.base_url.port), 1):
        pass

    lines = [json.loads(line) for line in log.read_text().splitlines()]  # every line is JSON
    assert [line["status"] for line in lines if line["message"] == "request"][:2] == [409, 200]
    assert SECRET not in log.read_text()
    assert "a cat" not in log.read_text()


def test_an_image_that_exceeds_the_drain_timeout_gets_503(
    mlflow_server: MlflowServer,
    start: Callable[..., tuple[subprocess.Popen[bytes], httpx.Client, Path]],
    bundle: tuple[Path, BundleManifest],
    adapter: tuple[Path, AdapterManifest],
) -> None:
    publisher = MlflowPublisher(mlflow_server.uri)
    publisher.publish_bundle(bundle[0], bundle[1].digest())
    publisher.set_alias("champion", publisher.publish_adapter(adapter[0]))
    process, client, _ = start(publisher.model, DRAIN_TIMEOUT_S=0)
    answers = []
    fields = {"prompt": "a cat", "steps": 150, "width": 1024, "height": 1024}
    thread = threading.Thread(target=lambda: answers.append(client.post("/generate", json=fields)))
    thread.start()
    with httpx.Client(base_url=client.base_url, headers=client.headers) as other:
        wait(lambda: other.get("/models").json()["admitted_images"] == 1)
    process.send_signal(signal.SIGTERM)
    thread.join()
    assert (answers[0].status_code, answers[0].json()["title"]) == (503, "Shutting down")
    assert answers[0].headers["retry-after"] == "1"
    assert process.wait(20) == 0


def test_a_canary_from_the_environment_and_a_job_that_the_end_of_the_process_ends(
    mlflow_server: MlflowServer,
    start: Callable[..., tuple[subprocess.Popen[bytes], httpx.Client, Path]],
    bundle: tuple[Path, BundleManifest],
    adapter: tuple[Path, AdapterManifest],
    tmp_path: Path,
) -> None:
    publisher = MlflowPublisher(mlflow_server.uri)
    publisher.publish_bundle(bundle[0], bundle[1].digest())
    publisher.set_alias("champion", publisher.publish_adapter(adapter[0]))
    build_adapter(tmp_path / "second", bundle[1].digest(), adapter_tensors(seed=2))
    publisher.set_alias("rival", publisher.publish_adapter(tmp_path / "second"))
    (tmp_path / "signing").write_text(SIGNING)
    with Receiver() as receiver:
        process, client, log = start(
            publisher.model,
            CANARY_ALIAS="rival",
            CANARY_PERCENT="100",
            WEBHOOK_HOSTS=f"http://{receiver.place}",
            WEBHOOK_SECRET_FILE=tmp_path / "signing",
        )
        wait(lambda: client.get("/models").json()["canary"]["active"])
        fields = {"prompt": "a cat", "seed": 1, "webhook_url": f"http://{receiver.place}/secret-path"}
        done = client.post("/jobs", json=fields | {"steps": 2}).json()
        assert done["alias"] == "rival"
        wait(lambda: receiver.came)
        assert read_webhook(SIGNING, *receiver.came[0])["state"] == "succeeded"
        ended = client.post("/jobs", json=fields | {"steps": 150, "width": 1024, "height": 1024}).json()
        wait(lambda: client.get(f"/jobs/{ended['id']}").json()["state"] == "running")
        process.send_signal(signal.SIGTERM)
        client.close()
        assert process.wait(60) == 0
        reported = read_webhook(SIGNING, *receiver.came[1])
        assert (reported["id"], reported["alias"], reported["state"], reported["problem"]["status"]) == (
            ended["id"],
            "rival",
            "failed",
            503,
        )
        assert len(receiver.came) == 2
    for secret in (SIGNING, "secret-path", "a cat"):
        assert secret not in log.read_text()


def open_socket(client: httpx.Client) -> socket.socket:
    return socket.create_connection((client.base_url.host, client.base_url.port), 30)


def answer_of(connection: socket.socket) -> bytes:
    """Everything until the other side closes."""
    received = b""
    with connection:
        while part := connection.recv(65536):
            received += part
    return received


def resident_mib(process: subprocess.Popen[bytes]) -> float:
    text = open(f"/proc/{process.pid}/status").read()  # noqa: SIM115
    return int(re.search(r"VmHWM:\s+(\d+)", text)[1]) / 1024


def test_half_sent_requests_are_bounded_in_memory_and_time(
    mlflow_server: MlflowServer, start: Callable[..., tuple[subprocess.Popen[bytes], httpx.Client, Path]]
) -> None:
    publisher = MlflowPublisher(mlflow_server.uri)
    process, client, _ = start(publisher.model, UPLOAD_MIB=32, UPLOAD_TIMEOUT_S=3, HEADER_TIMEOUT_S=1)
    before, login = resident_mib(process), f"Authorization: Bearer {SECRET}\r\n"
    head = f"POST /verify HTTP/1.1\r\nHost: x\r\n{login}Content-Length: 30000000\r\n\r\n".encode()

    def send(index: int) -> bytes:
        connection = open_socket(client)
        with suppress(ConnectionError):  # the answer may come, and the connection end, before all is sent
            connection.sendall(head + b"x" * 20_000_000)
        try:
            return answer_of(connection)
        except ConnectionError:
            return b"reset"

    with ThreadPoolExecutor(20) as pool:
        answers = pool.map(send, range(20))
        assert client.get("/models").status_code == 200
        assert client.post("/generate", json={"prompt": "a cat"}).status_code == 409  # small bodies have a sum of their own
        kinds = [answer.split(b"\r\n")[0] for answer in answers]
    assert kinds.count(b"HTTP/1.1 408 Request Timeout") <= 1
    assert set(kinds) <= {b"HTTP/1.1 408 Request Timeout", b"HTTP/1.1 503 Service Unavailable", b"reset"}
    assert resident_mib(process) - before < 150  # 400 were sent
    assert client.get("/models").json()["memory"]["used_mib"]["uploads"] == 0

    halves = [open_socket(client) for _ in range(50)]
    for half in halves:
        half.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    silent, again = open_socket(client), open_socket(client)
    again.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert again.recv(65536).startswith(b"HTTP/1.1 200 OK")
    again.sendall(b"GET /healthz HTTP/1.1\r\n")  # the second request of a connection
    assert {answer_of(one) for one in (*halves, silent, again)} <= {b"", b'{"status":"alive"}'}
    small = open_socket(client)
    small.sendall(f"POST /generate HTTP/1.1\r\nHost: x\r\n{login}Content-Length: 50\r\n\r\n{{".encode())
    assert answer_of(small).startswith(b"HTTP/1.1 408 Request Timeout")
    assert client.get("/healthz").status_code == 200
