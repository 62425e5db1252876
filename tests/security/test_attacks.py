"""Each row of the table against the running images; then what all of them together did to the services."""

from __future__ import annotations

import json
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .attacks.attack import FILES, Attack
from .attacks.tracking import TABLE
from .environment import BUCKET, CHECKS, Environment, listed, objects
from .sampling import Peak
from .sending import Lists, Zeros, send, send_all

MEMORY_LIMIT_MIB = 700


def fill_placeholders(value: Any, names: dict[str, str]) -> Any:
    """The value with every `{name}` of the environment in its strings replaced; other braces stay."""
    if isinstance(value, dict):
        return {key: fill_placeholders(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [fill_placeholders(each, names) for each in value]
    if isinstance(value, bytes):
        return fill_placeholders(value.decode(), names).encode()
    if isinstance(value, str):
        for name, text in names.items():
            value = value.replace("{" + name + "}", text)
    return value


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_an_attack_on_tracking_changes_nothing(environment: Environment, peak: Peak, row: Attack) -> None:
    path, body = fill_placeholders(row.path, environment.names), fill_placeholders(row.body, environment.names)
    statuses = send_all(row.times, environment.tracking, row.method, path, row.who, body, row.headers)
    for check in row.after:
        CHECKS[check](environment)
    assert statuses <= set(row.expected)


ESCAPED = [
    "%",
    "%25",
    "%3F",
    "%3b",
    "%2F",
    "%5c",
    "%2e%2e",
    "%00",
    "%09",
    "%0d%0a",
    "%20",
    "%C0%AF",
    "%E2%80%A8",
    "%EF%BC%8F",
    "%ff",
    "%61",
    "%2561",
]
PIECES = [
    *ESCAPED,
    *[";", "?", "#", "/", "\\", ".", "..", "/./", "/../", "//", "+", "file:", "FILE:", "s3:", "&", "=", "~", "A"],
    " ",
    "\t",
    "\x7f",
]
MIXTURES = st.lists(st.tuples(st.integers(0, 200), st.sampled_from(PIECES)), min_size=1, max_size=3)


@settings(derandomize=True, max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(MIXTURES, st.sampled_from(["DELETE", "PUT"]))
def test_no_path_variant_changes_a_protected_file(
    environment: Environment, insertions: list[tuple[int, str]], method: str
) -> None:
    path = fill_placeholders(FILES + "/{e}/{r}/artifacts/model/weights.bin", environment.names)
    for place, piece in insertions:
        place %= len(path) + 1
        path = path[:place] + piece + path[place:]
    status = send(environment.tracking, method, path, "theo", b"evil" if method == "PUT" else None, {})
    assert 200 <= status < 500, path
    found = listed(environment)
    assert environment.listed.items() <= found.items(), path
    for key in set(found) - set(environment.listed):  # beside it, a trainer may write
        environment.s3.delete_object(Bucket=BUCKET, Key=key)


def test_concurrent_bodies_of_all_sizes_fit_in_memory(environment: Environment, peak: Peak) -> None:
    """The largest of each class, that MLflow needs the most memory for, from two users, until each was taken up once."""
    upload = fill_placeholders("/ajax-api/2.0/mlflow/upload-artifact?run_uuid={own}&path=b.bin", environment.names)
    batch = "/api/2.0/mlflow/runs/log-batch"
    groups = [(8, batch, Lists(5_200_000)), (16, batch, Lists(990_000)), (60, batch, Lists(99_000)), (8, upload, Zeros(10))]
    with ThreadPoolExecutor(len(groups)) as pool:
        sent = [
            pool.submit(send_all, times, environment.tracking, "POST", path, user, body, {})
            for (times, path, body), user in zip(groups, ("theo", "ada", "theo", "ada"), strict=True)
        ]
    assert set().union(*(each.result() for each in sent)) <= {200, 400, 503}
    for check in CHECKS.values():
        check(environment)


def test_versions_with_large_tags_do_not_exhaust_the_gate(environment: Environment, peak: Peak) -> None:
    """The gate looks up the versions of a run for each file of it: a trainer may make that answer large, and ask often."""
    run = environment.tracking.call("theo", "POST", "runs/create", {"experiment_id": "0"})["run"]["info"]["run_id"]
    tags = [{"key": f"t{number}", "value": "x" * 99_000} for number in range(18)]
    environment.tracking.call("theo", "POST", "registered-models/create", {"name": "large"})
    version = {"name": "large", "source": f"runs:/{run}/model", "run_id": run, "tags": tags}
    environment.tracking.call("theo", "POST", "model-versions/create", version)
    path = f"{FILES}/0/{run}/artifacts/x.txt"
    assert send_all(60, environment.tracking, "PUT", path, "theo", b"own", {}) <= {200, 503}
    environment.s3.delete_object(Bucket=BUCKET, Key=path.removeprefix(FILES + "/"))
    environment.sources = sorted({*environment.sources, f"runs:/{run}/model"})
    for check in CHECKS.values():
        check(environment)
    environment.tracking.call("registry", "DELETE", "registered-models/delete", {"name": "large"})
    environment.sources.remove(f"runs:/{run}/model")


def test_incomplete_requests_time_out_and_block_no_others(environment: Environment) -> None:
    """200 heads and 40 bodies that never come whole: tracking ends each by itself, and answers others meanwhile."""
    login = environment.tracking.headers("theo")["Authorization"]
    body = (
        f"POST /api/2.0/mlflow/runs/log-batch HTTP/1.1\r\nHost: x\r\nAuthorization: {login}\r\nContent-Length: 9000000\r\n\r\n"
    )
    starts = [b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "] * 200 + [body.encode() + bytes(1000)] * 40
    halves = [socket.create_connection(("127.0.0.1", environment.tracking.port), timeout=180) for _ in starts]
    for half, start in zip(halves, starts, strict=True):
        half.sendall(start)
    assert environment.tracking.request("GET", "/version", "rita", timeout_s=30).status == 200
    for half in halves:
        while half.recv(65536):
            pass
        half.close()
    for check in CHECKS.values():
        check(environment)


def test_unknown_users_get_the_same_response_as_known_ones(environment: Environment) -> None:
    answers = [
        environment.tracking.request("GET", "/version", user)
        for user in ("theo:wrong", "nobody:wrong", "-:-", "default:x", "include:x")
    ]
    assert {answer.status for answer in answers} == {401}
    bodies = [{**json.loads(answer.body), "instance": ""} for answer in answers]
    assert all(body == bodies[0] for body in bodies)


def test_tracking_works_after_all_attacks(environment: Environment, peak: Peak, capsys: pytest.CaptureFixture[str]) -> None:
    time.sleep(1)  # a last sample
    highest = peak.end_mib()
    with capsys.disabled():
        sys.stdout.write(
            f"\n{len(TABLE)} attacks: {environment.restarts} restarts, tracking's memory at most {highest:.0f} MiB\n"
        )
    for check in CHECKS.values():
        check(environment)
    assert objects(environment) == environment.objects
    assert environment.restarts == 0
    assert highest <= MEMORY_LIMIT_MIB
