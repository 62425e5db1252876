"""The inference service in a process of its own, over a registry that is a folder: for `infer.py`."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest, BundleManifest, file_sha256


class FolderStore:
    """Adapters in `<folder>/1`, `<folder>/2`, …, one bundle; version 1 is the champion."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self._folder, self._bundle = folder, bundle

    def look(self):
        """The champion, and nothing else."""
        from atelier_infer.store import View

        return View("1", {names.CHAMPION: 1})

    def versions(self):
        """Every folder."""
        from atelier_infer.store import Entry

        return [Entry(int(path.name), datetime.now(UTC)) for path in sorted(self._folder.iterdir())]

    def validation_picture(self, version: int) -> bytes | None:
        """None."""
        return None

    def adapter_manifest(self, version: int) -> bytes:
        """As it lies there."""
        return (self._folder / str(version) / names.ADAPTER_FILE).read_bytes()

    def fetch_adapter(self, version: int, into: Path) -> None:
        """A copy."""
        shutil.copytree(self._folder / str(version), into / names.ADAPTER_FOLDER)

    def fetch_bundle(self, digest: str, into: Path) -> None:
        """Symbolic links: a full-size bundle has gigabytes."""
        (into / "bundle").mkdir()
        for file in self._bundle.iterdir():
            (into / "bundle" / file.name).symlink_to(file.resolve())


def write_adapter(folder: Path, manifest: BundleManifest, rank: int, seed: int) -> None:
    """Small random numbers, as the trainer saves an adapter."""
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    draw, tensors = np.random.default_rng(seed), {}
    for layer, (inner, outer) in manifest.lora_targets.items():
        tensors[f"unet.{layer}.lora_A.weight"] = draw.normal(scale=0.01, size=(rank, inner)).astype(np.float32)
        tensors[f"unet.{layer}.lora_B.weight"] = draw.normal(scale=0.01, size=(outer, rank)).astype(np.float32)
    save_file(tensors, folder / names.WEIGHTS_FILE)
    told = AdapterManifest(
        bundle_digest=manifest.digest(),
        weights_sha256=file_sha256(folder / names.WEIGHTS_FILE),
        rank=rank,
        alpha=rank,
        targets=tuple(manifest.lora_targets),
        run_id="benchmark",
        dataset_digest="0" * 64,
        git_revision=None,
    )
    (folder / names.ADAPTER_FILE).write_text(told.model_dump_json())


@contextlib.contextmanager
def serving(options: argparse.Namespace, secret: str, *, adapters: int) -> Iterator[str]:
    """Yields its address once every adapter was drawn with."""
    from atelier_infer.client import Client

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = BundleManifest.model_validate_json((options.bundle / names.BUNDLE_FILE).read_bytes())
        for number in range(1, adapters + 1):
            write_adapter(folder / "versions" / str(number), manifest, options.rank or 4, number)
        (folder / "tokens").write_text(f"benchmark admin {hashlib.sha256(secret.encode()).hexdigest()}\n")
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
            with Client(url, secret) as client:
                for number in range(1, adapters + 1):
                    client.generate("warm up", version=number, steps=1, width=options.size, height=options.size)
            yield url
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


def main() -> None:
    """The service, as `python -m atelier_infer` builds it but for the registry."""
    import uvicorn
    from atelier_contracts.access import TokenFile
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
