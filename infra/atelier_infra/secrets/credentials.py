r"""Makes the logins of an environment: who may open tracking, with which tokens the APIs are asked.

The env files in `secrets/` are the truth; `secrets/logins` repeats names and passwords for people. Several lines
of one variable are joined by the two characters `\n`, since an env file cannot hold a newline.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

import bcrypt

from atelier_infra.secrets import env_files, sync_record

ROLES = {"trainer": "trainer", "registry-api": "promoter", "infer": "reader"}
"""Logins of programs, and what each may do in tracking."""

ASKS = {
    "registry-api": ("infer", "ATELIER_REGISTRY_INFER_TOKEN", "promoter"),
    "infer": ("registry-api", "ATELIER_INFER_REGISTRY_TOKEN", "reader"),
}
"""What the APIs want of each other: who asks whom, the variable with its token, and the role that it needs there."""

COST = 10  # about 50 ms to check, once a minute and user: tracking remembers


def complete(folder: Path, services: list[str], user: str, *, env_file: bool) -> list[str]:
    """Adds what is missing and changes nothing that is there, except for what services say to each other.

    Args:
        folder: of the secrets.
        services: that run on AWS.
        user: the person, an administrator; used only where no login exists yet.
        env_file: whether the database's password is read from the env file; otherwise AWS makes and keeps it.

    Returns:
        What was added, in words.
    """
    tracking = env_files.read(folder / "tracking.env")
    apis = {name: env_files.read(folder / f"{name}.env") for name in services if name != "tracking"}
    logins, roles = _lines(tracking, "HTPASSWD"), _lines(tracking, "ROLES")
    memo: list[str] = []

    def add(name: str, role: str, password: str | None = None) -> str:
        password = password or secrets.token_urlsafe(18)
        logins.append(f"{name}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(COST)).decode()}")
        roles.append(f"{name} {role}")
        memo.append(f"tracking {role} {name} {password}")
        return password

    known = {line.partition(":")[0] for line in logins}
    if not known:
        add(user, "admin")
        known = {user}
    # a file from elsewhere has no roles: everybody in it could do everything, and goes on doing so
    with_role = {line.split()[0] for line in roles if line.split()}
    roles += [f"{name} admin" for name in known if name not in with_role]
    if "trainer" not in known:
        add("trainer", ROLES["trainer"])
    for service, values in apis.items():
        # each half may have come from elsewhere: the login in tracking's file, the password in the service's own
        name, password = values.get("MLFLOW_TRACKING_USERNAME", service), values.get("MLFLOW_TRACKING_PASSWORD")
        if password is None or not _matches(logins, name, password):
            logins[:] = [line for line in logins if not line.startswith(f"{name}:")]
            roles[:] = [line for line in roles if line.split()[:1] != [name]]
            values |= {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": add(name, ROLES[service], password)}
        if "ATELIER_TOKENS" not in values:
            token = secrets.token_urlsafe(24)
            values["ATELIER_TOKENS"] = _line(user, "admin", token)
            memo.append(f"{service} admin {user} {token}")
    memo += _exchange_tokens(apis)
    if env_file and "DB_PW" not in tracking:
        tracking["DB_PW"] = secrets.token_urlsafe(30)
    if env_file and "registry-api" in apis:
        apis["registry-api"]["PGPASSWORD"] = tracking["DB_PW"]  # one user of the database, whose password may be changed
    tracking |= {"HTPASSWD": r"\n".join(logins), "ROLES": r"\n".join(roles)}
    for service, values in [*apis.items(), ("tracking", tracking)]:
        _write(folder, service, values)
    _write_memo(folder / "logins", memo)
    return [" ".join(line.split()[:3]) for line in memo]


def _matches(logins: list[str], name: str, password: str) -> bool:
    hashed = next((line.partition(":")[2] for line in logins if line.startswith(f"{name}:")), None)
    if hashed is None or not hashed.startswith("$2"):
        return hashed is not None  # a hash of another kind is somebody's own
    return bcrypt.checkpw(password.encode(), hashed.encode())


def forget(folder: Path, service: str) -> None:
    """Takes the passwords and tokens of a service out of `logins`: they are not those of its env file any more."""
    path = folder / "logins"
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if line.split()[:1] != [service]]
        env_files.write_text(path, "".join(f"{line}\n" for line in lines))


def _write(folder: Path, service: str, values: dict[str, str]) -> None:
    """Writes an env file, and remembers whether everything in it was made here and brought nowhere yet."""
    path = folder / f"{service}.env"
    before = env_files.read(path)
    made_here = not path.exists() or (
        sync_record.known(folder, service, "local") == sync_record.digest(before)
        and sync_record.known(folder, service, "remote") is None
    )
    if values != before or not path.exists():
        env_files.write(path, values)
    if made_here:
        sync_record.note(folder, service, local=values, remote=None)


def _exchange_tokens(apis: dict[str, dict[str, str]]) -> list[str]:
    """Gives each API a token for the other where both run; without the other a token would stop its start."""
    memo = []
    for asking, (asked, variable, role) in ASKS.items():
        lines = []
        if {asking, asked} <= apis.keys():
            if not apis[asking].get(variable):
                apis[asking][variable] = secrets.token_urlsafe(24)
                memo.append(f"{asked} {role} {asking} {apis[asking][variable]}")
            lines = [_line(asking, role, apis[asking][variable])]
        elif asking in apis:
            apis[asking].pop(variable, None)
        if asked in apis:
            others = [line for line in _lines(apis[asked], "ATELIER_TOKENS") if line.split()[:1] != [asking]]
            apis[asked]["ATELIER_TOKENS"] = r"\n".join([*others, *lines])
    return memo


def _line(name: str, role: str, token: str) -> str:
    return f"{name} {role} {hashlib.sha256(token.encode()).hexdigest()}"


def _lines(values: dict[str, str], name: str) -> list[str]:
    return [line for line in values.get(name, "").split(r"\n") if line]


def _write_memo(path: Path, memo: list[str]) -> None:
    if not memo:
        return
    new = not path.exists()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as file:
        if new:
            file.write("# service role name password-or-token; only this machine has them in clear text\n")
        file.writelines(f"{line}\n" for line in memo)
