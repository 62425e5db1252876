"""What a search tries: flags of `train` with lists or distributions in place of values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import ray.tune
import yaml

from atelier_trainer.config.cli_args import as_type
from atelier_trainer.config.options import LOCAL_FIELDS, TrainOptions
from atelier_trainer.errors import OptionError

DEFAULT: Mapping[str, Any] = {"learning_rate": [3e-4, 2e-4, 1e-4], "train_batch_size": [1, 4]}
FIXED = frozenset((*LOCAL_FIELDS, "experiments_name", "run_name", "register", "export", "push_to_hub", "validation_samples"))
KINDS = "a list, {choice: [...]}, {uniform: [low, high]}, {loguniform: [low, high]} or {randint: [low, high]}"


def read_space(file: str | None) -> dict[str, Any]:
    """The space as plain values: from a YAML file, or DEFAULT.

    Raises:
        OptionError: the file cannot be read, or is no mapping.
    """
    if file is None:
        return dict(DEFAULT)
    try:
        read = yaml.safe_load(Path(file).expanduser().read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise OptionError(f"--space {file!r} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(read, dict) or not read:
        raise OptionError(f"--space {file!r} must map flags to what is tried; received {type(read).__name__}")
    return {str(name).replace("-", "_"): value for name, value in read.items()}


def build_space(plain: Mapping[str, Any], options: TrainOptions, grid: bool) -> dict[str, Any]:
    """Ray's own search space.

    Args:
        plain: see `read_space`.
        options: every value is put into these and checked.
        grid: lists are tried one by one; drawn from otherwise.

    Raises:
        OptionError: names every flag and value that cannot be tried.
    """
    hints, problems, space = get_type_hints(TrainOptions), [], {}
    for name, tried in plain.items():
        if name not in hints or name in FIXED:
            problems.append(
                f"{name!r} cannot be searched: " + ("it is the same for all trials" if name in hints else "no such flag")
            )
            continue
        try:
            kind, values = _parsed(tried)
            typed = [as_type(value, hints[name]) for value in values]
            for value in typed:
                dataclasses.replace(options, **{name: value}).check()
            space[name] = _built(kind, typed, grid)
        except (ValueError, OptionError) as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise OptionError("--space: " + "; ".join(problems))
    return space


def _parsed(tried: Any) -> tuple[str, list[Any]]:
    if isinstance(tried, list) and tried:
        return "list", tried
    if isinstance(tried, dict) and len(tried) == 1:
        ((kind, values),) = tried.items()
        if kind == "choice" and isinstance(values, list) and values:
            return kind, values
        if kind in ("uniform", "loguniform", "randint") and isinstance(values, list) and len(values) == 2:
            return kind, values
    raise ValueError(f"must be {KINDS}; received {tried!r}")


def _built(kind: str, values: list[Any], grid: bool) -> Any:
    if kind == "list":
        return ray.tune.grid_search(values) if grid else ray.tune.choice(values)
    if kind == "choice":
        return ray.tune.choice(values)
    low, high = values
    if not low < high:
        raise ValueError(f"the lower bound must be below the upper one; received {values}")
    if kind == "randint":
        return ray.tune.randint(low, high + 1)
    return ray.tune.uniform(low, high) if kind == "uniform" else ray.tune.loguniform(low, high)
