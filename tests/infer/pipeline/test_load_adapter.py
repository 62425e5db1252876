"""What an adapter must be to be served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from atelier_contracts import names
from atelier_contracts.manifests import BundleManifest
from atelier_infer.errors import AdapterError, BundleMismatchError
from atelier_infer.pipeline.adapter import Adapter
from numpy.typing import NDArray
from safetensors.torch import save_file

from ..tiny_bundle import adapter_tensors, build_adapter, read_adapter

A, B = "unet.mid.to_q.lora_A.weight", "unet.mid.to_q.lora_B.weight"


def load(
    tmp_path: Path, bundle: tuple[Path, BundleManifest], tensors: dict[str, NDArray[Any]] | None = None, **changes: Any
) -> Adapter:
    build_adapter(tmp_path, bundle[1].digest(), tensors, **changes)
    return read_adapter(tmp_path, bundle[1])


def test_layers_are_packed_one_after_another_and_the_scale_is_alpha_over_rank(
    tmp_path: Path, bundle: tuple[Path, BundleManifest]
) -> None:
    tensors = adapter_tensors()
    adapter = load(tmp_path, bundle, {key: value.astype(np.float16) for key, value in tensors.items()}, alpha=5.0)
    group = adapter.parts["unet"]["attention"]
    assert group.scale == 2.5
    assert (group.a.shape, group.b.shape, group.rank, adapter.unet_rank) == ((10, 2), (10, 2), 2, 2)
    assert group.a.dtype == group.b.dtype == np.float32
    assert group.a.flags.c_contiguous and group.b.flags.c_contiguous
    np.testing.assert_allclose(group.a[:4].T, tensors[A], rtol=1e-3)
    np.testing.assert_allclose(group.b[:6], tensors[B], rtol=1e-3)
    np.testing.assert_allclose(group.a[4:].T, tensors[A.replace("to_q", "to_out.0")], rtol=1e-3)
    assert adapter.nbytes == 2 * 20 * 4


def test_a_layer_that_the_adapter_lacks_is_zeros(tmp_path: Path, bundle: tuple[Path, BundleManifest]) -> None:
    group = load(tmp_path, bundle, adapter_tensors(layers=["mid.to_q"])).parts["unet"]["attention"]
    assert group.a[:4].all() and group.b[:6].all()
    assert not group.a[4:].any() and not group.b[6:].any()


def test_ranks_and_scales_may_differ_between_layers(tmp_path: Path, bundle: tuple[Path, BundleManifest]) -> None:
    """A smaller rank is padded with zeros, and a smaller scale is in B."""
    tensors = adapter_tensors(layers=["mid.to_q"], rank=3) | adapter_tensors(layers=["mid.to_out.0"], rank=1)
    layers = {"unet.mid.to_q": {"rank": 3, "alpha": 6.0}, "unet.mid.to_out.0": {"rank": 1, "alpha": 0.5}}
    group = load(tmp_path, bundle, tensors, layers=layers).parts["unet"]["attention"]
    assert (group.rank, group.scale) == (3, 2.0)
    np.testing.assert_array_equal(group.a[4:, :1].T, tensors["unet.mid.to_out.0.lora_A.weight"])
    np.testing.assert_array_equal(group.b[6:, :1], tensors["unet.mid.to_out.0.lora_B.weight"] / 4)
    assert not group.a[4:, 1:].any() and not group.b[6:, 1:].any()


def test_weights_of_a_text_encoder_alone(tmp_path: Path, bundle: tuple[Path, BundleManifest]) -> None:
    """Such an adapter takes no rank of a step."""
    draw, layer = np.random.default_rng(0), "text_encoder.layer.q_proj"
    tensors = {f"{layer}.lora_{half}.weight": draw.random((2, 8) if half == "A" else (8, 2), np.float32) for half in "AB"}
    adapter = load(tmp_path, bundle, tensors)
    assert list(adapter.parts) == ["text_encoder"]
    assert adapter.unet_rank == 0


def test_another_bundle_is_refused_with_both_digests(tmp_path: Path, bundle: tuple[Path, BundleManifest]) -> None:
    build_adapter(tmp_path, "f" * 64)
    with pytest.raises(BundleMismatchError) as caught:
        read_adapter(tmp_path, bundle[1])
    assert "f" * 64 in str(caught.value)
    assert bundle[1].digest() in str(caught.value)


def altered(**changes: Any) -> dict[str, np.ndarray]:
    tensors = adapter_tensors() | changes
    return {key: value for key, value in tensors.items() if value is not None}


def only(*layers: str) -> dict[str, dict[str, float]]:
    return {f"unet.{layer}": {"rank": 2, "alpha": 4.0} for layer in layers}


@pytest.mark.parametrize(
    ("tensors", "changes", "message"),
    [
        (altered(**{A: np.ones((2, 5), np.float32)}), {}, r"shape \[2, 4\]; received \[2, 5\]"),
        (altered(**{A: np.ones((1, 4), np.float32), B: np.ones((6, 1), np.float32)}), {}, r"shape \[2, 4\]; received \[1, 4\]"),
        (altered(**{A: np.full((2, 4), np.nan, np.float32)}), {}, "lora_A.weight must be finite"),
        (altered(**{B: np.full((6, 2), 1e300)}), {}, "lora_B.weight must be finite"),
        (altered(**{B: None}), {}, "keys that are missing: unet.mid.to_q.lora_B.weight"),
        (altered(**{"unet.mid.to_q.alpha": np.ones(1)}), {}, "keys that are not"),
        (altered(**{"text_encoder.x.lora_A.weight": np.ones(1)}), {}, "keys that are missing: text_encoder.x.lora_B.weight"),
        (
            altered(**{"unet.up.to_q.lora_A.weight": np.ones((2, 4)), "unet.up.to_q.lora_B.weight": np.ones((4, 2))}),
            {},
            "layers unknown to the bundle: unet.up.to_q",
        ),
        (None, {"layers": only("mid.to_q")}, "layers in only one of weights and manifest: unet.mid.to_out.0"),
        (None, {"layers": only("mid.to_q", "mid.to_out.0", "up.to_q")}, "layers unknown to the bundle: unet.up.to_q"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_refusals(
    tmp_path: Path,
    bundle: tuple[Path, BundleManifest],
    tensors: dict[str, NDArray[Any]] | None,
    changes: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(AdapterError, match=message):
        load(tmp_path, bundle, tensors, **changes)


def test_bfloat16_is_refused_whether_numpy_knows_it_or_not(tmp_path: Path, bundle: tuple[Path, BundleManifest]) -> None:
    build_adapter(tmp_path, bundle[1].digest())
    save_file(
        {key: torch.from_numpy(value).bfloat16() for key, value in adapter_tensors().items()}, tmp_path / names.WEIGHTS_FILE
    )
    with pytest.raises(AdapterError, match=r"must be (float32 or float16; received bfloat16|a safetensors file)"):
        read_adapter(tmp_path, bundle[1])


def test_a_pickle_is_refused(tmp_path: Path, bundle: tuple[Path, BundleManifest]) -> None:
    build_adapter(tmp_path, bundle[1].digest())
    torch.save({"x": torch.zeros(1)}, tmp_path / names.WEIGHTS_FILE)
    with pytest.raises(AdapterError, match="must be a safetensors file"):
        read_adapter(tmp_path, bundle[1])
