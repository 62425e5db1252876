"""Reads YAML files that people write: strictly, with every problem listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

M = TypeVar("M", bound=BaseModel)


class StrictYamlError(Exception):
    """The file cannot be read, is not YAML, or is invalid. `str()` lists every problem."""


class Strict(BaseModel):
    """Base of the models of such files: no unknown fields, no infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def read_yaml(path: Path, kind: type[M], what: str) -> M:
    """Reads a file.

    Args:
        path: of the file.
        kind: model of its content.
        what: its name in messages.

    Raises:
        StrictYamlError: it cannot be read, is not YAML, or is invalid.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader)  # noqa: S506  a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        raise StrictYamlError(f"the {what} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise StrictYamlError(f"the {what} is not YAML: {' '.join(str(error).split())}") from None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML itself fails at a date that does not exist, `!!int` or `!!timestamp x`, and at too many digits or levels
        raise StrictYamlError(f"the {what} contains a value that cannot be read: {type(error).__name__}: {error}") from None
    if not isinstance(content, dict):
        fields = " and ".join(f"`{name}`" for name in kind.model_fields)
        raise StrictYamlError(f"the {what} must be a mapping with {fields}; received {type(content).__name__}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(_describe(fault) for fault in error.errors())
        raise StrictYamlError(f"the {what} is invalid: {problems}") from None


def _describe(fault: Any) -> str:
    location = ".".join(str(part) for part in fault["loc"]) or "content"
    if fault["type"] == "extra_forbidden":
        return f"{location}: unknown field"
    if fault["type"] == "missing":
        return f"{location}: is required"
    received = repr(fault["input"])
    return f"{location}: {fault['msg'].removeprefix('Value error, ')}; received {received[:80]}"


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses repeated keys. PyYAML silently uses the last one, so that a rule could be lost."""


def _construct_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    twice = sorted({str(key) for key in keys if keys.count(key) > 1})
    if twice:
        raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]!r} occurs twice", node.start_mark)
    return dict(loader.construct_mapping(node, deep=True))


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)
