"""Options from three places, the nearer one wins: the command line, a recipe file, an earlier run."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from atelier_trainer.errors import OptionError

Options = TypeVar("Options")


def add_flags(parser: argparse.ArgumentParser, kind: type) -> None:
    """Adds one flag per field of the dataclass, grouped; `-` and `_` are both accepted in names.

    A flag that is not given leaves nothing in the parsed arguments, so that a recipe can tell the two apart.
    """
    hints, groups = get_type_hints(kind), dict[str, Any]()
    for field in dataclasses.fields(kind):
        title = field.metadata["group"]
        group = groups.setdefault(title, None) or parser.add_argument_group(title)
        groups[title] = group
        spellings = list(dict.fromkeys([f"--{field.name}", f"--{field.name.replace('_', '-')}"]))
        hint, shown = hints[field.name], "" if field.default is None else f" (default: {field.default})"
        rest: dict[str, Any] = {"default": argparse.SUPPRESS, "help": field.metadata["help"].replace("%", "%%") + shown}
        if hint is bool:
            group.add_argument(*spellings, action=argparse.BooleanOptionalAction, **rest)
        elif choices := _choices(hint):
            group.add_argument(*spellings, choices=choices, **rest)
        else:
            group.add_argument(*spellings, type=_plain(hint), metavar=_plain(hint).__name__.upper(), **rest)


def given(parsed: argparse.Namespace, kind: type) -> dict[str, Any]:
    """The flags of the dataclass that were on the command line."""
    return {field.name: getattr(parsed, field.name) for field in dataclasses.fields(kind) if hasattr(parsed, field.name)}


def build(kind: type[Options], values: Mapping[str, Any], environment: Mapping[str, str]) -> Options:
    """The dataclass from these values; the tracking address falls back to MLFLOW_TRACKING_URI."""
    filled = dict(values)
    if "tracking_uri" in {field.name for field in dataclasses.fields(kind)}:  # type: ignore[arg-type]
        filled["tracking_uri"] = filled.get("tracking_uri") or environment.get("MLFLOW_TRACKING_URI")
    return kind(**filled)


def read_recipe(file: Path, kind: type) -> dict[str, Any]:
    """A YAML file of flags without their dashes.

    Raises:
        OptionError: not readable, or a key or value that is no flag's.
    """
    try:
        read = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise OptionError(f"--recipe {str(file)!r} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(read, dict):
        raise OptionError(f"--recipe {str(file)!r} must hold flags as `name: value` lines; received {type(read).__name__}")
    return coerce(read, kind, f"--recipe {str(file)!r}")


def coerce(values: Mapping[Any, Any], kind: type, source: str) -> dict[str, Any]:
    """Values as the fields' types; YAML reads `3e-4` as text, so numbers may come as text.

    Raises:
        OptionError: names every unknown key, with the nearest flag, and every value of another type.
    """
    hints, problems, out = get_type_hints(kind), [], {}
    known = [field.name for field in dataclasses.fields(kind)]
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            problems.append(f"{key!r} is no flag" + (f": did you mean {near[0]!r}?" if near else ""))
            continue
        try:
            out[name] = as_type(value, hints[name])
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise OptionError(f"{source}: " + "; ".join(problems))
    return out


def as_type(value: Any, hint: Any) -> Any:
    """One value as a field's type.

    Raises:
        ValueError: says what is wanted and what was received.
    """
    if value is None and type(None) in get_args(hint):
        return None
    if hint is bool:
        if isinstance(value, bool):
            return value
        raise ValueError(f"must be true or false; received {value!r}")
    if choices := _choices(hint):
        if value in choices:
            return value
        if value is False and "no" in choices:  # YAML reads a bare no as false
            return "no"
        raise ValueError(f"must be one of {', '.join(choices)}; received {value!r}")
    plain = _plain(hint)
    if isinstance(value, bool | list | dict) or value is None:
        raise ValueError(f"must be {plain.__name__}; received {value!r}")
    try:
        number = float(value) if plain in (int, float) else 0.0
        if plain is int and number != int(number):
            raise ValueError
        return int(number) if plain is int else plain(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"must be {plain.__name__}; received {value!r}") from error


def _choices(hint: Any) -> tuple[str, ...]:
    for part in (hint, *get_args(hint)):
        if get_origin(part) is Literal:
            return tuple(get_args(part))
    return ()


def _plain(hint: Any) -> type:
    kind: type = next(part for part in (get_args(hint) or (hint,)) if part is not type(None))
    return kind
