"""Where callbacks may go: the hosts that the settings list, and nowhere else."""

from __future__ import annotations

import re
from typing import NamedTuple

from atelier_infer.errors import CallbackError

PORTS = {"https": 443, "http": 80}

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = rf"(?P<host>{_LABEL}(?:\.{_LABEL})*)(?::(?P<port>[0-9]{{1,5}}))?"
_ENTRY = re.compile(rf"(?:(?P<scheme>http)://)?{_HOST}")
_URL = re.compile(rf'(?P<scheme>https?)://{_HOST}(?P<path>/[!"$-~]*)?', re.IGNORECASE)
"""No user, no fragment, and ASCII without spaces: two readers of such an address cannot find two hosts in it."""


class Place(NamedTuple):
    """What is listed, and what a connection is made to."""

    scheme: str
    host: str
    port: int


class WebhookTarget(NamedTuple):
    """A legal callback_url."""

    place: Place
    path: str
    url: str


def parse_hosts(text: str) -> frozenset[Place]:
    """Entries with commas between them: HOST for https, `http://HOST` for http, each with `:PORT` where it is an unusual one.

    Raises:
        ValueError: an entry is neither.
    """
    found = set()
    for entry in (entry.strip() for entry in text.split(",")):
        match = _ENTRY.fullmatch(entry)
        if not match or not (place := _place(match)):
            told = "each entry must be HOST or HOST:PORT for https, http://HOST or http://HOST:PORT for http, in lower case"
            raise ValueError(f"{told}; {entry!r} is neither")
        found.add(place)
    return frozenset(found)


def find_target(url: str, hosts: frozenset[Place]) -> WebhookTarget:
    """What a callback_url leads to.

    Raises:
        CallbackError: it is no address, or none of a listed host.
    """
    match = _URL.fullmatch(url)
    if not match or not (place := _place(match)):
        shown = "an address with an @ in it" if "@" in url else repr(url[:80])  # it may hold a password
        raise CallbackError(
            f"callback_url must be https://HOST[:PORT][/PATH], in ASCII, without user, spaces and #; received {shown}; "
            "correct it or leave it out"
        )
    if place not in hosts:
        raise CallbackError(
            f"callback_url must lead to a host that ATELIER_INFER_CALLBACK_HOSTS lists, with its scheme and port; received "
            f"{place.scheme}://{place.host}:{place.port}; ask who runs the service to list it, or leave callback_url out"
        )
    return WebhookTarget(place, match["path"] or "/", url)


def _place(match: re.Match[str]) -> Place | None:
    scheme = (match["scheme"] or "https").lower()
    port = int(match["port"] or PORTS[scheme])
    return Place(scheme, match["host"].lower(), port) if 0 < port < 2**16 else None
