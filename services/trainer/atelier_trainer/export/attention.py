"""Attention in an exported graph: as one fused operator of ONNX Runtime, or in standard operators.

The fused operator never holds the scores of all queries at once; in standard operators they take 4 * heads * s * t bytes a row.

Notation: b batch, s query tokens, t key tokens, n heads, d width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    import onnx

DOMAIN, OPERATOR = "com.microsoft", "MultiHeadAttention"


class FusedAttention:
    """An attention processor for diffusers that exports as one MultiHeadAttention node; it computes nothing in torch.

    Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md, com.microsoft.MultiHeadAttention
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: None = None,
        temb: None = None,
    ) -> torch.Tensor:
        """[b, s, width], and [b, t, text width] for cross-attention → [b, s, width]."""
        states = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(states), attn.to_v(states)  # [b, s or t, n * d]
        attended = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{OPERATOR}",
            (query, key, value),
            {"num_heads": attn.heads, "scale": float(attn.scale)},
            dtype=query.dtype,
            shape=query.shape,
            version=1,
        )
        out: torch.Tensor = attn.to_out[0](attended)
        return out


@contextmanager
def fused_attention(unet: Any) -> Iterator[None]:
    """Sets the processor on every layer that is plain attention, and restores the previous ones afterwards."""
    previous = dict(unet.attn_processors)
    fused = {
        name: FusedAttention() if _is_plain(unet.get_submodule(name.removesuffix(".processor"))) else processor
        for name, processor in previous.items()
    }
    unet.set_attn_processor(fused)
    try:
        yield
    finally:
        unet.set_attn_processor(previous)


def _is_plain(attn: Any) -> bool:
    extras = (attn.group_norm, attn.spatial_norm, attn.norm_q, attn.norm_k, attn.norm_cross, attn.add_k_proj)
    return all(extra is None for extra in extras) and not attn.residual_connection and attn.rescale_output_factor == 1


def split_graphs(fused: Path, standard: Path) -> None:
    """Copies the graph in `standard` to `fused`, and replaces the one in `standard` with standard operators.

    Both read their weights from the file next to `standard`.
    """
    import onnx

    model = onnx.load(standard, load_external_data=False)
    onnx.save(model, fused)
    nodes = list[Any]()
    for node in model.graph.node:
        nodes += _in_standard_operators(node, model.graph) if (node.domain, node.op_type) == (DOMAIN, OPERATOR) else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for index, opset in reversed(list(enumerate(model.opset_import))):
        if opset.domain == DOMAIN:
            del model.opset_import[index]
    onnx.save(model, standard)


def _in_standard_operators(node: onnx.NodeProto, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """softmax(scale * Q K^T) V per head, as nodes; Q and K each get the root of the scale, as in torch's own export.

    Source: arXiv:1706.03762 equation 1.
    """
    from onnx import helper, numpy_helper

    settings = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    (query, key, value), (out,), nodes = node.input, node.output, list[Any]()

    def constant(name: str, content: Any) -> str:
        graph.initializer.append(numpy_helper.from_array(content, f"{out}/{name}"))
        return f"{out}/{name}"

    def add(kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [name], f"{name}/{kind}", **attributes))
        return name

    heads_split = constant("apart", np.array([0, 0, settings["num_heads"], -1], np.int64))
    heads_joined = constant("joined", np.array([0, 0, -1], np.int64))
    scale = constant("root of scale", np.sqrt(np.float32(settings["scale"])))
    orders = ("query", query, [0, 2, 1, 3]), ("key", key, [0, 2, 3, 1]), ("value", value, [0, 2, 1, 3])
    q, k, v = (
        add("Transpose", [add("Reshape", [tensor, heads_split], f"{out}/{name} by head")], f"{out}/{name}", perm=order)
        for name, tensor, order in orders
    )  # [b, n, s, d], [b, n, d, t], [b, n, t, d]
    q, k = add("Mul", [q, scale], f"{out}/scaled query"), add("Mul", [k, scale], f"{out}/scaled key")
    scores = add("MatMul", [q, k], f"{out}/scores")  # [b, n, s, t]
    heads = add("MatMul", [add("Softmax", [scores], f"{out}/weights", axis=-1), v], f"{out}/heads")  # [b, n, s, d]
    add("Reshape", [add("Transpose", [heads], f"{out}/tokens", perm=[0, 2, 1, 3]), heads_joined], out)  # [b, s, n * d]
    return nodes
