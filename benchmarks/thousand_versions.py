"""Measures how long registry-api takes to answer reads of a model with a thousand versions.

A real MLflow server on SQLite is filled with versions that have runs, parameters and metrics. Then each endpoint is read over
HTTP: repeatedly, as an open page does, and with `Cache-Control: no-cache`, where each read asks MLflow.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
from classifier.report import machine

MODEL = "many"
TOKEN = "measured"
READS = {
    "a model": f"/models/{MODEL}",
    "20 versions": f"/models/{MODEL}/versions?limit=20",
    "20 versions with their runs": f"/models/{MODEL}/versions?limit=20&runs=true",
    "100 versions": f"/models/{MODEL}/versions?limit=100",
    "one version": f"/models/{MODEL}/versions/{{half}}",
    "an alias": f"/models/{MODEL}/aliases/champion",
    "the history": f"/models/{MODEL}/history?limit=50",
}
MODES: dict[str, dict[str, str]] = {"cached": {}, "not cached": {"Cache-Control": "no-cache"}}


def fill(uri: str, count: int) -> None:
    """Registers versions as the trainer does, without files."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    client.create_registered_model(MODEL)
    experiment = client.create_experiment(MODEL)
    for number in range(count):
        run = client.create_run(experiment, run_name=f"run {number}").info.run_id
        client.log_param(run, "rank", "16")
        client.log_metric(run, "validation_loss", 1 / (number + 1))
        client.create_model_version(MODEL, f"runs:/{run}/model", run, tags={"atelier.kind": "bundle"}, await_creation_for=0)
    client.set_registered_model_alias(MODEL, "champion", str(count // 2))


def start(command: list[str], url: str, environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Starts a server, and waits until it answers."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=output, stderr=output)
    for _ in range(600):
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return process
        except httpx.TransportError:
            time.sleep(0.2)
    process.kill()
    raise SystemExit(f"{url} did not answer; {log.read_text()[-2000:]}")


def free_port() -> int:
    """A free TCP port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_ms(processes: Sequence[subprocess.Popen[bytes]]) -> float:
    """CPU time of servers and their children so far; unlike elapsed time it does not depend on other load."""
    used = 0.0
    for process in processes:
        root = psutil.Process(process.pid)
        for child in (root, *root.children(recursive=True)):
            times = child.cpu_times()
            used += (times.user + times.system) * 1000
    return used


def measure(url: str, half: int, repeats: int, servers: Sequence[subprocess.Popen[bytes]]) -> dict[str, Any]:
    """Milliseconds of every read: elapsed, and CPU time of MLflow and registry-api together."""
    figures: dict[str, Any] = {}
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as client:
        for name, path in READS.items():
            for mode, headers in MODES.items():
                times, used = [], cpu_ms(servers)
                for _ in range(repeats):
                    begun = time.perf_counter()
                    client.get(path.format(half=half), headers=headers).raise_for_status()
                    times.append((time.perf_counter() - begun) * 1000)
                times.sort()
                figures.setdefault(name, {})[mode] = {
                    "p50_ms": round(statistics.median(times), 1),
                    "p95_ms": round(times[int(len(times) * 0.95)], 1),
                    "cpu_ms": round((cpu_ms(servers) - used) / repeats, 1),
                }
    return figures


def main() -> int:
    """Prints JSON; returns 1 where a median exceeds the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, default=1000, help="(%(default)s)")
    parser.add_argument("--repeats", type=int, default=60, help="(%(default)s)")
    parser.add_argument("--max-p50-ms", type=float, help="return 1 where a median exceeds this")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end too
    with tempfile.TemporaryDirectory() as name:
        folder, running = Path(name), []
        tracking, service = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        (folder / "tokens").write_text(f"reader reader {hashlib.sha256(TOKEN.encode()).hexdigest()}\n")
        try:
            command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", tracking.rpartition(":")[2]]
            command += [
                "--backend-store-uri",
                f"sqlite:///{folder}/mlflow.db",
                "--artifacts-destination",
                f"{folder}/artifacts",
            ]
            environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
            running.append(start(command, f"{tracking}/health", environment, folder / "mlflow.log"))
            fill(tracking, options.versions)
            settings = {
                "ATELIER_REGISTRY_PORT": service.rpartition(":")[2],
                "ATELIER_REGISTRY_TRACKING_URI": tracking,
                "ATELIER_REGISTRY_DATABASE_URL": f"sqlite:///{folder}/decisions.db",
                "ATELIER_REGISTRY_TOKEN_FILE": str(folder / "tokens"),
            }
            running.append(
                start([sys.executable, "-m", "atelier_registry"], f"{service}/readyz", settings, folder / "service.log")
            )
            time.sleep(6)  # until after the first check for aliases changed outside registry-api
            reads = measure(service, options.versions // 2, options.repeats, running)
            direct = measure_directly(tracking, options.repeats)
        finally:
            for process in reversed(running):
                process.terminate()
                process.wait(30)
    figures = {"versions": options.versions, "reads": reads, "MLflow itself": direct}
    print(json.dumps(figures, indent=2))
    if options.json:
        context = {"machine": machine(), "load": os.getloadavg(), "command": shlex.join(sys.argv)}
        options.json.write_text(json.dumps(figures | context, indent=2) + "\n")
    return int(
        options.max_p50_ms is not None
        and any(mode["p50_ms"] > options.max_p50_ms for read in reads.values() for mode in read.values())
    )


def measure_directly(uri: str, repeats: int) -> dict[str, float]:
    """Milliseconds of MLflow alone for the two most frequent requests to it."""
    requests = {
        "search for a model": f"/api/2.0/mlflow/registered-models/search?filter=name%3D'{MODEL}'&max_results=1",
        "search 20 versions": f"/api/2.0/mlflow/model-versions/search?filter=name%3D'{MODEL}'&max_results=20",
    }
    medians = {}
    with httpx.Client(base_url=uri, timeout=60) as client:
        for name, path in requests.items():
            times = []
            for _ in range(repeats):
                begun = time.perf_counter()
                client.get(path).raise_for_status()
                times.append((time.perf_counter() - begun) * 1000)
            medians[f"{name}, p50_ms"] = round(statistics.median(times), 1)
    return medians


if __name__ == "__main__":
    sys.exit(main())
