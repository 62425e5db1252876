"""Trains, registers and promotes a small first version on the tiny base, through the HTTP APIs of the services."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from atelier_twin.errors import FirstVersionError, RequestError

IMAGES_SEED = 7
BATCH = 16
TRAINING = {
    "pretrained_model_name_or_path": "/home/atelier/models/tiny-sd",
    "rank": 16,
    "learning_rate": 2e-3,
    "lr_warmup_steps": 10,
    "train_batch_size": BATCH,
    "validation_samples": 16,
    "validation_prompt": "a red car",
    "num_validation_images": 1,
    "seed": 1337,
}
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Settings:
    enabled: bool
    model: str
    steps: int
    registry_url: str
    token_file: Path

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Settings:
        """Reads the environment variables of compose.yaml.

        Raises:
            FirstVersionError: FIRST_VERSION or FIRST_VERSION_STEPS is invalid.
        """
        if (enabled := environment["FIRST_VERSION"]) not in ("on", "off"):
            raise FirstVersionError(f"FIRST_VERSION must be on or off; received {enabled!r}")
        if not (steps := environment["FIRST_VERSION_STEPS"]).isdecimal() or int(steps) < 1:
            raise FirstVersionError(f"FIRST_VERSION_STEPS must be a whole number from 1; received {steps!r}")
        return cls(
            enabled == "on", environment["MODEL"], int(steps), environment["REGISTRY_API_URL"], Path(environment["TOKEN_FILE"])
        )


def run(settings: Settings, write: Callable[[str], object]) -> None:
    """Does nothing if the model has a champion.

    Args:
        settings: settings of the job.
        write: prints progress.

    Raises:
        RequestError: registry-api returned an error or did not respond.
        FirstVersionError: the trainer failed.
    """
    if not settings.enabled:
        write("FIRST_VERSION=off: no version is trained\n")
        return
    if (champion := _champion(settings)) is not None:
        write(f"version {champion} of {settings.model} is champion already; nothing to do\n")
        return
    count = max(4 * BATCH, 2 * settings.steps)  # each image is used about eight times
    with tempfile.TemporaryDirectory() as folder:
        images, result = Path(folder) / "images", Path(folder) / "result.json"
        write(f"1/3 drawing {count} pencil sketches\n")
        _trainer("dataset", str(images), "--style=sketch", f"--count={count}", f"--seed={IMAGES_SEED}")
        write("2/3 training a small first version on the tiny base\n")
        flags = TRAINING | {
            "experiments_name": settings.model,
            "register": settings.model,
            "max_train_steps": settings.steps,
            "validation_steps": settings.steps,
            "train_data_dir": images,
            "result_file": result,
            "output_dir": Path(folder) / "adapter",
        }
        _trainer("train", *(f"--{name}={value}" for name, value in flags.items()))
        version = json.loads(result.read_text())["version"]
    write(f"3/3 promoting version {version}\n")
    body = {"alias": "champion", "reason": "first version of this twin, trained by the job first-version"}
    decision = _request(settings, f"/models/{quote(settings.model, safe='')}/versions/{version}/promote", body)
    write(f"version {decision['to_version']} of {settings.model} is champion; infer serves it now\n")


def _champion(settings: Settings) -> int | None:
    try:
        aliases = _request(settings, f"/models/{quote(settings.model, safe='')}")["aliases"]
    except _NotFoundError:
        return None
    version: int | None = aliases.get("champion")
    return version


def _trainer(*arguments: str) -> None:
    code = subprocess.run([sys.executable, "-m", "atelier_trainer", *arguments], check=False).returncode
    if code:
        raise FirstVersionError(f"the trainer's command {arguments[0]} exited with code {code}; its message is above")


class _NotFoundError(RequestError):
    """Status 404."""


def _request(settings: Settings, path: str, body: dict[str, Any] | None = None) -> Any:
    request = urllib.request.Request(  # noqa: S310  # the URL is from compose.yaml
        settings.registry_url + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {settings.token_file.read_text().strip()}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310
            return json.load(response)
    except urllib.error.HTTPError as error:
        kind = _NotFoundError if error.code == 404 else RequestError
        raise kind(f"{path} returned {error.code}: {error.read().decode(errors='replace')[:500]}") from error
    except OSError as error:
        raise RequestError(f"registry-api at {settings.registry_url} does not respond: {error}") from error
