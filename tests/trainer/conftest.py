"""The shipped base, its exported bundle, and a small folder of sketches, made once per session."""

from __future__ import annotations

from pathlib import Path

import pytest
from atelier_contracts.manifests import BundleManifest
from atelier_trainer.base import Base, load_base
from atelier_trainer.bundle import export_bundle
from atelier_trainer.scenes.dataset import write_imagefolder

TINY = Path(__file__).parents[2] / "models/tiny-sd"


@pytest.fixture
def base() -> Base:
    """A fresh copy each time: training changes its UNet."""
    return load_base(str(TINY), None, None)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> tuple[Path, BundleManifest]:
    out = tmp_path_factory.mktemp("bundle")
    base = load_base(str(TINY), None, None)
    return out, export_bundle(base.pipeline, out, base=base.name, revision=None, source=base.source)


@pytest.fixture(scope="session")
def sketches(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("data") / "sketches"
    write_imagefolder(out, "sketch", 24, 5)
    return out
