"""Settings from the environment; the process refuses to start unless all of them are valid."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from atelier_contracts import names
from atelier_contracts.identifiers import ModelName
from atelier_contracts.styles import SchedulerName
from atelier_service import settings as service_settings
from atelier_service.settings import http_url, secret_file, token_file
from atelier_service.webhook_hosts import Origin, parse_hosts
from atelier_service.webhooks import parse_secret, read_secret
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ProviderName = Literal["cpu", "openvino", "cuda"]

PREFIX = "ATELIER_INFER_"
CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
PASSWORD_FILE = PREFIX + "TRACKING_PASSWORD_FILE"


ALIAS = r"^[a-z][a-z0-9_-]{0,62}$"
"""The pattern of registry-api for aliases."""


class Settings(BaseSettings):
    """One field per environment variable `ATELIER_INFER_<NAME>`; docs/reference/infer/settings.md describes each."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    host: str = "127.0.0.1"
    port: int = Field(8002, ge=0, le=65535)
    tracking_uri: str
    tracking_password_file: Path | None = None
    model: ModelName
    token_file: Path
    cache_dir: Path
    registry_url: str | None = None
    events_url: str | None = None
    registry_token: SecretStr | None = None
    registry_token_file: Path | None = None
    canary_alias: str | None = Field(None, pattern=ALIAS)
    canary_percent: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    scheduler: SchedulerName = "ddim"
    alias_poll_s: float = Field(1.0, gt=0, le=3600)
    queue_limit: int = Field(32, ge=0)
    batch_rows: int = Field(8, ge=1)
    batch_rank: int = Field(256, ge=1)
    max_side_px: int = Field(1024, ge=8)
    decode_tile_px: int = Field(768, ge=64)
    require_promotion: bool = True
    integrity_check_s: float = Field(300.0, gt=0, le=86400)
    adapter_cache_mib: int = Field(256, ge=0)
    memory_mib: int | None = Field(None, ge=64)
    cache_limit_mib: int = Field(16_384, ge=0)
    upload_mib: int = Field(64, ge=32)
    upload_timeout_s: float = Field(30.0, gt=0)
    header_timeout_s: float = Field(10.0, gt=0)
    stuck_after_s: float = Field(900.0, gt=0)
    job_retention_s: float = Field(600.0, ge=0)
    job_retention_mib: int = Field(256, ge=0)
    webhook_hosts: str | None = None
    webhook_secret_file: Path | None = None
    provider: ProviderName = "cpu"
    intra_op_threads: int = Field(0, ge=0)
    drain_timeout_s: float = Field(30.0, ge=0)

    @field_validator("tracking_uri", "registry_url", "events_url")
    @classmethod
    def _web_address(cls, value: str | None) -> str | None:
        return http_url(value)

    @field_validator("canary_alias")
    @classmethod
    def _not_the_champion(cls, alias: str | None) -> str | None:
        if alias == names.CHAMPION:
            raise ValueError(f"must not be {names.CHAMPION}, which serves the other requests")
        return alias

    @field_validator("registry_token_file", "tracking_password_file")
    @classmethod
    def _readable_secret(cls, path: Path | None) -> Path | None:
        return secret_file(path)

    @field_validator("webhook_hosts")
    @classmethod
    def _valid_hosts(cls, value: str | None) -> str | None:
        if value is not None:
            parse_hosts(value)
        return value

    @field_validator("webhook_secret_file")
    @classmethod
    def _signing_secret(cls, path: Path | None) -> Path | None:
        if path is not None:
            read_secret(path)
        return path

    @field_validator("token_file")
    @classmethod
    def _readable_tokens(cls, path: Path) -> Path:
        return token_file(path)

    @field_validator("cache_dir")
    @classmethod
    def _writable_folder(cls, path: Path) -> Path:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"must be a folder that can be created: {error}") from error
        if not os.access(path, os.W_OK | os.X_OK):
            raise ValueError("must be a writable folder")
        return path.resolve()


def events(settings: Settings) -> tuple[str, str] | None:
    """URL and token of registry-api's event stream; None without a token."""
    url = settings.events_url or settings.registry_url
    token = settings.registry_token.get_secret_value() if settings.registry_token else None
    if settings.registry_token_file is not None:
        token = settings.registry_token_file.read_text().strip()
    return (url, token) if url and token else None


def webhooks(settings: Settings) -> tuple[frozenset[Origin], bytes]:
    """Allowed hosts and the signing key."""
    if settings.webhook_hosts is None or settings.webhook_secret_file is None:
        return frozenset(), b""
    return parse_hosts(settings.webhook_hosts), parse_secret(settings.webhook_secret_file.read_text())


def export_tracking_password(settings: Settings) -> None:
    """Sets the environment variable that MLflow's client reads."""
    if settings.tracking_password_file is not None:
        os.environ[CREDENTIALS[1]] = settings.tracking_password_file.read_text().strip()


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Reads and checks the environment.

    Raises:
        SettingsError: with all problems.
    """
    problems = []
    given = [name for name in (*CREDENTIALS, PASSWORD_FILE) if environment.get(name)]
    if given and (CREDENTIALS[0] not in given or len(given) != 2):
        rule = f"set both, the second one directly or with {PASSWORD_FILE}, or neither; received {', '.join(given)}"
        problems.append(f"{CREDENTIALS[0]} and {CREDENTIALS[1]}: {rule}")
    return service_settings.read_settings(Settings, environment, _conflicts, problems)


def _conflicts(settings: Settings) -> list[str]:
    problems = []
    given = [name for name in ("registry_token", "registry_token_file") if getattr(settings, name)]
    if len(given) > 1 or (given and not (settings.events_url or settings.registry_url)):
        rule = f"set one of {PREFIX}REGISTRY_TOKEN and {PREFIX}REGISTRY_TOKEN_FILE, together with {PREFIX}REGISTRY_URL"
        problems.append(f"{PREFIX}REGISTRY_TOKEN: {rule}")
    if settings.events_url and not given:
        problems.append(f"{PREFIX}EVENTS_URL: requires {PREFIX}REGISTRY_TOKEN or {PREFIX}REGISTRY_TOKEN_FILE")
    for pair in (("canary_alias", "canary_percent"), ("webhook_hosts", "webhook_secret_file")):
        given = [PREFIX + name.upper() for name in pair if getattr(settings, name) is not None]
        if len(given) == 1:
            both = " and ".join(PREFIX + name.upper() for name in pair)
            problems.append(f"{both}: set both or neither; received only {given[0]}")
    return problems
