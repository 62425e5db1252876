"""Runs infer in a process of its own with a folder as its registry, for `speed.py service`."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest, BundleManifest, file_sha256
from common import PROMPT, random_manifest, random_weights, resident_mib

SECRET = "benchmark"


class FolderStore:
    """Adapters in `<folder>/1`, `<folder>/2`, …, one bundle; version 1 is the champion."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self._folder, self._bundle = folder, bundle

    def registered_model(self) -> Any:
        from atelier_infer.registry.model_store import RegisteredModel

        return RegisteredModel("1", {names.CHAMPION: 1})

    def versions(self) -> list[Any]:
        from atelier_infer.registry.model_store import AdapterVersion

        return [AdapterVersion(int(path.name), datetime.now(UTC)) for path in sorted(self._folder.iterdir())]

    def validation_image(self, version: int) -> bytes | None:
        return None

    def promoted_digest(self, version: int) -> str | None:
        return AdapterManifest.model_validate_json(self.adapter_manifest(version)).digest()

    def adapter_manifest(self, version: int) -> bytes:
        return (self._folder / str(version) / names.ADAPTER_FILE).read_bytes()

    def fetch_weights(self, version: int, into: Path) -> Path:
        return Path(shutil.copy(self._folder / str(version) / names.WEIGHTS_FILE, into))

    def fetch_preview(self, version: int, into: Path) -> Path | None:
        return None

    def bundles(self, digest: str) -> list[Any]:
        from atelier_infer.registry.model_store import BundleVersion

        return [BundleVersion("base", 1)]

    def fetch_bundle(self, version: Any, into: Path) -> None:
        """Symbolic links, because a full-size bundle has gigabytes."""
        for file in self._bundle.iterdir():
            (into / file.name).symlink_to(file.resolve())


def write_adapter(folder: Path, manifest: BundleManifest, rank: int, seed: int) -> None:
    """Random weights in the trainer's format."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    weights = random_weights(manifest, rank, seed)
    tensors: dict[Any, Any] = {}
    for layer, one in weights.items():
        tensors |= {f"unet.{layer}.lora_A.weight": one.down, f"unet.{layer}.lora_B.weight": one.up}
    save_file(tensors, folder / names.WEIGHTS_FILE)
    adapter = random_manifest(manifest, weights, file_sha256(folder / names.WEIGHTS_FILE))
    (folder / names.ADAPTER_FILE).write_text(adapter.model_dump_json())


@contextlib.contextmanager
def serving(options: argparse.Namespace, *, adapters: int) -> Iterator[tuple[str, int]]:
    """Yields URL and process id once every adapter has generated an image."""
    from atelier_infer.client import Client

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = BundleManifest.model_validate_json((options.bundle / names.BUNDLE_FILE).read_bytes())
        for number in range(1, adapters + 1):
            write_adapter(folder / "versions" / str(number), manifest, options.rank or 4, number)
        (folder / "tokens").write_text(f"benchmark admin {hashlib.sha256(SECRET.encode()).hexdigest()}\n")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [
            sys.executable,
            __file__,
            str(folder),
            str(options.bundle),
            str(port),
            options.provider,
            str(options.threads),
        ]
        process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
        try:
            url = f"http://127.0.0.1:{port}"
            _await(f"{url}/readyz", process)
            with Client(url, SECRET) as client:
                for number in range(1, adapters + 1):
                    client.generate("warm up", version=number, steps=1, width=options.size, height=options.size)
            yield url, process.pid
        finally:
            process.terminate()
            process.wait(60)


def _await(url: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise SystemExit(f"the service ended with status {process.returncode}")


def measure_service(options: argparse.Namespace) -> dict[str, Any]:
    """Alternates one adapter and four mixed for each number of clients, then overloads the service."""
    from atelier_infer.settings import Settings

    found: dict[str, Any] = {"throughput": [], "overload": None}
    with serving(options, adapters=4) as (url, process):
        print(f"{'clients':>7} {'adapters':>8} {'images/min':>12} {'p50 s':>7} {'p95 s':>7}")
        for clients in options.clients:
            for mixed in (1, 4) * options.rounds:
                row = _flood(url, clients, options, mixed) | {"clients": clients, "adapters": mixed}
                found["throughput"].append(row)
        for clients in options.clients:
            for mixed in (1, 4):
                rows = [row for row in found["throughput"] if (row["clients"], row["adapters"]) == (clients, mixed)]
                rate, p50, p95 = (statistics.median(row[key] for row in rows) for key in ("per_minute", "p50_s", "p95_s"))
                print(f"{clients:7} {mixed:8} {rate:12.1f} {p50:7.2f} {p95:7.2f}")
        flood = _flood(url, 3 * max(options.clients), options, 4)
        waiting = Settings.model_fields["queue_limit"].default + 1
        bound = 60 * waiting / flood["per_minute"]
        found |= {"overload": flood | {"bound_s": bound}, "resident_mib": resident_mib(process)}
        print(
            f"overload, {3 * max(options.clients)} clients: {flood['refused']} refused, p95 {flood['p95_s']:.2f} s; "
            f"{waiting} images, the queue limit, take {bound:.2f} s"
        )
        print(f"resident: {found['resident_mib']:.0f} MiB")
    return found


def _flood(url: str, clients: int, options: argparse.Namespace, mixed: int) -> dict[str, Any]:
    """Each client requests its images one after another and counts refusals."""
    from atelier_infer.client import Client, ClientError

    seconds: list[float] = []
    refused: list[float] = []

    def client(number: int) -> None:
        with Client(url, SECRET) as connection:
            for image in range(options.images):
                started = time.monotonic()
                fields = {
                    "version": 1 + (number + image) % mixed,
                    "steps": options.steps,
                    "seed": number,
                    "width": options.size,
                }
                try:
                    connection.generate(PROMPT, height=options.size, **fields)
                    seconds.append(time.monotonic() - started)
                except ClientError as error:
                    if error.status != 429:
                        raise
                    refused.append(error.retry_after_s or 0)

    begun = time.monotonic()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ordered = sorted(seconds)
    return {
        "per_minute": 60 * len(seconds) / (time.monotonic() - begun),
        "p50_s": statistics.median(ordered),
        "p95_s": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "refused": len(refused),
    }


def main() -> None:
    """Infer as `python -m atelier_infer` builds it, except for the registry."""
    import uvicorn
    from atelier_contracts.tokens import TokenFile
    from atelier_infer.app import create_app, make_engine
    from atelier_infer.metrics import Metrics
    from atelier_infer.settings import Settings

    folder, bundle, port, provider, threads = sys.argv[1:]
    settings = Settings(
        tracking_uri="http://127.0.0.1:1",
        model="benchmark",
        token_file=Path(folder) / "tokens",
        cache_dir=Path(folder) / "cache",
        provider=provider,
        intra_op_threads=int(threads),
    )
    metrics = Metrics()
    engine = make_engine(settings, metrics)
    store = FolderStore(Path(folder) / "versions", Path(bundle))
    app = create_app(engine=engine, metrics=metrics, store=store, tokens=TokenFile(settings.token_file), settings=settings)
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_config=None, access_log=False)


if __name__ == "__main__":
    main()
