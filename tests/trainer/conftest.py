"""The shipped base model, a small folder of sketches, and one small training against a real MLflow server."""

from __future__ import annotations

import dataclasses
import io
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import pytest
import torch
from atelier_contracts import names
from atelier_contracts.manifests import BundleManifest
from atelier_trainer.base_models.base_model import BaseModel
from atelier_trainer.base_models.load import load_base_model
from atelier_trainer.config.option_groups import ModelOptions
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.export.bundle import source_digest
from atelier_trainer.synthetic.scenes.dataset import write_imagefolder
from atelier_trainer.tracking.metric_sink import MetricSink
from atelier_trainer.tracking.mlflow_client import TrackingClient
from atelier_trainer.train import RunExtras, TrainResult, train
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from rich.console import Console

if TYPE_CHECKING:
    from ..servers import MlflowServer

torch.set_num_threads(1)  # these models are small, and two threads that wait for each other cost more on a busy machine
os.environ.update(
    RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32)
)  # of the test's own cluster; read by `import ray`
TINY = Path(__file__).parents[2] / "models/tiny-sd"
MODEL = "sketch-test"


@pytest.fixture(scope="session")
def base() -> BaseModel:
    """The tiny base model that the repository ships."""
    return load_base_model(ModelOptions(pretrained_model_name_or_path=str(TINY)))


@pytest.fixture
def pipeline(base: BaseModel) -> StableDiffusionPipeline:
    """A fresh copy each time: tests change its UNet."""
    return base.load_pipeline()


@pytest.fixture(scope="session")
def sketches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "sketches"
    write_imagefolder(out, "sketch", 24, 5)
    return out


@pytest.fixture
def small(small_base: Path, sketches: Path, mlflow_server: MlflowServer, tmp_path: Path, bundle_cache: Path) -> TrainOptions:
    """A training of seconds on the small base, in a folder of its own."""
    return TrainOptions.from_flags(
        pretrained_model_name_or_path=str(small_base),
        train_data_dir=str(sketches),
        validation_samples=4,
        rank=2,
        max_train_steps=6,
        validation_steps=3,
        checkpointing_steps=2,
        train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        cache_dir=str(bundle_cache),
        output_dir=str(tmp_path / "out"),
        tracking_uri=mlflow_server.uri,
        tracking_patience_s=5,
    )


def quiet() -> Console:
    return Console(file=io.StringIO())


def run_training(options: TrainOptions, *, sinks: Sequence[MetricSink] = (), publish: bool = False) -> TrainResult:
    """One training in this process, quietly."""
    result = train(options, quiet(), RunExtras(sinks=sinks, publish=publish))
    assert result is not None
    return result


@dataclasses.dataclass
class PublishedTraining:
    options: TrainOptions
    result: TrainResult
    client: mlflow.MlflowClient


@pytest.fixture(scope="session")
def published(
    mlflow_server: MlflowServer, sketches: Path, tmp_path_factory: pytest.TempPathFactory, bundle_cache: Path
) -> PublishedTraining:
    folder = tmp_path_factory.mktemp("train")
    options = TrainOptions.from_flags(
        pretrained_model_name_or_path=str(TINY),
        train_data_dir=str(sketches),
        validation_samples=4,
        validation_prompt="a cat",
        num_validation_images=1,
        rank=2,
        max_train_steps=4,
        validation_steps=2,
        train_batch_size=4,
        learning_rate=1e-2,
        cache_dir=str(bundle_cache),
        output_dir=str(folder / "out"),
        tracking_uri=mlflow_server.uri,
        register=MODEL,
    )
    return PublishedTraining(options, run_training(options, publish=True), mlflow.MlflowClient(mlflow_server.uri))


@pytest.fixture(scope="session")
def bundle(
    published: PublishedTraining, base: BaseModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, BundleManifest]:
    """The bundle that the first training exported, as the registry gives it back."""
    tracking = TrackingClient(str(published.options.tracking.tracking_uri))
    registered = tracking.bundle_version(source_digest(base))
    assert registered is not None
    file = next(
        tracking.download(registered.name, registered.version, tmp_path_factory.mktemp("bundle")).rglob(names.BUNDLE_FILE)
    )
    return file.parent, BundleManifest.model_validate_json(file.read_text())
