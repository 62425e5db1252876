"""YAML files that people write: read whole, or refused with every problem named."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

M = TypeVar("M", bound=BaseModel)


class StrictYamlError(Exception):
    """The file cannot be read, is not YAML, or breaks rules. `str()` lists all of them."""


class Strict(BaseModel):
    """A part of such a file: no other fields than its own, no infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def read_yaml(path: Path, kind: type[M], what: str) -> M:
    """The file's content.

    Args:
        path: where it lies.
        kind: what it must be.
        what: its name in messages.

    Raises:
        StrictYamlError: see there.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _NoTwice)  # noqa: S506  a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        raise StrictYamlError(f"the {what} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise StrictYamlError(f"the {what} is not YAML: {' '.join(str(error).split())}") from None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML itself fails at a date that does not exist, `!!int` or `!!timestamp x`, and at too many digits or levels
        raise StrictYamlError(f"the {what} holds a value that cannot be read: {type(error).__name__}: {error}") from None
    if not isinstance(content, dict):
        fields = " and ".join(f"`{name}`" for name in kind.model_fields)
        raise StrictYamlError(f"the {what} must be a mapping with {fields}; received {type(content).__name__}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(_told(each) for each in error.errors())
        raise StrictYamlError(f"the {what} breaks rules: {problems}") from None


def _told(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{place}: no such field"
    if problem["type"] == "missing":
        return f"{place}: is required"
    received = repr(problem["input"])
    return f"{place}: {problem['msg'].removeprefix('Value error, ')}; received {received[:80]}"


class _NoTwice(yaml.SafeLoader):
    """YAML takes the last of two equal keys in silence: a rule could be lost that way."""


def _mapping(loader: _NoTwice, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    twice = sorted({str(key) for key in keys if keys.count(key) > 1})
    if twice:
        raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]!r} occurs twice", node.start_mark)
    return dict(loader.construct_mapping(node, deep=True))


_NoTwice.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
