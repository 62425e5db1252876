"""Large files, memory and temporary disk."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from .containers import PASSWORDS, Neighbours, Server, apr1, tracking

log = logging.getLogger(__name__)
MIB = 1 << 20
LARGE_MIB = int(os.environ.get("TRACKING_LARGE_MIB", "2560"))
MEMORY_LIMIT_MIB = 700
TRANSFER_S = 1800
"""The answer comes when S3 has the whole file; the machine may be doing much else."""


class Numbers:
    """A file of so many MiB that is never in memory as a whole; no two blocks are alike."""

    def __init__(self, mib: int) -> None:
        self.size = mib * MIB
        self.hash = hashlib.blake2b()
        self._left = self._blocks(mib)

    def _blocks(self, mib: int) -> Iterator[bytes]:
        filling = hashlib.shake_128(b"filling").digest(MIB - 8)
        for number in range(mib):
            block = number.to_bytes(8, "big") + filling
            self.hash.update(block)
            yield block

    def read(self, _size: int = -1) -> bytes:
        return next(self._left, b"")


def up(server: Server, path: str, mib: int) -> str:
    numbers = Numbers(mib)
    answer = server.ask("PUT", path, "ada", numbers, timeout_s=TRANSFER_S, Content_Length=str(numbers.size))
    assert answer.status == 200, answer.body
    return numbers.hash.hexdigest()


def down(server: Server, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TRANSFER_S)
    connection.request("GET", path, headers=server.headers("ada"))
    answer = connection.getresponse()
    assert answer.status == 200
    found = hashlib.blake2b()
    while block := answer.read(MIB):
        found.update(block)
    connection.close()
    return found.hexdigest()


class Sampler(threading.Thread):
    """Highest memory and spool of a server while something runs."""

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


def test_large_files_leave_memory_flat(walked: Server):
    run = walked.call("ada", "POST", "runs/create", {"experiment_id": "0"})["run"]["info"]["run_id"]
    path = f"/api/2.0/mlflow-artifacts/artifacts/0/{run}/artifacts/large.bin"
    with Sampler(walked) as seen:
        sent = up(walked, path, LARGE_MIB)
        assert down(walked, path) == sent
    log.info(f"{LARGE_MIB} MiB up and down: memory at most {seen.memory_mib:.0f} MiB, spool at most {seen.spool_mib:.0f} MiB")
    assert seen.memory_mib < MEMORY_LIMIT_MIB
    assert seen.spool_mib <= LARGE_MIB + 16
    assert walked.spool_mib() < 16
    assert walked.ask("DELETE", path, "ada").status == 200


def test_ten_thousand_metrics_and_a_gigabyte_fit_a_small_task(walked: Server):
    run = walked.call("ada", "POST", "runs/create", {"experiment_id": "0"})["run"]["info"]["run_id"]
    with Sampler(walked) as seen:
        for start in range(0, 10_000, 500):
            metrics = [{"key": "loss", "value": 1 / (1 + n), "step": n, "timestamp": n} for n in range(start, start + 500)]
            walked.call("ada", "POST", "runs/log-batch", {"run_id": run, "metrics": metrics})
        path = f"/api/2.0/mlflow-artifacts/artifacts/0/{run}/artifacts/gigabyte.bin"
        up(walked, path, 1024)
    history = walked.call("ada", "GET", f"metrics/get-history?run_id={run}&metric_key=loss")["metrics"]
    assert len(history) == 10_000
    after = walked.memory_mib()
    log.info(f"10,000 metrics and 1 GB: at most {seen.memory_mib:.0f} MiB, {after:.0f} MiB after it")
    assert max(seen.memory_mib, after) < MEMORY_LIMIT_MIB
    assert walked.ask("DELETE", path, "ada").status == 200


def test_a_full_disk_refuses_and_recovers(around: Neighbours, tmp_path: Path):
    env = around.settings(HTPASSWD=f"ada:{apr1(PASSWORDS['ada'])}")
    options = ["--network", around.network, "--tmpfs", "/var/spool/tracking:size=160m,uid=10001,mode=0700"]
    with tracking(env, tmp_path, *options, logins=PASSWORDS) as server:
        base = f"/api/2.0/mlflow-artifacts/artifacts/0/{'c' * 32}/artifacts"
        numbers = Numbers(200)
        answer = server.ask("PUT", f"{base}/large.bin", "ada", numbers, Content_Length=str(numbers.size))
        assert (answer.status, answer.headers.get("Retry-After")) == (507, "60"), answer.body
        assert "disk" in answer.json["detail"]
        assert server.put("ada", f"0/{'c' * 32}/artifacts/small.bin", b"x" * 50 * MIB) == 200
        assert server.spool_mib() < 16
