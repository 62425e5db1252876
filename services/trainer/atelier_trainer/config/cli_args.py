"""Options from the command line, a recipe file and an earlier run; the first of these wins."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

from atelier_trainer.config.flag import flags_of
from atelier_trainer.errors import OptionError


def add_flags(parser: argparse.ArgumentParser, options: type, only: Container[str] | None = None) -> None:
    """Adds one flag per field of the dataclass, or for some of them, in groups; `-` and `_` are both accepted in names.

    A flag that is not given leaves nothing in the parsed arguments: the recipe's value must not be overridden by a default.
    """
    groups = dict[str, Any]()
    for flag in flags_of(options).values():
        if only is not None and flag.name not in only:
            continue
        if flag.group not in groups:
            groups[flag.group] = parser.add_argument_group(flag.group)
        group = groups[flag.group]
        spellings = list(dict.fromkeys([f"--{flag.name}", f"--{flag.name.replace('_', '-')}"]))
        default = "" if flag.default is None else f" (default: {flag.default})"
        settings: dict[str, Any] = {"default": argparse.SUPPRESS, "help": flag.help.replace("%", "%%") + default}
        if flag.type_hint is bool:
            group.add_argument(*spellings, action=argparse.BooleanOptionalAction, **settings)
        elif choices := _choices(flag.type_hint):
            group.add_argument(*spellings, choices=choices, **settings)
        else:
            scalar = _scalar_type(flag.type_hint)
            group.add_argument(*spellings, type=scalar, metavar=scalar.__name__.upper(), **settings)


def given_flags(parsed: argparse.Namespace, options: type) -> dict[str, Any]:
    """The flags of the dataclass that were on the command line."""
    return {name: getattr(parsed, name) for name in flags_of(options) if hasattr(parsed, name)}


def read_recipe(file: Path, options: type) -> dict[str, Any]:
    """A YAML file of flags without their dashes.

    Raises:
        OptionError: the file cannot be read, or holds an unknown flag or a value of the wrong type.
    """
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise OptionError(f"--recipe {str(file)!r} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise OptionError(f"--recipe {str(file)!r} must hold flags as `name: value` lines; received {type(content).__name__}")
    return coerce(content, options, f"--recipe {str(file)!r}")


def coerce(values: Mapping[Any, Any], options: type, source: str) -> dict[str, Any]:
    """Values in the flags' types; numbers may come as text, because YAML reads `3e-4` as text.

    Raises:
        OptionError: names every unknown flag, with the nearest known one, and every value of the wrong type.
    """
    flags, problems, coerced = flags_of(options), [], dict[str, Any]()
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in flags:
            similar = difflib.get_close_matches(name, flags, 1)
            problems.append(f"{key!r} is not a flag" + (f"; did you mean {similar[0]!r}?" if similar else ""))
            continue
        try:
            coerced[name] = as_type(value, flags[name].type_hint)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise OptionError(f"{source}: " + "; ".join(problems))
    return coerced


def as_type(value: Any, hint: Any) -> Any:
    """One value as a flag's type.

    Raises:
        ValueError: names the expected type and the value received.
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
    scalar = _scalar_type(hint)
    if isinstance(value, bool | list | dict) or value is None:
        raise ValueError(f"must be {scalar.__name__}; received {value!r}")
    try:
        number = float(value) if scalar in (int, float) else 0.0
        if scalar is int and number != int(number):
            raise ValueError
        return int(number) if scalar is int else scalar(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"must be {scalar.__name__}; received {value!r}") from error


def _choices(hint: Any) -> tuple[str, ...]:
    for part in (hint, *get_args(hint)):
        if get_origin(part) is Literal:
            return tuple(get_args(part))
    return ()


def _scalar_type(hint: Any) -> type:
    scalar: type = next(part for part in (get_args(hint) or (hint,)) if part is not type(None))
    return scalar
