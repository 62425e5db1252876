"""The extra infer-openvino in an environment of its own: its images beside the reference's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from atelier_infer.engine.denoising_state import DenoisingState, SamplingParams
from atelier_infer.onnx.providers import Runtime
from atelier_infer.pipeline.bundle import open_bundle

from ..support import run_together

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[3]
SEEDS, SIDE = (1, 2, 3), 128


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped base, exported."""
    from atelier_trainer.export.bundle import export_bundle
    from atelier_trainer.families.sd import SD
    from diffusers import StableDiffusionPipeline

    folder = tmp_path_factory.mktemp("tiny")
    pipeline = StableDiffusionPipeline.from_pretrained(ROOT / "models/tiny-sd", safety_checker=None)
    export_bundle(pipeline, SD, folder, base="tiny", revision=None, source="0" * 64)
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with the extra and nothing else."""
    folder = tmp_path_factory.mktemp("openvino")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin/python"
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", f"{ROOT}[infer-openvino]"]
    subprocess.run(install, check=True)  # type: ignore[arg-type]
    return python


def test_images_are_close_to_the_reference(python: Path, tiny_base: Path, tmp_path: Path) -> None:
    command = [python, Path(__file__).with_name("openvino_images.py"), tiny_base, tmp_path / "images.npy", tmp_path / "cache"]
    subprocess.run(command, check=True, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)})
    assert list((tmp_path / "cache/graphs").rglob("*.blob")), "nothing was kept of compiling"
    bundle = open_bundle(tiny_base, runtime=Runtime(intra_op_threads=1))
    ids = [bundle.tokenizer.encode(text).ids for text in ("a cat on a chair", "")]
    states: list[DenoisingState] = run_together(
        bundle,
        [([], SamplingParams(*ids, 8, 4.0, seed, SIDE, SIDE, "ddim")) for seed in SEEDS],  # type: ignore[arg-type, call-arg]
    )
    for state, theirs in zip(states, np.load(tmp_path / "images.npy"), strict=True):
        ours = state.finish()
        assert ours.std() > 10
        apart = ours.astype(float) - theirs
        assert 10 * np.log10(255**2 / np.mean(apart**2)) > 30  # dB; different seeds are near 12
