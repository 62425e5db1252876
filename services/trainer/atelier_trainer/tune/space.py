"""The search space: flags of `train` with lists or distributions in place of values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.tune
import yaml

from atelier_trainer.config import validation
from atelier_trainer.config.cli_args import as_type
from atelier_trainer.config.flag import flags_of
from atelier_trainer.config.options import LOCAL_FLAGS, TrainOptions
from atelier_trainer.errors import OptionError

DEFAULT_SPACE: Mapping[str, Any] = {"learning_rate": [3e-4, 2e-4, 1e-4], "train_batch_size": [1, 4]}
FIXED = frozenset((*LOCAL_FLAGS, "experiments_name", "run_name", "register", "export", "push_to_hub", "validation_samples"))
FORMS = "a list, {choice: [...]}, {uniform: [low, high]}, {loguniform: [low, high]} or {randint: [low, high]}"


def read_space(file: str | None) -> dict[str, Any]:
    """The space as plain values: from a YAML file, or DEFAULT_SPACE.

    Raises:
        OptionError: the file cannot be read, or is not a mapping.
    """
    if file is None:
        return dict(DEFAULT_SPACE)
    try:
        content = yaml.safe_load(Path(file).expanduser().read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise OptionError(f"--space {file!r} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict) or not content:
        raise OptionError(f"--space {file!r} must map flags to values to try; received {type(content).__name__}")
    return {str(name).replace("-", "_"): value for name, value in content.items()}


def build_space(plain: Mapping[str, Any], options: TrainOptions, grid: bool) -> dict[str, Any]:
    """Ray's own search space.

    Args:
        plain: as `read_space` returns it.
        options: every value is checked as part of them.
        grid: try the values of a list one by one; sample from them otherwise.

    Raises:
        OptionError: names every flag and value that cannot be tried.
    """
    flags, problems, space = flags_of(TrainOptions), [], {}
    for name, tried in plain.items():
        if name not in flags or name in FIXED:
            reason = "it is the same for all trials" if name in flags else "no such flag"
            problems.append(f"{name!r} cannot be searched: {reason}")
            continue
        try:
            form, values = _parse(tried)
            typed = [as_type(value, flags[name].type_hint) for value in values]
            for value in typed:
                validation.check(options.with_flags(**{name: value}))
            space[name] = _distribution(form, typed, grid)
        except (ValueError, OptionError) as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise OptionError("--space: " + "; ".join(problems))
    return space


def _parse(tried: Any) -> tuple[str, list[Any]]:
    if isinstance(tried, list) and tried:
        return "list", tried
    if isinstance(tried, dict) and len(tried) == 1:
        ((form, values),) = tried.items()
        if form == "choice" and isinstance(values, list) and values:
            return form, values
        if form in ("uniform", "loguniform", "randint") and isinstance(values, list) and len(values) == 2:
            return form, values
    raise ValueError(f"must be {FORMS}; received {tried!r}")


def _distribution(form: str, values: list[Any], grid: bool) -> Any:
    if form == "list":
        return ray.tune.grid_search(values) if grid else ray.tune.choice(values)
    if form == "choice":
        return ray.tune.choice(values)
    low, high = values
    if not low < high:
        raise ValueError(f"the lower bound must be below the upper one; received {values}")
    if form == "randint":
        return ray.tune.randint(low, high + 1)
    return ray.tune.uniform(low, high) if form == "uniform" else ray.tune.loguniform(low, high)
