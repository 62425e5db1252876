"""Measures the time from a promotion to the first image by the new version, and whether requests suffer from the switch.

    promote 1, 2, 1, 2, … ──> registry-api ──event──> infer ──> first image by the new version

MLflow, registry-api and infer run as processes on 127.0.0.1, as in `make demo`, or with `--twin` in containers, as after
`make up`: a separate twin, which is removed afterwards. Two adapters with different weights are trained for the tiny base model
of this repository. While the champion changes back and forth, a client sends requests without a pause: every response must be
an image, and each version must always give the same bytes, so that a mixed or failed response is noticed.
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


class LoadClient:
    """Requests images without a pause, and records the responses."""

    def __init__(self, url: str, headers: dict[str, str], body: dict[str, Any]) -> None:
        self._url, self._headers, self._body = url, headers, body
        self.versions: dict[str, set[str]] = {}
        self.failed: list[str] = []
        self.seconds: list[float] = []
        self.order: list[str] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Sends requests while the block runs."""
        self._thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            self._thread.join()

    def _run(self) -> None:
        with httpx.Client(headers=self._headers, timeout=60) as client:
            while not self._stopping.is_set():
                started = time.perf_counter()
                response = client.post(self._url, json=self._body)
                self.seconds.append(time.perf_counter() - started)
                if response.status_code != 200:
                    self.failed.append(f"{response.status_code}: {response.text[:200]}")
                    continue
                version = response.headers["X-Atelier-Version"]
                self.order.append(version)
                self.versions.setdefault(version, set()).add(hashlib.sha256(response.content).hexdigest())


@dataclass(frozen=True)
class Services:
    """Addresses, tokens, and the numbers of two versions."""

    registry_url: str
    infer_url: str
    promoter_token: str
    reader_token: str
    versions: list[int]


def train_flags(seed: int, flags: dict[str, Any]) -> list[str]:
    """Arguments of a training of a few steps."""
    defaults = {
        "experiments_name": MODEL,
        "register": MODEL,
        "rank": 16,
        "learning_rate": 2e-3,
        "train_batch_size": 4,
        "max_train_steps": 4,
        "validation_samples": 4,
        "seed": seed,
    }
    return ["train", *(f"--{name}={value}" for name, value in (defaults | flags).items())]


@contextmanager
def processes(folder: Path) -> Iterator[Services]:
    """The services as processes of this machine."""
    workspace = Workspace(folder / "workspace")
    workspace.prepare()
    trainer = [sys.executable, "-m", "atelier_trainer"]
    subprocess.run([*trainer, "dataset", str(workspace.images), "--style", "sketch", "--count", "16"], check=True)
    with running_services(workspace) as services:
        versions = []
        for seed in (1, 2):
            flags = {
                "pretrained_model_name_or_path": ROOT / "models/tiny-sd",
                "train_data_dir": workspace.images,
                "cache_dir": workspace.cache / "encoded",
                "output_dir": workspace.root / f"adapter-{seed}",
                "tracking_uri": services.url("tracking"),
                "result_file": workspace.result_file,
            }
            services.run([*trainer, *train_flags(seed, flags)], workspace.environment(), "the training")
            versions.append(int(json.loads(workspace.result_file.read_text())["version"]))
        promoter, reader = (workspace.secret(role) for role in ("promoter", "reader"))
        yield Services(services.url("registry-api"), services.url("infer"), promoter, reader, versions)


@contextmanager
def twin() -> Iterator[Services]:
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
            flags = {
                "pretrained_model_name_or_path": "/home/atelier/models/tiny-sd",
                "train_data_dir": "measured/images",
                "output_dir": f"measured/adapter-{seed}",
                "result_file": "measured/result.json",
            }
            compose(*run, "trainer", *train_flags(seed, flags))
            result = compose(*run, "--entrypoint", "cat", "trainer", "measured/result.json")
            versions.append(int(json.loads(result)["version"]))
        registry_api, infer = (f"http://127.0.0.1:{ports[name]}" for name in ("REGISTRY_API_PORT", "INFER_PORT"))
        yield Services(registry_api, infer, tokens["promoter"], tokens["reader"], versions)
    finally:
        compose("--profile", "trainer", "down", "--volumes", "--timeout", "20")


def measure(services: Services, count: int, size: int, steps: int) -> dict[str, Any]:
    """Promotes the versions in turn, and times the first image of each: first alone, then under load."""
    promoter, reader = ({"Authorization": f"Bearer {secret}"} for secret in (services.promoter_token, services.reader_token))
    generate, versions = f"{services.infer_url}/generate", services.versions
    body = {"prompt": "a cat", "seed": SEED, "width": size, "height": size}
    first_image, first_step, decisions = [], [], []
    with httpx.Client(timeout=60) as client:

        def promote(version: int) -> float:
            url = f"{services.registry_url}/models/{MODEL}/versions/{version}/promote"
            started = time.perf_counter()
            client.post(url, json={"reason": "measured"}, headers=promoter).raise_for_status()
            decisions.append(time.perf_counter() - started)
            return started

        def wait_for_image(version: int, **fields: Any) -> None:
            while True:
                response = client.post(generate, json=body | fields, headers=reader)
                if response.status_code == 200 and response.headers["X-Atelier-Version"] == str(version):
                    return

        for version in versions:  # from now on both are in infer's memory or cache, as any version is after its first use
            promote(version)
            wait_for_image(version, steps=1)
        decisions.clear()
        for number in range(count):
            version = versions[number % len(versions)]
            started = promote(version)
            wait_for_image(version, steps=steps)
            first_image.append(time.perf_counter() - started)
        for number in range(count):
            version = versions[number % len(versions)]
            started = promote(version)
            wait_for_image(version, steps=1)
            first_step.append(time.perf_counter() - started)
        client_load = LoadClient(generate, reader, body | {"steps": steps})
        with client_load.running():
            for number in range(count):
                version = versions[number % len(versions)]
                promote(version)
                wait_for_image(version, steps=1)
                time.sleep(0.2)
    return {
        "promotions": 3 * count,
        "size_px": size,
        "steps": steps,
        "first_image_s": summary(first_image),
        "first_image_of_one_step_s": summary(first_step),
        "decision_s": summary(decisions),
        "load": {
            "images": len(client_load.order),
            "failed": client_load.failed,
            "switches_seen": sum(one != other for one, other in zip(client_load.order, client_load.order[1:], strict=False)),
            "different_images_by_version": {version: len(hashes) for version, hashes in sorted(client_load.versions.items())},
            "image_s": summary(client_load.seconds),
        },
    }


def summary(values: list[float]) -> dict[str, float]:
    """Median, 95th percentile and maximum, in seconds."""
    ordered = sorted(values)
    return {
        "p50": round(statistics.median(ordered), 3),
        "p95": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))], 3),
        "max": round(ordered[-1], 3),
    }


def main() -> int:
    """Prints JSON; returns 1 where a response failed or was mixed, or p95 exceeds the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--twin", action="store_true", help="run in containers (needs Docker)")
    parser.add_argument("--count", type=int, default=20, help="promotions in each of three rounds (%(default)s)")
    parser.add_argument("--size", type=int, default=128, help="px (%(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="steps of an image (%(default)s)")
    parser.add_argument("--max-p95-s", type=float, help="return 1 where the p95 of the first image exceeds this")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the services end too
    with tempfile.TemporaryDirectory() as folder, twin() if options.twin else processes(Path(folder)) as services:
        figures = measure(services, options.count, options.size, options.steps)
    print(json.dumps(figures, indent=2))
    if options.json:
        context = {"machine": machine(), "load": os.getloadavg(), "command": shlex.join(sys.argv)}
        options.json.write_text(json.dumps(figures | context, indent=2) + "\n")
    mixed = any(count != 1 for count in figures["load"]["different_images_by_version"].values())
    slow = options.max_p95_s is not None and figures["first_image_s"]["p95"] > options.max_p95_s
    return int(bool(figures["load"]["failed"]) or mixed or slow)


if __name__ == "__main__":
    sys.exit(main())
