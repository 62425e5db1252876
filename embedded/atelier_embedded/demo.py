"""The demo, top to bottom: images, services, training, promotion, generation, contact sheet."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from rich.console import Console
from rich.markup import escape

from atelier_embedded.contact_sheet import contact_sheet
from atelier_embedded.errors import RequestRefused, StageFailed
from atelier_embedded.process_manager import ProcessManager, running_services
from atelier_embedded.workspace import MODEL, Workspace

IMAGES, IMAGES_SEED = 640, 7
TRAINING = {
    "rank": 16,
    "learning_rate": 2e-3,
    "lr_warmup_steps": 40,
    "train_batch_size": 16,
    "max_train_steps": 480,
    "validation_steps": 240,
    "seed": 1337,
}
STAGES = {
    "images": f"{IMAGES} pencil sketches to train on",
    "services": "MLflow, registry-api and infer on 127.0.0.1",
    "train": "a LoRA adapter on the tiny base model, exported, logged and registered",
    "promote": "the new version becomes champion",
    "generate": "images of the same prompts with the base model and the champion",
}
PROMPTS = (
    "a red car",
    "a cat",
    "a giraffe",
    "a boat by the sea",
    "a yellow sun above a mountain",
    "a snowman in the snow",
)
SEED, STEPS, GUIDANCE = 11, 25, 2.0  # above 2, colours of the base model show in the sketches
REQUEST_TIMEOUT_S = 120.0


def demo(workspace: Workspace, base: Path, console: Console) -> None:
    """Trains a version, promotes it, and writes the contact sheet to the workspace.

    Args:
        workspace: gets all files. Stages that an interrupted run finished are skipped.
        base: diffusers folder of the base model.
        console: gets progress.

    Raises:
        EmbeddedError: see atelier_embedded.errors; all processes are stopped by then.
    """
    stages = _Stages(console)
    workspace.prepare()
    with stages.run("images"):
        _generate_images(workspace)
    with stages.run("services"), ExitStack() as stack:
        services = stack.enter_context(running_services(workspace))
        services_running = stack.pop_all()
    with services_running:
        with stages.run("train"):
            result = workspace.training_result() or _train(services, workspace, base)
        with stages.run("promote"):
            decision = _promote(services, workspace, result["version"])
        with stages.run("generate"):
            _generate(services, workspace, result["version"])
        run_url = _run_url(services, result["run_id"])
    workspace.result_file.unlink(missing_ok=True)
    replaced = decision["from_version"] or "unset"
    summary = {
        "contact sheet": str(workspace.sheet),
        "version": f"{MODEL} version {result['version']}, alias {decision['alias']} (was {replaced})",
        "run": f"{run_url}  (after make serve)",
        "validation loss": f"{result['validation_loss']:.4f}, base model {result['base_validation_loss']:.4f}",
        "training loss": f"{result['ema_loss']:.4f} (moving average)",
        "seconds": ", ".join(f"{name} {value:.0f}" for name, value in stages.seconds.items())
        + f", total {sum(stages.seconds.values()):.0f}",
    }
    for name, value in summary.items():
        console.print(f"[bold]{name:<16}[/] {escape(value)}", highlight=False, soft_wrap=True)


class _Stages:
    """Prints each stage when it starts, and measures it."""

    def __init__(self, console: Console) -> None:
        self._console, self.seconds = console, dict[str, float]()

    @contextmanager
    def run(self, name: str) -> Iterator[None]:
        self._console.print(f"[bold]{name:<10}[/] {STAGES[name]}", highlight=False, soft_wrap=True)
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start


def _generate_images(workspace: Workspace) -> None:
    if workspace.images.exists():
        return
    arguments = [
        "dataset",
        str(workspace.images),
        "--style",
        "sketch",
        "--count",
        str(IMAGES),
        "--seed",
        str(IMAGES_SEED),
    ]
    ProcessManager().run([sys.executable, "-m", "atelier_trainer", *arguments], workspace.environment(), "the image generation")


def _train(services: ProcessManager, workspace: Workspace, base: Path) -> dict[str, Any]:
    flags = {
        "pretrained_model_name_or_path": base,
        "train_data_dir": workspace.images,
        "validation_prompt": PROMPTS[0],
        "cache_dir": workspace.cache / "encoded",
        "output_dir": workspace.root / "adapter",
        "experiments_name": MODEL,
        "tracking_uri": services.url("tracking"),
        "register": MODEL,
        "result_file": workspace.result_file,
        **TRAINING,
    }
    command = [sys.executable, "-m", "atelier_trainer", "train", *(f"--{name}={value}" for name, value in flags.items())]
    services.run(command, workspace.environment(), "the training")
    result = workspace.training_result()
    if result is None or result["version"] is None:
        raise StageFailed("the training registered no version")
    return result


def _promote(services: ProcessManager, workspace: Workspace, version: int) -> dict[str, Any]:
    url = f"{services.url('registry-api')}/models/{MODEL}/versions/{version}/promote"
    body = {"alias": "champion", "reason": "trained by make demo"}
    decision: dict[str, Any] = _send(
        services, lambda: httpx.post(url, json=body, headers=_authorization(workspace, "promoter"), timeout=30)
    ).json()
    return decision


def _generate(services: ProcessManager, workspace: Workspace, version: int) -> None:
    """Generates every prompt with the base model and the champion, once infer serves the version just promoted."""
    _wait_until_served(services, workspace, version)
    url, headers = f"{services.url('infer')}/generate", _authorization(workspace, "reader")
    rows = []
    for number, prompt in enumerate(PROMPTS):
        images = []
        for source in ({"base": True}, {"alias": "champion"}):
            body = {"prompt": prompt, "seed": SEED + number, "steps": STEPS, "guidance_scale": GUIDANCE, **source}
            response = _send(services, partial(httpx.post, url, json=body, headers=headers, timeout=REQUEST_TIMEOUT_S))
            images.append(Image.open(io.BytesIO(response.content)))
        rows.append((prompt, images))
    contact_sheet(rows, ("base", f"tuned: version {version}"), workspace.sheet)


def _wait_until_served(services: ProcessManager, workspace: Workspace, version: int) -> None:
    """Requests small images until the header says that the version generated them."""
    url, headers = f"{services.url('infer')}/generate", _authorization(workspace, "reader")
    body, served = {"prompt": PROMPTS[0], "seed": 0, "steps": 1}, "none"
    deadline = time.monotonic() + REQUEST_TIMEOUT_S
    while time.monotonic() < deadline:
        services.check()
        with suppress(RequestRefused):
            served = _send(services, lambda: httpx.post(url, json=body, headers=headers, timeout=30)).headers[
                "X-Atelier-Version"
            ]
            if served == str(version):
                return
        time.sleep(0.5)
    raise StageFailed(f"infer still uses version {served} {REQUEST_TIMEOUT_S:.0f} s after version {version} was promoted")


def _authorization(workspace: Workspace, role: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {workspace.secret(role)}"}


def _run_url(services: ProcessManager, run_id: str) -> str:
    """Address of the run's page in MLflow."""
    tracking = services.url("tracking")
    run = _send(services, lambda: httpx.get(f"{tracking}/api/2.0/mlflow/runs/get?run_id={run_id}", timeout=30)).json()
    return f"{tracking}/#/experiments/{run['run']['info']['experiment_id']}/runs/{run_id}"


def _send(services: ProcessManager, request: Callable[[], httpx.Response]) -> httpx.Response:
    """The response to a request.

    Raises:
        RequestRefused: the status is 400 or higher, or the service does not answer.
        ServiceStopped: a service ended.
    """
    try:
        response = request()
    except httpx.TransportError as error:
        services.check()
        raise RequestRefused(f"the service does not answer: {error}") from error
    if response.is_error:
        services.check()
        raise RequestRefused(f"{response.request.url.path} answered {response.status_code}: {response.text[:500]}")
    return response
