"""Where webhooks may go: the hosts that a setting lists, and nowhere else."""

from __future__ import annotations

import re
from typing import NamedTuple

PORTS = {"https": 443, "http": 80}

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = rf"(?P<host>{_LABEL}(?:\.{_LABEL})*)(?::(?P<port>[0-9]{{1,5}}))?"
_ENTRY = re.compile(rf"(?:(?P<scheme>http)://)?{_HOST}")
_URL = re.compile(rf'(?P<scheme>https?)://{_HOST}(?P<path>/[!"$-~]*)?', re.IGNORECASE)
"""No user, no fragment, and ASCII without spaces, so that no two parsers find different hosts in one URL."""


class Origin(NamedTuple):
    """What a setting lists, and what a connection is made to."""

    scheme: str
    host: str
    port: int


class WebhookTarget(NamedTuple):
    """A URL whose origin is listed."""

    origin: Origin
    path: str
    url: str


def parse_hosts(text: str) -> frozenset[Origin]:
    """Entries separated by commas: HOST for https, `http://HOST` for http, each with `:PORT` where it is not the default.

    Raises:
        ValueError: an entry is neither.
    """
    found = set()
    for entry in (entry.strip() for entry in text.split(",")):
        match = _ENTRY.fullmatch(entry)
        if not match or not (origin := _origin(match)):
            rule = "each entry must be HOST or HOST:PORT for https, http://HOST or http://HOST:PORT for http, in lower case"
            raise ValueError(f"{rule}; received {entry!r}")
        found.add(origin)
    return frozenset(found)


def find_target(url: str, hosts: frozenset[Origin], *, field: str, setting: str) -> WebhookTarget:
    """What a URL leads to.

    Args:
        url: as the client sent it.
        hosts: those that are listed.
        field: the request's field, for the message.
        setting: the setting that lists the hosts, for the message.

    Raises:
        ValueError: it is no URL, or none of a listed host.
    """
    match = _URL.fullmatch(url)
    if not match or not (origin := _origin(match)):
        shown = "a URL with an @ in it" if "@" in url else repr(url[:80])  # it may hold a password
        raise ValueError(
            f"{field} must be https://HOST[:PORT][/PATH], in ASCII, without user, spaces and #; received {shown}; "
            "correct it or leave it out"
        )
    if origin not in hosts:
        raise ValueError(
            f"{field} must lead to a host that {setting} lists, with its scheme and port; received "
            f"{origin.scheme}://{origin.host}:{origin.port}; ask the operator to list it, or leave {field} out"
        )
    return WebhookTarget(origin, match["path"] or "/", url)


def _origin(match: re.Match[str]) -> Origin | None:
    scheme = (match["scheme"] or "https").lower()
    port = int(match["port"] or PORTS[scheme])
    return Origin(scheme, match["host"].lower(), port) if 0 < port < 2**16 else None
