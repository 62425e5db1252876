"""The environment, complete at start or the container refuses to run with all problems in one message."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FilePath, SecretStr, ValidationError

from atelier_tracking.errors import SettingsError
from atelier_tracking.htpasswd import Login, parse_logins
from atelier_tracking.roles import ROLES, parse_roles

FROM_FILES = ("DB_PW", "HTPASSWD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "ROLES", "MLFLOW_CRYPTO_KEK_PASSPHRASE")
"""Each of these may be given by a file instead, named by the same variable with `_FILE`."""

UNREAD = "(unread)"
"""Stands for what a file would have given, so that the variable is not also called missing."""

SECRET = ("DB_PW", "HTPASSWD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_CRYPTO_KEK_PASSPHRASE")


def _web_address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http:// or https:// address")
    if parts.username or parts.password:
        raise ValueError("must not hold a login")
    return value.rstrip("/")


def _origin(value: str) -> str:
    parts = urlsplit(_web_address(value))
    if not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", parts.hostname or ""):
        raise ValueError("must name a host of letters, digits, dots and hyphens, or an IP address")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("must be scheme://name or scheme://name:port alone, as a browser shows it before the first /")
    port = "" if parts.port in (None, {"http": 80, "https": 443}[parts.scheme]) else f":{parts.port}"
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}{port}"


def _network(value: str) -> str:
    try:
        return str(ip_network(value))
    except ValueError as error:
        raise ValueError("must be addresses or networks such as 10.0.0.0/16") from error


def _printable(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().isprintable():
        raise ValueError("must be printable characters in one line")
    return value


def _plain_path(value: Path) -> Path:
    # it is written into nginx's configuration
    if not re.fullmatch(r"/[A-Za-z0-9._/-]*", str(value)):
        raise ValueError("must be an absolute path of letters, digits and . _ - /")
    return value


PlainPath = Annotated[Path, AfterValidator(_plain_path)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
Secret = Annotated[SecretStr, AfterValidator(_printable)]


class Settings(BaseModel):
    """One field per environment variable, whose name is the field's in upper case. The README documents each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    db_endpoint: str = Field(pattern=r"^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])$")
    db_port: int = Field(ge=1, le=65535)
    db_name: str = Field(min_length=1)
    db_user: str = Field(min_length=1)
    db_pw: Secret
    db_tls_mode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    db_tls_ca_file: FilePath | None = None
    aws_bucket_name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
    aws_region: str = Field(pattern=r"^[a-z0-9-]+$")
    aws_access_key_id: Secret | None = None
    aws_secret_access_key: Secret | None = None
    s3_endpoint_url: WebAddress | None = None
    s3_public_endpoint_url: WebAddress | None = None
    logins: tuple[Login, ...]
    roles: dict[str, str] | None = None
    registry_user: str | None = None
    mlflow_crypto_kek_passphrase: Secret | None = None
    public_url: Annotated[str, AfterValidator(_origin)] | None = None
    trusted_proxies: tuple[Annotated[str, AfterValidator(_network)], ...] = ()
    tls_certificate_file: Annotated[FilePath, AfterValidator(_plain_path)] | None = None
    tls_key_file: Annotated[FilePath, AfterValidator(_plain_path)] | None = None
    http_port: int = Field(80, ge=1, le=65535)
    https_port: int = Field(443, ge=1, le=65535)
    body_limit_mib: int = Field(5, ge=1, le=512)
    spool_dir: PlainPath = Path("/var/spool/tracking")
    drain_timeout_s: int = Field(25, ge=0, le=3600)


NAMES = tuple("HTPASSWD" if field == "logins" else field.upper() for field in Settings.model_fields)
"""Every variable that is read; those of FROM_FILES also with `_FILE`."""


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Reads the container's environment. An empty variable counts as one that is not set.

    Args:
        environment: `os.environ`.

    Raises:
        SettingsError: with every problem at once, one a line, and no secret.
    """
    problems: list[str] = []
    given = _given(environment, problems)
    values: dict[str, object] = {name.lower(): value for name, value in given.items() if name not in ("HTPASSWD", "ROLES")}
    users: list[str] = []
    if given.get("HTPASSWD") == UNREAD:
        values["logins"] = ()
    elif "HTPASSWD" in given:
        try:
            values["logins"] = parse_logins(given["HTPASSWD"])
            users = [login.user for login in parse_logins(given["HTPASSWD"])]
        except SettingsError as error:
            problems += error.problems
            values["logins"] = ()
    if users and given.get("ROLES", UNREAD) != UNREAD:
        try:
            values["roles"] = parse_roles(given["ROLES"], users)
        except SettingsError as error:
            problems += error.problems
    if "TRUSTED_PROXIES" in given:
        values["trusted_proxies"] = tuple(given["TRUSTED_PROXIES"].replace(",", " ").split())
    problems += _between(given, users, values.get("roles"))
    settings = None
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        problems = [_sentence(item["type"], item["loc"], item["msg"], item["input"]) for item in error.errors()] + problems
    if problems or settings is None:
        raise SettingsError(problems)
    return settings


def _given(environment: Mapping[str, str], problems: list[str]) -> dict[str, str]:
    given = {name: environment[name] for name in NAMES if environment.get(name)}
    for name in FROM_FILES:
        if not (path := environment.get(f"{name}_FILE")):
            continue
        if name in given:
            problems.append(f"{name} and {name}_FILE: set one of them; received both")
            continue
        try:
            text = Path(path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{name}_FILE: must be a text file that user id 10001 can read; received {path}: {error}")
            given[name] = UNREAD
            continue
        given[name] = text if name in ("HTPASSWD", "ROLES") else text.removesuffix("\n").removesuffix("\r")
    return {name: value for name, value in given.items() if value}


def _between(given: Mapping[str, str], users: list[str], roles: object) -> list[str]:
    """Rules that more than one variable takes part in."""
    problems = []
    for one, two in (("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), ("TLS_CERTIFICATE_FILE", "TLS_KEY_FILE")):
        if len(alone := [name for name in (one, two) if name in given]) == 1:
            hint = "; without both the task's role is used" if one.startswith("AWS") else ""
            problems.append(f"{one} and {two}: set both or none; received only {alone[0]}{hint}")
    server, public = (given.get(name) for name in ("S3_ENDPOINT_URL", "S3_PUBLIC_ENDPOINT_URL"))
    if server and public and server.rstrip("/") != public.rstrip("/"):
        problems.append(
            "S3_ENDPOINT_URL and S3_PUBLIC_ENDPOINT_URL: must be the same address, since a presigned address is valid only "
            f"for the name that the server itself uses; received {server} and {public}; set S3_ENDPOINT_URL alone where "
            "clients cannot reach it"
        )
    if given.get("DB_TLS_MODE", "").startswith("verify") and "DB_TLS_CA_FILE" not in given:
        problems.append(f"DB_TLS_CA_FILE: must name the authority's certificate when DB_TLS_MODE is {given['DB_TLS_MODE']}")
    if (registry := given.get("REGISTRY_USER")) and users and registry not in users:
        problems.append(f"REGISTRY_USER: must be a user of HTPASSWD; received {registry}; known are {', '.join(users)}")
    elif registry and isinstance(roles, dict) and ROLES.index(roles[registry]) < ROLES.index("promoter"):
        problems.append(f"REGISTRY_USER: {registry} must be a promoter or admin in ROLES; received {roles[registry]}")
    certificate, key = given.get("TLS_CERTIFICATE_FILE"), given.get("TLS_KEY_FILE")
    if certificate and key and Path(certificate).is_file() and Path(key).is_file():
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
        except (OSError, ValueError) as error:
            problems.append(f"TLS_CERTIFICATE_FILE and TLS_KEY_FILE: must be a PEM chain and its key, readable: {error}")
    return problems


def _sentence(kind: str, where: tuple[int | str, ...], message: str, received: object) -> str:
    name = "HTPASSWD" if where[0] == "logins" else str(where[0]).upper()
    if kind == "missing":
        also = f" (or {name}_FILE)" if name in FROM_FILES else ""
        return f"{name}{also}: is required and not set"
    # an address with a login in it is not repeated
    hidden = name in SECRET or "@" in str(received)
    return f"{name}: {message.removeprefix('Value error, ')}" + ("" if hidden else f"; received {received!r}")
