"""The first version of a new twin: trains a little on the tiny base, registers, promotes. All of it through HTTP."""

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

from atelier_twin.errors import RequestRefused, StepFailed

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
class Plan:
    """Whether, where and as whom."""

    wanted: bool
    model: str
    steps: int
    registry_url: str
    token_file: Path

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Plan:
        """From what compose.yaml hands over.

        Raises:
            StepFailed: FIRST_VERSION or FIRST_VERSION_STEPS is not legal.
        """
        if (wanted := environment["FIRST_VERSION"]) not in ("on", "off"):
            raise StepFailed(f"FIRST_VERSION must be on or off; received {wanted!r}")
        if not (steps := environment["FIRST_VERSION_STEPS"]).isdecimal() or int(steps) < 1:
            raise StepFailed(f"FIRST_VERSION_STEPS must be a whole number from 1; received {steps!r}")
        return cls(
            wanted == "on", environment["MODEL"], int(steps), environment["REGISTRY_API_URL"], Path(environment["TOKEN_FILE"])
        )


def run(plan: Plan, say: Callable[[str], object]) -> None:
    """Does nothing where there is a champion already.

    Raises:
        RequestRefused: registry-api does not answer as expected.
        StepFailed: the trainer ended with an error.
    """
    if not plan.wanted:
        say("FIRST_VERSION=off: nothing is trained\n")
        return
    if (champion := _champion(plan)) is not None:
        say(f"version {champion} of {plan.model} is champion: nothing to do\n")
        return
    count = max(4 * BATCH, 2 * plan.steps)  # each is seen about eight times
    with tempfile.TemporaryDirectory() as scratch:
        images, result = Path(scratch) / "images", Path(scratch) / "result.json"
        say(f"1/3 making {count} pencil sketches\n")
        _trainer("dataset", str(images), "--style=sketch", f"--count={count}", f"--seed={IMAGES_SEED}")
        say("2/3 training a small first version on the tiny base\n")
        flags = TRAINING | {
            "experiments_name": plan.model,
            "register": plan.model,
            "max_train_steps": plan.steps,
            "validation_steps": plan.steps,
            "train_data_dir": images,
            "result_file": result,
            "output_dir": Path(scratch) / "adapter",
        }
        _trainer("train", *(f"--{name}={value}" for name, value in flags.items()))
        version = json.loads(result.read_text())["version"]
    say(f"3/3 promoting version {version}\n")
    body = {"alias": "champion", "reason": "first version of this twin, made by its job first-version"}
    decision = _ask(plan, f"/models/{quote(plan.model, safe='')}/versions/{version}/promote", body)
    say(f"version {decision['to_version']} of {plan.model} is champion: infer draws with it from now on\n")


def _champion(plan: Plan) -> int | None:
    try:
        found: int | None = _ask(plan, f"/models/{quote(plan.model, safe='')}")["aliases"].get("champion")
    except _NotFoundError:
        return None
    return found


def _trainer(*arguments: str) -> None:
    ended = subprocess.run([sys.executable, "-m", "atelier_trainer", *arguments], check=False).returncode
    if ended:
        raise StepFailed(f"the trainer's command {arguments[0]} ended with {ended}; its own message is above")


class _NotFoundError(RequestRefused):
    """404."""


def _ask(plan: Plan, path: str, body: dict[str, Any] | None = None) -> Any:
    request = urllib.request.Request(  # noqa: S310  # the address is compose.yaml's
        plan.registry_url + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {plan.token_file.read_text().strip()}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        kind = _NotFoundError if error.code == 404 else RequestRefused
        raise kind(f"{path} answered {error.code}: {error.read().decode(errors='replace')[:500]}") from error
    except OSError as error:
        raise RequestRefused(f"registry-api at {plan.registry_url} does not answer: {error}") from error
