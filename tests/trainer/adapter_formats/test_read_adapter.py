"""Files of other tools, in all their names, kinds and faults."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from atelier_trainer.__main__ import main
from atelier_trainer.adapter_formats.adapter_weights import LoraPair
from atelier_trainer.adapter_formats.network_types import ConversionLimits
from atelier_trainer.adapter_formats.read_adapter import ReadAdapter
from atelier_trainer.base_models.base_model import BaseModel
from atelier_trainer.base_models.load import load_base_model
from atelier_trainer.config.option_groups import ModelOptions
from atelier_trainer.errors import AdapterFileError
from atelier_trainer.exchange.import_adapter import Importer, ImportOptions, Source
from safetensors.torch import load_file, save_file

from .lora_files import load, rewrite, to_kohya, write_diffusers

UP = "unet.mid_block.attentions.0.proj_in.lora_B.weight"


@pytest.fixture(scope="module")
def base(small_base: Path) -> BaseModel:
    return load_base_model(ModelOptions(pretrained_model_name_or_path=str(small_base)))


@pytest.fixture(scope="module")
def file(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rank 3 and alpha 6 on every kind of layer, in diffusers' names."""
    return write_diffusers(load(small_base), tmp_path_factory.mktemp("diffusers"))


def read(
    base: BaseModel, file: Path, *, network_alpha: float | None = None, limits: ConversionLimits | None = None
) -> ReadAdapter:
    options = ImportOptions("x", "x", Path("unused"), network_alpha=network_alpha, limits=limits or ConversionLimits())
    return Importer(base, options).prepare(Source(file, file.name)).adapter


def assert_equal(one: dict[str, LoraPair], other: dict[str, LoraPair]) -> None:
    assert one.keys() == other.keys()
    for name, pair in one.items():
        torch.testing.assert_close(pair.delta(), other[name].delta(), rtol=1e-6, atol=1e-7)


def test_a_file_of_diffusers(base: BaseModel, file: Path) -> None:
    adapter = read(base, file)
    tensors = load_file(file)
    assert (adapter.naming, adapter.network, adapter.max_error) == ("diffusers", "lora", 0)
    assert len(adapter.pairs) == len(tensors) // 2 > 80
    assert {(pair.rank, pair.alpha) for pair in adapter.pairs.values()} == {(3, 6.0)}
    assert torch.equal(adapter.pairs[UP.removesuffix(".lora_B.weight")].up, tensors[UP])


def test_the_same_file_in_kohyas_names(base: BaseModel, file: Path, tmp_path: Path) -> None:
    kohya = read(base, to_kohya(file, tmp_path / "k.safetensors", alpha=6.0))
    assert kohya.naming == "kohya"
    assert_equal(kohya.pairs, read(base, file).pairs)  # type: ignore[arg-type]


OLD = [(".to_q.lora_A.", ".processor.to_q_lora.down."), (".to_q.lora_B.", ".processor.to_q_lora.up.")]
OLD += [(".to_out.0.lora_A.", ".processor.to_out_lora.down."), (".to_out.0.lora_B.", ".processor.to_out_lora.up.")]
COMFYUI = [
    ("unet.mid_block.attentions.0.", "diffusion_model.middle_block.1."),
    ("unet.mid_block.resnets.1.conv1.", "diffusion_model.middle_block.2.in_layers.2."),
    ("unet.down_blocks.1.attentions.0.", "diffusion_model.input_blocks.3.1."),
    ("unet.down_blocks.0.downsamplers.0.conv.", "diffusion_model.input_blocks.2.0.op."),
    ("unet.up_blocks.0.upsamplers.0.conv.", "diffusion_model.output_blocks.1.2.conv."),
    ("unet.up_blocks.1.resnets.1.time_emb_proj.", "diffusion_model.output_blocks.3.0.emb_layers.1."),
    ("text_encoder.", "text_encoders.clip_l.transformer.text_model."),
]


@pytest.mark.parametrize(
    ("rename", "naming"),
    [
        ([(".lora_A.", ".lora_down."), (".lora_B.", ".lora_up.")], "diffusers"),
        ([(".lora_A.", ".lora.down."), (".lora_B.", ".lora.up.")], "diffusers"),
        ([(".lora_A.", ".lora_A.default."), (".lora_B.", ".lora_B.default.")], "diffusers"),
        ([("text_encoder.encoder", "text_encoder.text_model.encoder")], "diffusers"),
        ([("unet.", "base_model.model.")], "diffusers+peft"),
        (COMFYUI, "comfyui+diffusers"),
        (OLD, "diffusers"),
    ],
)
def test_other_spellings(base: BaseModel, file: Path, tmp_path: Path, rename: Any, naming: str) -> None:
    renamed = rewrite(file, tmp_path / "x.safetensors", rename=rename)
    assert load_file(renamed).keys() != load_file(file).keys()
    adapter = read(base, renamed, network_alpha=6.0)
    assert adapter.naming == naming
    assert_equal(adapter.pairs, read(base, file).pairs)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(base: BaseModel, file: Path, tmp_path: Path, dtype: Any) -> None:
    pairs = read(base, rewrite(file, tmp_path / "x.safetensors", dtype=dtype), network_alpha=6.0).pairs
    exact = read(base, file).pairs
    for name, pair in pairs.items():
        assert pair.down.dtype == torch.float32
        torch.testing.assert_close(pair.delta(), exact[name].delta(), rtol=0.1, atol=0.01)


def test_alpha_is_the_files_then_the_commands_then_the_rank(base: BaseModel, file: Path, tmp_path: Path) -> None:
    bare = rewrite(file, tmp_path / "bare.safetensors")
    layer = UP.removesuffix(".lora_B.weight")
    some = rewrite(file, tmp_path / "some.safetensors", more={f"{layer}.alpha": torch.tensor(1.5)})
    assert {pair.alpha for pair in read(base, bare).pairs.values()} == {3.0}
    assert {pair.alpha for pair in read(base, bare, network_alpha=2.0).pairs.values()} == {2.0}
    mixed = read(base, some, network_alpha=2.0).pairs
    assert mixed[layer].alpha == 1.5
    assert {pair.alpha for name, pair in mixed.items() if name != layer} == {2.0}


def test_rslora_patterns_and_mixed_ranks_are_read_from_pefts_configuration(
    base: BaseModel, small_base: Path, tmp_path: Path
) -> None:
    options = {"rank_pattern": {"proj_in": 5}, "alpha_pattern": {"proj_in": 10.0}, "use_rslora": True}
    pipeline = load(small_base)
    file = write_diffusers(pipeline, tmp_path, text=False, **options)  # type: ignore[arg-type]
    pairs = read(base, file).pairs
    ranks = {name.endswith("proj_in"): (pair.rank, pair.alpha) for name, pair in pairs.items()}
    assert ranks == {True: (5, pytest.approx(10 * 5**0.5)), False: (3, pytest.approx(6 * 3**0.5))}
    for name, pair in pairs.items():
        module = pipeline.unet.get_submodule(name.removeprefix("unet."))
        torch.testing.assert_close(
            pair.delta().float(), module.get_delta_weight("default").detach().flatten(1), rtol=1e-4, atol=1e-5
        )


def test_text_encoder_keys_alone(base: BaseModel, small_base: Path, tmp_path: Path) -> None:
    pairs = read(base, write_diffusers(load(small_base), tmp_path, unet=False)).pairs
    assert len(pairs) == 12
    assert all(name.startswith("text_encoder.") for name in pairs)


def test_two_spellings_of_one_layer_are_refused(base: BaseModel, file: Path, tmp_path: Path) -> None:
    tensors = load_file(file)
    twice = rewrite(file, tmp_path / "x.safetensors", more={UP.replace("lora_B", "lora_up"): tensors[UP]})
    with pytest.raises(AdapterFileError, match=r"lora_B\.weight' and .*lora_up\.weight' are both up of unet\.mid_block"):
        read(base, twice)


def test_unknown_keys_are_named(base: BaseModel, file: Path, tmp_path: Path) -> None:
    more = {f"unet.nowhere.{number}.lora_A.weight": torch.zeros(3, 4) for number in range(5)}
    with pytest.raises(AdapterFileError, match=r"does not fit small-sd: it has no layer for unet\.nowhere\.0.* and 2 more"):
        read(base, rewrite(file, tmp_path / "x.safetensors", more=more))


def test_another_base_is_found_by_shapes(base: BaseModel, file: Path, tmp_path: Path) -> None:
    tensors = load_file(file)
    for key, tensor in tensors.items():
        if "attn2.to_k.lora_A" in key or "attn2.to_v.lora_A" in key:
            tensors[key] = torch.zeros(len(tensor), 2048)
    save_file(tensors, tmp_path / "xl.safetensors")
    match = r"8 of 91 layers have other shapes.*shape \[3, 16\]; received \[3, 2048\]; .* for SDXL"
    with pytest.raises(AdapterFileError, match=match) as error:
        read(base, tmp_path / "xl.safetensors")
    assert "\n" not in str(error.value)


def test_dora_is_refused_with_what_works(base: BaseModel, small_base: Path, tmp_path: Path) -> None:
    file = write_diffusers(load(small_base), tmp_path, text=False, use_dora=True)
    with pytest.raises(AdapterFileError, match=r"DoRA rescales .*fuse_lora, save_pretrained"):
        read(base, file)


def header(**entries: Any) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
TWICE = f'{{"x":{json.dumps(ONE)},"x":{json.dumps(ONE)}}}'.encode()
HOSTILE = {
    "empty": b"",
    "truncated": struct.pack("<Q", 500) + b'{"a": ',
    "a header of 20 GB": struct.pack("<Q", 20 * 2**30) + b"{}",
    "a pickle": b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01K\x01s." + b"\x00" * 100,
    "no JSON": struct.pack("<Q", 4) + b"nope",
    "an array": struct.pack("<Q", 2) + b"[]",
    "no tensors": header(__metadata__={"a": "b"}),
    "metadata of numbers": header(__metadata__={"a": 1}, x=ONE) + b"\0" * 4,
    "a shape beyond the file": header(x={"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}) + b"\0" * 4,
    "offsets beyond the file": header(x={"dtype": "F32", "shape": [1], "data_offsets": [0, 400]}) + b"\0" * 4,
    "an unknown type": header(x=ONE | {"dtype": "Q7"}) + b"\0" * 4,
    "integers": header(x={"dtype": "I32", "shape": [1], "data_offsets": [0, 4]}) + b"\0" * 4,
    "a key twice": struct.pack("<Q", len(TWICE)) + TWICE + b"\0" * 4,
    "a path as a key": header(**{"../../etc/passwd": ONE}) + b"\0" * 4,
    "NaN": header(**{"unet.conv_in.lora_A.weight": ONE}) + struct.pack("<f", float("nan")),
    "a million keys": header(**{f"k{number}": ONE for number in range(10**6)}) + b"\0" * 4,
    "numbers for tensors": header(x=3),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_one_line_and_exit_code_2(
    small_base: Path, tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.safetensors"
    file.write_bytes(content)
    # no server listens there: nothing is asked of it
    command = ["import", str(file), f"--base={small_base}", "--register=x", "--tracking_uri=http://127.0.0.1:9"]
    assert main(command) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: bad.safetensors")
    assert err.count("\n") == 1
    assert "127.0.0.1" not in err


LAYER = "unet.down_blocks.1.attentions.0.proj_in"
METADATA = {
    "peft's configuration is nested too deeply": ({"lora_adapter_metadata": "[" * 100_000}, {}, "must be a JSON object"),
    "alpha is NaN": ({"lora_adapter_metadata": '{"unet.lora_alpha": NaN}'}, {}, "alpha must be positive and finite"),
    "alpha is infinite": ({"lora_adapter_metadata": '{"unet.lora_alpha": Infinity}'}, {}, "alpha must be positive and finite"),
    "no dimensions": ({}, {f"{LAYER}.lora_A.weight": torch.tensor(1.0)}, "do not belong together"),
    "rank 0": (
        {},
        {
            f"{LAYER}.lora_A.weight": torch.zeros(0, 32, 1, 1),
            f"{LAYER}.lora_B.weight": torch.zeros(32, 0, 1, 1),
            f"{LAYER}.alpha": torch.tensor(1.0),
        },
        "its rank must be 1 or more",
    ),
}


@pytest.mark.parametrize(("metadata", "more", "message"), METADATA.values(), ids=METADATA)
def test_values_that_no_adapter_has_are_refused_in_one_line(
    small_base: Path,
    file: Path,
    tmp_path: Path,
    metadata: dict[str, str],
    more: dict[str, Any],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_file(load_file(file) | more, tmp_path / "bad.safetensors", metadata)
    assert main(["import", str(tmp_path / "bad.safetensors"), f"--base={small_base}", "--dry_run"]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dry_run", "--max_error=0"], "--max_error must be positive; received 0.0"),
        (["--dry_run", "--network_alpha=-1"], "--network_alpha must be positive"),
        (["--dry_run", f"--title={'x' * 300}"], "--title: String should have at most 200 characters"),
        (["--dry_run", "--recommended_steps=0"], "--recommended_steps: Input should be greater than or equal to 1; received 0"),
        ([], "import needs --register and --tracking_uri"),
    ],
)
def test_arguments(
    small_base: Path,
    file: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["import", str(file), f"--base={small_base}", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_several_files_need_a_name_each(small_base: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twin = file.with_name("second.safetensors")
    twin.write_bytes(file.read_bytes())
    command = ["import", str(file.parent), f"--base={small_base}", "--register=one", "--tracking_uri=http://127.0.0.1:9"]
    assert main(command) == 2
    assert "--register must contain {name} for 2 files" in capsys.readouterr().err
    twin.unlink()


def test_an_empty_folder(small_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(tmp_path), f"--base={small_base}", "--dry_run"]) == 2
    assert "there is no .safetensors file in the folder" in capsys.readouterr().err


def test_a_name_that_is_nowhere(small_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, message in (("./nothing", "there is no file or folder"), ("nobody/nothing", "is neither a file nor on the hub")):
        assert main(["import", name, f"--base={small_base}", "--dry_run"]) == 2
        assert message in capsys.readouterr().err
