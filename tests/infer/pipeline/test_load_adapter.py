"""What an adapter must be to be served."""

import numpy as np
import pytest
import torch
from atelier_contracts import names
from atelier_infer.errors import AdapterError, BundleMismatchError
from safetensors.torch import save_file

from ..tiny_bundle import TARGETS, adapter_tensors, build_adapter, read_adapter

A, B = "unet.mid.to_q.lora_A.weight", "unet.mid.to_q.lora_B.weight"


def load(tmp_path, bundle, tensors=None, **changes):
    build_adapter(tmp_path, bundle[1].digest(), tensors, **changes)
    return read_adapter(tmp_path, bundle[1])


def test_arrays_are_transposed_and_the_scale_is_alpha_over_rank(tmp_path, bundle):
    tensors = adapter_tensors()
    adapter = load(tmp_path, bundle, {key: value.astype(np.float16) for key, value in tensors.items()}, alpha=5.0)
    assert adapter.scale == 2.5
    for layer, (inner, outer) in TARGETS.items():
        a, b = (adapter.feeds[name] for name in names.lora_inputs(layer))
        assert (a.shape, b.shape) == ((inner, 2), (2, outer))
        assert a.dtype == b.dtype == np.float32
        assert a.flags.c_contiguous and b.flags.c_contiguous
    np.testing.assert_allclose(adapter.feeds["mid.to_q.lora_A"].T, tensors[A], rtol=1e-3)
    assert adapter.nbytes == 2 * 20 * 4


def test_a_layer_that_the_adapter_lacks_is_zeros(tmp_path, bundle):
    adapter = load(tmp_path, bundle, adapter_tensors(layers=["mid.to_q"]))
    a, b = (adapter.feeds[name] for name in names.lora_inputs("mid.to_out.0"))
    assert (a.shape, b.shape) == ((6, 2), (2, 4))
    assert not a.any() and not b.any()


def test_another_bundle_is_refused_with_both_digests(tmp_path, bundle):
    build_adapter(tmp_path, "f" * 64)
    with pytest.raises(BundleMismatchError) as caught:
        read_adapter(tmp_path, bundle[1])
    assert "f" * 64 in str(caught.value)
    assert bundle[1].digest() in str(caught.value)


def altered(**changes) -> dict[str, np.ndarray]:
    tensors = adapter_tensors() | changes
    return {key: value for key, value in tensors.items() if value is not None}


@pytest.mark.parametrize(
    ("tensors", "changes", "message"),
    [
        (altered(**{A: np.ones((2, 5), np.float32)}), {}, r"shape \[2, 4\]; received \[2, 5\]"),
        (altered(**{A: np.ones((1, 4), np.float32), B: np.ones((6, 1), np.float32)}), {}, r"shape \[2, 4\]; received \[1, 4\]"),
        (altered(**{A: np.full((2, 4), np.nan, np.float32)}), {}, "lora_A.weight must be finite"),
        (altered(**{B: np.full((6, 2), 1e300)}), {}, "lora_B.weight must be finite"),
        (altered(**{B: None}), {}, "keys that are missing: unet.mid.to_q.lora_B.weight"),
        (altered(**{"unet.mid.to_q.alpha": np.ones(1)}), {}, "keys that are not"),
        (altered(**{"text_encoder.x.lora_A.weight": np.ones(1)}), {}, "keys that are not"),
        (
            altered(**{"unet.up.to_q.lora_A.weight": np.ones((2, 4)), "unet.up.to_q.lora_B.weight": np.ones((4, 2))}),
            {},
            "layers unknown to the bundle: up.to_q",
        ),
        (None, {"targets": ("mid.to_q",)}, "layers in only one of weights and manifest: mid.to_out.0"),
        (None, {"targets": ("mid.to_q", "mid.to_out.0", "up.to_q")}, "layers unknown to the bundle: up.to_q"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_refusals(tmp_path, bundle, tensors, changes, message):
    with pytest.raises(AdapterError, match=message):
        load(tmp_path, bundle, tensors, **changes)


def test_bfloat16_is_refused_whether_numpy_knows_it_or_not(tmp_path, bundle):
    build_adapter(tmp_path, bundle[1].digest())
    save_file(
        {key: torch.from_numpy(value).bfloat16() for key, value in adapter_tensors().items()}, tmp_path / names.WEIGHTS_FILE
    )
    with pytest.raises(AdapterError, match=r"must be (float32 or float16; received bfloat16|a safetensors file)"):
        read_adapter(tmp_path, bundle[1])


def test_a_pickle_is_refused(tmp_path, bundle):
    build_adapter(tmp_path, bundle[1].digest())
    torch.save({"x": torch.zeros(1)}, tmp_path / names.WEIGHTS_FILE)
    with pytest.raises(AdapterError, match="must be a safetensors file"):
        read_adapter(tmp_path, bundle[1])
