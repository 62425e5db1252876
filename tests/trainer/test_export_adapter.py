"""A version as a file of another tool: diffusers draws with it what it drew before, and importing it gives its weights."""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from atelier_contracts.manifests import file_sha256
from atelier_contracts.styles import Recommended
from atelier_trainer.__main__ import main
from atelier_trainer.base_models.load import load_base_model
from atelier_trainer.config.option_groups import ModelOptions
from atelier_trainer.exchange.export_adapter import read_registered
from atelier_trainer.exchange.import_adapter import Importer, ImportOptions, Source
from atelier_trainer.tracking.mlflow_client import TrackingClient
from PIL import Image
from safetensors import safe_open

from ..servers import MlflowServer
from .adapter_formats.lora_files import draw, load, write_diffusers

pytestmark = pytest.mark.timeout(1200)  # an export takes minutes on a machine that is busy
FORMATS = ("diffusers", "kohya", "comfyui")


@pytest.fixture(scope="module")
def registered(
    mlflow_server: MlflowServer, small_base: Path, bundle_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The file that `brush` version 1, its champion, was imported from; ranks and alphas differ between layers."""
    options: dict[str, Any] = {"rank_pattern": {"proj_in": 5}, "alpha_pattern": {"proj_in": 10.0}}
    file = write_diffusers(load(small_base), tmp_path_factory.mktemp("made"), **options)
    style = ["--title=Brush", "--trigger_words=brsh, ink", "--licence=MIT", "--recommended_steps=12", "--recommended_scale=0.5"]
    Image.new("RGB", (40, 30), "teal").save(file.parent / "mine.png")
    style.append(f"--preview={file.parent / 'mine.png'}")
    command = ["import", str(file), f"--base={small_base}", "--register=brush", f"--tracking_uri={mlflow_server.uri}"]
    command.append(f"--cache_dir={bundle_cache}")
    assert main([*command, *style]) == 0
    mlflow.MlflowClient(mlflow_server.uri).set_registered_model_alias("brush", "champion", 1)
    return file


def run_export(server: MlflowServer, version: str, out: Path, *arguments: str) -> int:
    return main(["export", version, f"--out={out}", f"--tracking_uri={server.uri}", *arguments])


@pytest.mark.parametrize("format", FORMATS)
def test_importing_an_exported_file_gives_the_same_weights(
    mlflow_server: MlflowServer,
    registered: Path,
    small_base: Path,
    tmp_path: Path,
    format: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "brush.safetensors"
    assert run_export(mlflow_server, "brush@champion", file, f"--format={format}") == 0
    assert f"sha256 {file_sha256(file)} (AutoV2 {file_sha256(file)[:10].upper()})" in capsys.readouterr().err
    base = load_base_model(ModelOptions(pretrained_model_name_or_path=str(small_base)))
    again = Importer(base, ImportOptions("x", "x", Path("unused"))).prepare(Source(file, file.name))
    stored = read_registered("brush:1", TrackingClient(mlflow_server.uri)).pairs
    assert again.adapter.naming == format
    assert again.adapter.pairs.keys() == stored.keys()
    for name, pair in again.adapter.pairs.items():
        assert torch.equal(pair.down, stored[name].down)
        assert torch.equal(pair.up, stored[name].up)
        assert (pair.rank, pair.alpha) == (stored[name].rank, stored[name].alpha)
    assert (again.style.title, again.style.trigger_words, again.style.licence) == ("Brush", ("brsh", "ink"), "MIT")
    assert again.preview is not None and Image.open(BytesIO(again.preview)).size == (40, 30)
    assert again.style.recommended == Recommended(steps=12, scale=0.5)


@pytest.mark.parametrize("format", ["diffusers", "kohya"])
def test_stock_diffusers_draws_the_same_picture(
    mlflow_server: MlflowServer, registered: Path, small_base: Path, tmp_path: Path, format: str
) -> None:
    file = tmp_path / "brush.safetensors"
    assert run_export(mlflow_server, "brush:1", file, f"--format={format}") == 0
    original, exported = load(small_base), load(small_base)
    original.load_lora_weights(registered)
    exported.load_lora_weights(file)
    torch.testing.assert_close(draw(exported), draw(original), atol=1e-4, rtol=0)


def test_the_metadata_describe_the_file(mlflow_server: MlflowServer, registered: Path, tmp_path: Path) -> None:
    file = tmp_path / "brush.safetensors"
    assert run_export(mlflow_server, "brush:1", file) == 0
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    content = file.read_bytes()
    tensors = content[8 + int.from_bytes(content[:8], "little") :]
    assert metadata["modelspec.hash_sha256"] == f"0x{hashlib.sha256(tensors).hexdigest()}"
    assert metadata["sshs_model_hash"] == hashlib.sha256(tensors).hexdigest()
    expected = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "3",
        "ss_network_alpha": "6.0",
        "ss_sd_model_name": "small-sd",
        "modelspec.title": "Brush",
        "modelspec.trigger_phrase": "brsh, ink",
        "modelspec.resolution": "16x16",
        "modelspec.license": "MIT",
    }
    assert {key: metadata[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("version", "out", "message"),
    [
        ("brush", "x.safetensors", "a version is MODEL:VERSION or MODEL@ALIAS; received 'brush'"),
        ("brush:0", "x.safetensors", "a version is MODEL:VERSION"),
        ("brush:9", "x.safetensors", "request to MLflow at"),
        ("brush@nobody", "x.safetensors", "request to MLflow at"),
        ("small-sd-base:1", "x.safetensors", "version 1 of small-sd-base is no adapter"),
        ("brush:1", "no/x.safetensors", "--out: there is no folder"),
        ("brush:1", "there.safetensors", "exists; give another name, or --overwrite"),
    ],
)
def test_refusals(
    mlflow_server: MlflowServer,
    registered: Path,
    tmp_path: Path,
    version: str,
    out: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    assert run_export(mlflow_server, version, tmp_path / out) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["there.safetensors"]
    assert (tmp_path / "there.safetensors").read_bytes() == b"mine"


def test_a_file_is_overwritten_when_that_is_asked_for(mlflow_server: MlflowServer, registered: Path, tmp_path: Path) -> None:
    file = tmp_path / "there.safetensors"
    file.write_bytes(b"mine")
    assert run_export(mlflow_server, "brush:1", file, "--overwrite") == 0
    assert file.stat().st_size > 1000
