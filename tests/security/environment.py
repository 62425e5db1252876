"""Content of tracking before the attacks, and checks that it is unchanged after each of them."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import boto3
import pytest
from atelier_contracts.names import TAG_CHAIN_HEAD, TAG_PROMOTED_DIGEST
from botocore.config import Config

from ..integration.containers import BackingServices, Server, docker, port_of

BUCKET = "artifacts"
DIGEST = "d1" * 32
NONCANONICAL = {
    "slash": "runs:/{run}/model/",
    "tab": "mlflow-artifacts:/{experiment}/{run}/arti\tfacts/model",
    "upper": "MLFLOW-ARTIFACTS:/{experiment}/{run}/artifacts/model",
    "percent": "mlflow-artifacts:/{experiment}/{run}/artifacts/mod%65l",
    "host": "http://127.0.0.1/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts/model",
    "bucket": "s3://artifacts/{experiment}/{run}/artifacts/model",
    "nameless": "s3://artifacts/direct//model?x",
}
"""Sources that are not canonical, as older versions may have."""


@dataclass
class Environment:
    """tracking and its content.

    Attributes:
        tracking: the server under attack.
        names: `e` experiment, `r` run of version 1, `m` logged model of version 2 (the champion), `n` registered model, `own` a
            run that no version needs, and `noncanonical_*` runs whose version has a noncanonical source.
        s3: a client of the bucket that does not go by tracking.
        objects: key to sha256 of everything that must stay as it is.
        bodies: the same objects themselves, to put them back.
        listed: key to what the bucket's list says of it: ETag and time of the last change.
        logged: status of the question for the champion's logged model.
        restarts: of the container, as far as they are known.
    """

    tracking: Server
    names: dict[str, str]
    s3: Any
    objects: dict[str, str]
    bodies: dict[str, bytes] = field(default_factory=dict)
    listed: dict[str, tuple[str, str]] = field(default_factory=dict)
    tags: list[tuple[str, str, str]] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    restarts: int = 0
    logged: int = 200


def create_environment(backing_services: BackingServices, server: Server) -> Environment:
    """Creates the content, through the API where possible."""
    mark = secrets.token_hex(4)
    options = Config(s3={"addressing_style": "path"})
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "eu-central-1"}
    s3 = boto3.client("s3", endpoint_url=backing_services.s3_uri, config=options, **keys)
    experiment = server.call("theo", "POST", "experiments/create", {"name": f"e-{mark}"})["experiment_id"]

    def new_run() -> str:
        return server.call("theo", "POST", "runs/create", {"experiment_id": experiment})["run"]["info"]["run_id"]

    names = {"e": experiment, "n": f"sketch-{mark}", "own": new_run(), "r": new_run()}
    model = {"experiment_id": experiment, "name": "adapter", "source_run_id": names["r"]}
    names["m"] = server.call("theo", "POST", "logged-models", model)["model"]["info"]["model_id"]
    names |= {f"noncanonical_{kind}": new_run() for kind in NONCANONICAL}
    folders = [
        f"{experiment}/{run}/artifacts/model" for kind, run in names.items() if kind == "r" or kind.startswith("noncanonical_")
    ]
    for folder in (*folders, f"{experiment}/models/{names['m']}/artifacts"):
        for file in ("weights.bin", "deep/adapter.json"):
            assert server.put("theo", f"{folder}/{file}", f"{folder}/{file}".encode()) == 200
    for key in ("mlflow.env", "backup/dump.sql", "direct/model/weights.bin"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode())

    server.call("theo", "POST", "registered-models/create", {"name": names["n"]})
    first = {"source": f"mlflow-artifacts:/{experiment}/{names['r']}/artifacts/model", "run_id": names["r"]}
    server.call("theo", "POST", "model-versions/create", {"name": names["n"], **first})
    second = {"source": f"models:/{names['m']}", "model_id": names["m"], "run_id": names["r"]}
    server.call("theo", "POST", "model-versions/create", {"name": names["n"], **second})
    for kind in NONCANONICAL:
        run = names[f"noncanonical_{kind}"]
        version = {"name": names["n"], "source": f"runs:/{run}/model", "run_id": run}
        made = server.call("theo", "POST", "model-versions/create", version)["model_version"]["version"]
        source = NONCANONICAL[kind].format(run=run, experiment=experiment)
        backing_services.sql(
            f"UPDATE model_versions SET source = E'{source}' WHERE name = '{names['n']}' AND version = {made};"
        )
    backing_services.sql(
        f"UPDATE model_versions SET run_id = NULL WHERE source LIKE 's3://artifacts/direct%' AND name = '{names['n']}';"
    )
    alias = {"name": names["n"], "alias": "champion", "version": "2"}
    server.call("registry", "POST", "registered-models/alias", alias)
    tag = {"name": names["n"], "version": "2", "key": TAG_PROMOTED_DIGEST, "value": DIGEST}
    server.call("registry", "POST", "model-versions/set-tag", tag)
    environment = Environment(server, names, s3, {})
    return replace(
        environment,
        objects=objects(environment),
        bodies=bodies(environment),
        listed=listed(environment),
        tags=reserved_tags(environment),
        sources=sources(environment),
    )


def on_server(environment: Environment, server: Server) -> Environment:
    """The same content with another server."""
    return replace(environment, tracking=server)


def listed(environment: Environment) -> dict[str, tuple[str, str]]:
    """All objects of the bucket, except those of the run that no version needs."""
    pages = environment.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    entries = [entry for page in pages for entry in page.get("Contents", []) if environment.names["own"] not in entry["Key"]]
    return {entry["Key"]: (entry["ETag"], str(entry["LastModified"])) for entry in entries}


def bodies(environment: Environment) -> dict[str, bytes]:
    """Key → content."""
    return {key: environment.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in listed(environment)}


def objects(environment: Environment) -> dict[str, str]:
    """Key → SHA-256."""
    return {key: hashlib.sha256(body).hexdigest() for key, body in bodies(environment).items()}


def versions(environment: Environment) -> list[dict[str, Any]]:
    return environment.tracking.call("rita", "GET", "model-versions/search?max_results=1000")["model_versions"]


def reserved_tags(environment: Environment) -> list[tuple[str, str, str]]:
    """All tags of versions and models that promotions depend on."""
    models = environment.tracking.call("rita", "GET", "registered-models/search?max_results=1000").get("registered_models", [])
    tagged = [(entry["name"], tag) for entry in [*versions(environment), *models] for tag in entry.get("tags", [])]
    ours = (TAG_PROMOTED_DIGEST, TAG_CHAIN_HEAD, "atelier.retired")
    return sorted((name, tag["key"], tag["value"]) for name, tag in tagged if tag["key"] in ours)


def sources(environment: Environment) -> list[str]:
    return sorted({version["source"] for version in versions(environment)} - {f"runs:/{environment.names['own']}/model"})


def check_files(environment: Environment) -> None:
    """Compares the list of objects, and their content if the list differs; restores them for the next attack."""
    if (found := listed(environment)) == environment.listed:
        return
    hashes = objects(environment)
    for key, body in environment.bodies.items():  # restored for the next attack
        if hashes.get(key) != environment.objects[key]:
            environment.s3.put_object(Bucket=BUCKET, Key=key, Body=body)
    for key in set(found) - set(environment.bodies):
        environment.s3.delete_object(Bucket=BUCKET, Key=key)
    environment.listed = listed(environment)
    assert hashes == environment.objects


def check_aliases(environment: Environment) -> None:
    name = environment.names["n"]
    found = environment.tracking.call("rita", "GET", f"registered-models/alias?name={name}&alias=champion")["model_version"]
    assert (found["version"], found["source"]) == ("2", f"models:/{environment.names['m']}")
    before, environment.logged = environment.logged, logged_status(environment)
    assert environment.logged == before


def logged_status(environment: Environment) -> int:
    """Status of the champion's logged model: 404 if it was deleted."""
    return environment.tracking.request("GET", f"/api/2.0/mlflow/logged-models/{environment.names['m']}", "rita").status


def check_tags(environment: Environment) -> None:
    before, environment.tags = environment.tags, reserved_tags(environment)
    assert environment.tags == before


def check_sources(environment: Environment) -> None:
    before, environment.sources = environment.sources, sources(environment)
    assert environment.sources == before


def check_tracking_is_running(environment: Environment) -> None:
    """Fails if the container was restarted; updates the port for the next attack."""
    before = environment.restarts
    environment.restarts = int(docker("inspect", "-f", "{{.RestartCount}}", environment.tracking.name))
    if environment.restarts != before:
        environment.tracking.port = port_of(environment.tracking.name)
        environment.tracking.wait()
        pytest.fail(f"tracking was restarted: {environment.restarts - before} restarts")


CHECKS: dict[str, Callable[[Environment], None]] = {
    "running": check_tracking_is_running,
    "files": check_files,
    "aliases": check_aliases,
    "tags": check_tags,
    "sources": check_sources,
}
"""Name in `Attack.after` → check."""
