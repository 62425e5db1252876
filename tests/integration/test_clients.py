"""Unmodified clients: MLflow, direct S3 access, Ray's MLflow callback, the MLflow pages."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from .containers import PASSWORDS, BackingServices, Server, apr1, docker, tracking


def client(code: str, uri: str, user: str, folder: Path, **more: str) -> str:
    """Output of a Python program with MLFLOW_TRACKING_URI, _USERNAME and _PASSWORD."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "MLFLOW_TRACKING_URI": uri, "MLFLOW_TRACKING_USERNAME": user, **more}
    env |= {"MLFLOW_TRACKING_PASSWORD": PASSWORDS[user], "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=folder, timeout=600)
    assert process.returncode == 0, process.stderr[-4000:]
    return process.stdout


STOCK = """
import pathlib, mlflow
from mlflow import MlflowClient
class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: list[str]) -> list[str]:
        return [text.upper() for text in model_input]
mlflow.set_experiment("stock")
with mlflow.start_run() as run:
    mlflow.log_params({"rank": 4, "note": "ä€"})
    mlflow.log_metrics({"loss": 0.5, "ema_loss": 0.6}, step=3)
    pathlib.Path("tree/a b/é").mkdir(parents=True)
    pathlib.Path("tree/a b/é/x.txt").write_text("deep")
    pathlib.Path("tree/100%.txt").write_text("percent")
    mlflow.log_artifacts("tree", "files")
    info = mlflow.pyfunc.log_model(name="model", python_model=Model(), registered_model_name="stock", pip_requirements=[])
client = MlflowClient()
client.set_registered_model_alias("stock", "champion", "1")
assert {a.path for a in client.list_artifacts(run.info.run_id, "files")} == {"files/a b", "files/100%.txt"}
back = pathlib.Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="files", dst_path="back"))
assert (back / "a b/é/x.txt").read_text() == "deep" and (back / "100%.txt").read_text() == "percent"
model = mlflow.pyfunc.load_model("models:/stock@champion")
assert model.predict(["ab"]) == ["AB"]
assert mlflow.search_runs(experiment_names=["stock"]).iloc[0]["metrics.loss"] == 0.5
client.rename_registered_model("stock", "stock-renamed")
client.delete_registered_model("stock-renamed")
print(run.info.artifact_uri)
"""


def test_mlflows_client_works_with_three_variables(minimal: Server, tmp_path: Path) -> None:
    assert client(STOCK, minimal.uri, "ada", tmp_path).splitlines()[-1].startswith("mlflow-artifacts:/")


DIRECT = """
import mlflow
experiment = mlflow.create_experiment("direct", artifact_location="s3://artifacts/direct")
with mlflow.start_run(experiment_id=experiment) as run:
    mlflow.log_text("straight", "a/b.txt")
assert mlflow.artifacts.load_text(run.info.artifact_uri + "/a/b.txt") == "straight"
print(run.info.artifact_uri)
"""


def test_direct_s3_access_works_with_keys(minimal: Server, backing_services: BackingServices, tmp_path: Path) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "MLFLOW_S3_ENDPOINT_URL": backing_services.s3_uri}
    uri = client(DIRECT, minimal.uri, "ada", tmp_path, **keys, AWS_DEFAULT_REGION="eu-central-1").splitlines()[-1]
    shown = minimal.request("GET", f"/get-artifact?run_uuid={uri.split('/')[-2]}&path=a/b.txt", "ada")
    assert (shown.status, shown.body) == (200, b"straight")  # also through the server


RAY = """
import ray
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
import os
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
def train(config):
    for step in range(3):
        tune.report({"loss": config["learning_rate"] / (1 + step)})
callback = MLflowLoggerCallback(tracking_uri=os.environ["MLFLOW_TRACKING_URI"], experiment_name="ray", save_artifact=True)
run_config = tune.RunConfig(callbacks=[callback], storage_path=os.environ["HOME"] + "/ray", verbose=0)
tuner = tune.Tuner(train, param_space={"learning_rate": tune.grid_search([0.1, 0.2])}, run_config=run_config)
assert not tuner.fit().errors
ray.shutdown()
"""


def test_rays_mlflow_callback_works(minimal: Server, tmp_path: Path) -> None:
    client(RAY, minimal.uri, "ada", tmp_path)
    experiment = minimal.call("ada", "GET", "experiments/get-by-name?experiment_name=ray")["experiment"]["experiment_id"]
    runs = minimal.call("ada", "POST", "runs/search", {"experiment_ids": [experiment]})["runs"]
    assert sorted(param["value"] for run in runs for param in run["data"]["params"] if param["key"] == "learning_rate") == [
        "0.1",
        "0.2",
    ]
    assert all({"loss", "training_iteration"} <= {metric["key"] for metric in run["data"]["metrics"]} for run in runs)
    assert all(run["info"]["status"] == "FINISHED" for run in runs)


MULTIPART = """
import os, pathlib, mlflow
from mlflow.utils.rest_utils import http_request
path = pathlib.Path("big.bin")
with path.open("wb") as file:
    for number in range(24):
        file.write(os.urandom(1 << 20))
with mlflow.start_run() as run:
    mlflow.log_artifact("big.bin", "model")
back = pathlib.Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="model/big.bin", dst_path="back"))
assert back.read_bytes() == path.read_bytes()
print(run.info.experiment_id, run.info.run_id)
"""


def test_presigned_multipart_uploads(backing_services: BackingServices, tmp_path: Path) -> None:
    """Server and client use the same S3 URL: the address of the container on the test's network."""
    address = docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", backing_services.s3).strip()
    users = "\\n".join(f"{user}:{apr1(PASSWORDS[user])}" for user in ("theo", "registry"))
    env = backing_services.settings(HTPASSWD=users, ROLES="theo trainer\\nregistry promoter", REGISTRY_USER="registry")
    del env["S3_ENDPOINT_URL"]
    env["S3_PUBLIC_ENDPOINT_URL"] = f"http://{address}:4566"
    with tracking(env, tmp_path, "--network", backing_services.network, logins=PASSWORDS) as server:
        info = server.request("GET", "/api/3.0/mlflow/server-info", "theo")
        assert info.status == 200
        sizes = {"MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE": str(10 << 20), "MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE": str(8 << 20)}
        experiment, run = client(MULTIPART, server.uri, "theo", tmp_path, **sizes).split()[-2:]
        log = server.log()
        assert "/mlflow-artifacts/mpu/complete/" in log and "/mlflow-artifacts/presigned/" in log
        folder = f"{experiment}/{run}/artifacts/model"
        server.call("theo", "POST", "registered-models/create", {"name": "parts"})
        version = {"name": "parts", "source": f"mlflow-artifacts:/{folder}", "run_id": run}
        server.call("theo", "POST", "model-versions/create", version)
        for step in ("create", "complete", "abort"):
            answer = server.request(
                "POST", f"/api/2.0/mlflow-artifacts/mpu/{step}/{folder}", "theo", {"path": "big.bin", "num_parts": 1}
            )
            assert answer.status == 403, answer.body
        upload = {"run_id": run, "path": "model/big.bin"}
        assert server.request("POST", "/api/2.0/mlflow/artifacts/presigned-upload-url", "theo", upload).status == 403


def test_the_pages_and_their_files_are_served(minimal: Server) -> None:
    page = minimal.request("GET", "/", "ada").body.decode()
    files = re.findall(r'(?:src|href)="(?:\./)?(static-files/[^"]+)"', page)
    assert files
    for file in files:
        assert minimal.request("GET", f"/{file}", "ada").status == 200
        assert minimal.request("GET", f"/{file}").status == 401
