"""What a registered version needs cannot be moved, changed or deleted, except by the registry user."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import pytest

from .containers import Server


@dataclass(frozen=True)
class Registered:
    """A run with a folder and a logged model, each registered as a version."""

    experiment: str
    run: str
    logged: str
    name: str

    @property
    def files(self) -> str:
        return f"{self.experiment}/{self.run}/artifacts/model"

    @property
    def logged_files(self) -> str:
        return f"{self.experiment}/models/{self.logged}/artifacts"


@pytest.fixture(scope="module")
def champion(with_roles: Server) -> Registered:
    mark = secrets.token_hex(4)
    experiment = with_roles.call("theo", "POST", "experiments/create", {"name": f"e-{mark}"})["experiment_id"]
    run = with_roles.call("theo", "POST", "runs/create", {"experiment_id": experiment})["run"]["info"]["run_id"]
    model = {"experiment_id": experiment, "name": "adapter", "source_run_id": run}
    logged = with_roles.call("theo", "POST", "logged-models", model)["model"]["info"]["model_id"]
    registered = Registered(experiment, run, logged, f"sketch-{mark}")
    for path in (f"{registered.files}/weights.bin", f"{registered.logged_files}/weights.bin"):
        assert with_roles.put("theo", path, b"the champion's weights") == 200
    with_roles.call("theo", "POST", "registered-models/create", {"name": registered.name})
    root = "mlflow-artifacts:/" + registered.files
    with_roles.call("theo", "POST", "model-versions/create", {"name": registered.name, "source": root, "run_id": run})
    of_model = {"name": registered.name, "source": f"models:/{logged}", "model_id": logged, "run_id": run}
    with_roles.call("theo", "POST", "model-versions/create", of_model)
    with_roles.call(
        "registry", "POST", "registered-models/alias", {"name": registered.name, "alias": "champion", "version": "2"}
    )
    return registered


def assert_unchanged(server: Server, champion: Registered) -> None:
    for path in (f"{champion.files}/weights.bin", f"{champion.logged_files}/weights.bin"):
        answer = server.request("GET", f"/api/2.0/mlflow-artifacts/artifacts/{path}", "rita")
        assert (answer.status, answer.body) == (200, b"the champion's weights")
    found = server.call("rita", "GET", f"registered-models/alias?name={champion.name}&alias=champion")
    assert found["model_version"]["version"] == "2"
    where = server.call("rita", "GET", f"model-versions/get-download-uri?name={champion.name}&version=2")
    assert where["artifact_uri"].endswith(champion.logged_files)
    assert server.call("rita", "GET", f"logged-models/{champion.logged}")["model"]["info"]["status"] != "LOGGED_MODEL_DELETED"


@pytest.mark.parametrize("user", ["ada", "theo", "pia"])
@pytest.mark.parametrize("api", ["api", "ajax-api"])
def test_files_of_a_version_cannot_be_changed(with_roles: Server, champion: Registered, user: str, api: str) -> None:
    base = f"/{api}/2.0/mlflow-artifacts/artifacts"
    e, r, m = champion.experiment, champion.run, champion.logged
    requests = [
        ("PUT", f"{base}/{folder}/{name}")
        for folder in (champion.files, champion.logged_files)
        for name in ("weights.bin", "new.bin")
    ]
    requests += [("PUT", f"{base}/{champion.files}"), ("PUT", f"{base}/{champion.logged_files}/deep/er/x")]
    deletes = [
        e,
        f"{e}/{r}",
        f"{e}/{r}/artifacts",
        f"{e}/{r}/artifacts/m",
        champion.files,
        f"{champion.files}/weights.bin",
        f"{e}/models",
    ]
    deletes += [f"{e}/models/{m}", f"{e}/models/{m}/artifacts", champion.logged_files + "/weights.bin", "x", f"{e}/x"]
    requests += [("DELETE", f"{base}/{path}") for path in deletes]
    requests += [("DELETE", f"/{api}/2.0/mlflow/logged-models/{m}")]
    upload = f"/{api}/2.0/mlflow/upload-artifact?run_uuid={r}&path="
    if api == "ajax-api":
        requests += [("POST", upload + name) for name in ("model/weights.bin", "model%2Fweights.bin", "x/../model/weights.bin")]
        requests += [
            ("POST", f"{upload}a.txt&path=model/weights.bin"),
            ("POST", f"{upload}model/weights.bin&run%5Fuuid={'b' * 32}"),
        ]
    variants = [
        "%6dodel",
        "%256dodel",
        "%25256dodel",
        "./model",
        "x/../model",
        "/model",
        "model%2f.",
        "model/.",
        "%2e/model",
        "model%5c..%5cmodel",
    ]
    requests += [("PUT", f"{base}/{e}/{r}/artifacts/{part}/weights.bin") for part in variants]
    answers = {(method, path): with_roles.request(method, path, user, b"evil").status for method, path in requests}
    assert {request: status for request, status in answers.items() if status not in (400, 403)} == {}
    assert_unchanged(with_roles, champion)


def test_names_and_versions_cannot_be_changed(with_roles: Server, champion: Registered) -> None:
    name = champion.name
    requests = [
        ("POST", "registered-models/rename", {"name": name, "new_name": "gone"}),
        ("DELETE", "registered-models/delete", {"name": name}),
        ("DELETE", "model-versions/delete", {"name": name, "version": "2"}),
        ("POST", "registered-models/alias", {"name": name, "alias": "champion", "version": "1"}),
        ("DELETE", "registered-models/alias", {"name": name, "alias": "champion"}),
        (
            "POST",
            "model-versions/transition-stage",
            {"name": name, "version": "2", "stage": "Archived", "archive_existing_versions": True},
        ),
        ("POST", "registered-models/set-tag", {"name": name, "key": "mlflow.prompt.is_prompt", "value": "true"}),
        ("POST", "model-versions/set-tag", {"name": name, "version": "2", "key": "kind", "value": "other"}),
    ]
    for user in ("ada", "pia", "theo"):
        for method, route, body in requests:
            answer = with_roles.request(method, f"/api/2.0/mlflow/{route}", user, body)
            assert (answer.status, answer.json["error_code"]) == (403, "PERMISSION_DENIED"), (user, route)
    assert_unchanged(with_roles, champion)


def test_files_of_another_version_cannot_be_changed(with_roles: Server, champion: Registered) -> None:
    other = f"other-{secrets.token_hex(4)}"
    with_roles.call("theo", "POST", "registered-models/create", {"name": other})
    source = {"source": f"runs:/{champion.run}/model", "run_id": champion.run}
    with_roles.call("theo", "POST", "model-versions/create", source | {"name": other})
    with_roles.call("registry", "DELETE", "model-versions/delete", {"name": champion.name, "version": "1"})
    assert with_roles.put("theo", f"{champion.files}/weights.bin", b"evil") == 403
    root = "mlflow-artifacts:/" + champion.files
    with_roles.call("theo", "POST", "model-versions/create", {"name": champion.name, "source": root, "run_id": champion.run})


def test_deleting_run_and_experiment_keeps_the_files(with_roles: Server, champion: Registered) -> None:
    with_roles.call("theo", "POST", "runs/delete", {"run_id": champion.run})
    with_roles.call("theo", "POST", "experiments/delete", {"experiment_id": champion.experiment})
    assert_unchanged(with_roles, champion)
    assert with_roles.put("theo", f"{champion.files}/weights.bin", b"evil") == 403
    with_roles.call("theo", "POST", "experiments/restore", {"experiment_id": champion.experiment})


def test_a_logged_model_with_an_s3_location_cannot_be_changed(with_roles: Server) -> None:
    name = f"direct-{secrets.token_hex(4)}"
    body = {"name": name, "artifact_location": f"s3://artifacts/{name}"}
    experiment = with_roles.call("theo", "POST", "experiments/create", body)["experiment_id"]
    model = {"experiment_id": experiment, "name": "adapter"}
    logged = with_roles.call("theo", "POST", "logged-models", model)["model"]["info"]["model_id"]
    folder = f"{name}/models/{logged}/artifacts"
    assert with_roles.put("theo", f"{folder}/weights.bin") == 200
    with_roles.call("theo", "POST", "registered-models/create", {"name": name})
    version = {"name": name, "source": f"models:/{logged}", "model_id": logged}
    with_roles.call("theo", "POST", "model-versions/create", version)
    for path in (f"{folder}/weights.bin", f"{folder}/tr-{'e' * 32}/x"):
        assert with_roles.put("theo", path, b"evil") == 403, path
    assert with_roles.put("theo", f"{experiment}/traces/tr-{'e' * 32}/artifacts/attachment") == 200


def test_files_that_no_version_needs_can_be_changed(with_roles: Server, champion: Registered) -> None:
    e, r = champion.experiment, champion.run
    for path in (f"{e}/{r}/artifacts/samples/1.png", f"{e}/{r}/artifacts/model2/weights.bin", f"{e}/{r}/artifacts/models.txt"):
        assert with_roles.put("theo", path) == 200, path
    model = {"experiment_id": e, "name": "next", "source_run_id": r}
    logged = with_roles.call("theo", "POST", "logged-models", model)["model"]["info"]["model_id"]
    assert with_roles.put("theo", f"{e}/models/{logged}/artifacts/weights.bin") == 200
    assert with_roles.request("DELETE", f"/api/2.0/mlflow/logged-models/{logged}", "theo").status == 200
    many = [{"key": f"parameter {number}", "value": "x" * 500} for number in range(400)]
    logged = with_roles.call("theo", "POST", "logged-models", model | {"params": many})["model"]["info"]["model_id"]
    assert with_roles.put("theo", f"{e}/models/{logged}/artifacts/weights.bin") == 200
    answer = with_roles.request("POST", f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={r}&path=notes/a.txt", "theo", b"note")
    assert answer.status == 200, answer.body
    assert with_roles.request("DELETE", f"/api/2.0/mlflow-artifacts/artifacts/{e}/{r}/artifacts/samples", "theo").status == 200


def test_the_registry_user_manages_models_and_writes_no_files(with_roles: Server, champion: Registered) -> None:
    assert with_roles.put("registry", f"{champion.files}/extra.bin") == 403
    assert with_roles.put("registry", f"{champion.experiment}/{champion.run}/artifacts/extra.bin") == 403
    with_roles.call(
        "registry", "POST", "model-versions/set-tag", {"name": champion.name, "version": "2", "key": "a", "value": "b"}
    )
    name = f"gone-{secrets.token_hex(4)}"
    with_roles.call(
        "registry", "POST", "registered-models/create", {"name": name, "tags": [{"key": "atelier.x", "value": "1"}]}
    )
    with_roles.call("registry", "POST", "registered-models/rename", {"name": name, "new_name": name + "-2"})
    with_roles.call("registry", "DELETE", "registered-models/delete", {"name": name + "-2"})


def test_without_a_registry_user_nothing_is_protected(minimal: Server) -> None:
    name = f"open-{secrets.token_hex(4)}"
    minimal.call("ada", "POST", "registered-models/create", {"name": name})
    run = minimal.call("ada", "POST", "runs/create", {"experiment_id": "0"})["run"]["info"]["run_id"]
    version = {"name": name, "source": f"runs:/{run}/model", "run_id": run, "tags": [{"key": "atelier.x", "value": "1"}]}
    minimal.call("ada", "POST", "model-versions/create", version)
    assert minimal.put("ada", f"0/{run}/artifacts/model/weights.bin") == 200
    minimal.call("ada", "POST", "registered-models/alias", {"name": name, "alias": "champion", "version": "1"})
    assert minimal.call("ada", "GET", f"registered-models/alias?name={name}&alias=champion")["model_version"]["version"] == "1"
    minimal.call("ada", "DELETE", "registered-models/delete", {"name": name})
