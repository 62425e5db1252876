"""One JSON line for each request, with an id."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from atelier_service.access_log import JsonFormatter
from starlette.testclient import TestClient


@pytest.fixture
def lines() -> Iterator[Callable[..., Any]]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("atelier_service.access_log")
    logger.addHandler(handler)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logger.removeHandler(handler)


def test_a_request_is_one_line(
    client: TestClient, lines: Callable[..., Any], measured: list[tuple[str, str, int, float]]
) -> None:
    client.get("/orders/7?secret=1")
    [line] = lines()
    assert line["message"] == "request"
    expected = {"method": "GET", "path": "/orders/7", "status": 200, "token_id": "ana", "role": "reader", "number": 7}
    assert {name: line[name] for name in expected} == expected
    assert line["duration_ms"] >= 0
    assert "secret" not in json.dumps(line)
    assert [each[:3] for each in measured] == [("/orders/{number}", "GET", 200)]


def test_the_id_of_the_request_is_kept_and_answered(client: TestClient, lines: Callable[..., Any]) -> None:
    response = client.get("/orders/1", headers={"X-Request-ID": "from-the-proxy_1.2"})
    assert response.headers["x-request-id"] == lines()[0]["request_id"] == "from-the-proxy_1.2"


@pytest.mark.parametrize("sent", ["", "two words", "x" * 65, 'a"b'])
def test_an_illegal_id_is_replaced(client: TestClient, lines: Callable[..., Any], sent: str) -> None:
    response = client.get("/orders/1", headers={"X-Request-ID": sent})
    assert response.headers["x-request-id"] == lines()[0]["request_id"] != sent


def test_refusals_and_faults_are_logged_too(client: TestClient, lines: Callable[..., Any]) -> None:
    client.get("/orders/1", headers={"Authorization": "Bearer wrong"})
    client.post("/orders", json={"colour": "boom"})
    assert [(line["status"], line["token_id"]) for line in lines()] == [(401, None), (500, "ana")]


def test_quiet_paths_are_not_logged(
    client: TestClient, lines: Callable[..., Any], measured: list[tuple[str, str, int, float]]
) -> None:
    client.get("/healthz")
    assert lines() == measured == []


def test_a_traceback_stays_on_the_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed", None, (type(error), error, error.__traceback__))
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert "ValueError: two\nlines" in json.loads(line)["traceback"]
