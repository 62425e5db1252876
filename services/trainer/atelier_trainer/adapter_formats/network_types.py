"""Kinds of networks in adapter files, each turned into LoRA pairs: exactly where that is possible, else by a truncated SVD.

Notation: r rank of the network, in and out features or channels of a layer, k side of its kernel, n = in * k * k.
Sources: LoHa, arXiv:2108.06098; LoKr and the file format, arXiv:2309.14859; OFT, arXiv:2306.07280; DoRA, arXiv:2402.09353.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from atelier_trainer.adapter_formats.adapter_weights import LoraPair
from atelier_trainer.errors import AdapterFileError

Tensors = Mapping[str, torch.Tensor]
"""One layer's tensors by what they are: `down`, `alpha`, `hada_w1_a`, …"""


class LayerMismatchError(AdapterFileError):
    """A tensor is for a layer of another size."""


EXACT_RANK = 64
"""Up to this rank a product is written out exactly; beyond, a truncated SVD may be smaller."""


@dataclass(frozen=True)
class ConversionLimits:
    """What a conversion may cost.

    Attributes:
        max_error: largest relative error of a layer's product, in the Frobenius norm.
        max_rank: largest rank of a layer.
    """

    max_error: float = 0.01
    max_rank: int = 256


@dataclass(frozen=True)
class Layer:
    """The layer of the base model that a network changes.

    Attributes:
        name: `part.layer`.
        inner: input features or channels.
        outer: output features or channels.
        kernel: side of the kernel; 1 for a linear layer.
        convolution: whether its weights have four dimensions.
        weight: loads the base model's weights, float32 [out, in] or [out, in, k, k].
    """

    name: str
    inner: int
    outer: int
    kernel: int
    convolution: bool
    weight: Callable[[], torch.Tensor]

    @property
    def flat(self) -> int:
        """N."""
        return self.inner * self.kernel**2


@dataclass(frozen=True)
class Converted:
    """A LoRA pair, and the relative error of its product."""

    pair: LoraPair
    error: float = 0.0


def network_type(tensors: Tensors) -> str:
    """lora, loha, lokr, oft, dora, boft, glora, ia3, full or norm; unknown for anything else."""
    kinds = {
        "dora": {"dora_scale", *(name for name in tensors if name.startswith("lora_magnitude_vector"))},
        "lora": {"down", "up"},
        "loha": {"hada_w1_a"},
        "lokr": {"lokr_w1", "lokr_w1_a"},
        "boft": {"boft_blocks"} | ({"oft_blocks"} if tensors.get("oft_blocks", torch.empty(0)).dim() > 3 else set()),
        "oft": {"oft_blocks", "oft_diag"},
        "glora": {"a1.weight"},
        "ia3": {"on_input"},
        "full": {"diff", "diff_b"},
        "norm": {"w_norm", "b_norm"},
    }
    return next((kind for kind, names in kinds.items() if names & tensors.keys()), "unknown")


REFUSALS = {
    "dora": "DoRA rescales the sum of the base model's weights and its own, which no sum with LoRA expresses; merge it into "
    "the base model with diffusers (load_lora_weights, fuse_lora, save_pretrained) and give that folder as --base",
    "boft": "BOFT multiplies the base model's weights several times; merge it into the base model with the tool that made it",
    "glora": "GLoRA also changes what a layer multiplies; merge it into the base model with the tool that made it",
    "ia3": "(IA)^3 rescales every output, which has full rank; merge it into the base model with the tool that made it",
    "norm": "it changes normalization layers, which take no LoRA; merge it into the base model with the tool that made it",
}
"""Why a kind is refused, and what works instead."""


OFT_REASON = "this form of OFT multiplies the base model's weights by angles alone; merge it with the tool that made it"


def convert(layer: Layer, tensors: Tensors, limits: ConversionLimits) -> Converted:
    """One layer's network as a LoRA pair, float32.

    Raises:
        AdapterFileError: its tensors do not belong together or do not fit the layer, or its kind cannot be expressed within
            the limits.
    """
    kind = network_type(tensors)
    if reason := REFUSALS.get(kind):
        raise AdapterFileError(f"{layer.name}: {reason}")
    converters = {"lora": _lora, "loha": _loha, "lokr": _lokr, "oft": _oft, "full": _full}
    if kind not in converters:
        raise AdapterFileError(f"{layer.name}: {', '.join(sorted(tensors))} is not a network that is known here")
    floats = {name: tensor.float() for name, tensor in tensors.items()}
    try:
        return converters[kind](layer, floats, limits)
    except (RuntimeError, ValueError, KeyError, IndexError, TypeError, ZeroDivisionError) as error:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in sorted(tensors.items()))
        raise AdapterFileError(f"{layer.name}: its tensors do not belong together: {shapes}") from error


def _lora(layer: Layer, tensors: Tensors, limits: ConversionLimits) -> Converted:
    """W + alpha / r * up down; with `mid`, a Tucker decomposition whose core goes into `down`."""
    down, up, mid = tensors["down"], tensors["up"], tensors.get("mid")
    if mid is not None:
        down = torch.einsum("ijkl,jn->inkl", mid, down.flatten(1))
    _check_shape(layer, "down", tuple(down.shape), (len(down), layer.inner, layer.kernel, layer.kernel))
    _check_shape(layer, "up", tuple(up.shape), (layer.outer, len(down), 1, 1))
    return Converted(_pair(layer, down.flatten(1), up.flatten(1), _alpha(layer, tensors, len(down))))


def _loha(layer: Layer, tensors: Tensors, limits: ConversionLimits) -> Converted:
    """(w1_a w1_b) * (w2_a w2_b), elementwise: the products of all pairs of columns, so of rank r ** 2."""
    (a1, b1), (a2, b2) = (_loha_half(tensors, half) for half in (1, 2))
    _check_product(layer, a1, b1)
    _check_product(layer, a2, b2)
    rank = int(tensors["hada_w1_b"].shape[0])
    scale = _alpha(layer, tensors, rank) / rank
    up = torch.einsum("oi,oj->oij", a1, a2).flatten(1)
    down = torch.einsum("in,jn->ijn", b1, b2).flatten(0, 1)
    return _product(layer, up, down, scale, limits)


def _loha_half(tensors: Tensors, half: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One factor as [out, r] and [r, n]; with a core, a Tucker decomposition."""
    a, b, core = tensors[f"hada_w{half}_a"], tensors[f"hada_w{half}_b"], tensors.get(f"hada_t{half}")
    if core is None:
        return a, b.flatten(1)
    return a.T, torch.einsum("ijkl,jn->inkl", core, b).flatten(1)


def _lokr(layer: Layer, tensors: Tensors, limits: ConversionLimits) -> Converted:
    """kron(w1, w2), each whole or a product; the Kronecker product of products is a product of Kronecker products."""
    ranks = [len(tensors[name]) for name in ("lokr_w1_b", "lokr_w2_b") if name in tensors]
    scale = _alpha(layer, tensors, ranks[0]) / ranks[0] if ranks else 1.0
    a1, b1 = _factors(tensors["lokr_w1"]) if "lokr_w1" in tensors else (tensors["lokr_w1_a"], tensors["lokr_w1_b"])
    rows = layer.inner // b1.shape[1]
    if "lokr_t2" in tensors:
        a2 = tensors["lokr_w2_a"].T
        b2 = torch.einsum("ijkl,jn->inkl", tensors["lokr_t2"], tensors["lokr_w2_b"])
    elif "lokr_w2" in tensors:
        w2 = tensors["lokr_w2"]
        a2, flat = _factors(w2.flatten(1))
        b2 = flat.reshape(-1, *w2.shape[1:])
    else:
        a2, b2 = tensors["lokr_w2_a"], tensors["lokr_w2_b"]
    b2 = b2.reshape(len(b2), rows, layer.kernel**2)
    down = torch.einsum("ic,jdk->ijcdk", b1, b2).reshape(len(b1) * len(b2), -1)
    up = torch.einsum("ai,bj->abij", a1, a2).reshape(a1.shape[0] * a2.shape[0], -1)
    return _product(layer, up, down, scale, limits)


def _oft(layer: Layer, tensors: Tensors, limits: ConversionLimits) -> Converted:
    """(R - 1) W with R block-diagonal and orthogonal, by Cayley's transform of the blocks' skew-symmetric part."""
    if "oft_blocks" not in tensors:
        raise AdapterFileError(f"{layer.name}: {OFT_REASON}")
    blocks, weight = tensors["oft_blocks"].double(), layer.weight().double()
    skew, one = blocks - blocks.transpose(1, 2), torch.eye(blocks.shape[-1], dtype=torch.float64)
    constraint = float(tensors.get("alpha", torch.zeros(()))) * layer.outer
    if constraint > 0 and (norm := float(torch.linalg.vector_norm(skew)) + 1e-8) > constraint:
        skew = skew * constraint / norm
    rotations = (one + skew) @ torch.linalg.inv(one - skew)
    parts = weight.reshape(len(blocks), blocks.shape[-1], -1)
    changed = torch.einsum("knm,knc->kmc", rotations, parts).reshape(layer.outer, -1)
    if "rescale" in tensors:
        changed = tensors["rescale"].double().reshape(layer.outer, 1) * changed
    return _truncated(layer, changed - weight.reshape(layer.outer, -1), limits)


def _full(layer: Layer, tensors: Tensors, limits: ConversionLimits) -> Converted:
    """The difference itself."""
    if "diff_b" in tensors and tensors["diff_b"].abs().max() > 0:
        raise AdapterFileError(f"{layer.name}: it changes a bias, which LoRA cannot; merge it into the base model")
    _check_shape(layer, "diff", tuple(tensors["diff"].shape), (layer.outer, layer.inner, layer.kernel, layer.kernel))
    return _truncated(layer, tensors["diff"].double().flatten(1), limits)


def _product(layer: Layer, up: torch.Tensor, down: torch.Tensor, scale: float, limits: ConversionLimits) -> Converted:
    """Scale * up down, exactly where its rank is small; else by a truncated SVD."""
    _check_product(layer, up, down)
    if len(down) <= min(EXACT_RANK, limits.max_rank, layer.outer, layer.flat):
        return Converted(_pair(layer, down, up, scale * len(down)))
    return _truncated(layer, scale * up.double() @ down.double(), limits)


def _truncated(layer: Layer, delta: torch.Tensor, limits: ConversionLimits) -> Converted:
    """The smallest rank whose error is within the limit.

    Source: Eckart and Young 1936: the SVD's first terms are the closest matrix of their rank.
    """
    u, s, v = torch.linalg.svd(delta, full_matrices=False)
    total = float(s.square().sum())
    tail = total - s.square().cumsum(0)  # of the terms after each one
    errors = (tail.clamp(min=0) / total).sqrt() if total else torch.zeros_like(s)
    rank = int((errors > limits.max_error).sum()) + 1
    if rank > min(limits.max_rank, len(s)):
        at_most = min(limits.max_rank, len(s))
        raise AdapterFileError(
            f"{layer.name}: as LoRA of rank {at_most} it has an error of {float(errors[at_most - 1]):.1%}, and at most "
            f"{limits.max_error:.1%} is allowed: raise --max_error or --max_rank"
        )
    root = s[:rank].sqrt()
    pair = _pair(layer, (root[:, None] * v[:rank]).float(), (u[:, :rank] * root).float(), float(rank))
    return Converted(pair, float(errors[rank - 1]))


def _factors(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """An exact product that is a matrix, with the smaller of its sides as rank."""
    if matrix.shape[0] <= matrix.shape[1]:
        return torch.eye(len(matrix)), matrix
    return matrix, torch.eye(matrix.shape[1])


def _pair(layer: Layer, down: torch.Tensor, up: torch.Tensor, alpha: float) -> LoraPair:
    """Down [r, n] and up [out, r] in the layer's own number of dimensions."""
    if not len(down):
        raise AdapterFileError(f"{layer.name}: its rank must be 1 or more; received 0")
    if layer.convolution:
        down = down.reshape(len(down), layer.inner, layer.kernel, layer.kernel)
        up = up[..., None, None]
    return LoraPair(down.contiguous(), up.contiguous(), alpha)


def _alpha(layer: Layer, tensors: Tensors, rank: int) -> float:
    """The file's alpha, and the rank where it has none; times `scalar`."""
    alpha = float(tensors["alpha"].reshape(())) if "alpha" in tensors else float(rank)
    if "scalar" in tensors:
        alpha *= float(tensors["scalar"].reshape(()))
    if not (alpha > 0 and math.isfinite(alpha)):
        raise AdapterFileError(f"{layer.name}: alpha must be positive and finite; received {alpha}")
    return alpha


def _check_shape(layer: Layer, what: str, received: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """A linear layer's tensors may have two dimensions or four, and so may those of a 1 x 1 convolution."""
    if expected[2:] == (1, 1) and len(received) == 2:
        expected = expected[:2]
    if received != expected:
        raise LayerMismatchError(f"{layer.name}: {what} must have shape {list(expected)}; received {list(received)}")


def _check_product(layer: Layer, up: torch.Tensor, down: torch.Tensor) -> None:
    if (up.shape[0], down.shape[1]) != (layer.outer, layer.flat):
        expected, received = [layer.outer, layer.flat], [up.shape[0], down.shape[1]]
        raise LayerMismatchError(f"{layer.name}: its product must have shape {expected}; received {received}")
