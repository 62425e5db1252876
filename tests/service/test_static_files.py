"""The page: public files under a strict content security policy."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient


def test_the_page_needs_no_token_and_loads_nothing_from_elsewhere(client: TestClient) -> None:
    del client.headers["Authorization"]
    for path, media in (("/", "text/html"), ("/static/page.js", "text/javascript")):
        response = client.get(path)
        assert response.status_code == 200
        assert response.headers["content-type"].startswith(media)
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"


def test_an_unchanged_file_is_304(client: TestClient) -> None:
    etag = client.get("/static/page.js").headers["etag"]
    assert client.get("/static/page.js", headers={"If-None-Match": etag}).status_code == 304


@pytest.mark.parametrize("path", ["/static/none.js", "/static/../outside.txt", "/static/%2e%2e/outside.txt", "/static/"])
def test_nothing_outside_the_folder_is_served(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert "not for you" not in response.text


def test_json_has_an_etag(client: TestClient) -> None:
    first = client.get("/orders/1")
    again = client.get("/orders/1", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/orders/2", headers={"If-None-Match": first.headers["etag"]}).status_code == 200
