"""Settings from the environment, complete at start: every problem is reported at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from atelier_contracts.tokens import parse_tokens
from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings

S = TypeVar("S", bound=BaseSettings)


class SettingsError(ValueError):
    """The environment is incomplete or illegal; the message lists every problem, one a line, and no secret."""


def read_settings(
    model: type[S], environment: Mapping[str, str], check: Callable[[S], Iterable[str]], problems: Iterable[str] = ()
) -> S:
    """Reads a service's settings.

    Args:
        model: one field per variable, `env_prefix` set; pydantic-settings reads the values from the process's environment.
        environment: `os.environ`; names that start with the prefix and are no setting are refused, since a misspelt name would
            otherwise be ignored.
        check: problems between several settings; called where each of them is legal.
        problems: of the environment beyond these settings.

    Raises:
        SettingsError: with every problem.
    """
    prefix = model.model_config.get("env_prefix", "")
    known = {prefix + name.upper() for name in model.model_fields}
    found = [
        f"{name}: no such setting; known are {', '.join(sorted(known))}"
        for name in sorted(environment)
        if name.upper().startswith(prefix) and name.upper() not in known
    ]
    found += problems
    try:
        settings = model()
        found += check(settings)
    except ValidationError as error:
        for item in error.errors():
            field = str(item["loc"][0])
            info = model.model_fields.get(field)
            name = prefix + field.upper()
            if item["type"] == "missing":
                found.append(f"{name}: is required" + (f" ({info.description})" if info and info.description else ""))
                continue
            value = environment.get(name, "")
            hidden = info is None or SecretStr in _types(info.annotation) or "@" in value  # a URL with a login in it
            received = "" if hidden else f"; received {value!r}"
            found.append(f"{name}: {item['msg'].removeprefix('Value error, ')}{received}")
    if found:
        raise SettingsError("\n".join(found))
    return settings


def _types(annotation: object) -> tuple[object, ...]:
    return (annotation, *getattr(annotation, "__args__", ()))


def http_url(value: str | None) -> str | None:
    """A validator: an http or https URL without a login; a trailing slash is removed."""
    if value is None:
        return None
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must begin with http:// or https:// and name a host")
    if "@" in parts.netloc:
        raise ValueError("must not contain credentials; they have settings of their own")
    return value.rstrip("/")


def secret_file(path: Path | None) -> Path | None:
    """A validator: a readable text file that is not empty."""
    try:
        if path is not None and not path.read_text().strip():
            raise ValueError("must contain the secret; the file is empty")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"must be a readable text file: {error}") from None
    return path


def token_file(path: Path) -> Path:
    """A validator: a token file."""
    try:
        parse_tokens(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"must be a readable text file: {error}") from None
    return path
