"""LyCORIS' networks as LoRA: what its own code adds to a layer's weights is what the pair adds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from atelier_trainer.adapter_formats.adapter_weights import LoraPair
from atelier_trainer.adapter_formats.network_types import ConversionLimits, Layer, convert, network_type
from atelier_trainer.errors import AdapterFileError
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.full import FullModule
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from torch.nn import functional as F

LINEAR, CONVOLUTION = torch.nn.Linear(24, 32), torch.nn.Conv2d(8, 16, 3, padding=1)
EXACT = ConversionLimits(max_error=1e-6, max_rank=64)


def layer_of(module: torch.nn.Module) -> Layer:
    outer, inner = module.weight.shape[:2]
    kernel = module.weight.shape[2] if module.weight.dim() == 4 else 1
    return Layer("unet.x", inner, outer, kernel, module.weight.dim() == 4, lambda: module.weight.detach())


def randomized(network: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network


def tensors_of(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """As its file has them, in the spelling that reading a file gives."""
    spelling = {"lora_down.weight": "down", "lora_up.weight": "up", "lora_mid.weight": "mid"}
    return {spelling.get(name, name): tensor.detach() for name, tensor in network.state_dict().items() if "org" not in name}


def assert_adds_the_same(pair: LoraPair, network: torch.nn.Module, module: torch.nn.Module, tolerance: float = 1e-4) -> None:
    """On random inputs, by LyCORIS' own forward pass; its get_diff_weight scales twice."""
    x = torch.randn(
        2, *((8, 5, 6) if isinstance(module, torch.nn.Conv2d) else (24,)), generator=torch.Generator().manual_seed(1)
    )
    with torch.inference_mode():
        expected = network(x) - module(x)
        if isinstance(module, torch.nn.Conv2d):
            added = pair.scale * F.conv2d(F.conv2d(x, pair.down, padding=module.padding), pair.up)
        else:
            added = pair.scale * x @ pair.down.T @ pair.up.T
    assert expected.abs().max() > 0.01
    assert (added - expected).abs().max() <= tolerance * expected.abs().max()


NETWORKS = {
    "lora": (LoConModule, {"lora_dim": 4, "alpha": 2}, 4),
    "lora with a core": (LoConModule, {"lora_dim": 4, "alpha": 2, "use_tucker": True}, 4),
    "loha": (LohaModule, {"lora_dim": 3, "alpha": 1}, 9),
    "loha with a core": (LohaModule, {"lora_dim": 3, "alpha": 1, "use_tucker": True}, 9),
    "lokr, both factors whole": (LokrModule, {"lora_dim": 1000, "alpha": 1, "factor": 4, "full_matrix": True}, None),
    "lokr, one factor": (LokrModule, {"lora_dim": 2, "alpha": 1, "factor": 4}, 8),
    "lokr, both factors": (LokrModule, {"lora_dim": 1, "alpha": 1, "factor": 4, "decompose_both": True}, 1),
    "lokr with a core": (LokrModule, {"lora_dim": 1, "alpha": 1, "factor": 2, "use_tucker": True}, None),
}


@pytest.mark.parametrize("module", [LINEAR, CONVOLUTION], ids=["linear", "convolution"])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_exact(module: Any, name: str) -> None:
    kind, options, rank = NETWORKS[name]
    network = randomized(kind("x", module, **options))
    converted = convert(layer_of(module), tensors_of(network), EXACT)
    assert_adds_the_same(converted.pair, network, module)
    assert network_type(tensors_of(network)) == name.partition(" ")[0].rstrip(",")
    assert converted.error <= 1e-6
    if rank is not None:
        assert converted.pair.rank == rank
    assert converted.pair.down.dim() == converted.pair.up.dim() == module.weight.dim()


@pytest.mark.parametrize("module", [LINEAR, CONVOLUTION], ids=["linear", "convolution"])
@pytest.mark.parametrize("options", [{}, {"constraint": 0.01}, {"rescaled": True}], ids=["plain", "constrained", "rescaled"])
def test_oft_by_the_bases_weights(module: Any, options: dict[str, Any]) -> None:
    network = randomized(DiagOFTModule("x", module, lora_dim=4, **options))
    converted = convert(layer_of(module), tensors_of(network), ConversionLimits(1e-6, 64))
    assert_adds_the_same(converted.pair, network, module, 1e-3)


def test_a_truncated_conversion_tells_its_error() -> None:
    difference = torch.randn(32, 24, generator=torch.Generator().manual_seed(2))
    converted = convert(layer_of(LINEAR), {"diff": difference}, ConversionLimits(0.3, 64))
    error = torch.linalg.matrix_norm(converted.pair.delta().float() - difference) / torch.linalg.matrix_norm(difference)
    assert 0.01 < converted.error <= 0.3
    assert float(error) == pytest.approx(converted.error, rel=1e-3)
    smaller = convert(layer_of(LINEAR), {"diff": difference}, ConversionLimits(0.5, 64))
    assert smaller.pair.rank < converted.pair.rank


def test_too_large_an_error_is_refused_with_the_numbers() -> None:
    network = randomized(FullModule("x", LINEAR))
    difference = {"diff": network.weight.detach() - LINEAR.weight.detach()}
    match = r"of rank 4 it has an error of \d+\.\d%, and at most 1\.0% is allowed: raise --max_error"
    with pytest.raises(AdapterFileError, match=match):
        convert(layer_of(LINEAR), difference, ConversionLimits(0.01, 4))
    exact = convert(layer_of(LINEAR), difference, EXACT)
    torch.testing.assert_close(exact.pair.delta().float(), difference["diff"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"down": torch.zeros(2, 24)}, "do not belong together: down"),
        ({"down": torch.zeros(2, 24), "up": torch.zeros(32, 3)}, r"up must have shape \[32, 2\]; received \[32, 3\]"),
        ({"down": torch.zeros(2, 9), "up": torch.zeros(32, 2)}, r"down must have shape \[2, 24\]; received \[2, 9\]"),
        ({"down": torch.zeros(2, 24), "up": torch.zeros(32, 2), "alpha": torch.tensor(-1.0)}, "alpha must be positive"),
        ({"down": torch.zeros(2, 24), "up": torch.zeros(32, 2), "alpha": torch.ones(3)}, "do not belong together"),
        ({"hada_w1_a": torch.zeros(32, 2)}, "do not belong together: hada_w1_a"),
        ({"w_norm": torch.zeros(32)}, "normalization layers"),
        ({"on_input": torch.zeros(1), "weight": torch.zeros(32)}, "rescales every output"),
        ({"diff": torch.zeros(32, 24), "diff_b": torch.ones(32)}, "changes a bias"),
        ({"weight": torch.zeros(32)}, "is not a network that is known"),
        ({"oft_diag": torch.zeros(32)}, "this form of OFT"),
    ],
)
def test_refusals(tensors: dict[str, Any], message: str) -> None:
    with pytest.raises(AdapterFileError, match=message):
        convert(layer_of(LINEAR), tensors, EXACT)
