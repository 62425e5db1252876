"""Types for strings that come from outside and become a path, a filter, an address or a header.

A value is parsed into one of them where it enters a service; what does not parse is refused there and goes no further. The
patterns hold in JSON (pydantic), in paths and queries (FastAPI), and by `parse_*` elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints

DIGEST = r"^[0-9a-f]{64}$"
RUN_ID = r"^[0-9a-f]{32}$"
ALIAS_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,254}$"
FILE_NAME = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$"
MODEL_NAME = r"^[^\x00-\x1f\x7f/:\"'`\\%?#]{1,255}$"

MAX_VERSION = 2**31 - 1
"""MLflow keeps version numbers in a 32-bit column."""


def _plain(text: str) -> str:
    if text != text.strip() or text in (".", ".."):
        raise ValueError("must not begin or end with a space, nor be a dot segment")
    return text


Digest = Annotated[str, StringConstraints(pattern=DIGEST)]
"""sha256 in lower-case hexadecimal."""

RunId = Annotated[str, StringConstraints(pattern=RUN_ID)]
"""An MLflow run's id."""

AliasName = Annotated[str, StringConstraints(pattern=ALIAS_NAME)]
"""An alias of a registered model, as MLflow spells them."""

FileName = Annotated[str, StringConstraints(pattern=FILE_NAME)]
"""A file inside an adapter or a bundle: one level, no leading dot, ASCII."""

ModelName = Annotated[str, StringConstraints(pattern=MODEL_NAME), AfterValidator(_plain)]
"""A registered model's name: any script, but nothing that paths, URLs or MLflow's filters read in their own way."""

VersionNumber = Annotated[int, Field(ge=1, le=MAX_VERSION)]
"""A version of a registered model."""


class IdentifierError(ValueError):
    """A string is not of the type that its place needs. The message names the rule and shows the value."""


def matches(pattern: str, text: object) -> bool:
    """Whether the whole text fits one of the patterns above."""
    return isinstance(text, str) and re.fullmatch(pattern.removeprefix("^").removesuffix("$"), text) is not None


def parse_digest(text: Any) -> str:
    """A digest.

    Raises:
        IdentifierError: it is not 64 lower-case hexadecimal digits.
    """
    if not matches(DIGEST, text):
        raise IdentifierError(f"a digest has 64 lower-case hexadecimal digits; received {_shown(text)}")
    return str(text)


def parse_file_name(text: Any) -> str:
    """A file's name without folders.

    Raises:
        IdentifierError: it is something else, such as a path.
    """
    if not matches(FILE_NAME, text):
        raise IdentifierError(f"a file name has letters, digits, '.', '_' and '-', and no folder; received {_shown(text)}")
    return str(text)


@dataclass(frozen=True)
class Source:
    """Where a registered version's files are: one of MLflow's three kinds of address, in its one canonical spelling.

    Attributes:
        kind: `models` (a logged model), `runs` (a folder of a run) or `mlflow-artifacts` (a path below the artifact root).
        id: the logged model's or the run's id; empty for `mlflow-artifacts`.
        path: below the run or the artifact root, without a leading or trailing slash; empty for `models`.
    """

    kind: str
    id: str
    path: str

    def __str__(self) -> str:
        return f"{self.kind}:/{self.id}{'/' if self.id and self.path else ''}{self.path}"


SOURCE = (
    r"(?:models:/m-[0-9a-f]{32}"
    r"|runs:/[0-9a-f]{32}(?:/[A-Za-z0-9_][A-Za-z0-9._+-]*)+"
    r"|mlflow-artifacts:/[A-Za-z0-9_-][A-Za-z0-9._+-]*(?:/[A-Za-z0-9_][A-Za-z0-9._+-]*)+)"
)
"""The canonical spellings as one regular expression, to be matched as a whole; also given to MLflow itself."""


def parse_source(text: Any) -> Source:
    """A version's source, or its download address.

    Raises:
        IdentifierError: it is none of the canonical spellings: another scheme, a host, upper case, `%`, a trailing slash,
            dot segments, white space.
    """
    if not isinstance(text, str) or len(text) > 1000 or re.fullmatch(SOURCE, text) is None:
        raise IdentifierError(
            "a version's source must be models:/m-ID, runs:/ID/PATH or mlflow-artifacts:/PATH, in lower-case hexadecimal ids "
            f"and plain path segments; received {_shown(text)}: log the model again and register what MLflow names it"
        )
    kind, _, rest = text.partition(":/")
    if kind == "mlflow-artifacts":
        return Source(kind, "", rest)
    found, _, path = rest.partition("/")
    return Source(kind, found, path)


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 100 else text[:100] + "…"
