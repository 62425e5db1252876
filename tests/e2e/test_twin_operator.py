"""Maintenance of a twin with data: gc, backup, restore, rotation. Runs after test_twin.py on the same twin."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from ..containers import docker, until
from .conftest import Twin
from .test_twin import MODEL, bucket, secret_texts

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

RUN = ("run", "--rm", "-T")


def search_all(client: httpx.Client, path: str, name: str, **parameters: Any) -> list[dict[str, Any]]:
    """All results of a paginated search of MLflow."""
    results: list[Any] = []
    page: dict[Any, Any] = {}
    while True:
        response = client.post(path, json=parameters | page).json()
        results += response.get(name, [])
        if not (token := response.get("next_page_token")):
            return results
        page = {"page_token": token}


def experiments(mlflow: httpx.Client) -> list[dict[str, Any]]:
    return search_all(mlflow, "/api/2.0/mlflow/experiments/search", "experiments", max_results=1000, view_type="ALL")


def runs(mlflow: httpx.Client) -> dict[str, dict[str, Any]]:
    ids = [each["experiment_id"] for each in experiments(mlflow)]
    asked = {"experiment_ids": ids, "run_view_type": "ALL", "max_results": 1000}
    return {each["info"]["run_id"]: each for each in search_all(mlflow, "/api/2.0/mlflow/runs/search", "runs", **asked)}


def objects(twin: Twin) -> dict[str, str]:
    s3 = bucket(twin)
    listed = s3.get_paginator("list_objects_v2").paginate(Bucket="atelier")
    keys = [each["Key"] for page in listed for each in page.get("Contents", [])]
    return {key: hashlib.sha256(s3.get_object(Bucket="atelier", Key=key)["Body"].read()).hexdigest() for key in keys}


def image(twin: Twin) -> bytes:
    """Pixels of an image that the champion generates."""
    with twin.api("INFER_PORT", "reader") as infer:

        def generate() -> bytes | None:
            response = infer.post("/generate", json={"prompt": "a red car", "seed": 3, "steps": 2})
            return response.content if response.status_code == 200 else None

        return Image.open(io.BytesIO(until("an image", generate))).tobytes()


def unordered(value: Any) -> Any:
    """JSON with sorted lists, because PostgreSQL returns rows in any order."""
    if isinstance(value, dict):
        return {name: unordered(item) for name, item in value.items()}
    return sorted(map(unordered, value), key=json.dumps) if isinstance(value, list) else value


def user_data(twin: Twin) -> dict[str, Any]:
    """All data of users."""
    with twin.tracking("admin") as mlflow, twin.api("REGISTRY_API_PORT", "reader") as registry:
        found = mlflow.get("/api/2.0/mlflow/registered-models/search").json()["registered_models"]
        versions = mlflow.get("/api/2.0/mlflow/model-versions/search").json()["model_versions"]
        return {
            "experiments": unordered(experiments(mlflow)),
            "runs": unordered(runs(mlflow)),
            "models": {each["name"]: each.get("aliases") for each in found},
            "versions": sorted(unordered(versions), key=lambda each: (each["name"], int(each["version"]))),
            "decisions": registry.get(f"/models/{MODEL}/history", params={"limit": 200}).json()["decisions"],
            "objects": objects(twin),
            "image": image(twin),
        }


@pytest.fixture(scope="module")
def champion(twin: Twin) -> int:
    """The version of the champion; the job first-version creates one if there is none."""
    with twin.api("REGISTRY_API_PORT", "reader") as registry:
        return int(until("a champion", lambda: registry.get(f"/models/{MODEL}").json()["aliases"].get("champion")))


@pytest.fixture(scope="module")
def backups(twin: Twin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backups")
    twin.settings["BACKUP_DIR"] = str(folder)
    return folder


def test_gc_keeps_a_champion_whose_run_was_deleted_by_a_trainer(twin: Twin, champion: int) -> None:
    before = image(twin)
    with twin.tracking() as mlflow:
        asked = {"name": MODEL, "version": str(champion)}
        version = mlflow.get("/api/2.0/mlflow/model-versions/get", params=asked).json()["model_version"]
        experiment = runs(mlflow)[version["run_id"]]["info"]["experiment_id"]
        made = mlflow.post("/api/2.0/mlflow/runs/create", json={"experiment_id": experiment, "start_time": 1}).json()
        unneeded = made["run"]["info"]
        file = f"{unneeded['artifact_uri'].removeprefix('mlflow-artifacts:/')}/notes.txt"
        assert mlflow.put(f"/api/2.0/mlflow-artifacts/artifacts/{file}", content=b"nobody needs this").status_code == 200
        for run in (version["run_id"], unneeded["run_id"]):
            assert mlflow.post("/api/2.0/mlflow/runs/delete", json={"run_id": run}).status_code == 200
        gc = (*RUN, "tracking", "gc", "--older-than-days", "0")
        kept_objects = objects(twin)
        assert "0 deleted at least 30 days ago" in twin.compose(*RUN, "tracking", "gc")
        output = twin.compose(*gc)
        assert (
            f"kept     run {version['run_id']}: version" in output and f"removable run {unneeded['run_id']}: 1 files" in output
        )
        assert objects(twin) == kept_objects and unneeded["run_id"] in runs(mlflow)
        assert f"removed run {unneeded['run_id']}: 1 files" in twin.compose(*gc, "--yes")
        assert unneeded["run_id"] not in runs(mlflow) and version["run_id"] in runs(mlflow)
    kept_objects.pop(file)
    assert objects(twin) == kept_objects
    twin.compose("stop", "infer")
    twin.compose("rm", "--force", "infer")
    docker("volume", "rm", f"{twin.name}_infer-cache")  # so that it downloads the champion again
    twin.up()
    assert image(twin) == before


def test_restore_recovers_all_data_and_images(twin: Twin, champion: int, backups: Path) -> None:
    token = twin.compose(*RUN, "tokens", "issue", "ana", "reader").split()[-1]
    before, login = user_data(twin), dict(twin.current_secrets["logins"])
    assert before["decisions"] and before["runs"] and len(before["versions"]) >= 2
    output = twin.compose(*RUN, "backup")
    [folder] = backups.iterdir()
    assert f"{folder.name}: {len(before['objects'])} objects and the database" in output
    assert (folder.stat().st_mode & 0o777, (folder / "secrets.json").stat().st_mode & 0o777) == (0o700, 0o600)
    assert not [secret for secret in secret_texts(twin) if secret in output]
    assert "backup" not in twin.compose("exec", "-T", "postgres", "ls", "/var/lib/postgresql/data")
    refused = twin.compose(*RUN, "restore", folder.name, check=False, both=True)
    assert "the database must not be in use" in refused

    twin.remove()
    damaged = backups / "20000101T000000Z"
    shutil.copytree(folder, damaged)
    file = next(
        entry for entry in json.loads((damaged / "manifest.json").read_text())["pieces"] if entry["file"] == "objects/0"
    )
    (damaged / "objects/0").write_bytes(b"x" * file["size_bytes"])
    assert "is damaged and was not restored: objects/0: has changed since the backup" in twin.compose(
        *RUN, "restore", damaged.name, check=False, both=True
    )
    refused = twin.compose(*RUN, "restore", check=False, both=True)
    assert f"restore needs the name of a backup; received None; there are: {damaged.name}, {folder.name}" in refused
    assert f"{folder.name} is restored" in twin.compose(*RUN, "restore", folder.name)
    assert "needs an empty twin" in twin.compose(*RUN, "restore", folder.name, check=False, both=True)
    assert f"{folder.name} is restored" in twin.compose(*RUN, "restore", folder.name, "--replace")
    twin.up()
    assert twin.current_secrets["logins"] == login
    after = user_data(twin)
    for name, value in before.items():
        assert after[name] == value, name
    with httpx.Client(base_url=twin.url("REGISTRY_API_PORT"), headers={"Authorization": f"Bearer {token}"}) as registry:
        assert registry.get("/models").status_code == 200, "ana's token must still be valid"
    output = twin.compose("exec", "-T", "registry-api", "python", "-m", "atelier_registry", "verify")
    assert "none changed or missing" in output
    until("first-version to see the champion", lambda: "nothing to do" in twin.compose("logs", "first-version"))


def test_rotated_credentials_end_when_services_are_recreated(twin: Twin) -> None:
    old = {
        "mlflow": twin.tracking(),
        "registry": twin.api("REGISTRY_API_PORT", "reader"),
        "infer": twin.api("INFER_PORT", "reader"),
    }
    output = twin.compose(*RUN, "secrets", "rotate")
    assert not [secret for secret in secret_texts(twin) if secret in output]
    twin.compose("up", "--detach", "--force-recreate", "tracking", "registry-api", "infer")
    twin.up()
    assert old["mlflow"].get("/api/2.0/mlflow/experiments/get", params={"experiment_id": "0"}).status_code == 401
    assert old["registry"].get("/models").status_code == old["infer"].get("/models").status_code == 401
    assert user_data(twin)["versions"], "the services must have the new credentials"


def test_a_new_twin_has_new_secrets(twin: Twin) -> None:
    before = secret_texts(twin)
    old = twin.api("INFER_PORT", "reader")
    twin.remove()
    twin.settings["FIRST_VERSION"] = "off"
    twin.up()
    assert not set(before) & set(secret_texts(twin))
    assert old.post("/generate", json={"prompt": "a cat"}).status_code == 401
    until("the job to log that it is disabled", lambda: "FIRST_VERSION=off" in twin.compose("logs", "first-version"))
