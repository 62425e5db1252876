"""An attack: who asks which service for what, what is answered, and what must still be true after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..sending import Body

ALL = ("running", "files", "aliases", "tags", "sources")
EVERYBODY = ("ada", "theo", "pia", "registry")
OTHERS = ("rita", "theo", "pia", "ada")
FILES = "/api/2.0/mlflow-artifacts/artifacts"
API = "/api/2.0/mlflow"
AJAX_API = "/ajax-api/2.0/mlflow"
V3 = "/api/3.0/mlflow"
UPLOAD = "/ajax-api/2.0/mlflow/upload-artifact?run_uuid={r}&path="
CREATE = (API + "/model-versions/create", "/ajax-api/2.0/mlflow/model-versions/create")


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        who: user of tracking, or None without a login.
        service: whose image is attacked.
        method: of the request.
        path: with names of the environment in braces; sent without normalization.
        expected: statuses that may come, and no others.
        body: see sending.py; strings in it have names in braces too.
        headers: over the usual ones.
        times: so many of it at the same time.
        after: names in `environment.CHECKS`, or in `service_checks.CHECKS`.
    """

    who: str | None
    service: str
    method: str
    path: str
    expected: tuple[int, ...]
    body: Body = None
    headers: Mapping[str, str] = field(default_factory=dict)
    times: int = 1
    after: tuple[str, ...] = ALL

    def __str__(self) -> str:
        body = f" {self.body!s:.90}" if self.body else ""
        headers = f" {dict(self.headers)}" if self.headers else ""
        times = f" {self.times} at a time" if self.times > 1 else ""
        return ascii(f"{self.service} {self.who} {self.method} {self.path}{body}{headers}{times}")


def rows(
    who: Iterable[str | None], method: str, paths: Iterable[str], *expected: int, body: Body = None, **more: str
) -> list[Attack]:
    """A row of tracking for each user and path."""
    headers = {name.replace("_", "-"): value for name, value in more.items()}
    return [Attack(user, "tracking", method, path, expected, body, headers) for path in paths for user in who]


def version(source: str, run: str = "{own}", **more: Any) -> dict[str, Any]:
    return {"name": "{n}", "source": source, "run_id": run, **more}
