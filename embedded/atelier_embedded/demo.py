"""The loop, top to bottom: images, services, training, promotion, drawing, contact sheet."""

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
from atelier_embedded.process_manager import Services, running
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
    "images": f"{IMAGES} pencil sketches to learn from",
    "services": "MLflow, registry-api and infer on 127.0.0.1",
    "train": "a LoRA on the tiny base, exported, logged and registered",
    "promote": "the new version becomes champion",
    "draw": "the same prompts by the base and by the champion",
}
PROMPTS = (
    "a red car",
    "a cat",
    "a giraffe",
    "a boat by the sea",
    "a yellow sun above a mountain",
    "a snowman in the snow",
)
SEED, STEPS, GUIDANCE = 11, 25, 2.0  # above 2, colours of the base shine through the sketches
REQUEST_TIMEOUT_S = 120.0


def demo(workspace: Workspace, base: Path, console: Console) -> None:
    """Runs the loop and leaves the contact sheet, MLflow's files and the tokens in the workspace.

    Args:
        workspace: where everything goes. What an interrupted run finished there is not done again.
        base: diffusers folder of the base model.
        console: progress goes here.

    Raises:
        EmbeddedError: see atelier_embedded.errors; all processes are stopped by then.
    """
    clock = _Clock(console)
    workspace.prepare()
    with clock.stage("images"):
        _make_images(workspace)
    with clock.stage("services"), ExitStack() as stack:
        services = stack.enter_context(running(workspace))
        until_the_end = stack.pop_all()
    with until_the_end:
        with clock.stage("train"):
            trained = workspace.trained() or _train(services, workspace, base)
        with clock.stage("promote"):
            decision = _promote(services, workspace, trained["version"])
        with clock.stage("draw"):
            _draw(services, workspace, trained["version"])
        tracking = services.url("tracking")
        experiment = _get(services, "tracking", f"/api/2.0/mlflow/runs/get?run_id={trained['run_id']}")["run"]["info"][
            "experiment_id"
        ]
    workspace.trained_file.unlink(missing_ok=True)
    _summary(console, workspace, trained, decision, f"{tracking}/#/experiments/{experiment}/runs/{trained['run_id']}", clock)


class _Clock:
    """Prints each stage as it begins and keeps its seconds."""

    def __init__(self, console: Console) -> None:
        self._console, self.seconds = console, dict[str, float]()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._console.print(f"[bold]{name:<10}[/] {STAGES[name]}", highlight=False, soft_wrap=True)
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start


def _make_images(workspace: Workspace) -> None:
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
    Services().run([sys.executable, "-m", "atelier_trainer", *arguments], workspace.environment(), None, "making the images")


def _train(services: Services, workspace: Workspace, base: Path) -> dict[str, Any]:
    flags = {
        "pretrained_model_name_or_path": base,
        "train_data_dir": workspace.images,
        "validation_prompt": PROMPTS[0],
        "cache_dir": workspace.cache / "encoded",
        "output_dir": workspace.root / "adapter",
        "experiments_name": MODEL,
        "tracking_uri": services.url("tracking"),
        "register": MODEL,
        "result_file": workspace.trained_file,
        **TRAINING,
    }
    command = [sys.executable, "-m", "atelier_trainer", "train", *(f"--{name}={value}" for name, value in flags.items())]
    services.run(command, workspace.environment(), None, "the training")
    trained = workspace.trained()
    if trained is None or trained["version"] is None:
        raise StageFailed("the training registered no version")
    return trained


def _promote(services: Services, workspace: Workspace, version: int) -> dict[str, Any]:
    url = f"{services.url('registry-api')}/models/{MODEL}/versions/{version}/promote"
    body = {"alias": "champion", "reason": "trained by make demo"}
    answer: dict[str, Any] = _answer(
        services, lambda: httpx.post(url, json=body, headers=_login(workspace, "promoter"), timeout=30)
    ).json()
    return answer


def _draw(services: Services, workspace: Workspace, version: int) -> None:
    """Draws every prompt with the base and with the champion, once the champion is the version just promoted."""
    _wait_until_served(services, workspace, version)
    url, login = f"{services.url('infer')}/generate", _login(workspace, "reader")
    rows = []
    for number, prompt in enumerate(PROMPTS):
        images = []
        for source in ({"base": True}, {"alias": "champion"}):
            body = {"prompt": prompt, "seed": SEED + number, "steps": STEPS, "guidance_scale": GUIDANCE, **source}
            response = _answer(services, partial(httpx.post, url, json=body, headers=login, timeout=REQUEST_TIMEOUT_S))
            images.append(Image.open(io.BytesIO(response.content)))
        rows.append((prompt, images))
    contact_sheet(rows, ("base", f"tuned: version {version}"), workspace.sheet)


def _wait_until_served(services: Services, workspace: Workspace, version: int) -> None:
    """A small image by the champion, asked for until its headers name the version."""
    url, login = f"{services.url('infer')}/generate", _login(workspace, "reader")
    body, served = {"prompt": PROMPTS[0], "seed": 0, "steps": 1}, "nothing"
    deadline = time.monotonic() + REQUEST_TIMEOUT_S
    while time.monotonic() < deadline:
        services.check()
        with suppress(RequestRefused):
            served = _answer(services, lambda: httpx.post(url, json=body, headers=login, timeout=30)).headers[
                "X-Atelier-Version"
            ]
            if served == str(version):
                return
        time.sleep(0.5)
    raise StageFailed(f"infer still draws with {served} {REQUEST_TIMEOUT_S:.0f} s after version {version} was promoted")


def _login(workspace: Workspace, role: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {workspace.secret(role)}"}


def _get(services: Services, name: str, path: str) -> Any:
    return _answer(services, lambda: httpx.get(services.url(name) + path, timeout=30)).json()


def _answer(services: Services, send: Callable[[], httpx.Response]) -> httpx.Response:
    """A response with a status below 400.

    Raises:
        RequestRefused: the status is higher; the message holds the problem's detail.
        ServiceStopped: the service died.
    """
    try:
        response = send()
    except httpx.TransportError as error:
        services.check()
        raise RequestRefused(f"no answer: {error}") from error
    if response.is_error:
        services.check()
        raise RequestRefused(f"{response.request.url.path} answered {response.status_code}: {response.text[:500]}")
    return response


def _summary(
    console: Console, workspace: Workspace, trained: dict[str, Any], decision: dict[str, Any], run: str, clock: _Clock
) -> None:
    for name, value in (
        ("contact sheet", str(workspace.sheet)),
        (
            "version",
            f"{MODEL} version {trained['version']}, alias {decision['alias']} (was {decision['from_version'] or 'unset'})",
        ),
        ("run", f"{run}  (after make serve)"),
        ("validation loss", f"{trained['validation_loss']:.4f}, base {trained['base_validation_loss']:.4f}"),
        ("training loss", f"{trained['ema_loss']:.4f} (exponential mean)"),
        (
            "seconds",
            ", ".join(f"{name} {value:.0f}" for name, value in clock.seconds.items())
            + f", in all {sum(clock.seconds.values()):.0f}",
        ),
    ):
        console.print(f"[bold]{name:<16}[/] {escape(value)}", highlight=False, soft_wrap=True)
