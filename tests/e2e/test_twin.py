"""The twin through its HTTP APIs: train, promote, generate, roll back; restarts and kills; secrets and networks."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import httpx
import localstack_client.session
import pytest
from atelier_contracts.names import HEADER_VERSION
from PIL import Image

from ..containers import until
from .chaos import ArtifactUploader, ImageGenerator, MetricLogger, Promoter, Worker, content
from .conftest import Twin

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3000)]

MODEL = "sketch"
SERVICES = ("postgres", "localstack", "tracking", "registry-api", "infer")


def generated_by(infer: Any, **parameters: Any) -> str:
    """The version that generates an image, once infer serves one."""

    def generate() -> str | None:
        response = infer.post("/generate", json={"prompt": "a red car", "seed": 1, "steps": 4, **parameters})
        assert response.status_code == 200, response.text
        image = Image.open(io.BytesIO(response.content))
        assert image.size == (128, 128) and len(image.getcolors(1 << 20) or [0] * 99) > 50
        return response.headers[HEADER_VERSION]

    return until("an image", generate)


def bucket(twin: Twin) -> Any:
    host = twin.url("S3_PORT").removeprefix("http://")
    session = localstack_client.session.Session(aws_access_key_id="a", aws_secret_access_key="b", localstack_host=host)
    return session.client("s3")


def test_all_services_are_ready_without_a_champion(twin: Twin) -> None:
    states = twin.states()
    assert {name: states[name]["Health"] for name in SERVICES} == dict.fromkeys(SERVICES, "healthy")
    assert states["secrets"]["ExitCode"] == 0
    with twin.api("INFER_PORT", "reader") as infer:
        response = infer.post("/generate", json={"prompt": "a cat"})
    assert response.status_code == 409
    assert f"{twin.url('REGISTRY_API_PORT')}/models/{MODEL}/versions/" in response.json()["detail"]


def test_the_first_version_is_trained_and_promoted(twin: Twin) -> None:
    def ended() -> bool:
        state = twin.states()["first-version"]
        return state["State"] == "exited" and (state["ExitCode"] == 0 or pytest.fail(twin.compose("logs", "first-version")))

    until("the job first-version to end", ended, patience_s=1400, pause_s=2)
    with twin.api("REGISTRY_API_PORT", "reader") as registry, twin.api("INFER_PORT", "reader") as infer:
        [decision] = registry.get(f"/models/{MODEL}/history").json()["decisions"]
        assert (decision["actor"], decision["to_version"]) == ("first-version", 1)
        assert generated_by(infer) == "1"
    log = twin.logs()
    assert "Traceback" not in log
    assert "is champion; infer serves it now" in log


def test_train_register_promote_generate_roll_back(twin: Twin) -> None:
    flags = {"max_train_steps": 4, "train_batch_size": 4, "validation_samples": 8, "learning_rate": 1e-3}
    flags |= {"pretrained_model_name_or_path": "models/tiny-sd", "train_data_dir": "images", "register": MODEL}  # type: ignore[dict-item]
    run = ("run", "--rm", "-T", "trainer")
    twin.compose(*run, "dataset", "images", "--count=32", "--seed=3")
    twin.compose(*run, "train", "--result_file=result.json", *(f"--{name}={value}" for name, value in flags.items()))
    trained = json.loads(twin.compose("run", "--rm", "-T", "--no-deps", "--entrypoint", "cat", "trainer", "result.json"))
    assert trained["version"] == 2
    with twin.tracking() as mlflow:
        logged_run = mlflow.get("/api/2.0/mlflow/runs/get", params={"run_id": trained["run_id"]}).json()["run"]
    assert logged_run["info"]["status"] == "FINISHED"
    assert logged_run["info"]["artifact_uri"].startswith("mlflow-artifacts:")
    with twin.api("REGISTRY_API_PORT", "promoter") as registry, twin.api("INFER_PORT", "reader") as infer:
        assert registry.post(f"/models/{MODEL}/versions/2/promote", json={"reason": "trained by hand"}).status_code == 200
        until("the second version to serve", lambda: generated_by(infer) == "2")
        assert registry.post(f"/models/{MODEL}/rollback", json={"reason": "the first was calmer"}).json()["to_version"] == 1
        until("the first version to serve again", lambda: generated_by(infer) == "1")
        assert generated_by(infer, version=2) == "2"


def test_large_images_fit_in_the_containers_memory(twin: Twin) -> None:
    with twin.api("INFER_PORT", "reader") as infer:
        for side in (640, 768, 1024):
            body = {"prompt": "a red car", "seed": 1, "steps": 2, "width": side, "height": side}
            response = infer.post("/generate", json=body)
            assert response.status_code == 200, response.text
            assert Image.open(io.BytesIO(response.content)).size == (side, side)
        memory = infer.get("/models").json()["memory"]
    assert 1500 < memory["limit_mib"] < 2048  # the limit in compose.yaml, less a margin
    assert 0 < memory["free_mib"] < memory["limit_mib"]


def test_registry_api_and_infer_call_each_other(twin: Twin) -> None:
    asked = {"versions": [1, 2], "images": [{"prompt": "a red car", "seed": 1, "steps": 2, "size": 128}]}
    with twin.api("REGISTRY_API_PORT", "reader") as registry:
        drawn = registry.post(f"/models/{MODEL}/generate", json=asked).json()["results"]
    assert [(each["version"], each["problem"]) for each in drawn] == [(1, None), (2, None)]
    assert "event stream connected" in twin.compose("logs", "infer")


def test_the_chain_of_decisions_is_intact(twin: Twin) -> None:
    asked = ("exec", "-T", "registry-api", "python", "-m", "atelier_registry", "verify")
    assert re.search(r"[1-9] entries, none changed or missing", twin.compose(*asked))


def test_tokens_are_issued_and_revoked(twin: Twin) -> None:
    job = ("run", "--rm", "-T", "tokens")
    token = twin.compose(*job, "issue", "ana", "promoter").split()[-1]
    with httpx.Client(base_url=twin.url("REGISTRY_API_PORT"), headers={"Authorization": f"Bearer {token}"}) as registry:
        body = {"reason": "ana likes the second one"}
        assert registry.post(f"/models/{MODEL}/versions/2/promote", json=body, timeout=120).json()["actor"] == "ana"
        assert "ana" in twin.compose(*job, "list")
        twin.compose(*job, "revoke", "ana")
        assert registry.get("/models").status_code == 401
    with twin.api("INFER_PORT", "reader") as infer:
        until("the second version to serve", lambda: generated_by(infer) == "2")


def test_artifacts_are_stored_in_the_bucket_once(twin: Twin) -> None:
    pages = bucket(twin).get_paginator("list_objects_v2").paginate(Bucket="atelier")
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    assert len([key for key in keys if key.endswith("pytorch_lora_weights.safetensors")]) == 2
    assert len([key for key in keys if key.endswith("bundle.json")]) == 1, "the bundle must be stored once"


def test_only_registry_api_may_move_the_champion(twin: Twin) -> None:
    alias = {"name": MODEL, "alias": "champion", "version": "2"}
    for user in ("trainer", "admin"):
        with twin.tracking(user) as mlflow:
            assert mlflow.post("/api/2.0/mlflow/registered-models/alias", json=alias).status_code == 403


@pytest.fixture(scope="module")
def workers(twin: Twin) -> list[Worker]:
    mlflow = twin.tracking()
    experiment = mlflow.post("/api/2.0/mlflow/experiments/create", json={"name": "while killed"}).json()["experiment_id"]
    run = mlflow.post("/api/2.0/mlflow/runs/create", json={"experiment_id": experiment, "start_time": 1}).json()["run"]["info"]
    folder = run["artifact_uri"].removeprefix("mlflow-artifacts:/")
    return [
        MetricLogger(mlflow, run["run_id"]),
        ArtifactUploader(twin.tracking(), folder),
        Promoter(twin.api("REGISTRY_API_PORT", "promoter"), MODEL, (1, 2)),
        ImageGenerator(twin.api("INFER_PORT", "reader")),
    ]


def test_no_acknowledged_work_is_lost_by_restarts_and_kills(twin: Twin, workers: list[Worker]) -> None:
    images = workers[-1]
    for worker in workers:
        worker.start()

    def wait_for_progress() -> None:
        before = [len(worker.acknowledged) for worker in workers]
        until(
            "every worker to make progress",
            lambda: all(len(worker.acknowledged) >= count + 3 for worker, count in zip(workers, before, strict=True)),
        )

    wait_for_progress()
    for service in SERVICES:
        failed = len(images.failures)
        twin.compose("restart", "--timeout", "20", service)
        wait_for_progress()
        twin.kill(service)
        wait_for_progress()
        if service != "infer":
            assert images.failures[failed:] == [], f"generating must not depend on {service}"
    for worker in workers:
        worker.stopping.set()
        worker.join(120)
    assert all(state["State"] == "running" for name, state in twin.states().items() if name in SERVICES)
    assert_acknowledged_work_exists(twin, workers)
    assert set(images.acknowledged) == {"1", "2"}


def assert_acknowledged_work_exists(twin: Twin, workers: list[Worker]) -> None:
    metrics, artifacts, promotions, _ = workers
    with twin.tracking() as mlflow:
        asked = {"run_id": metrics.run_id, "metric_key": "loss", "max_results": 25000}  # type: ignore[attr-defined]
        history = mlflow.get("/api/2.0/mlflow/metrics/get-history", params=asked).json()["metrics"]
        logged = {row["step"]: row["value"] for row in history}
        assert {step: step / 8 for step in metrics.acknowledged}.items() <= logged.items()
        for number in artifacts.acknowledged:
            assert mlflow.get(artifacts.path(number)).content == content(number), f"file {number}"  # type: ignore[attr-defined]
    with twin.api("REGISTRY_API_PORT", "reader") as registry:
        page = registry.get(f"/models/{MODEL}/history", params={"limit": 200}).json()["decisions"]
        ids = {decision["id"] for decision in page}
        assert {number for number in promotions.acknowledged if number >= min(ids)} <= ids
        assert registry.get(f"/models/{MODEL}").json()["aliases"]["champion"] == page[0]["to_version"]


def secret_texts(twin: Twin) -> list[str]:
    values = twin.secrets()
    groups = (values["logins"], values["tokens"], values["database"])
    return [*(secret for group in groups for secret in group.values()), values["s3_secret_access_key"]]


def test_no_secret_is_in_logs_processes_or_configuration(twin: Twin) -> None:
    processes = "".join(twin.compose("top", service) for service in SERVICES)
    containers = twin.compose("ps", "--all", "--format", "json") + twin.compose("config")
    output = twin.logs() + processes + containers
    assert len(output) > 10_000
    assert [secret for secret in secret_texts(twin) if secret in output] == []


def test_a_container_reads_only_its_own_secrets(twin: Twin) -> None:
    asked = {"infer": "tracking/db_password", "registry-api": "first-version/token", "tracking": "postgres/postgres_password"}
    for service, other in asked.items():
        refused = twin.compose("exec", "-T", service, "sh", "-c", f"cat /secrets/secrets.json /secrets/{other} || true")
        assert refused == ""
        assert twin.compose("exec", "-T", service, "sh", "-c", f"ls /secrets/{service}").split()


CONNECT = """
import socket, sys
try:
    address = socket.gethostbyname(sys.argv[1])
    socket.create_connection((address, int(sys.argv[2])), 5).close()
    print(address)
except OSError:
    print("-")
"""


def test_infer_can_connect_to_two_services_only(twin: Twin) -> None:
    def reached(service: str, host: str, port: int) -> str:
        """The address of a successful connection, or a dash."""
        return twin.compose("exec", "-T", service, "python", "-c", CONNECT, host, str(port)).strip()

    for host, port in (("tracking", 80), ("registry-api", 8001)):
        assert reached("infer", host, port) != "-"
    others = {("postgres", 5432), ("pypi.org", 443)}  # the second only on a machine with internet access
    addresses = {(address, port) for host, port in others if (address := reached("registry-api", host, port)) != "-"}
    assert addresses, "registry-api must reach the database"
    for host, port in others | addresses | {("localstack", 4566)}:
        assert reached("infer", host, port) == "-", host


def test_all_data_is_kept_over_a_restart_of_the_twin(twin: Twin, workers: list[Worker]) -> None:
    before = twin.secrets()
    twin.compose("--profile", "trainer", "down", "--timeout", "20")
    twin.up()
    assert twin.secrets() == before
    assert_acknowledged_work_exists(twin, workers)
    with twin.api("INFER_PORT", "reader") as infer:
        generated_by(infer)
    until("first-version to see the champion", lambda: "nothing to do" in twin.compose("logs", "first-version"))
