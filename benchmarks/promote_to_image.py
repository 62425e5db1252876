"""How soon after a promotion does the new version draw, and does any request suffer from the switch?

    promote 1, 2, 1, 2, … ──> registry-api ──event──> infer ──> first image that names the new version

MLflow, registry-api and infer run as processes on 127.0.0.1, as in `make demo`, or with `--twin` in containers, as after
`make up`: a twin with a name, ports and volumes of its own, which is removed afterwards. Two adapters with different weights
are made for the tiny base that lies in this repository. While the champion goes back and forth a client draws without a pause:
every answer must be an image, and each version must always give the same bytes, so that a mixed or failed answer is found.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from atelier_embedded.process_manager import running_services
from atelier_embedded.workspace import MODEL, Workspace
from classifier.report import machine
from thousand_versions import free_port

ROOT = Path(__file__).parents[1]
SEED = 7


class Loop:
    """A client that draws without a pause, and notes what it got."""

    def __init__(self, url: str, login: dict[str, str], body: dict[str, Any]) -> None:
        self._url, self._login, self._body = url, login, body
        self.versions: dict[str, set[str]] = {}
        self.failed: list[str] = []
        self.seconds: list[float] = []
        self.order: list[str] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Draws while the block runs."""
        self._thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            self._thread.join()

    def _run(self) -> None:
        with httpx.Client(headers=self._login, timeout=60) as client:
            while not self._stopping.is_set():
                begun = time.perf_counter()
                answer = client.post(self._url, json=self._body)
                self.seconds.append(time.perf_counter() - begun)
                if answer.status_code != 200:
                    self.failed.append(f"{answer.status_code}: {answer.text[:200]}")
                    continue
                version = answer.headers["X-Atelier-Version"]
                self.order.append(version)
                self.versions.setdefault(version, set()).add(hashlib.sha256(answer.content).hexdigest())


@dataclass(frozen=True)
class WebhookOffset:
    """Where the services are, whose tokens are let in, and the numbers of two versions."""

    registry_url: str
    infer_url: str
    promoter: str
    reader: str
    versions: list[int]


def train_flags(seed: int, more: dict[str, Any]) -> list[str]:
    """The trainer's command line for a version of a few steps."""
    flags = {
        "experiments_name": MODEL,
        "register": MODEL,
        "rank": 16,
        "learning_rate": 2e-3,
        "train_batch_size": 4,
        "max_train_steps": 4,
        "validation_samples": 4,
        "seed": seed,
    }
    return ["train", *(f"--{name}={value}" for name, value in (flags | more).items())]


@contextmanager
def processes(folder: Path) -> Iterator[WebhookOffset]:
    """The services as processes of this machine."""
    workspace = Workspace(folder / "workspace")
    workspace.prepare()
    trainer = [sys.executable, "-m", "atelier_trainer"]
    subprocess.run([*trainer, "dataset", str(workspace.images), "--style", "sketch", "--count", "16"], check=True)
    with running_services(workspace) as services:
        versions = []
        for seed in (1, 2):
            more = {
                "pretrained_model_name_or_path": ROOT / "models/tiny-sd",
                "train_data_dir": workspace.images,
                "cache_dir": workspace.cache / "encoded",
                "output_dir": workspace.root / f"adapter-{seed}",
                "tracking_uri": services.url("tracking"),
                "result_file": workspace.result_file,
            }
            services.run([*trainer, *train_flags(seed, more)], workspace.environment(), "the training")
            versions.append(int(json.loads(workspace.result_file.read_text())["version"]))
        secrets = (workspace.secret(role) for role in ("promoter", "reader"))
        yield WebhookOffset(services.url("registry-api"), services.url("infer"), *secrets, versions)


@contextmanager
def twin() -> Iterator[WebhookOffset]:
    """The services in containers, from the images that `make up` builds."""
    ports = {f"{name}_PORT": str(free_port()) for name in ("TRACKING", "REGISTRY_API", "INFER", "S3")}
    environment = os.environ | ports | {"TWIN_MODEL": MODEL, "FIRST_VERSION": "off"}

    def compose(*arguments: str) -> str:
        command = ["docker", "compose", "--ansi", "never", "--project-name", "atelier-measured", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout

    run = ("run", "--rm", "--no-deps", "-T")
    try:
        compose("--profile", "trainer", "build", "--quiet")
        compose("up", "--detach", "--wait", "tracking", "registry-api", "infer")
        tokens = json.loads(compose(*run, "--entrypoint", "cat", "secrets", "/secrets/secrets.json"))["tokens"]
        compose(*run, "trainer", "dataset", "measured/images", "--style=sketch", "--count=16")
        versions = []
        for seed in (1, 2):
            more = {
                "pretrained_model_name_or_path": "/home/atelier/models/tiny-sd",
                "train_data_dir": "measured/images",
                "output_dir": f"measured/adapter-{seed}",
                "result_file": "measured/result.json",
            }
            compose(*run, "trainer", *train_flags(seed, more))
            told = compose(*run, "--entrypoint", "cat", "trainer", "measured/result.json")
            versions.append(int(json.loads(told)["version"]))
        urls = (f"http://127.0.0.1:{ports[name]}" for name in ("REGISTRY_API_PORT", "INFER_PORT"))
        yield WebhookOffset(*urls, tokens["promoter"], tokens["reader"], versions)
    finally:
        compose("--profile", "trainer", "down", "--volumes", "--timeout", "20")


def measure(place: WebhookOffset, count: int, size: int, steps: int) -> dict[str, Any]:
    """Promotes the versions in turn, and times the first image of each, first alone and then beside the loop."""
    promoter, reader = ({"Authorization": f"Bearer {secret}"} for secret in (place.promoter, place.reader))
    generate, versions = f"{place.infer_url}/generate", place.versions
    body = {"prompt": "a cat", "seed": SEED, "width": size, "height": size}
    first_image, first_step, deciding = [], [], []
    with httpx.Client(timeout=60) as client:

        def promote(version: int) -> float:
            url = f"{place.registry_url}/models/{MODEL}/versions/{version}/promote"
            begun = time.perf_counter()
            client.post(url, json={"reason": "measured"}, headers=promoter).raise_for_status()
            deciding.append(time.perf_counter() - begun)
            return begun

        def drawn(wanted: int, **more: Any) -> None:
            while True:
                answer = client.post(generate, json=body | more, headers=reader)
                if answer.status_code == 200 and answer.headers["X-Atelier-Version"] == str(wanted):
                    return

        for version in versions:  # both are in infer's memory or cache from now on, as any version is after its first day
            promote(version)
            drawn(version, steps=1)
        deciding.clear()
        for number in range(count):
            version = versions[number % len(versions)]
            begun = promote(version)
            drawn(version, steps=steps)
            first_image.append(time.perf_counter() - begun)
        for number in range(count):
            version = versions[number % len(versions)]
            begun = promote(version)
            drawn(version, steps=1)
            first_step.append(time.perf_counter() - begun)
        loop = Loop(generate, reader, body | {"steps": steps})
        with loop.running():
            for number in range(count):
                version = versions[number % len(versions)]
                promote(version)
                drawn(version, steps=1)
                time.sleep(0.2)
    return {
        "promotions": 3 * count,
        "size_px": size,
        "steps": steps,
        "first_image_s": summary(first_image),
        "first_image_of_one_step_s": summary(first_step),
        "decision_s": summary(deciding),
        "loop": {
            "images": len(loop.order),
            "failed": loop.failed,
            "switches_seen": sum(one != other for one, other in zip(loop.order, loop.order[1:], strict=False)),
            "different_images_by_version": {version: len(found) for version, found in sorted(loop.versions.items())},
            "image_s": summary(loop.seconds),
        },
    }


def summary(values: list[float]) -> dict[str, float]:
    """Median, 95th percentile and the worst, in seconds."""
    ordered = sorted(values)
    return {
        "p50": round(statistics.median(ordered), 3),
        "p95": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))], 3),
        "max": round(ordered[-1], 3),
    }


def main() -> int:
    """Measures, prints JSON; 1 where an answer failed or was mixed, or p95 is above the limit given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--twin", action="store_true", help="in containers (needs Docker)")
    parser.add_argument("--count", type=int, default=20, help="promotions in each of three rounds (%(default)s)")
    parser.add_argument("--size", type=int, default=128, help="px (%(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="steps of an image (%(default)s)")
    parser.add_argument("--max-p95-s", type=float, help="status 1 where the first image's p95 is above this")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the services end, too
    with tempfile.TemporaryDirectory() as folder, twin() if options.twin else processes(Path(folder)) as place:
        found = measure(place, options.count, options.size, options.steps)
    print(json.dumps(found, indent=2))
    if options.json:
        told = {"machine": machine(), "load": os.getloadavg(), "command": shlex.join(sys.argv)}
        options.json.write_text(json.dumps(found | told, indent=2) + "\n")
    mixed = any(count != 1 for count in found["loop"]["different_images_by_version"].values())
    slow = options.max_p95_s is not None and found["first_image_s"]["p95"] > options.max_p95_s
    return int(bool(found["loop"]["failed"]) or mixed or slow)


if __name__ == "__main__":
    sys.exit(main())
