"""A real MLflow server is stopped in mid-run: the training goes on, and everything arrives once, then or by `sync`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from pathlib import Path

import mlflow
import pytest
from atelier_contracts import names
from atelier_trainer.__main__ import main
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.errors import OptionError, TrackingError
from atelier_trainer.sync import sync
from atelier_trainer.tracking.mlflow_runs import Tracking
from atelier_trainer.tracking.runs import card_of, held
from atelier_trainer.train import train

from ..servers import free_port, mlflow_running
from .conftest import quiet

STEPS = 8
pytestmark = pytest.mark.timeout(900)  # servers and processes start several times, on a machine that may be busy


class Switch:
    """A Sink that stops the server at one step and starts it at another."""

    def __init__(self, folder: Path, off: int, on: int | None) -> None:
        self.port, self._folder, self._off, self._on = free_port(), folder, off, on
        self.stack = contextlib.ExitStack()
        self.start()

    def start(self) -> None:
        self.stack.enter_context(mlflow_running(self._folder, self.port))

    def metrics(self, step, values):
        if "loss" in values and step == self._off:
            self.stack.close()
        if "loss" in values and step == self._on:
            self.start()

    def image(self, image, key, step):
        pass

    def close(self):
        pass


@pytest.fixture
def options(small, tmp_path, monkeypatch) -> TrainOptions:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    return dataclasses.replace(
        small, max_train_steps=STEPS, validation_prompt="a cat", num_validation_images=1, gradient_accumulation_steps=1,
        tracking_patience_s=0,
    )  # fmt: skip


def everything_arrived_once(uri: str, run_id: str, status: str = "FINISHED") -> None:
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


def test_an_outage_in_mid_run(options, tmp_path):
    (tmp_path / "server").mkdir()
    switch = Switch(tmp_path / "server", off=2, on=6)
    options = dataclasses.replace(options, tracking_uri=f"http://127.0.0.1:{switch.port}", tracking_patience_s=120)
    with switch.stack:
        trained = train(options, quiet(), sinks=[switch], hand_over=False)
        assert trained.delivered
        everything_arrived_once(options.tracking_uri, trained.run_id)


def test_a_server_that_stays_away_and_sync(options, tmp_path, capsys):
    (tmp_path / "server").mkdir()
    switch = Switch(tmp_path / "server", off=2, on=None)
    options = dataclasses.replace(options, tracking_uri=f"http://127.0.0.1:{switch.port}", register="late")
    out = Path(options.output_dir)
    with switch.stack:
        trained = train(options, quiet(), sinks=[switch])
        assert (trained.delivered, trained.version) == (False, None)
        assert (out / names.WEIGHTS_FILE).exists()
        with pytest.raises(TrackingError, match="did not do what was asked"):
            sync(out, None, lambda _: None)
        switch.start()
        assert main(["sync", str(out)]) == 0
        assert "version 1 of late" in capsys.readouterr().err
        everything_arrived_once(options.tracking_uri, trained.run_id)
        said: list[str] = []
        sync(out, None, said.append)
        assert said == [f"run {trained.run_id}: 0 records delivered"]
        everything_arrived_once(options.tracking_uri, trained.run_id)
        client = mlflow.MlflowClient(options.tracking_uri)
        assert [version.version for version in client.search_model_versions("name = 'late'")] in (["1"], [1])


def test_a_server_that_refuses_for_a_moment_at_the_end_gets_the_model_all_the_same(options, monkeypatch, caplog):
    asked = []

    def moment(self, *arguments):
        asked.append(arguments)
        if len(asked) < 3:
            raise TrackingError("MLflow did not do what was asked: 502")
        return found(self, *arguments)

    found = Tracking.bundle
    monkeypatch.setattr(Tracking, "bundle", moment)
    monkeypatch.setattr("atelier_trainer.train.PUBLISH_PAUSE_S", 0.1)
    options = dataclasses.replace(options, max_train_steps=1, register="again", tracking_patience_s=120)
    trained = train(options, quiet())
    assert (trained.delivered, trained.version) == (True, 1)
    assert caplog.text.count("did not do what was asked: 502") == 2


def test_a_run_that_is_still_worked_on_is_left_alone(small):
    train(small, quiet(), hand_over=False)
    with held(Path(small.output_dir)), pytest.raises(OptionError, match="another process works in"):
        sync(Path(small.output_dir), None, lambda _: None)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(OptionError, match="there is no run in"):
        sync(tmp_path, None, lambda _: None)


def test_a_failed_run_says_so(small):
    from atelier_trainer.errors import NotFinite

    with pytest.raises(NotFinite, match=r"the loss became (nan|inf) at step \d+: lower --learning_rate"):
        train(dataclasses.replace(small, learning_rate=1e30, max_train_steps=8), quiet(), hand_over=False)
    sync(Path(small.output_dir), None, lambda _: None)
    run = mlflow.MlflowClient(small.tracking_uri).get_run(card_of(Path(small.output_dir)).run_id)
    assert run.info.status == "FAILED"
