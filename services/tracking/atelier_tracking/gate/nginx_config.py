"""nginx's files, written from the settings: configuration, gate, password file and the small files that it answers from."""

from __future__ import annotations

import os
import re
import secrets
import socket
import string
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from atelier_tracking.errors import ServerError
from atelier_tracking.gate.problem_responses import REFUSALS, locations
from atelier_tracking.gate.routes import map_entries, read_routes
from atelier_tracking.htpasswd import Login
from atelier_tracking.roles import PROTECTED, REGISTRY, allowed
from atelier_tracking.settings import Settings

HERE = Path(__file__).parent
GUESSES_PER_MINUTE = 20
GUESS_BURST = 10
UPLOADS = 16
DOWNLOADS = 32
RESERVE_BYTES = 64 << 20
"""Stays free in the spool, for files whose size is not announced."""
LIGHT, MEDIUM, HEAVY = 256, 4, 1
"""Bodies that MLflow may hold at a time: of less than 100 kB, of less than 1 MB, and larger."""
ARRIVING = 8
"""Bodies of 100 kB and more that one user may be sending at a time."""
CHANGING = 16
"""Files that one user may be writing or deleting at a time."""
LOOKUP_MIB = 2
"""Largest answer of MLflow to the gate; the gate holds up to three for each file that is written."""
BARE_LIMIT_KIB, READ_LIMIT_KIB = 64, 1024
"""Largest body with a method that needs none, and with a search."""
HEADER_TIMEOUT_S, BODY_TIMEOUT_S, FILE_TIMEOUT_S = 15, 30, 120
"""For the whole head of a request, between two pieces of its body, and between two pieces of a file."""
SCRIPTS = ("registered_files.js", "auth.js", "request_path.js")
NO_USER = "-"
"""Stands in the password file for every name that does not exist; no name in HTPASSWD can be this."""

PLACEHOLDER = re.compile(r"@\{(\w+)\}")
"""`$` belongs to nginx and to JavaScript."""


def write_files(settings: Settings, run_dir: Path) -> None:
    """Writes everything that nginx reads.

    Args:
        settings: see there.
        run_dir: empty folder of this user.

    Raises:
        ServerError: the folder cannot be written.
    """
    try:
        for folder in ("state", "temp", "logins"):
            (run_dir / folder).mkdir(mode=0o700)
        (run_dir / "state/empty").write_text("\n")
        values = placeholders(settings, run_dir)
        logins = [*settings.logins, Login(NO_USER, unmatched(settings.logins[0].hash))]
        _write(run_dir / "htpasswd", "".join(f"{login.user}:{login.hash}\n" for login in logins))
        for name in SCRIPTS:
            _write(run_dir / name, _filled(name, values))
        _write(run_dir / "nginx.conf", _filled("nginx.conf", values))
    except OSError as error:
        raise ServerError(f"{run_dir} must be writable: {error}") from error


def unmatched(hashed: str) -> str:
    """A hash of the same scheme and cost that no password is known for.

    Args:
        hashed: of a login; its salt is kept, its 22 last characters are drawn anew.
    """
    return hashed[:-22] + "".join(secrets.choice("./" + string.ascii_letters + string.digits) for _ in range(21)) + "."


def placeholders(settings: Settings, run_dir: Path) -> dict[str, str]:
    """What stands for each `@{name}` of nginx.conf and auth.js."""
    users = [login.user for login in settings.logins]
    registry = settings.registry_user
    pairs = allowed(gateway=settings.mlflow_crypto_kek_passphrase is not None, registry=registry is not None)
    roles = (settings.roles or {}) | ({registry: REGISTRY} if registry else {})
    protected = [f"{user or ''} {kind}" for user in ("", *users) if user != registry for kind in PROTECTED] if registry else []
    origin = (
        [f'"{settings.public_url} {settings.public_url}" "";'] if settings.public_url else [r'"~^(?<one>\S+) \k<one>$" "";']
    )
    hint = (
        f"Open this server as {settings.public_url}."
        if settings.public_url
        else (
            "The address that the browser shows differs from the one that arrives here. Behind a load balancer set PUBLIC_URL."
        )
    )
    values = {
        "run": str(run_dir),
        "drain_s": str(max(1, settings.drain_timeout_s)),
        "spool": str(settings.spool_dir),
        "users": _lines(f'"user {user}" "{user}";' for user in users),
        "default_role": "none" if settings.roles is not None else "admin",
        "roles": _lines(f'"user {user}" {role};' for user, role in roles.items()),
        "kinds": map_entries(read_routes()),
        "allowed": _lines(f'"{role} {kind}" yes;' for role, kind in pairs),
        "protected": _lines(f'"{pair}" yes;' for pair in protected),
        "origin": _lines(origin),
        "own_origin": settings.public_url or "$scheme://$http_host",
        "guesses_per_minute": str(GUESSES_PER_MINUTE),
        "guess_burst": str(GUESS_BURST),
        "uploads": str(UPLOADS),
        "downloads": str(DOWNLOADS),
        "reserve_bytes": str(RESERVE_BYTES),
        "light": str(LIGHT),
        "medium": str(MEDIUM),
        "heavy": str(HEAVY),
        "arriving": str(ARRIVING),
        "changing": str(CHANGING),
        "lookup_mib": str(LOOKUP_MIB),
        "lookup_buffers": str(LOOKUP_MIB * 16),
        "lookup_busy_kib": str(LOOKUP_MIB * 1024 - 64),
        "bare_limit_kib": str(BARE_LIMIT_KIB),
        "read_limit_kib": str(READ_LIMIT_KIB),
        "header_timeout_s": str(HEADER_TIMEOUT_S),
        "body_timeout_s": str(BODY_TIMEOUT_S),
        "file_timeout_s": str(FILE_TIMEOUT_S),
        "no_user": NO_USER,
        "body_limit_mib": str(settings.body_limit_mib),
        "salt": secrets.token_hex(32),
        "registry_user": registry or "",
        "bucket": settings.aws_bucket_name,
        "trusted": _trusted(settings),
        "listen_http": _listen(settings.http_port),
        "listen_https": _listen(settings.https_port, " ssl"),
        "certificate": str(settings.tls_certificate_file),
        "key": str(settings.tls_key_file),
        "secure_name": _secure_name(settings),
        "presigned": "proxy_pass http://$weight;" if settings.s3_public_endpoint_url else "try_files /absent =404;",
    }
    limits = {name: values[f"{name}_limit_{unit}"] for name, unit in (("body", "mib"), ("bare", "kib"), ("read", "kib"))}
    values["answers"] = locations(limits | {"origin": f"This page comes from another address than this server. {hint}"})
    values["retries"] = _lines(f"{reason} {refusal.retry_s};" for reason, refusal in REFUSALS.items() if refusal.retry_s)
    secure = settings.tls_certificate_file is not None
    values["site"] = _filled("site.conf", values)
    values["health"] = _filled("health.conf", values)
    values["servers"] = _filled("tls.conf" if secure else "plain.conf", values)
    return values


def _secure_name(settings: Settings) -> str:
    """Where requests without TLS are sent."""
    if settings.public_url:
        return urlsplit(settings.public_url).netloc
    return "$host" if settings.https_port == 443 else f"$host:{settings.https_port}"


def _filled(name: str, values: Mapping[str, str]) -> str:
    return PLACEHOLDER.sub(lambda match: values[match[1]], (HERE / name).read_text())


def _listen(port: int, options: str = "") -> str:
    lines = [f"listen {port}{options};"]
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
        lines.append(f"listen [::]:{port}{options} ipv6only=on;")
    except OSError:
        pass  # a machine without IPv6
    return "\n        ".join(lines)


def _trusted(settings: Settings) -> str:
    lines = [f"set_real_ip_from {proxy};" for proxy in settings.trusted_proxies]
    return "\n    ".join([*lines, "real_ip_header X-Forwarded-For;", "real_ip_recursive on;"] if lines else [])


def _lines(entries: Iterable[str]) -> str:
    return "\n        ".join(entries)


def _write(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
