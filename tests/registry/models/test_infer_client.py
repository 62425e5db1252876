"""The stager against a real infer: what it draws, what it refuses, and an infer that is not there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from atelier_contracts.stage import StageImage
from atelier_contracts.tokens import TokenFile
from atelier_infer.app import create_app, make_engine
from atelier_infer.engine.engine import Engine
from atelier_infer.metrics import Metrics
from atelier_infer.settings import Settings
from atelier_registry.errors import StageRefusedError, StageUnavailableError
from atelier_registry.models.infer_client import HttpInferClient, NoInferClient

from ...infer.fake_store import FakeStore
from ...infer.tiny_bundle import adapter_tensors, build_adapter, build_bundle
from ...servers import app_running, free_port
from ..fake_infer_client import pixel_difference

IMAGES = [StageImage(prompt="a cat", seed=7, steps=2), StageImage(prompt="a dog", seed=8, steps=1, size=64)]


@pytest.fixture(scope="module")
def infer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Engine]]:
    """An infer with two good versions and a broken one; gives its address."""
    folder = tmp_path_factory.mktemp("infer")
    store = FakeStore()
    manifest = build_bundle(folder / "bundle")
    store.publish_bundle(folder / "bundle", manifest.digest())
    for seed in (1, 2):
        build_adapter(folder / f"adapter {seed}", manifest.digest(), adapter_tensors(seed=seed))
        store.publish_adapter(folder / f"adapter {seed}")
    build_adapter(folder / "broken", manifest.digest(), adapter_tensors(seed=3), weights_sha256="0" * 64)
    store.publish_adapter(folder / "broken")
    tokens = folder / "tokens"
    lines = (f"{id} {id} {hashlib.sha256(id.encode()).hexdigest()}\n" for id in ("promoter", "reader"))
    tokens.write_text("".join(lines))
    settings = Settings(
        tracking_uri="http://127.0.0.1:1",
        model=store.model,
        token_file=tokens,
        cache_dir=folder / "cache",
        intra_op_threads=1,
        queue_limit=0,
        drain_timeout_s=5,
    )
    metrics = Metrics()
    engine = make_engine(settings, metrics)
    app = create_app(engine=engine, metrics=metrics, store=store, tokens=TokenFile(tokens), settings=settings)
    with app_running(app) as url:
        yield url, engine


def test_infer_generates_images_by_a_staged_version(infer: tuple[str, Engine]) -> None:
    infer_client = HttpInferClient(infer[0], "promoter", 120)
    one, other = (infer_client.stage("sketches", number, IMAGES) for number in (1, 2))
    assert [image.request for image in one.images] == IMAGES
    assert 0 < pixel_difference(one.images[0].png, other.images[0].png) < 1
    assert pixel_difference(one.images[0].png, infer_client.stage("sketches", 1, IMAGES).images[0].png) == 0
    assert infer_client.stage("sketches", 2).images == []


def test_what_cannot_be_served_is_refused_with_the_reason(infer: tuple[str, Engine]) -> None:
    infer_client = HttpInferClient(infer[0], "promoter", 120)
    for model, number, told in (("sketches", 3, "0" * 64), ("sketches", 9, "no version 9"), ("photos", 1, "'photos'")):
        with pytest.raises(StageRefusedError, match=told):
            infer_client.stage(model, number)
    with pytest.raises(StageRefusedError, match="multiple of"):
        infer_client.stage("sketches", 1, [StageImage(prompt="a cat", size=33)])


def test_an_unreachable_infer_is_reported(infer: tuple[str, Engine]) -> None:
    for token in ("reader", "nobody"):
        with pytest.raises(StageUnavailableError, match="own token"):
            HttpInferClient(infer[0], token, 120).stage("sketches", 1)
    with pytest.raises(StageUnavailableError, match="does not answer"):
        HttpInferClient(f"http://127.0.0.1:{free_port()}", "promoter", 5).stage("sketches", 1)
    with pytest.raises(StageUnavailableError, match="set ATELIER_REGISTRY_INFER_URL"):
        NoInferClient().stage("sketches", 1)
    with infer[1].admit(), pytest.raises(StageUnavailableError, match="at most 0 images may wait"):
        HttpInferClient(infer[0], "promoter", 120).stage("sketches", 1, IMAGES)
