"""An HTTP client of registry-api. It uses only the standard library, so that a command starts quickly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

TIMEOUT_S = 300
"""A promotion may wait for infer to generate images."""


class RequestFailed(Exception):
    """The service refused the request, or did not answer. `str()` is the detail.

    Attributes:
        status: of HTTP; 0 without an answer.
        document: the problem document; None without one.
    """

    def __init__(self, message: str, status: int, document: Mapping[str, Any] | None) -> None:
        super().__init__(message)
        self.status, self.document = status, document


class _NoRedirect(HTTPRedirectHandler):
    """Follows no redirect: a token must not be sent to another address."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class Client:
    def __init__(self, url: str, token: str) -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise RequestFailed(f"the address must start with http:// or https://; received {url!r}", 422, None)
        if not token:
            raise RequestFailed("no token: set ATELIER_TOKEN", 401, None)
        self._url, self._token = url.rstrip("/"), token
        self._opener = build_opener(_NoRedirect)

    def get(self, path: str) -> Any:
        """The resource as it is now: the service is told not to use its cache.

        Raises:
            RequestFailed: it was refused, or there was no answer.
        """
        return self._call("GET", path, None, {"Cache-Control": "no-cache"})

    def post(self, path: str, body: Mapping[str, Any], key: str | None = None, if_match: str | None = None) -> Any:
        """The response's content.

        Raises:
            RequestFailed: it was refused, or there was no answer.
        """
        return self._send("POST", path, body, key, if_match)

    def patch(self, path: str, body: Mapping[str, Any], key: str | None = None, if_match: str | None = None) -> Any:
        """As `post`."""
        return self._send("PATCH", path, body, key, if_match)

    def list_all(self, path: str, field: str, max_items: int = 10_000) -> list[Any]:
        """The items of every page, up to `max_items`."""
        items: list[Any] = []
        token = ""
        while len(items) < max_items:
            separator = "&" if "?" in path else "?"
            page = self.get(f"{path}{separator}page_token={token}" if token else path)
            items += page[field]
            if not (token := page["next_page_token"] or ""):
                break
        return items[:max_items]

    def _send(self, method: str, path: str, body: Mapping[str, Any], key: str | None, if_match: str | None) -> Any:
        headers = {"Idempotency-Key": key, "If-Match": if_match}
        return self._call(method, path, json.dumps(body).encode(), {name: value for name, value in headers.items() if value})

    def _call(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Any:
        headers |= {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        request = Request(self._url + path, body, headers, method=method)  # noqa: S310  the scheme was checked
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as response:
                return json.load(response)
        except HTTPError as error:
            try:
                document = json.loads(error.read())
                raise RequestFailed(str(document["detail"]), error.code, document) from None
            except (ValueError, KeyError, TypeError):
                raise RequestFailed(
                    f"{self._url} answered {error.code}, but not as registry-api does", error.code, None
                ) from None
        except (OSError, HTTPException, ValueError) as error:
            raise RequestFailed(f"{self._url} does not answer as registry-api does: {error}", 0, None) from None
