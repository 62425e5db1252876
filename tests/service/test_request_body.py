"""A body is refused before any route sees it when it could not be kept, logged or answered with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from atelier_service.request_body import MAX_DEPTH, BodyError, BodyLimit, check_json
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (rb'{"prompt": "\ud800"}', "without lone surrogates"),
        (rb'{"\udfff": 1}', "without lone surrogates"),
        (rb'["a", {"b": ["\uDC00 x"]}]', "without lone surrogates"),
        (b'{"prompt": "\xff"}', "must be UTF-8; byte 12"),
        (b"[" * 100 + b"]" * 100, f"at most {MAX_DEPTH} levels"),
        (b"[" * 50_000, f"at most {MAX_DEPTH} levels"),
        (b'{"a":' * 20_000 + b"1" + b"}" * 20_000, f"at most {MAX_DEPTH} levels"),
    ],
)
def test_json_that_no_route_takes(body: bytes, told: str) -> None:
    with pytest.raises(BodyError, match=told) as error:
        check_json(body)
    assert error.value.type.status == 422
    str(error.value).encode()


@pytest.mark.parametrize("body", [b"", b"{", b"nothing", b'{"prompt": "a \\ud83d\\ude00 cat"}', b'"\xc3\xa9"'])
def test_what_is_left_to_the_route(body: bytes) -> None:
    check_json(body)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_anything_that_is_json(value: Any) -> None:
    """Whatever passes can be written again as UTF-8."""
    body = json.dumps(value).encode()
    try:
        check_json(body)
    except BodyError:
        return
    json.dumps(json.loads(body), ensure_ascii=False).encode()


def call(
    chunks: list[bytes], limit: int = 10, headers: Sequence[Any] = (), method: str = "POST"
) -> tuple[int, list[bytes], int]:
    """What the middleware answers, and what the app behind it received."""
    received, sent = [], []
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def app(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Awaitable[None]]) -> None:
        received.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/x", "method": method, "headers": list(headers)}
    asyncio.run(BodyLimit(app, lambda path: limit)(scope, receive, send))  # type: ignore[arg-type]
    return sent[0]["status"], received, len(messages)


def test_a_body_up_to_its_limit() -> None:
    assert call([b"12345", b"67890"]) == (200, [b"1234567890"], 0)


def test_a_body_beyond_its_limit_is_read_no_further() -> None:
    status, received, unread = call([b"12345", b"67890", b"1", b"2", b"3"])
    assert (status, received) == (413, [])
    assert unread == 3


def test_only_json_is_read_as_json() -> None:
    headers = [(b"content-type", b"image/png")]
    assert call([b'"\\ud800"'], headers=headers)[0] == 200
    assert call([b'"\\ud800"'])[0] == 422
    assert call([b'"\\ud800"'], headers=[(b"content-type", b"application/json; charset=utf-8")])[0] == 422


def test_a_number_of_more_digits_than_can_be_read_is_refused_as_any_other_bad_value() -> None:
    assert call([b'{"seed": ' + b"9" * 5000 + b"}"], limit=6000)[0] == 422
    assert call([b'{"seed": ' + b"9" * 4000 + b"}"], limit=6000)[0] == 200
