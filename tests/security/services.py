"""registry-api and infer from their images, beside a tracking of their own."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3
from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest
from botocore.config import Config
from PIL import Image

from ..infer.tiny_bundle import adapter_tensors, build_adapter, build_bundle
from ..integration.containers import (
    PASSWORDS,
    ROOT,
    BackingServices,
    Server,
    create_bucket,
    docker,
    port_of,
    removed_at_end,
    tracking_with_roles,
    until,
)

MODEL, BUCKET = "sketch", "models"
TOKENS = {
    "rita": "reader", "theo": "trainer", "pia": "promoter", "polly": "promoter", "ada": "admin",
    "registry-api": "promoter", "infer": "reader", "gone": "admin",
}  # fmt: skip
PORTS = {"registry-api": 8001, "infer": 8002}
POLICY = """
default:
  champion:
    output_finite: true
    max_onnx_error: 0.001
    loads: true
    better_than_champion: {by_at_least: 0, where_comparable: true}
  shown:
    approval: true
"""
WISH = {"prompt": "a cat", "seed": 7, "steps": 2}
PLANT = "import pathlib; p = pathlib.Path('/tmp/victim'); p.mkdir(); (p / 'bundle.json').write_text('{}')"
CHECK_S = "1"
"""Seconds between two looks at the files of served versions."""


class Bearer(Server):
    """A service that asks for tokens: user to token in `logins`. A user with a colon gives another token."""

    def headers(self, user: str | None) -> dict[str, str]:
        if user is None:
            return {}
        name, _, token = user.partition(":")
        return {"Authorization": f"Bearer {token or self.logins[name]}"}


@dataclass
class Services:
    """All of them, and what there is in them.

    Attributes:
        servers: `tracking`, `registry-api` and `infer`.
        s3: a client of the bucket that goes by nobody.
        names: `n` model, `bundle`, and per version V `run_V` and `digest_V`; versions 1 and 2 were promoted in this order, 3
            holds other weights than its adapter.json says, 4 evidence of version 1, 5 is retired, 6 was never promoted.
        image: what the champion, version 2, draws.
        started: process ids of the containers at their start.
    """

    folder: Path
    backing_services: BackingServices
    servers: dict[str, Server]
    s3: Any
    names: dict[str, str] = field(default_factory=dict)
    image: bytes = b""
    cache: str = ""
    started: dict[str, str] = field(default_factory=dict)

    def request(self, service: str, user: str | None, method: str, path: str, body: object = None, **headers: Any) -> Any:
        return self.servers[service].request(method, path, user, body, **headers)

    def draw(self, user: str = "rita", **wish: Any) -> Any:
        return self.request("infer", user, "POST", "/generate", WISH | wish)

    def pixels(self) -> bytes:
        answer = self.draw()
        assert answer.status == 200, answer.body
        return Image.open(BytesIO(answer.body)).tobytes()

    def key(self, version: int, file: str) -> str:
        """Of a version's file in the bucket."""
        return f"{self.names['e']}/{self.names[f'run_{version}']}/artifacts/adapter/{names.ADAPTER_FOLDER}/{file}"

    def in_cache(self) -> str:
        """Every file that infer has, and the folder beside its cache that some attacks name."""
        return self.servers["infer"].exec(
            "sh", "-c", "cd /var/cache/atelier && find bundles adapters /tmp/victim -type f | sort | xargs sha256sum"
        )

    def in_cache_names(self) -> str:
        """Digests of the adapters that infer keeps."""
        return self.servers["infer"].exec("sh", "-c", "ls /var/cache/atelier/adapters 2>/dev/null || true")

    def process_ids(self) -> dict[str, str]:
        """Of the containers: another one is a restart."""
        containers = [self.servers[service].name for service in PORTS]
        return dict(zip(PORTS, docker("inspect", "-f", "{{.State.Pid}}", *containers).split(), strict=True))


def image(service: str) -> str:
    """Built from its Dockerfile; nothing is built twice."""
    tag = f"atelier/{service}:integration"
    docker("build", "--quiet", "--tag", tag, "--file", f"services/{service}/Dockerfile", str(ROOT), timeout_s=1500)
    return tag


@contextlib.contextmanager
def running(services: Services, service: str, env: dict[str, str], *options: str) -> Iterator[None]:
    """One container, that comes back by itself when it is killed, as in the twin."""
    settings = [part for name, value in env.items() for part in ("--env", f"{name}={value}")]
    hardening = [
        "--read-only",
        "--tmpfs",
        "/tmp",
        "--cap-drop",
        "ALL",
        "--restart",
        "always",
        "--volume",
        f"{services.folder}:/files:ro",
    ]
    network = [
        "--network",
        services.backing_services.network,
        "--network-alias",
        service,
        "--publish",
        f"127.0.0.1::{PORTS[service]}",
    ]
    with removed_at_end(f"{service}-test-{secrets.token_hex(4)}") as name:
        docker("run", "--detach", "--name", name, *hardening, *network, *settings, *options, image(service))
        services.servers[service] = Bearer(name, port_of(name, PORTS[service]), services.servers["infer"].logins)
        services.servers[service].wait()
        yield


def infer_settings() -> dict[str, str]:
    return {
        "ATELIER_INFER_TRACKING_URI": "http://tracking",
        "ATELIER_INFER_TRACKING_PASSWORD_FILE": "/files/infer-password",
        "ATELIER_INFER_MODEL": MODEL,
        "ATELIER_INFER_TOKEN_FILE": "/files/tokens",
        "ATELIER_INFER_CACHE_DIR": "/var/cache/atelier",
        "ATELIER_INFER_REGISTRY_URL": "http://registry-api:8001",
        "ATELIER_INFER_REGISTRY_TOKEN_FILE": "/files/infer-token",
        "ATELIER_INFER_INTEGRITY_CHECK_S": CHECK_S,
        "MLFLOW_TRACKING_USERNAME": "rita",
    }


def registry_settings(backing_services: BackingServices) -> dict[str, str]:
    return {
        "ATELIER_REGISTRY_TRACKING_URI": "http://tracking",
        "ATELIER_REGISTRY_TRACKING_PASSWORD_FILE": "/files/registry-password",
        "ATELIER_REGISTRY_DATABASE_URL": f"postgresql://mlflow@{backing_services.database}:5432/decisions",
        "ATELIER_REGISTRY_DATABASE_PASSWORD_FILE": "/files/database-password",
        "ATELIER_REGISTRY_INFER_URL": "http://infer:8002",
        "ATELIER_REGISTRY_INFER_TOKEN_FILE": "/files/registry-token",
        "ATELIER_REGISTRY_TOKEN_FILE": "/files/tokens",
        "ATELIER_REGISTRY_POLICY_FILE": "/files/policy.yaml",
        "ATELIER_REGISTRY_INTEGRITY_CHECK_S": CHECK_S,
        "MLFLOW_TRACKING_USERNAME": "registry",
    }


@contextlib.contextmanager
def start_services(backing_services: BackingServices, folder: Path) -> Iterator[Services]:
    """Everything, with version 2 as champion and 1 before it."""
    logins = {user: secrets.token_urlsafe(16) for user in TOKENS}
    files = {
        "tokens": token_lines(logins),
        "policy.yaml": POLICY,
        "infer-password": PASSWORDS["rita"],
        "infer-token": logins["infer"],
        "registry-password": PASSWORDS["registry"],
        "registry-token": logins["registry-api"],
        "database-password": backing_services.password,
    }
    folder.chmod(0o755)
    for name, text in files.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o644)
    for database in ("models", "decisions"):
        backing_services.sql(f"CREATE DATABASE {database};")
    until(lambda: create_bucket(backing_services.s3, BUCKET), "the bucket")
    s3 = boto3.client(
        "s3", endpoint_url=backing_services.s3_uri, config=Config(s3={"addressing_style": "path"}),
        aws_access_key_id="test", aws_secret_access_key="test", region_name="eu-central-1",
    )  # fmt: skip
    (before := folder / "tracking").mkdir()
    own = {"DB_NAME": "models", "AWS_BUCKET_NAME": BUCKET}
    with tracking_with_roles(backing_services, before, "--network-alias", "tracking", **own) as tracking:
        services = Services(folder, backing_services, {"tracking": tracking, "infer": Bearer("", 0, logins)}, s3)
        fill(services, folder)
        with (
            running(services, "infer", infer_settings(), "--memory", "1g", "--volume", "/var/cache/atelier"),
            running(services, "registry-api", registry_settings(backing_services), "--memory", "512m"),
        ):
            for version in (1, 2):
                promote(services, version)
                until(lambda version=version: drawn_by(services) == str(version), f"version {version} to draw")
            retired = services.request(
                "registry-api", "pia", "POST", f"/models/{MODEL}/versions/5/retire", {"reason": "a test"}
            )
            assert retired.status == 200, retired.body
            services.servers["infer"].exec("python", "-c", PLANT)
            services.image, services.cache, services.started = services.pixels(), services.in_cache(), services.process_ids()
            yield services


def token_lines(logins: dict[str, str], without: str = "gone") -> str:
    """The token file. `gone` was revoked: the file lacks it."""
    lines = [(user, role, hashlib.sha256(logins[user].encode()).hexdigest()) for user, role in TOKENS.items()]
    return "".join(f"{user} {role} {digest}\n" for user, role, digest in lines if user != without)


def promote(services: Services, version: int, alias: str = names.CHAMPION, user: str = "pia") -> None:
    body = {"reason": "a test", "alias": alias}
    answer = services.request("registry-api", user, "POST", f"/models/{MODEL}/versions/{version}/promote", body)
    assert answer.status == 200, answer.body


def drawn_by(services: Services) -> str | None:
    answer = services.draw()
    return answer.headers.get(names.HEADER_VERSION.lower()) if answer.status == 200 else None


def fill(services: Services, folder: Path) -> None:
    """A base and six versions, as a trainer registers them."""
    tracking = services.servers["tracking"]
    experiment = tracking.call("theo", "POST", "experiments/create", {"name": "images"})["experiment_id"]
    services.names |= {"n": MODEL, "e": experiment}

    def register(model: str, files: Path, tags: dict[str, str], place: str) -> str:
        run = tracking.call("theo", "POST", "runs/create", {"experiment_id": experiment})["run"]["info"]["run_id"]
        for file in files.iterdir():
            assert tracking.put("theo", f"{experiment}/{run}/artifacts/{place}/{file.name}", file.read_bytes()) == 200
        source = f"mlflow-artifacts:/{experiment}/{run}/artifacts/{place.split('/')[0]}"
        told = [{"key": key, "value": value} for key, value in tags.items()]
        body = {"name": model, "source": source, "run_id": run, "tags": told}
        tracking.call("theo", "POST", "model-versions/create", body)
        return run

    for model in (MODEL, "base"):
        tracking.call("theo", "POST", "registered-models/create", {"name": model})
    bundle = build_bundle(folder / "bundle").digest()
    services.names["bundle"] = bundle
    register("base", folder / "bundle", {names.TAG_KIND: names.KIND_BUNDLE, names.TAG_BUNDLE_DIGEST: bundle}, "bundle")
    for number in range(1, 7):
        made = folder / f"adapter-{number}"
        manifest = build_adapter(made, bundle, adapter_tensors(seed=number))
        if number in (3, 4):  # somebody else's good numbers beside other weights
            for file in (names.EVIDENCE_FILE, names.ADAPTER_FILE)[: 2 if number == 3 else 1]:
                (made / file).write_bytes((folder / "adapter-1" / file).read_bytes())
        tags = {names.TAG_KIND: names.KIND_ADAPTER, names.TAG_BUNDLE_DIGEST: bundle}
        run = register(MODEL, made, tags, f"adapter/{names.ADAPTER_FOLDER}")
        services.names |= {f"run_{number}": run, f"digest_{number}": manifest.digest()}


def other_files(services: Services, seed: int = 77) -> tuple[dict[str, bytes], AdapterManifest]:
    """A sound adapter that nobody decided on."""
    folder = services.folder / f"other-{seed}"
    manifest = build_adapter(folder, services.names["bundle"], adapter_tensors(seed=seed))
    return {file.name: file.read_bytes() for file in folder.iterdir()}, manifest
