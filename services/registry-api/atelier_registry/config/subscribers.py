"""Who outside is told of moved aliases: read once, at the start, with every problem told."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from atelier_contracts.events import AliasMoved
from pydantic import AfterValidator, Field, model_validator

from atelier_registry.config.strict_yaml import Strict, StrictYamlError, read_yaml
from atelier_registry.errors import SubscribersError

_PREFIX = "whsec_"
_SECRET_BYTES = range(24, 65)


def _address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.fragment:
        raise ValueError("must be an address such as https://ci.example.com/atelier, without a login or a #")
    return url


def _holds_a_secret(file: Path) -> Path:
    read_secret(file)
    return file


def read_secret(file: Path) -> bytes:
    """The key that a file holds, as `whsec_` and base64, which is how Standard Webhooks writes keys.

    Raises:
        ValueError: it cannot be read, or holds something else. The message does not tell what.
    """
    try:
        text = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot be read ({type(error).__name__})") from None
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True) if text.startswith(_PREFIX) else b""
    except binascii.Error:
        key = b""
    if len(key) not in _SECRET_BYTES:
        raise ValueError(f"must hold {_PREFIX} and the base64 of {_SECRET_BYTES[0]} to {_SECRET_BYTES[-1]} random bytes")
    return key


class Subscriber(Strict):
    """One address that events are posted to."""

    name: str = Field(
        pattern=r"^[a-z][a-z0-9-]{0,62}$", description="what it is called here; its place in the events goes by it"
    )
    url: Annotated[str, AfterValidator(_address)] = Field(description="where events are posted to; redirects are not followed")
    secret_file: Annotated[Path, AfterValidator(_holds_a_secret)] = Field(description="the key that events are signed with")
    models: list[str] | None = Field(default=None, min_length=1, description="of these models only")
    aliases: list[str] | None = Field(default=None, min_length=1, description="of these aliases only")
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="wait for the answer to one event")
    give_up_h: float = Field(default=72.0, gt=0, le=720, description="an event that is refused for so long is left out")

    def wants(self, event: AliasMoved) -> bool:
        """Whether it is to be told of this."""
        return (self.models is None or event.model in self.models) and (self.aliases is None or event.alias in self.aliases)


class Subscribers(Strict):
    """All of them."""

    subscribers: list[Subscriber]

    @model_validator(mode="after")
    def _by_name(self) -> Subscribers:
        names = [each.name for each in self.subscribers]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"each needs a name of its own; received twice: {', '.join(twice)}")
        return self


def read_subscribers(path: Path) -> list[Subscriber]:
    """Reads the file.

    Raises:
        SubscribersError: it cannot be read, is not YAML, or breaks rules; the message lists all of them.
    """
    try:
        return read_yaml(path, Subscribers, "file of subscribers").subscribers
    except StrictYamlError as error:
        raise SubscribersError(str(error)) from None
