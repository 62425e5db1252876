"""registry-api over HTTP, for the command line: the standard library only, so that a command starts quickly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

TIMEOUT_S = 300
"""A promotion may wait for infer to draw."""


class CallFailed(Exception):
    """The service refused, or did not answer. `str()` is its detail.

    Attributes:
        status: HTTP's; 0 where there was no answer.
        document: the problem document, where there was one.
    """

    def __init__(self, message: str, status: int, document: Mapping[str, Any] | None) -> None:
        super().__init__(message)
        self.status, self.document = status, document


class _NoRedirect(HTTPRedirectHandler):
    """A token is for the address that it was given for."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Follows none."""


class Client:
    """Asks one service with one token."""

    def __init__(self, url: str, token: str) -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise CallFailed(f"the address must begin with http:// or https://; received {url!r}", 422, None)
        if not token:
            raise CallFailed("no token: set ATELIER_TOKEN", 401, None)
        self._url, self._token = url.rstrip("/"), token
        self._opener = build_opener(_NoRedirect)

    def get(self, path: str) -> Any:
        """The resource's content, as it is now: the service asks MLflow for it.

        Raises:
            CallFailed: there is none.
        """
        return self._call("GET", path, None, {"Cache-Control": "no-cache"})

    def post(self, path: str, body: Mapping[str, Any], key: str | None = None, if_match: str | None = None) -> Any:
        """The answer's content.

        Raises:
            CallFailed: it was refused.
        """
        wanted = {"Idempotency-Key": key, "If-Match": if_match}
        return self._call("POST", path, json.dumps(body).encode(), {name: value for name, value in wanted.items() if value})

    def every(self, path: str, field: str, most: int = 10_000) -> list[Any]:
        """A list, page after page."""
        found: list[Any] = []
        token = ""
        while len(found) < most:
            joint = "&" if "?" in path else "?"
            page = self.get(f"{path}{joint}page_token={token}" if token else path)
            found += page[field]
            if not (token := page["next_page_token"] or ""):
                break
        return found[:most]

    def _call(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Any:
        headers |= {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        request = Request(self._url + path, body, headers, method=method)  # noqa: S310  the scheme was checked
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                return json.load(answer)
        except HTTPError as error:
            try:
                document = json.loads(error.read())
                raise CallFailed(str(document["detail"]), error.code, document) from None
            except (ValueError, KeyError, TypeError):
                raise CallFailed(f"{self._url} answered {error.code}, and not as registry-api does", error.code, None) from None
        except (OSError, HTTPException, ValueError) as error:
            raise CallFailed(f"{self._url} does not answer as registry-api does: {error}", 0, None) from None
