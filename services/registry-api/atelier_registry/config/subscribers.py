"""Subscribers to events. Read once, at the start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from atelier_contracts.events import AliasMoved, StyleEdited
from atelier_service.webhooks import read_secret
from pydantic import AfterValidator, Field, model_validator

from atelier_registry.config.strict_yaml import Strict, StrictYamlError, read_yaml
from atelier_registry.errors import SubscribersError


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.fragment:
        raise ValueError("must be a URL such as https://ci.example.com/atelier, without a login or a fragment")
    return url


def _check_secret(file: Path) -> Path:
    read_secret(file)
    return file


class Subscriber(Strict):
    """A receiver of events."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,62}$", description="its position in the events is stored under this name")
    url: Annotated[str, AfterValidator(_check_url)] = Field(description="receives events; redirects are not followed")
    secret_file: Annotated[Path, AfterValidator(_check_secret)] = Field(description="the key that events are signed with")
    models: list[str] | None = Field(default=None, min_length=1, description="only events of these models")
    aliases: list[str] | None = Field(
        default=None, min_length=1, description="only events of these aliases, and none of styles"
    )
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="timeout of one delivery")
    give_up_h: float = Field(
        default=72.0, gt=0, le=720, description="an event that could not be delivered for so long is skipped"
    )

    def wants(self, event: AliasMoved | StyleEdited) -> bool:
        alias = event.alias if isinstance(event, AliasMoved) else None
        return (self.models is None or event.model in self.models) and (self.aliases is None or alias in self.aliases)


class Subscribers(Strict):
    """The whole file."""

    subscribers: list[Subscriber]

    @model_validator(mode="after")
    def _by_name(self) -> Subscribers:
        names = [subscriber.name for subscriber in self.subscribers]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"names must be unique; received twice: {', '.join(twice)}")
        return self


def read_subscribers(path: Path) -> list[Subscriber]:
    """Reads the file.

    Raises:
        SubscribersError: it cannot be read, is not YAML, or is invalid; the message lists every problem.
    """
    try:
        return read_yaml(path, Subscribers, "subscribers file").subscribers
    except StrictYamlError as error:
        raise SubscribersError(str(error)) from None
