"""Each row of the table of registry-api and infer against the running images; and attacks that take several requests."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from atelier_contracts import names

from ..integration.containers import until
from .attacks.attack import Attack
from .attacks.service_rows import Forged
from .attacks.services import TABLE
from .sending import send_all
from .service_checks import CHECKS
from .services import MODEL, Services, drawn_by, infer_settings, other_files, running, token_lines
from .test_attacks import fill_placeholders

REASON = {"reason": "an attack"}
OURS = f"/models/{MODEL}"


def body_of(row: Attack, known: dict[str, str]) -> Any:
    if isinstance(row.body, Forged):
        changes = fill_placeholders(dict(row.body.changes), known)
        return Forged(changes, row.body.side_px, row.body.text).png(known)
    return row.body if isinstance(row.body, bytes) else fill_placeholders(row.body, known)


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_an_attack_on_the_services_changes_nothing(services: Services, row: Attack) -> None:
    request = (row.method, fill_placeholders(row.path, services.names), row.who, body_of(row, services.names), row.headers)
    statuses = send_all(row.times, services.servers[row.service], *request)
    for check in row.after:
        CHECKS[check](services)
    assert statuses <= set(row.expected)


def post(services: Services, user: str, path: str, **more: Any) -> Any:
    return services.request("registry-api", user, "POST", path, REASON | more)


def test_a_promoter_cannot_approve_her_own_proposal(services: Services) -> None:
    proposed = post(services, "pia", f"{OURS}/versions/1/promote", alias="shown")
    assert (proposed.status, proposed.json["outcome"]) == (202, "proposed")
    approve = f"/decisions/{proposed.json['id']}/approve"
    with ThreadPoolExecutor(4) as pool:
        assert {each.status for each in pool.map(lambda _: post(services, "pia", approve), range(8))} == {403}
    again = post(services, "pia", f"{OURS}/versions/1/promote", alias="shown")
    assert again.json["outcome"] in ("proposed", "refused")
    assert services.request("registry-api", "rita", "GET", f"{OURS}/aliases/shown").status == 404
    assert post(services, "polly", approve).json["approved_by"] == "polly"
    again = post(services, "pia", approve)
    assert again.status != 200 or again.json["approved_by"] == "polly"
    CHECKS["champion"](services)


def test_concurrent_retire_and_promote_serve_no_retired_version(services: Services) -> None:
    """Whatever the order: what an alias points at was not retired, and what was retired no alias points at."""
    for _ in range(3):
        alias = f"race{time.monotonic_ns() % 10**9}"
        with ThreadPoolExecutor(6) as pool:
            acts = [pool.submit(post, services, "pia", f"{OURS}/versions/6/promote", alias=alias) for _ in range(3)]
            acts += [pool.submit(post, services, "polly", f"{OURS}/versions/6/retire") for _ in range(3)]
            assert {act.result().status for act in acts} <= {200, 409}
        told = services.request("registry-api", "rita", "GET", f"{OURS}/versions/6", Cache_Control="no-cache").json
        pointed = (
            services.request("registry-api", "rita", "GET", f"{OURS}/aliases/{alias}", Cache_Control="no-cache").status == 200
        )
        assert not (told["tags"].get(names.TAG_RETIRED) and pointed)
    CHECKS["champion"](services)


def test_a_revoked_token_is_refused_at_once(services: Services) -> None:
    logins = services.servers["infer"].logins
    (services.folder / "tokens").write_text(token_lines(logins, without="polly"))
    try:
        for service in ("infer", "registry-api"):
            assert services.request(service, "polly", "GET", "/models").status == 401
            assert services.request(service, "pia", "GET", "/models").status == 200
        (services.folder / "tokens").write_bytes(b"\xff\xfe not a token file")
        for service in ("infer", "registry-api"):
            assert services.request(service, "ada", "GET", "/models").status == 401
    finally:
        (services.folder / "tokens").write_text(token_lines(logins))
    assert services.request("infer", "polly", "GET", "/models").status == 200


def problems(services: Services) -> tuple[list[str], str | None]:
    """What registry-api says of the model, and infer of the champion."""
    told = services.request("registry-api", "rita", "GET", OURS, Cache_Control="no-cache").json["problems"]
    return told, services.request("infer", "rita", "GET", "/models").json["aliases"]["champion"]["problem"]


@pytest.mark.parametrize("kind", ["all files", "weights"])
def test_overwritten_files_of_the_champion_are_never_used(services: Services, kind: str) -> None:
    """Served from memory, then by an infer that starts with an empty cache: the old image, or a refusal with its reason."""
    files, manifest = other_files(services)
    if kind == "weights":
        files = {names.WEIGHTS_FILE: files[names.WEIGHTS_FILE]}
    before = {file: services.s3.get_object(Bucket="models", Key=services.key(2, file))["Body"].read() for file in files}
    first = {service: services.servers[service] for service in ("infer", "registry-api")}
    try:
        for file, content in files.items():
            services.s3.put_object(Bucket="models", Key=services.key(2, file), Body=content)
        CHECKS["image"](services)
        until(lambda: all(problems(services)), "both services to tell of the change", 60)
        told, drawn = problems(services)
        assert services.names["digest_2"] in told[0] and "changed after its promotion" in str(drawn)
        CHECKS["image"](services)
        assert "files of a version changed" in first["registry-api"].log()
        assert "files of a served version changed" in first["infer"].log()
        assert services.request("infer", "pia", "POST", "/stage", {"version": 2}).status == 409 or drawn_by(services) == "2"
        with ExitStack() as stack:
            stack.callback(services.servers.update, first)
            stack.enter_context(
                running(services, "infer", infer_settings(), "--memory", "1g", "--volume", "/var/cache/atelier")
            )
            until(lambda: problems(services)[1], "the empty infer to refuse", 60)
            for wish in ({}, {"version": 2}, {"alias": "champion"}):
                refused = services.draw(**wish)
                assert refused.status == (502 if kind == "weights" else 409), refused.body
                assert ("sha256" if kind == "weights" else services.names["digest_2"]) in refused.json["detail"]
            assert manifest.digest() not in services.in_cache_names()
    finally:
        for file, content in before.items():
            services.s3.put_object(Bucket="models", Key=services.key(2, file), Body=content)
    until(lambda: problems(services) == ([], None), "the change to be over", 60)
    CHECKS["image"](services)


def test_both_services_work_after_all_attacks(services: Services) -> None:
    for check in CHECKS.values():
        check(services)
    for service in ("infer", "registry-api"):
        log = services.servers[service].log()
        assert "Traceback" not in log
        assert [token for token in services.servers["infer"].logins.values() if token in log] == []
        assert services.request(service, None, "GET", "/readyz").status == 200
