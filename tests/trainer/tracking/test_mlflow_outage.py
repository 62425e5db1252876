"""A real MLflow server stops during a run: the training continues, and everything arrives once, at the end or by `sync`."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import mlflow
import pytest
from atelier_contracts import names
from atelier_trainer.__main__ import main
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.errors import NotFinite, OptionError, TrackingError
from atelier_trainer.sync import sync
from atelier_trainer.tracking.mlflow_client import RegisteredBundle, TrackingClient
from atelier_trainer.tracking.run_folder import read_run_metadata, run_lock
from atelier_trainer.train import RunExtras, train
from PIL import Image

from ...servers import free_port, mlflow_running
from ..conftest import quiet, run_training

STEPS = 8
pytestmark = pytest.mark.timeout(900)  # servers and processes start several times, on a machine that may be busy


class Outage:
    """A sink that stops the server at one step and starts it at another."""

    def __init__(self, folder: Path, stop_at: int, start_at: int | None) -> None:
        self.port, self._folder, self._stop_at, self._start_at = free_port(), folder, stop_at, start_at
        self.stack = contextlib.ExitStack()
        self.start()

    def start(self) -> None:
        self.stack.enter_context(mlflow_running(self._folder, self.port))

    def log_metrics(self, step: int, values: dict[str, float]) -> None:
        if "loss" in values and step == self._stop_at:
            self.stack.close()
        if "loss" in values and step == self._start_at:
            self.start()

    def log_image(self, image: Image.Image, key: str, step: int) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def options(small: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainOptions:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    return small.with_flags(
        max_train_steps=STEPS, validation_prompt="a cat", num_validation_images=1, gradient_accumulation_steps=1,
        tracking_patience_s=0,
    )  # fmt: skip


def assert_everything_arrived_once(uri: str, run_id: str, status: str = "FINISHED") -> None:
    client = mlflow.MlflowClient(uri)
    run = client.get_run(run_id)
    assert run.info.status == status
    assert run.data.params["rank"] == "2"
    for name in ("loss", "ema_loss", "learning_rate"):
        steps = Counter(metric.step for metric in client.get_metric_history(run_id, name))
        assert steps == dict.fromkeys(range(1, STEPS + 1), 1), name
    assert [metric.step for metric in client.get_metric_history(run_id, "validation_loss")] == [3, 6, 8]
    images = [file.path for file in client.list_artifacts(run_id, "images") if file.path.endswith(".png")]
    assert len(images) == 3


def test_an_outage_during_the_steps_loses_nothing(options: TrainOptions, tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    outage = Outage(tmp_path / "server", stop_at=2, start_at=6)
    options = options.with_flags(tracking_uri=f"http://127.0.0.1:{outage.port}", tracking_patience_s=120)
    with outage.stack:
        result = run_training(options, sinks=[outage])  # type: ignore[list-item]
        assert result.delivered
        assert_everything_arrived_once(options.tracking.tracking_uri, result.run_id)


def test_sync_delivers_what_a_stopped_server_did_not_get(
    options: TrainOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "server").mkdir()
    outage = Outage(tmp_path / "server", stop_at=2, start_at=None)
    options = options.with_flags(tracking_uri=f"http://127.0.0.1:{outage.port}", register="late")
    folder = Path(options.output.output_dir)
    with outage.stack:
        result = run_training(options, sinks=[outage], publish=True)  # type: ignore[list-item]
        assert (result.delivered, result.version) == (False, None)
        assert (folder / names.WEIGHTS_FILE).exists()
        with pytest.raises(TrackingError, match="failed"):
            sync(folder, None, lambda _: None)
        outage.start()
        assert main(["sync", str(folder)]) == 0
        assert "version 1 of late" in capsys.readouterr().err
        assert_everything_arrived_once(options.tracking.tracking_uri, result.run_id)
        reported: list[str] = []
        sync(folder, None, reported.append)
        assert reported == [f"run {result.run_id}: 0 records delivered"]
        assert_everything_arrived_once(options.tracking.tracking_uri, result.run_id)
        client = mlflow.MlflowClient(options.tracking.tracking_uri)
        assert [version.version for version in client.search_model_versions("name = 'late'")] in (["1"], [1])


def test_publishing_is_retried_while_the_server_fails(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls, bundle_version = [], TrackingClient.bundle_version

    def fail_twice(self: Any, *arguments: Any) -> RegisteredBundle:
        calls.append(arguments)
        if len(calls) < 3:
            raise TrackingError("request to MLflow failed: 502")
        return bundle_version(self, *arguments)

    monkeypatch.setattr(TrackingClient, "bundle_version", fail_twice)
    options = options.with_flags(max_train_steps=1, register="again", tracking_patience_s=120)
    result = train(options, quiet(), RunExtras(publish_retry_s=0.1))
    assert result is not None
    assert (result.delivered, result.version) == (True, 1)
    assert caplog.text.count("request to MLflow failed: 502") == 2


def test_sync_leaves_a_running_training_alone(small: TrainOptions) -> None:
    run_training(small)
    with run_lock(Path(small.output.output_dir)), pytest.raises(OptionError, match="another process works in"):
        sync(Path(small.output.output_dir), None, lambda _: None)


def test_sync_refuses_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="there is no run in"):
        sync(tmp_path, None, lambda _: None)


def test_a_loss_that_is_not_finite_fails_the_run(small: TrainOptions) -> None:
    with pytest.raises(NotFinite, match=r"the loss became (nan|inf) at step \d+: lower --learning_rate"):
        run_training(small.with_flags(learning_rate=1e30, max_train_steps=8))
    sync(Path(small.output.output_dir), None, lambda _: None)
    metadata = read_run_metadata(Path(small.output.output_dir))
    assert metadata is not None
    run = mlflow.MlflowClient(small.tracking.tracking_uri).get_run(metadata.run_id)
    assert run.info.status == "FAILED"
