"""Whatever ends a demo early: one clear message, no traceback, and no process left behind."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import Signals
from typing import Any

import psutil
import pytest
from atelier_trainer.synthetic.scenes.dataset import write_imagefolder

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 240


class DemoProcess:
    """`python -m atelier_embedded demo` in a folder of its own, with its output in a file."""

    def __init__(
        self, folder: Path, command: str = "demo", before_start: Callable[[], None] | None = None, images: int = 48
    ) -> None:
        self.workspace, self._log = folder / "demo", folder / "output.txt"
        if command == "demo":  # a finished stage is skipped, so the training uses these few
            write_imagefolder(self.workspace / "images", "sketch", images, 1)
        arguments = [sys.executable, "-m", "atelier_embedded", command, "--workspace", str(self.workspace)]
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [*arguments, "--base", str(ROOT / "models/tiny-sd")],
                stdout=output,
                stderr=output,
                preexec_fn=before_start,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"},
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str) -> None:
        end = time.monotonic() + TIMEOUT_S
        while text not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < end, self.output
            time.sleep(0.1)

    def processes(self) -> list[psutil.Process]:
        """Every process that has the workspace in its arguments or environment, except the demo itself."""
        found = []
        for process in psutil.process_iter():
            try:
                known = [*process.cmdline(), *process.environ().values()]
            except psutil.Error:
                continue
            if process.pid not in (self.process.pid, os.getpid()) and any(str(self.workspace) in text for text in known):
                found.append(process)
        return found

    def wait(self) -> int:
        code = self.process.wait(TIMEOUT_S)
        assert self.processes() == [], self.output
        assert "Traceback" not in self.output
        return code


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., DemoProcess]]:
    started = []

    def start(*arguments: str, **options: Any) -> DemoProcess:
        started.append(DemoProcess(tmp_path, *arguments, **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        for process in one.processes():
            process.kill()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_keeps_its_finished_stages(run: Callable[..., DemoProcess], sign: Signals) -> None:
    demo = run()
    demo.wait_for("run ")  # the trainer's line that names the MLflow run
    assert len(demo.processes()) >= 4
    demo.process.send_signal(sign)
    assert demo.wait() == 130
    assert demo.output.strip().endswith("stopped; finished stages are kept; run it again to continue")
    assert (demo.workspace / "images/metadata.jsonl").exists()


def test_a_service_that_dies_ends_the_demo_with_its_name_and_log(run: Callable[..., DemoProcess]) -> None:
    demo = run()
    demo.wait_for("run ")
    for process in demo.processes():
        if "mlflow" in process.cmdline() and "server" in process.cmdline():
            process.kill()
    assert demo.wait() == 1
    errors = [line for line in demo.output.splitlines() if "error" in line]
    assert any("tracking stopped (SIGKILL)" in line and "logs/tracking.log" in line for line in errors), demo.output


def test_a_file_that_cannot_be_written_ends_the_demo_with_the_reason(run: Callable[..., DemoProcess]) -> None:
    """A limit on the size of files stands for a full disk: every write beyond it fails."""
    limit = 3 * 2**20  # the images and MLflow's tables are smaller, the encoded captions are not
    demo = run(images=160, before_start=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert demo.wait() == 1
    assert "File too large" in demo.output, demo.output


def test_a_nearly_full_disk_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from atelier_embedded import __main__ as command
    from atelier_embedded import workspace

    usage = type("Usage", (), {"free": 12 * 2**20})
    monkeypatch.setattr(workspace.shutil, "disk_usage", lambda _: usage)  # type: ignore[attr-defined]
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert command.main(["demo", "--workspace", str(tmp_path)]) == 1
    assert f"{tmp_path} has 12 MiB free and needs {workspace.MIN_FREE_MIB}" in capsys.readouterr().out.replace("\n", " ")
    assert list(tmp_path.iterdir()) == []


def test_serve_without_a_demo_names_the_remedy(run: Callable[..., DemoProcess]) -> None:
    serve = run("serve")
    assert serve.wait() == 1
    assert "holds nothing to serve: run `make demo` first" in serve.output


def test_tokens_are_private_and_only_their_hashes_are_shared(tmp_path: Path) -> None:
    from atelier_contracts.tokens import Role, TokenFile
    from atelier_embedded.workspace import Workspace

    workspace = Workspace(tmp_path)
    workspace.prepare()
    first = workspace.secret("reader")
    workspace.prepare()
    assert workspace.secret("reader") == first
    assert workspace.secrets_file.stat().st_mode & 0o077 == 0
    assert first not in workspace.token_file.read_text()
    entry = TokenFile(workspace.token_file).find(workspace.secret("promoter"))
    assert entry is not None
    assert (entry.id, entry.role) == ("demo-promoter", Role.promoter)
