"""Settings from the environment, validated before anything starts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from atelier_service import settings as service_settings
from atelier_service.settings import secret_file
from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from atelier_registry.config.policy import read_policy
from atelier_registry.config.subscribers import read_subscribers
from atelier_registry.errors import PolicyError, SubscribersError

PREFIX = "ATELIER_REGISTRY_"
TRACKING_USERNAME, TRACKING_PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
"""Variables that MLflow's client reads."""


def _server(uri: str) -> str:
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be the address of an MLflow server, such as http://tracking:5000")
    if "@" in parts.netloc:
        raise ValueError("must not contain a login; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead")
    return uri.rstrip("/")


def _database(secret: SecretStr) -> SecretStr:
    try:
        url = make_url(secret.get_secret_value())
    except ArgumentError:
        raise ValueError("must be a database address such as sqlite:////var/lib/atelier/decisions.db") from None
    if url.get_backend_name() == "postgresql":
        if not url.host or not url.database:
            raise ValueError("must name a host and a database, such as postgresql://atelier_registry:…@db:5432/mlflow")
        return secret
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        raise ValueError("must name a PostgreSQL database, or a SQLite file such as sqlite:////var/lib/atelier/decisions.db")
    if not os.access(Path(str(url.database)).parent, os.W_OK):
        raise ValueError("must name a file in a folder that exists and is writable")
    return secret


def _policy(file: Path | None) -> Path | None:
    if file is not None:
        try:
            read_policy(file)
        except PolicyError as error:
            raise ValueError(str(error)) from None
    return file


def _subscribers(file: Path | None) -> Path | None:
    if file is not None:
        try:
            read_subscribers(file)
        except SubscribersError as error:
            raise ValueError(str(error)) from None
    return file


def _infer(uri: str | None) -> str | None:
    if uri is None:
        return None
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError("must be the address of infer, such as http://infer:8002, without a login")
    return uri.rstrip("/")


def _password(file: Path | None) -> Path | None:
    if file is None:
        return None
    if os.environ.get(TRACKING_PASSWORD) or not os.environ.get(TRACKING_USERNAME):
        raise ValueError(f"replaces {TRACKING_PASSWORD}: set {TRACKING_USERNAME} with it, and not {TRACKING_PASSWORD}")
    return secret_file(file)


def with_password(address: str, file: Path | None) -> str:
    """A database address, with the password from a file.

    Raises:
        OSError: the file cannot be read.
        ArgumentError: the address is invalid.
    """
    if file is None:
        return address
    return make_url(address).set(password=file.read_text().strip()).render_as_string(hide_password=False)


class Settings(BaseSettings):
    """Environment variables have the prefix ATELIER_REGISTRY_."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, hide_input_in_errors=True, env_ignore_empty=True)

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8001, ge=1, le=65535, description="port to listen on")
    tracking_uri: Annotated[str, AfterValidator(_server)] = Field(description="address of the MLflow server")
    tracking_password_file: Annotated[Path | None, AfterValidator(_password)] = Field(
        None, description="file with the password of MLFLOW_TRACKING_USERNAME"
    )
    tracking_timeout_s: int = Field(
        2, ge=1, le=60, description="timeout of one request to MLflow, which is tried twice at most"
    )
    database_url: Annotated[SecretStr, AfterValidator(_database)] = Field(description="address of the database of decisions")
    database_password_file: Annotated[Path | None, AfterValidator(secret_file)] = Field(
        None, description="file with the database password"
    )
    anchor_bucket: str | None = Field(
        None, pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", description="S3 bucket with object lock for the chain's anchors"
    )
    token_file: Annotated[Path, AfterValidator(service_settings.token_file)] = Field(
        description="tokens, as lines `id role sha256`"
    )
    policy_file: Annotated[Path | None, AfterValidator(_policy)] = Field(
        None, description="file with the policy; the built-in policy without it"
    )
    subscribers_file: Annotated[Path | None, AfterValidator(_subscribers)] = Field(
        None, description="file with the subscribers to events; none without it"
    )
    infer_url: Annotated[str | None, AfterValidator(_infer)] = Field(None, description="address of infer")
    infer_token: SecretStr | None = Field(None, description="token for infer, of the role promoter")
    infer_token_file: Annotated[Path | None, AfterValidator(secret_file)] = Field(None, description="file with that token")
    stage_timeout_s: int = Field(
        120, ge=1, le=3600, description="timeout of a request to infer, which loads a version and generates images"
    )
    alias_poll_s: float = Field(5.0, gt=0, le=3600, description="interval of checks for aliases changed outside this service")
    cache_ttl_s: float = Field(
        1.0, ge=0, le=60, description="how long MLflow's answers are cached for requests that only read; 0: not at all"
    )
    revert_poll_s: float = Field(30.0, gt=0, le=3600, description="interval of checks for versions that infer reverted")
    integrity_check_s: float = Field(
        300.0, gt=0, le=86400, description="interval of checks of the files of versions with an alias"
    )
    lock_timeout_s: float = Field(10.0, gt=0, le=600, description="how long a decision waits for others on the same alias")
    drain_timeout_s: int = Field(30, ge=0, le=3600, description="how long the shutdown waits for running requests")

    def database(self) -> str:
        """Address of the database, with its password."""
        return with_password(self.database_url.get_secret_value(), self.database_password_file)

    def token_for_infer(self) -> str | None:
        """This service's own token, from the environment or its file."""
        if self.infer_token_file is not None:
            return self.infer_token_file.read_text().strip()
        return self.infer_token.get_secret_value() if self.infer_token else None


def export_tracking_password(settings: Settings) -> None:
    """Sets the variable that MLflow's client reads from the password file, where one is set."""
    if settings.tracking_password_file is not None:
        os.environ[TRACKING_PASSWORD] = settings.tracking_password_file.read_text().strip()


def read_settings() -> Settings:
    """Reads the environment.

    Raises:
        SettingsError: a setting is missing, invalid or unknown.
    """
    problems = []
    tokens = [name for name in (f"{PREFIX}INFER_TOKEN", f"{PREFIX}INFER_TOKEN_FILE") if os.environ.get(name)]
    if len(tokens) != bool(os.environ.get(f"{PREFIX}INFER_URL")):
        rule = f"set both or neither; {PREFIX}INFER_TOKEN_FILE may replace the second"
        problems.append(f"{PREFIX}INFER_URL and {PREFIX}INFER_TOKEN: {rule}")
    return service_settings.read_settings(Settings, os.environ, lambda _: (), problems)
