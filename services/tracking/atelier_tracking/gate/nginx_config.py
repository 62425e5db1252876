"""Writes nginx's files from the settings: configuration, scripts of the gate, password file, state files."""

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
from atelier_tracking.gate.problem_responses import REFUSALS, error_locations
from atelier_tracking.gate.routes import map_entries, read_routes
from atelier_tracking.htpasswd import Login
from atelier_tracking.roles import PROTECTED, REGISTRY, allowed
from atelier_tracking.settings import Settings

TEMPLATES = Path(__file__).parent
GUESSES_PER_MINUTE = 20
GUESS_BURST = 10
MAX_UPLOADS = 16
MAX_DOWNLOADS = 32
SPOOL_RESERVE_BYTES = 64 << 20
"""Free space of the spool that is reserved for files of unknown size."""
MAX_SMALL_BODIES, MAX_MEDIUM_BODIES, MAX_LARGE_BODIES = 256, 4, 1
"""Concurrent requests to MLflow with bodies below 100 kB, below 1 MB, and larger."""
MAX_BODIES_PER_USER = 8
"""Concurrent bodies of 100 kB and more that one user may send."""
MAX_CHANGES_PER_USER = 16
"""Concurrent writes and deletions of files by one user."""
LOOKUP_MIB = 2
"""Largest response of MLflow to a lookup by the gate, which holds up to three of them per changed file."""
BARE_LIMIT_KIB, READ_LIMIT_KIB = 64, 1024
"""Largest body with a method that needs none, and with a search."""
HEADER_TIMEOUT_S, BODY_TIMEOUT_S, FILE_TIMEOUT_S = 15, 30, 120
"""For all headers of a request, between two reads of a body, and between two reads of a file."""
SCRIPTS = ("registered_files.js", "auth.js", "request_path.js")
DUMMY_USER = "-"
"""Entry of the password file that unknown users are checked against; not a valid name in HTPASSWD."""

PLACEHOLDER = re.compile(r"@\{(\w+)\}")
"""Not `${…}`, which nginx and JavaScript use."""


def write_files(settings: Settings, run_dir: Path) -> None:
    """Writes all files that nginx reads to an empty folder.

    Raises:
        ServerError: the folder cannot be written.
    """
    try:
        for folder in ("state", "temp", "logins"):
            (run_dir / folder).mkdir(mode=0o700)
        (run_dir / "state/empty").write_text("\n")
        values = placeholders(settings, run_dir)
        logins = [*settings.logins, Login(DUMMY_USER, dummy_hash(settings.logins[0].hash))]
        _write(run_dir / "htpasswd", "".join(f"{login.user}:{login.hash}\n" for login in logins))
        for name in SCRIPTS:
            _write(run_dir / name, _render(name, values))
        _write(run_dir / "nginx.conf", _render("nginx.conf", values))
    except OSError as error:
        raise ServerError(f"{run_dir} must be writable: {error}") from error


def dummy_hash(hashed: str) -> str:
    """A hash of the same scheme and cost that matches no known password: the last 22 characters are replaced at random."""
    return hashed[:-22] + "".join(secrets.choice("./" + string.ascii_letters + string.digits) for _ in range(21)) + "."


def placeholders(settings: Settings, run_dir: Path) -> dict[str, str]:
    """Value of each `@{name}` in the templates."""
    users = [login.user for login in settings.logins]
    registry = settings.registry_user
    pairs = allowed(gateway=settings.mlflow_crypto_kek_passphrase is not None, registry=registry is not None)
    roles = (settings.roles or {}) | ({registry: REGISTRY} if registry else {})
    protected = [f"{user or ''} {kind}" for user in ("", *users) if user != registry for kind in PROTECTED] if registry else []
    origin = (
        [f'"{settings.public_url} {settings.public_url}" "";']
        if settings.public_url
        else [r'"~^(?<origin>\S+) \k<origin>$" "";']
    )
    hint = (
        f"Open this server at {settings.public_url}."
        if settings.public_url
        else ("The URL in the browser differs from the one that this server receives. Behind a load balancer, set PUBLIC_URL.")
    )
    values = {
        "run": str(run_dir),
        "drain_s": str(max(1, settings.drain_timeout_s)),
        "spool": str(settings.spool_dir),
        "users": _join(f'"user {user}" "{user}";' for user in users),
        "default_role": "none" if settings.roles is not None else "admin",
        "roles": _join(f'"user {user}" {role};' for user, role in roles.items()),
        "kinds": map_entries(read_routes()),
        "allowed": _join(f'"{role} {kind}" yes;' for role, kind in pairs),
        "protected": _join(f'"{pair}" yes;' for pair in protected),
        "origin": _join(origin),
        "own_origin": settings.public_url or "$scheme://$http_host",
        "guesses_per_minute": str(GUESSES_PER_MINUTE),
        "guess_burst": str(GUESS_BURST),
        "max_uploads": str(MAX_UPLOADS),
        "max_downloads": str(MAX_DOWNLOADS),
        "reserve_bytes": str(SPOOL_RESERVE_BYTES),
        "max_small_bodies": str(MAX_SMALL_BODIES),
        "max_medium_bodies": str(MAX_MEDIUM_BODIES),
        "max_large_bodies": str(MAX_LARGE_BODIES),
        "max_bodies_per_user": str(MAX_BODIES_PER_USER),
        "max_changes_per_user": str(MAX_CHANGES_PER_USER),
        "lookup_mib": str(LOOKUP_MIB),
        "lookup_buffers": str(LOOKUP_MIB * 16),
        "lookup_busy_kib": str(LOOKUP_MIB * 1024 - 64),
        "bare_limit_kib": str(BARE_LIMIT_KIB),
        "read_limit_kib": str(READ_LIMIT_KIB),
        "header_timeout_s": str(HEADER_TIMEOUT_S),
        "body_timeout_s": str(BODY_TIMEOUT_S),
        "file_timeout_s": str(FILE_TIMEOUT_S),
        "dummy_user": DUMMY_USER,
        "body_limit_mib": str(settings.body_limit_mib),
        "salt": secrets.token_hex(32),
        "registry_user": registry or "",
        "bucket": settings.aws_bucket_name,
        "real_ip": _real_ip_directives(settings),
        "listen_http": _listen(settings.http_port),
        "listen_https": _listen(settings.https_port, " ssl"),
        "certificate": str(settings.tls_certificate_file),
        "key": str(settings.tls_key_file),
        "https_host": _https_host(settings),
        "presigned": "proxy_pass http://$body_upstream;" if settings.s3_public_endpoint_url else "try_files /absent =404;",
    }
    limits = {name: values[f"{name}_limit_{unit}"] for name, unit in (("body", "mib"), ("bare", "kib"), ("read", "kib"))}
    values["error_locations"] = error_locations(limits | {"origin": f"The page has another origin than this server. {hint}"})
    values["retries"] = _join(f"{reason} {refusal.retry_s};" for reason, refusal in REFUSALS.items() if refusal.retry_s)
    tls = settings.tls_certificate_file is not None
    values["site"] = _render("site.conf", values)
    values["health"] = _render("health.conf", values)
    values["servers"] = _render("tls.conf" if tls else "plain.conf", values)
    return values


def _https_host(settings: Settings) -> str:
    """Host and port to which HTTP requests are redirected."""
    if settings.public_url:
        return urlsplit(settings.public_url).netloc
    return "$host" if settings.https_port == 443 else f"$host:{settings.https_port}"


def _render(name: str, values: Mapping[str, str]) -> str:
    return PLACEHOLDER.sub(lambda match: values[match[1]], (TEMPLATES / name).read_text())


def _listen(port: int, options: str = "") -> str:
    lines = [f"listen {port}{options};"]
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
        lines.append(f"listen [::]:{port}{options} ipv6only=on;")
    except OSError:
        pass  # the machine has no IPv6
    return "\n        ".join(lines)


def _real_ip_directives(settings: Settings) -> str:
    lines = [f"set_real_ip_from {proxy};" for proxy in settings.trusted_proxies]
    return "\n    ".join([*lines, "real_ip_header X-Forwarded-For;", "real_ip_recursive on;"] if lines else [])


def _join(entries: Iterable[str]) -> str:
    return "\n        ".join(entries)


def _write(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
