"""Memory and disk use of large transfers."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from .containers import PASSWORDS, BackingServices, Server, apr1, tracking

log = logging.getLogger(__name__)
MIB = 1 << 20
LARGE_MIB = int(os.environ.get("TRACKING_LARGE_MIB", "2560"))
MEMORY_LIMIT_MIB = 700
TRANSFER_S = 1800
"""The response is sent when S3 has the whole file; the machine may be busy."""


class GeneratedFile:
    """A file that is generated in blocks of 1 MiB, all different, and hashed while it is read."""

    def __init__(self, mib: int) -> None:
        self.size = mib * MIB
        self.hash = hashlib.blake2b()
        self._blocks_left = self._blocks(mib)

    def _blocks(self, mib: int) -> Iterator[bytes]:
        filler = hashlib.shake_128(b"filling").digest(MIB - 8)
        for number in range(mib):
            block = number.to_bytes(8, "big") + filler
            self.hash.update(block)
            yield block

    def read(self, _size: int = -1) -> bytes:
        return next(self._blocks_left, b"")


def upload(server: Server, path: str, mib: int) -> str:
    file = GeneratedFile(mib)
    answer = server.request("PUT", path, "ada", file, timeout_s=TRANSFER_S, Content_Length=str(file.size))
    assert answer.status == 200, answer.body
    return file.hash.hexdigest()


def download(server: Server, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TRANSFER_S)
    connection.request("GET", path, headers=server.headers("ada"))
    answer = connection.getresponse()
    assert answer.status == 200
    digest = hashlib.blake2b()
    while block := answer.read(MIB):
        digest.update(block)
    connection.close()
    return digest.hexdigest()


class Sampler(threading.Thread):
    """Measures the highest memory and spool use of a server in a block."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.server, self.memory_mib, self.spool_mib = server, 0.0, 0.0
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(1):
            self.memory_mib = max(self.memory_mib, self.server.memory_mib())
            self.spool_mib = max(self.spool_mib, self.server.spool_mib())

    def __enter__(self) -> Sampler:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()


def test_memory_does_not_grow_with_file_size(minimal: Server) -> None:
    run = minimal.call("ada", "POST", "runs/create", {"experiment_id": "0"})["run"]["info"]["run_id"]
    path = f"/api/2.0/mlflow-artifacts/artifacts/0/{run}/artifacts/large.bin"
    with Sampler(minimal) as sampler:
        sent = upload(minimal, path, LARGE_MIB)
        assert download(minimal, path) == sent
    log.info(
        f"{LARGE_MIB} MiB transferred: at most {sampler.memory_mib:.0f} MiB of memory, {sampler.spool_mib:.0f} MiB of spool"
    )
    assert sampler.memory_mib < MEMORY_LIMIT_MIB
    assert sampler.spool_mib <= LARGE_MIB + 16
    assert minimal.spool_mib() < 16
    assert minimal.request("DELETE", path, "ada").status == 200


def test_ten_thousand_metrics_and_a_gigabyte_fit_in_the_memory_limit(minimal: Server) -> None:
    run = minimal.call("ada", "POST", "runs/create", {"experiment_id": "0"})["run"]["info"]["run_id"]
    with Sampler(minimal) as sampler:
        for start in range(0, 10_000, 500):
            metrics = [{"key": "loss", "value": 1 / (1 + n), "step": n, "timestamp": n} for n in range(start, start + 500)]
            minimal.call("ada", "POST", "runs/log-batch", {"run_id": run, "metrics": metrics})
        path = f"/api/2.0/mlflow-artifacts/artifacts/0/{run}/artifacts/gigabyte.bin"
        upload(minimal, path, 1024)
    history = minimal.call("ada", "GET", f"metrics/get-history?run_id={run}&metric_key=loss")["metrics"]
    assert len(history) == 10_000
    after = minimal.memory_mib()
    log.info(f"10,000 metrics and 1 GB: at most {sampler.memory_mib:.0f} MiB, {after:.0f} MiB after it")
    assert max(sampler.memory_mib, after) < MEMORY_LIMIT_MIB
    assert minimal.request("DELETE", path, "ada").status == 200


def test_an_upload_larger_than_the_disk_is_refused(backing_services: BackingServices, tmp_path: Path) -> None:
    env = backing_services.settings(HTPASSWD=f"ada:{apr1(PASSWORDS['ada'])}")
    options = ["--network", backing_services.network, "--tmpfs", "/var/spool/tracking:size=160m,uid=10001,mode=0700"]
    with tracking(env, tmp_path, *options, logins=PASSWORDS) as server:
        base = f"/api/2.0/mlflow-artifacts/artifacts/0/{'c' * 32}/artifacts"
        file = GeneratedFile(200)
        answer = server.request("PUT", f"{base}/large.bin", "ada", file, Content_Length=str(file.size))
        assert (answer.status, answer.headers.get("Retry-After")) == (507, "60"), answer.body
        assert "disk" in answer.json["detail"]
        assert server.put("ada", f"0/{'c' * 32}/artifacts/small.bin", b"x" * 50 * MIB) == 200
        assert server.spool_mib() < 16
