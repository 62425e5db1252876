"""Settings from environment variables; all problems are reported at once, and the container does not start."""

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
"""Variables that can also be read from a file, whose path is in the variable with the suffix `_FILE`."""

UNREADABLE = "(unreadable)"
"""Placeholder for the content of an unreadable file, so that the variable is not also reported as missing."""

SECRET_NAMES = ("DB_PW", "HTPASSWD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_CRYPTO_KEK_PASSPHRASE")


def _web_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http:// or https:// URL")
    if parts.username or parts.password:
        raise ValueError("must not contain a login")
    return value.rstrip("/")


def _origin(value: str) -> str:
    parts = urlsplit(_web_url(value))
    if not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", parts.hostname or ""):
        raise ValueError("must name a host of letters, digits, dots and hyphens, or an IP address")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("must be scheme://name or scheme://name:port, without a path")
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
    # the path is written to nginx's configuration
    if not re.fullmatch(r"/[A-Za-z0-9._/-]*", str(value)):
        raise ValueError("must be an absolute path of letters, digits and . _ - /")
    return value


PlainPath = Annotated[Path, AfterValidator(_plain_path)]
WebUrl = Annotated[str, AfterValidator(_web_url)]
Secret = Annotated[SecretStr, AfterValidator(_printable)]


class Settings(BaseModel):
    """One field per environment variable (upper case); documented in docs/reference/tracking/settings.md."""

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
    s3_endpoint_url: WebUrl | None = None
    s3_public_endpoint_url: WebUrl | None = None
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
"""All variables; those of FROM_FILES also with the suffix `_FILE`."""


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Reads settings; empty variables count as not set.

    Args:
        environment: `os.environ`.

    Raises:
        SettingsError: lists all problems, without secrets.
    """
    problems: list[str] = []
    variables = _read_variables(environment, problems)
    values: dict[str, object] = {name.lower(): value for name, value in variables.items() if name not in ("HTPASSWD", "ROLES")}
    users: list[str] = []
    if variables.get("HTPASSWD") == UNREADABLE:
        values["logins"] = ()
    elif "HTPASSWD" in variables:
        try:
            values["logins"] = parse_logins(variables["HTPASSWD"])
            users = [login.user for login in parse_logins(variables["HTPASSWD"])]
        except SettingsError as error:
            problems += error.problems
            values["logins"] = ()
    if users and variables.get("ROLES", UNREADABLE) != UNREADABLE:
        try:
            values["roles"] = parse_roles(variables["ROLES"], users)
        except SettingsError as error:
            problems += error.problems
    if "TRUSTED_PROXIES" in variables:
        values["trusted_proxies"] = tuple(variables["TRUSTED_PROXIES"].replace(",", " ").split())
    problems += _cross_field_problems(variables, users, values.get("roles"))
    settings = None
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        problems = [_problem(item["type"], item["loc"], item["msg"], item["input"]) for item in error.errors()] + problems
    if problems or settings is None:
        raise SettingsError(problems)
    return settings


def _read_variables(environment: Mapping[str, str], problems: list[str]) -> dict[str, str]:
    variables = {name: environment[name] for name in NAMES if environment.get(name)}
    for name in FROM_FILES:
        if not (path := environment.get(f"{name}_FILE")):
            continue
        if name in variables:
            problems.append(f"{name} and {name}_FILE: set one of them; received both")
            continue
        try:
            text = Path(path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{name}_FILE: must be a text file that user id 10001 can read; received {path}: {error}")
            variables[name] = UNREADABLE
            continue
        variables[name] = text if name in ("HTPASSWD", "ROLES") else text.removesuffix("\n").removesuffix("\r")
    return {name: value for name, value in variables.items() if value}


def _cross_field_problems(variables: Mapping[str, str], users: list[str], roles: object) -> list[str]:
    """Problems of combinations of variables."""
    problems = []
    for pair in (("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), ("TLS_CERTIFICATE_FILE", "TLS_KEY_FILE")):
        if len(present := [name for name in pair if name in variables]) == 1:
            hint = "; without both, the role of the task is used" if pair[0].startswith("AWS") else ""
            problems.append(f"{pair[0]} and {pair[1]}: set both or none; received only {present[0]}{hint}")
    server, public = (variables.get(name) for name in ("S3_ENDPOINT_URL", "S3_PUBLIC_ENDPOINT_URL"))
    if server and public and server.rstrip("/") != public.rstrip("/"):
        problems.append(
            "S3_ENDPOINT_URL and S3_PUBLIC_ENDPOINT_URL: must be the same URL, because a presigned URL is valid only "
            f"for the host name that the server uses; received {server} and {public}; set only S3_ENDPOINT_URL if "
            "clients cannot reach it"
        )
    if variables.get("DB_TLS_MODE", "").startswith("verify") and "DB_TLS_CA_FILE" not in variables:
        problems.append(
            f"DB_TLS_CA_FILE: must be the path of the CA certificate when DB_TLS_MODE is {variables['DB_TLS_MODE']}"
        )
    if (registry := variables.get("REGISTRY_USER")) and users and registry not in users:
        problems.append(f"REGISTRY_USER: must be a user of HTPASSWD; received {registry}; users are {', '.join(users)}")
    elif registry and isinstance(roles, dict) and ROLES.index(roles[registry]) < ROLES.index("promoter"):
        problems.append(f"REGISTRY_USER: {registry} must be a promoter or admin in ROLES; received {roles[registry]}")
    certificate, key = variables.get("TLS_CERTIFICATE_FILE"), variables.get("TLS_KEY_FILE")
    if certificate and key and Path(certificate).is_file() and Path(key).is_file():
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
        except (OSError, ValueError) as error:
            problems.append(f"TLS_CERTIFICATE_FILE and TLS_KEY_FILE: must be a PEM chain and its key, readable: {error}")
    return problems


def _problem(kind: str, location: tuple[int | str, ...], message: str, received: object) -> str:
    name = "HTPASSWD" if location[0] == "logins" else str(location[0]).upper()
    if kind == "missing":
        alternative = f" (or {name}_FILE)" if name in FROM_FILES else ""
        return f"{name}{alternative}: is required and not set"
    # URLs that contain a login are not repeated
    hidden = name in SECRET_NAMES or "@" in str(received)
    return f"{name}: {message.removeprefix('Value error, ')}" + ("" if hidden else f"; received {received!r}")
