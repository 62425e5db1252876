"""What there is before the attacks, and what must be unchanged after each of them."""

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

from ..integration.containers import Neighbours, Server, docker, port_of

BUCKET = "artifacts"
DIGEST = "d1" * 32
ODD = {
    "slash": "runs:/{run}/model/",
    "tab": "mlflow-artifacts:/{experiment}/{run}/arti\tfacts/model",
    "upper": "MLFLOW-ARTIFACTS:/{experiment}/{run}/artifacts/model",
    "percent": "mlflow-artifacts:/{experiment}/{run}/artifacts/mod%65l",
    "host": "http://127.0.0.1/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts/model",
    "bucket": "s3://artifacts/{experiment}/{run}/artifacts/model",
    "nameless": "s3://artifacts/direct//model?x",
}
"""Sources that MLflow took before they had one spelling."""


@dataclass
class World:
    """Names that the rows of the table are filled in with.

    Attributes:
        tracking: the server under attack.
        names: `e` experiment, `r` run of version 1, `m` logged model of version 2 (the champion), `n` registered model, `own` a
            run that no version needs, and `odd_*` runs whose version has an odd source.
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


def seeded(around: Neighbours, server: Server) -> World:
    """Makes everything, through the API where that allows it."""
    mark = secrets.token_hex(4)
    options = Config(s3={"addressing_style": "path"})
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "eu-central-1"}
    s3 = boto3.client("s3", endpoint_url=around.s3_uri, config=options, **keys)
    experiment = server.call("theo", "POST", "experiments/create", {"name": f"e-{mark}"})["experiment_id"]

    def new_run() -> str:
        return server.call("theo", "POST", "runs/create", {"experiment_id": experiment})["run"]["info"]["run_id"]

    names = {"e": experiment, "n": f"sketch-{mark}", "own": new_run(), "r": new_run()}
    model = {"experiment_id": experiment, "name": "adapter", "source_run_id": names["r"]}
    names["m"] = server.call("theo", "POST", "logged-models", model)["model"]["info"]["model_id"]
    names |= {f"odd_{kind}": new_run() for kind in ODD}
    folders = [f"{experiment}/{run}/artifacts/model" for kind, run in names.items() if kind == "r" or kind.startswith("odd_")]
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
    for kind in ODD:
        run = names[f"odd_{kind}"]
        version = {"name": names["n"], "source": f"runs:/{run}/model", "run_id": run}
        made = server.call("theo", "POST", "model-versions/create", version)["model_version"]["version"]
        odd = ODD[kind].format(run=run, experiment=experiment)
        around.sql(f"UPDATE model_versions SET source = E'{odd}' WHERE name = '{names['n']}' AND version = {made};")
    around.sql(f"UPDATE model_versions SET run_id = NULL WHERE source LIKE 's3://artifacts/direct%' AND name = '{names['n']}';")
    alias = {"name": names["n"], "alias": "champion", "version": "2"}
    server.call("registry", "POST", "registered-models/alias", alias)
    tag = {"name": names["n"], "version": "2", "key": TAG_PROMOTED_DIGEST, "value": DIGEST}
    server.call("registry", "POST", "model-versions/set-tag", tag)
    world = World(server, names, s3, {})
    return replace(
        world,
        objects=objects(world),
        bodies=bodies(world),
        listed=listed(world),
        tags=reserved_tags(world),
        sources=sources(world),
    )


def remade(world: World, server: Server) -> World:
    """The same on another server."""
    return replace(world, tracking=server)


def listed(world: World) -> dict[str, tuple[str, str]]:
    """Every object but those of the run that no version needs, straight from the bucket."""
    pages = world.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    entries = [entry for page in pages for entry in page.get("Contents", []) if world.names["own"] not in entry["Key"]]
    return {entry["Key"]: (entry["ETag"], str(entry["LastModified"])) for entry in entries}


def bodies(world: World) -> dict[str, bytes]:
    """What is in each of them."""
    return {key: world.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in listed(world)}


def objects(world: World) -> dict[str, str]:
    """sha256 of each of them."""
    return {key: hashlib.sha256(body).hexdigest() for key, body in bodies(world).items()}


def versions(world: World) -> list[dict]:
    return world.tracking.call("rita", "GET", "model-versions/search?max_results=1000")["model_versions"]


def reserved_tags(world: World) -> list[tuple[str, str, str]]:
    """Every tag of a version or a model that promotions stand on."""
    models = world.tracking.call("rita", "GET", "registered-models/search?max_results=1000").get("registered_models", [])
    tagged = [(entry["name"], tag) for entry in [*versions(world), *models] for tag in entry.get("tags", [])]
    ours = (TAG_PROMOTED_DIGEST, TAG_CHAIN_HEAD, "atelier.retired")
    return sorted((name, tag["key"], tag["value"]) for name, tag in tagged if tag["key"] in ours)


def sources(world: World) -> list[str]:
    return sorted({version["source"] for version in versions(world)} - {f"runs:/{world.names['own']}/model"})


def files_stay(world: World) -> None:
    """Their list after each row; their bytes where the list differs, and after the whole table."""
    if (found := listed(world)) == world.listed:
        return
    hashes = objects(world)
    for key, body in world.bodies.items():  # put back, so that the next row is judged by itself
        if hashes.get(key) != world.objects[key]:
            world.s3.put_object(Bucket=BUCKET, Key=key, Body=body)
    for key in set(found) - set(world.bodies):
        world.s3.delete_object(Bucket=BUCKET, Key=key)
    world.listed = listed(world)
    assert hashes == world.objects


def aliases_stay(world: World) -> None:
    name = world.names["n"]
    found = world.tracking.call("rita", "GET", f"registered-models/alias?name={name}&alias=champion")["model_version"]
    assert (found["version"], found["source"]) == ("2", f"models:/{world.names['m']}")
    before, world.logged = world.logged, logged_status(world)
    assert world.logged == before


def logged_status(world: World) -> int:
    """Of the question for the champion's logged model: 404 once it was deleted."""
    return world.tracking.ask("GET", f"/api/2.0/mlflow/logged-models/{world.names['m']}", "rita").status


def tags_stay(world: World) -> None:
    before, world.tags = world.tags, reserved_tags(world)
    assert world.tags == before


def sources_stay(world: World) -> None:
    before, world.sources = world.sources, sources(world)
    assert world.sources == before


def tracking_runs_on(world: World) -> None:
    """Not restarted; where it was, the next row finds it again."""
    before = world.restarts
    world.restarts = int(docker("inspect", "-f", "{{.RestartCount}}", world.tracking.name))
    if world.restarts != before:
        world.tracking.port = port_of(world.tracking.name)
        world.tracking.wait()
        pytest.fail(f"tracking was killed and came back: {world.restarts - before} restarts")


CHECKS: dict[str, Callable[[World], None]] = {
    "running": tracking_runs_on,
    "files": files_stay,
    "aliases": aliases_stay,
    "tags": tags_stay,
    "sources": sources_stay,
}
"""What a row's `after` names."""
