"""Settings: every problem at once, and no secret in the message."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from atelier_service.settings import SettingsError, http_url, read_settings, secret_file, token_file
from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Example(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="EXAMPLE_", frozen=True, extra="forbid", env_ignore_empty=True)

    url: Annotated[str, AfterValidator(http_url)] = Field(description="address of the server")
    tokens: Annotated[Path, AfterValidator(token_file)]
    wait_s: float = Field(1.0, gt=0)
    password: SecretStr | None = Field(None, min_length=5)
    password_file: Annotated[Path | None, AfterValidator(secret_file)] = None


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    file = tmp_path / "tokens"
    file.write_text("")
    for name, value in {"EXAMPLE_URL": "http://server/", "EXAMPLE_TOKENS": str(file)}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def read(check: Callable[..., Any] = lambda settings: ()) -> Example:
    import os

    return read_settings(Example, os.environ, check)


def test_a_complete_environment(environment: Any) -> None:
    assert (read().url, read().wait_s) == ("http://server", 1.0)


def test_every_problem_is_listed(environment: Any, tmp_path: Path) -> None:
    environment.delenv("EXAMPLE_URL")
    environment.setenv("EXAMPLE_WAIT_S", "-1")
    environment.setenv("EXAMPLE_WAITS", "1")
    environment.setenv("EXAMPLE_TOKENS", str(tmp_path / "none"))
    with pytest.raises(SettingsError) as caught:
        read()
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["EXAMPLE_WAITS", "EXAMPLE_URL", "EXAMPLE_TOKENS", "EXAMPLE_WAIT_S"]
    assert "no such setting" in lines[0] and "(address of the server)" in lines[1] and "received '-1'" in lines[3]


def test_no_secret_is_shown(environment: Any, tmp_path: Path) -> None:
    environment.setenv("EXAMPLE_PASSWORD", "1234")
    environment.setenv("EXAMPLE_URL", "http://ana:hunter2@server")
    (tmp_path / "empty").write_text("\n")
    environment.setenv("EXAMPLE_PASSWORD_FILE", str(tmp_path / "empty"))
    with pytest.raises(SettingsError) as caught:
        read()
    assert "1234" not in str(caught.value) and "hunter2" not in str(caught.value)
    assert "the file is empty" in str(caught.value)


def test_problems_between_settings(environment: Any) -> None:
    with pytest.raises(SettingsError, match="set both"):
        read(lambda settings: ["set both"])
