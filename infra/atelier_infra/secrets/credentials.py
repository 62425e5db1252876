r"""Creates the credentials of an environment: logins of tracking, and tokens of the APIs.

The env files in `secrets/` are authoritative; `secrets/logins` lists names and passwords in clear text for people. The lines
of a variable are joined by the two characters `\n`, because env files cannot contain newlines.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

import bcrypt

from atelier_infra.secrets import env_files, sync_record

ROLES = {"trainer": "trainer", "registry-api": "promoter", "infer": "reader"}
"""Program → role of its login at tracking."""

PEER_TOKENS = {
    "registry-api": ("infer", "ATELIER_REGISTRY_INFER_TOKEN", "promoter"),
    "infer": ("registry-api", "ATELIER_INFER_REGISTRY_TOKEN", "reader"),
}
"""Calling API → (called API, environment variable with the token, role of the token there)."""

BCRYPT_COST = 10  # about 50 ms per check; tracking caches the result for a minute


def create_missing(folder: Path, services: list[str], user: str, *, env_file: bool) -> list[str]:
    """Creates missing credentials; changes no existing ones, except the tokens between services.

    Args:
        folder: folder of the env files.
        services: services that run on AWS.
        user: name of the administrator; used only if there is no login yet.
        env_file: whether the env file holds the database password; otherwise AWS generates and stores it.

    Returns:
        "service role name" of each credential that was created.
    """
    tracking = env_files.read(folder / "tracking.env")
    apis = {name: env_files.read(folder / f"{name}.env") for name in services if name != "tracking"}
    logins, roles = _lines(tracking, "HTPASSWD"), _lines(tracking, "ROLES")
    created: list[str] = []

    def add(name: str, role: str, password: str | None = None) -> str:
        password = password or secrets.token_urlsafe(18)
        logins.append(f"{name}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(BCRYPT_COST)).decode()}")
        roles.append(f"{name} {role}")
        created.append(f"tracking {role} {name} {password}")
        return password

    names = {line.partition(":")[0] for line in logins}
    if not names:
        add(user, "admin")
        names = {user}
    # a file written by hand may have no roles: all its users could do everything, and keep that right
    with_role = {line.split()[0] for line in roles if line.split()}
    roles += [f"{name} admin" for name in names if name not in with_role]
    if "trainer" not in names:
        add("trainer", ROLES["trainer"])
    for service, values in apis.items():
        # login and password are in two files, either of which may come from another machine
        name, password = values.get("MLFLOW_TRACKING_USERNAME", service), values.get("MLFLOW_TRACKING_PASSWORD")
        if password is None or not _password_matches(logins, name, password):
            logins[:] = [line for line in logins if not line.startswith(f"{name}:")]
            roles[:] = [line for line in roles if line.split()[:1] != [name]]
            values |= {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": add(name, ROLES[service], password)}
        if "ATELIER_TOKENS" not in values:
            token = secrets.token_urlsafe(24)
            values["ATELIER_TOKENS"] = _token_line(user, "admin", token)
            created.append(f"{service} admin {user} {token}")
    created += _create_peer_tokens(apis)
    if env_file and "DB_PW" not in tracking:
        tracking["DB_PW"] = secrets.token_urlsafe(30)
    if env_file and "registry-api" in apis:
        apis["registry-api"]["PGPASSWORD"] = tracking["DB_PW"]  # both services share the database user
    tracking |= {"HTPASSWD": r"\n".join(logins), "ROLES": r"\n".join(roles)}
    for service, values in [*apis.items(), ("tracking", tracking)]:
        _write(folder, service, values)
    _append_logins(folder / "logins", created)
    return [" ".join(line.split()[:3]) for line in created]


def _password_matches(logins: list[str], name: str, password: str) -> bool:
    hashed = next((line.partition(":")[2] for line in logins if line.startswith(f"{name}:")), None)
    if hashed is None or not hashed.startswith("$2"):
        return hashed is not None  # other kinds of hashes were set by hand and are kept
    return bcrypt.checkpw(password.encode(), hashed.encode())


def remove_logins(folder: Path, service: str) -> None:
    """Removes a service's lines from `logins`, after its env file was replaced."""
    path = folder / "logins"
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if line.split()[:1] != [service]]
        env_files.write_text(path, "".join(f"{line}\n" for line in lines))


def _write(folder: Path, service: str, values: dict[str, str]) -> None:
    """Writes an env file, and records it as new if it was never synchronized."""
    path = folder / f"{service}.env"
    before = env_files.read(path)
    never_synced = not path.exists() or (
        sync_record.read_digest(folder, service, "local") == sync_record.digest(before)
        and sync_record.read_digest(folder, service, "remote") is None
    )
    if values != before or not path.exists():
        env_files.write(path, values)
    if never_synced:
        sync_record.write(folder, service, local=values, remote=None)


def _create_peer_tokens(apis: dict[str, dict[str, str]]) -> list[str]:
    """Gives each API a token for the other if both run; otherwise removes it, because a token without a URL stops the start."""
    created = []
    for caller, (callee, variable, role) in PEER_TOKENS.items():
        lines = []
        if {caller, callee} <= apis.keys():
            if not apis[caller].get(variable):
                apis[caller][variable] = secrets.token_urlsafe(24)
                created.append(f"{callee} {role} {caller} {apis[caller][variable]}")
            lines = [_token_line(caller, role, apis[caller][variable])]
        elif caller in apis:
            apis[caller].pop(variable, None)
        if callee in apis:
            others = [line for line in _lines(apis[callee], "ATELIER_TOKENS") if line.split()[:1] != [caller]]
            apis[callee]["ATELIER_TOKENS"] = r"\n".join([*others, *lines])
    return created


def _token_line(name: str, role: str, token: str) -> str:
    return f"{name} {role} {hashlib.sha256(token.encode()).hexdigest()}"


def _lines(values: dict[str, str], name: str) -> list[str]:
    return [line for line in values.get(name, "").split(r"\n") if line]


def _append_logins(path: Path, created: list[str]) -> None:
    if not created:
        return
    new = not path.exists()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as file:
        if new:
            file.write("# service role name password-or-token; in clear text on this machine only\n")
        file.writelines(f"{line}\n" for line in created)
