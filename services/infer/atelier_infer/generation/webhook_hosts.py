"""The hosts that webhooks may be sent to: those that the settings list, and no others."""

from __future__ import annotations

import re
from typing import NamedTuple

from atelier_infer.errors import WebhookUrlError

DEFAULT_PORTS = {"https": 443, "http": 80}

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = rf"(?P<host>{_LABEL}(?:\.{_LABEL})*)(?::(?P<port>[0-9]{{1,5}}))?"
_ENTRY = re.compile(rf"(?:(?P<scheme>http)://)?{_HOST}")
_URL = re.compile(rf'(?P<scheme>https?)://{_HOST}(?P<path>/[!"$-~]*)?', re.IGNORECASE)
"""No user, no fragment, ASCII without spaces: two parsers of such a URL cannot see two different hosts."""


class Origin(NamedTuple):
    scheme: str
    host: str
    port: int


class WebhookTarget(NamedTuple):
    origin: Origin
    path: str
    url: str


def parse_hosts(text: str) -> frozenset[Origin]:
    """Comma-separated entries: HOST for https, `http://HOST` for http, with `:PORT` if it is not the default.

    Raises:
        ValueError: an entry is neither.
    """
    origins = set()
    for entry in (entry.strip() for entry in text.split(",")):
        match = _ENTRY.fullmatch(entry)
        if not match or not (origin := _origin(match)):
            rule = "each entry must be HOST or HOST:PORT for https, http://HOST or http://HOST:PORT for http, in lower case"
            raise ValueError(f"{rule}; {entry!r} is neither")
        origins.add(origin)
    return frozenset(origins)


def find_target(url: str, hosts: frozenset[Origin]) -> WebhookTarget:
    """Parses a webhook_url.

    Raises:
        WebhookUrlError: it is not a URL on an allowed host.
    """
    match = _URL.fullmatch(url)
    if not match or not (origin := _origin(match)):
        shown = "a URL with an @ in it" if "@" in url else repr(url[:80])  # it may contain a password
        raise WebhookUrlError(
            f"webhook_url must be https://HOST[:PORT][/PATH], in ASCII, without user, spaces and #; received {shown}; "
            "correct it or omit it"
        )
    if origin not in hosts:
        raise WebhookUrlError(
            f"webhook_url must be on a host that ATELIER_INFER_WEBHOOK_HOSTS lists, with its scheme and port; received "
            f"{origin.scheme}://{origin.host}:{origin.port}; ask the operator of the service to list it, or omit webhook_url"
        )
    return WebhookTarget(origin, match["path"] or "/", url)


def _origin(match: re.Match[str]) -> Origin | None:
    scheme = (match["scheme"] or "https").lower()
    port = int(match["port"] or DEFAULT_PORTS[scheme])
    return Origin(scheme, match["host"].lower(), port) if 0 < port < 2**16 else None
