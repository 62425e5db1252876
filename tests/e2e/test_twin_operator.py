"""What an operator does with a twin that people work with: gc, backup, restore. Runs after test_twin.py, on its twin."""

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
from .test_twin import MODEL, bucket, secret_texts

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

RUN = ("run", "--rm", "-T")


def pages(client: httpx.Client, path: str, name: str, **asked: Any) -> list[dict[str, Any]]:
    """Every page of a search of MLflow's."""
    found, more = [], {}
    while True:
        answer = client.post(path, json=asked | more).json()
        found += answer.get(name, [])
        if not (token := answer.get("next_page_token")):
            return found
        more = {"page_token": token}


def experiments(mlflow: httpx.Client) -> list[dict[str, Any]]:
    return pages(mlflow, "/api/2.0/mlflow/experiments/search", "experiments", max_results=1000, view_type="ALL")


def runs(mlflow: httpx.Client) -> dict[str, dict[str, Any]]:
    ids = [each["experiment_id"] for each in experiments(mlflow)]
    asked = {"experiment_ids": ids, "run_view_type": "ALL", "max_results": 1000}
    return {each["info"]["run_id"]: each for each in pages(mlflow, "/api/2.0/mlflow/runs/search", "runs", **asked)}


def objects(twin) -> dict[str, str]:
    s3 = bucket(twin)
    listed = s3.get_paginator("list_objects_v2").paginate(Bucket="atelier")
    keys = [each["Key"] for page in listed for each in page.get("Contents", [])]
    return {key: hashlib.sha256(s3.get_object(Bucket="atelier", Key=key)["Body"].read()).hexdigest() for key in keys}


def image(twin) -> bytes:
    """The pixels of one drawing of the champion."""
    with twin.api("INFER_PORT", "reader") as infer:

        def draw() -> bytes | None:
            answer = infer.post("/generate", json={"prompt": "a red car", "seed": 3, "steps": 2})
            return answer.content if answer.status_code == 200 else None

        return Image.open(io.BytesIO(until("an image", draw))).tobytes()


def unordered(told: Any) -> Any:
    """JSON with its lists sorted: PostgreSQL gives rows of one run in any order."""
    if isinstance(told, dict):
        return {name: unordered(value) for name, value in told.items()}
    return sorted(map(unordered, told), key=json.dumps) if isinstance(told, list) else told


def everything(twin) -> dict[str, Any]:
    """All that people would miss."""
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
def champion(twin) -> int:
    """The version that infer draws with; the job first-version makes one where nothing else has."""
    with twin.api("REGISTRY_API_PORT", "reader") as registry:
        return int(until("a champion", lambda: registry.get(f"/models/{MODEL}").json()["aliases"].get("champion")))


@pytest.fixture(scope="module")
def backups(twin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backups")
    twin.settings["BACKUP_DIR"] = str(folder)
    return folder


def test_gc_keeps_a_champion_whose_run_was_deleted_by_a_trainer(twin, champion):
    before = image(twin)
    with twin.tracking() as mlflow:
        asked = {"name": MODEL, "version": str(champion)}
        version = mlflow.get("/api/2.0/mlflow/model-versions/get", params=asked).json()["model_version"]
        experiment = runs(mlflow)[version["run_id"]]["info"]["experiment_id"]
        made = mlflow.post("/api/2.0/mlflow/runs/create", json={"experiment_id": experiment, "start_time": 1}).json()
        useless = made["run"]["info"]
        file = f"{useless['artifact_uri'].removeprefix('mlflow-artifacts:/')}/notes.txt"
        assert mlflow.put(f"/api/2.0/mlflow-artifacts/artifacts/{file}", content=b"nobody needs this").status_code == 200
        for run in (version["run_id"], useless["run_id"]):
            assert mlflow.post("/api/2.0/mlflow/runs/delete", json={"run_id": run}).status_code == 200
        gc = (*RUN, "tracking", "gc", "--older-than-days", "0")
        kept_objects = objects(twin)
        assert "0 deleted at least 30 days ago" in twin.compose(*RUN, "tracking", "gc")
        told = twin.compose(*gc)
        assert f"kept     run {version['run_id']}: version" in told and f"removable run {useless['run_id']}: 1 files" in told
        assert objects(twin) == kept_objects and useless["run_id"] in runs(mlflow)
        assert f"removed run {useless['run_id']}: 1 files" in twin.compose(*gc, "--yes")
        assert useless["run_id"] not in runs(mlflow) and version["run_id"] in runs(mlflow)
    kept_objects.pop(file)
    assert objects(twin) == kept_objects
    twin.compose("stop", "infer")
    twin.compose("rm", "--force", "infer")
    docker("volume", "rm", f"{twin.name}_infer-cache")  # so that it fetches what it draws with anew
    twin.up()
    assert image(twin) == before


def test_a_backup_brings_back_every_run_version_alias_decision_and_image(twin, champion, backups):
    token = twin.compose(*RUN, "tokens", "issue", "ana", "reader").split()[-1]
    before, login = everything(twin), dict(twin.known["logins"])
    assert before["decisions"] and before["runs"] and len(before["versions"]) >= 2
    told = twin.compose(*RUN, "backup")
    [folder] = backups.iterdir()
    assert f"{folder.name}: {len(before['objects'])} objects and the database" in told
    assert (folder.stat().st_mode & 0o777, (folder / "secrets.json").stat().st_mode & 0o777) == (0o700, 0o600)
    assert not [secret for secret in secret_texts(twin) if secret in told]
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
    assert twin.known["logins"] == login
    after = everything(twin)
    for name, value in before.items():
        assert after[name] == value, name
    with httpx.Client(base_url=twin.url("REGISTRY_API_PORT"), headers={"Authorization": f"Bearer {token}"}) as registry:
        assert registry.get("/models").status_code == 200, "ana's token is the one that she was given"
    told = twin.compose("exec", "-T", "registry-api", "python", "-m", "atelier_registry", "verify")
    assert "none changed or missing" in told
    until("first-version to see the champion", lambda: "nothing to do" in twin.compose("logs", "first-version"))


def test_rotated_logins_end_with_the_next_start(twin):
    old = {
        "mlflow": twin.tracking(),
        "registry": twin.api("REGISTRY_API_PORT", "reader"),
        "infer": twin.api("INFER_PORT", "reader"),
    }
    told = twin.compose(*RUN, "secrets", "rotate")
    assert not [secret for secret in secret_texts(twin) if secret in told]
    twin.compose("up", "--detach", "--force-recreate", "tracking", "registry-api", "infer")
    twin.up()
    assert old["mlflow"].get("/api/2.0/mlflow/experiments/get", params={"experiment_id": "0"}).status_code == 401
    assert old["registry"].get("/models").status_code == old["infer"].get("/models").status_code == 401
    assert everything(twin)["versions"], "the services know each other's new logins"


def test_a_new_twin_has_other_secrets(twin):
    before = secret_texts(twin)
    old = twin.api("INFER_PORT", "reader")
    twin.remove()
    twin.settings["FIRST_VERSION"] = "off"
    twin.up()
    assert not set(before) & set(secret_texts(twin))
    assert old.post("/generate", json={"prompt": "a cat"}).status_code == 401
    until("the job to say that it is off", lambda: "FIRST_VERSION=off" in twin.compose("logs", "first-version"))
