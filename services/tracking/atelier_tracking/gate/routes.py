"""Classes of MLflow's routes, read from routes.txt, as entries of an nginx map of "METHOD path"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("routes.txt")
PREFIXES = ("/api", "/ajax-api")
PLACEHOLDER = re.compile(r"<(path:)?\w+>")


@dataclass(frozen=True)
class Route:
    """One method of one path.

    Attributes:
        kind: class of the route; listed in routes.txt.
        method: GET, POST, PUT, PATCH or DELETE.
        path: path with placeholders `<x>` for a segment and `<path:x>` for the rest.
    """

    kind: str
    method: str
    path: str

    @property
    def pattern(self) -> str:
        """Regular expression that matches the whole path."""
        pattern, at = "", 0
        for match in PLACEHOLDER.finditer(self.path):
            pattern += re.escape(self.path[at : match.start()]) + (".+" if match[1] else "[^/]+")
            at = match.end()
        return f"^{pattern}{re.escape(self.path[at:])}$"


def read_routes(table: Path = TABLE) -> tuple[Route, ...]:
    """All routes, those with fewer placeholders first, so that the first match is the most specific."""
    routes = []
    for line in table.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        kind, methods, path = line.split()
        paths = [prefix + path[1:] for prefix in PREFIXES] if path.startswith("*") else [path]
        routes += [Route(kind, method, full_path) for full_path in paths for method in methods.split(",")]
    return tuple(sorted(routes, key=lambda route: ("<path:" in route.path, len(PLACEHOLDER.findall(route.path)))))


def classify(method: str, path: str, routes: tuple[Route, ...]) -> str:
    """The result of nginx's map; used by tests only. `path` is decoded and without the query."""
    if method == "OPTIONS":
        return "read"
    method = "GET" if method == "HEAD" else method
    return next((route.kind for route in routes if route.method == method and re.search(route.pattern, path)), "closed")


def map_entries(routes: tuple[Route, ...]) -> str:
    """Lines for `map "$request_method $uri"`; nginx tries regular expressions in order and case-sensitively."""
    lines = ['"~^OPTIONS " read;']
    for route in routes:
        method = "(GET|HEAD)" if route.method == "GET" else route.method
        pattern = route.pattern.removeprefix("^").replace('"', "")
        lines.append(f'"~^{method} {pattern}" {route.kind};')
    return "\n        ".join(lines)
