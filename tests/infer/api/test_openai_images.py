"""/v1/images/generations through the stock client."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import NotFoundError, OpenAI, UnprocessableEntityError
from PIL import Image

from ..conftest import SECRET, Service


@pytest.fixture
def client(service: Service) -> Iterator[OpenAI]:
    with openai.OpenAI(base_url=f"{service.client.base_url}/v1", api_key=SECRET, max_retries=0) as client:
        yield client


def test_the_stock_client_generates_images(service: Service, client: OpenAI) -> None:
    answer = client.images.generate(prompt="a cat", n=2, size="48x32", extra_body={"seed": 7, "steps": 2})
    assert len(answer.data) == 2
    assert Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json))).size == (48, 32)
    plain = client.images.generate(
        prompt="a cat", model="sketches:1", response_format="b64_json", user="u", extra_body={"seed": 7, "steps": 2}
    )
    assert base64.b64decode(plain.data[0].b64_json) == service.generate(version=1).content
    webp = client.images.generate(
        prompt="a cat", model="sketches@champion", output_format="webp", size="auto", extra_body={"seed": 7, "steps": 2}
    )
    assert Image.open(io.BytesIO(base64.b64decode(webp.data[0].b64_json))).format == "WEBP"
    base = client.images.generate(prompt="a cat", model="sketches:base", extra_body={"seed": 7, "steps": 2})
    assert base64.b64decode(base.data[0].b64_json) == service.generate(base=True).content


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"model": "photos"}, openai.NotFoundError, "'sketches'"),
        ({"model": ""}, openai.NotFoundError, "received ''"),
        ({"model": "sketches:99"}, openai.NotFoundError, "no version 99"),
        ({"response_format": "url"}, openai.UnprocessableEntityError, "b64_json"),
        ({"size": "33x32"}, openai.UnprocessableEntityError, "multiple of 16"),
        ({"size": "large"}, openai.UnprocessableEntityError, "size"),
        ({"background": "transparent"}, openai.UnprocessableEntityError, "background"),
        ({"n": 9}, openai.UnprocessableEntityError, "received 9"),
        ({"extra_body": {"style": "vivid"}}, openai.UnprocessableEntityError, "style is not a field"),
    ],
)
def test_what_it_cannot_do_is_refused(
    client: OpenAI, fields: dict[str, Any], error: type[NotFoundError] | type[UnprocessableEntityError], words: str
) -> None:
    with pytest.raises(error) as caught:
        client.images.generate(prompt="a cat", **fields)
    assert words in caught.value.body["detail"]  # type: ignore[index]


def test_a_wrong_key_is_401(service: Service) -> None:
    wrong = openai.OpenAI(base_url=f"{service.client.base_url}/v1", api_key="no", max_retries=0)
    with wrong, pytest.raises(openai.AuthenticationError):
        wrong.images.generate(prompt="a cat")
