"""Settings from the environment, complete before anything starts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from atelier_contracts.tokens import parse_tokens
from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from atelier_registry.config.policy import read_policy
from atelier_registry.config.subscribers import read_subscribers
from atelier_registry.errors import PolicyError, SubscribersError

PREFIX = "ATELIER_REGISTRY_"
LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
"""Read by MLflow's client."""


class SettingsError(Exception):
    """The environment is not complete or not right; the message lists every problem."""


def _server(uri: str) -> str:
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be the address of an MLflow server, such as http://tracking:5000")
    if "@" in parts.netloc:
        raise ValueError("must not hold a login; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead")
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
        raise ValueError("must name a file in a folder that exists and can be written to")
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


def _tokens(file: Path) -> Path:
    try:
        parse_tokens(file.read_text())
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    return file


def _password(file: Path | None) -> Path | None:
    if file is None:
        return None
    if os.environ.get(LOGIN[1]) or not os.environ.get(LOGIN[0]):
        raise ValueError(f"stands in for {LOGIN[1]}: set {LOGIN[0]} beside it, and not {LOGIN[1]}")
    return _secret(file)


def _secret(file: Path | None) -> Path | None:
    if file is None:
        return None
    try:
        if not file.read_text().strip():
            raise ValueError("must hold the secret; the file is empty")
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    return file


def with_password(address: str, file: Path | None) -> str:
    """A database's address with the password that a file holds.

    Raises:
        OSError: the file cannot be read.
        ArgumentError: the address is none.
    """
    if file is None:
        return address
    return make_url(address).set(password=file.read_text().strip()).render_as_string(hide_password=False)


class Settings(BaseSettings):
    """Where to listen and what to talk to. Environment variables have the prefix ATELIER_REGISTRY_."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, hide_input_in_errors=True, env_ignore_empty=True)

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8001, ge=1, le=65535, description="port to listen on")
    tracking_uri: Annotated[str, AfterValidator(_server)] = Field(description="address of the MLflow server")
    tracking_password_file: Annotated[Path | None, AfterValidator(_password)] = Field(
        None, description="file with the password of MLFLOW_TRACKING_USERNAME"
    )
    tracking_timeout_s: int = Field(2, ge=1, le=60, description="wait for one answer of MLflow; asked for twice at most")
    database_url: Annotated[SecretStr, AfterValidator(_database)] = Field(description="where decisions are kept")
    database_password_file: Annotated[Path | None, AfterValidator(_secret)] = Field(
        None, description="file with the database's password"
    )
    token_file: Annotated[Path, AfterValidator(_tokens)] = Field(description="who may come in: lines `id role sha256`")
    policy_file: Annotated[Path | None, AfterValidator(_policy)] = Field(
        None, description="rules; the built-in ones without it"
    )
    subscribers_file: Annotated[Path | None, AfterValidator(_subscribers)] = Field(
        None, description="who outside is told of moved aliases; nobody without it"
    )
    infer_url: Annotated[str | None, AfterValidator(_infer)] = Field(None, description="address of infer")
    infer_token: SecretStr | None = Field(None, description="token that infer lets in, of the role promoter")
    infer_token_file: Annotated[Path | None, AfterValidator(_secret)] = Field(None, description="file with that token")
    stage_timeout_s: int = Field(120, ge=1, le=3600, description="wait for infer to load a version and draw")
    outside_poll_s: float = Field(5.0, gt=0, le=3600, description="between two looks for aliases that others moved")
    read_age_s: float = Field(
        1.0, ge=0, le=60, description="how old MLflow's answer may be for who only looks; 0: none is kept"
    )
    revert_poll_s: float = Field(
        30.0, gt=0, le=3600, description="between two looks at infer for versions that it stopped drawing with"
    )
    integrity_check_s: float = Field(
        300.0, gt=0, le=86400, description="between two comparisons of the files that aliases point at with their digests"
    )
    lock_wait_s: float = Field(10.0, gt=0, le=600, description="wait for other decisions on the same alias")
    drain_timeout_s: int = Field(30, ge=0, le=3600, description="wait for requests under way when told to stop")

    def database(self) -> str:
        """The database's address, with its password where a file holds it."""
        return with_password(self.database_url.get_secret_value(), self.database_password_file)

    def token_for_infer(self) -> str | None:
        """This service's own token, from the environment or its file."""
        if self.infer_token_file is not None:
            return self.infer_token_file.read_text().strip()
        return self.infer_token.get_secret_value() if self.infer_token else None


def hand_over_login(settings: Settings) -> None:
    """Gives MLflow's client the password where it finds one, unless the environment holds it already."""
    if settings.tracking_password_file is not None:
        os.environ[LOGIN[1]] = settings.tracking_password_file.read_text().strip()


def read_settings() -> Settings:
    """Reads the environment.

    Raises:
        SettingsError: something is missing, wrong, or not a setting at all.
    """
    names = {PREFIX + name.upper(): name for name in Settings.model_fields}
    problems = [f"{key}: no such setting" for key in sorted(os.environ) if key.startswith(PREFIX) and key not in names]
    tokens = [name for name in (f"{PREFIX}INFER_TOKEN", f"{PREFIX}INFER_TOKEN_FILE") if os.environ.get(name)]
    if len(tokens) != bool(os.environ.get(f"{PREFIX}INFER_URL")):
        told = f"set both, the second by itself or by {PREFIX}INFER_TOKEN_FILE, or neither"
        problems.append(f"{PREFIX}INFER_URL and {PREFIX}INFER_TOKEN: {told}")
    try:
        settings = Settings()  # type: ignore[call-arg]
    except ValidationError as error:
        problems += [_problem(each["loc"], each["type"], each["msg"]) for each in error.errors(include_input=False)]
    if problems:
        raise SettingsError("registry-api cannot start:\n" + "\n".join(f"  {problem}" for problem in problems))
    return settings


def _problem(place: tuple[int | str, ...], kind: str, message: str) -> str:
    """One line, with the value received unless it may hold a password."""
    name = PREFIX + str(place[0]).upper()
    if kind == "missing":
        return f"{name}: is required ({Settings.model_fields[str(place[0])].description})"
    received = (
        ""
        if place[0] in ("database_url", "tracking_uri", "infer_url", "infer_token")
        else f"; received {os.environ.get(name)!r}"
    )
    return f"{name}: {message.removeprefix('Value error, ')}{received}"
