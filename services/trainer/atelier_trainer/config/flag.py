"""Command-line flags that are declared as the fields of dataclasses."""

from __future__ import annotations

import dataclasses
from typing import Any, get_type_hints


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag of a command: also a key of a recipe and a row of the reference."""

    name: str
    group: str
    type_hint: Any
    default: Any
    help: str


def flag(default: Any, text: str) -> Any:
    """A dataclass field that becomes a command-line flag."""
    return dataclasses.field(default=default, metadata={"help": text})


def flags_of(options: type) -> dict[str, Flag]:
    """Flags by name. A dataclass named `DataOptions` is the group `data`; fields that are dataclasses are groups themselves."""
    hints, flags = get_type_hints(options), dict[str, Flag]()
    for field in dataclasses.fields(options):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            flags |= flags_of(hint)  # type: ignore[arg-type]
        else:
            group = options.__name__.removesuffix("Options").lower()
            flags[field.name] = Flag(field.name, group, hint, field.default, field.metadata["help"])
    return flags
