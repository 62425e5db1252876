"""Standard operators for providers that have no fused attention and no convolutions whose weights are inputs.

Notation: b batch, s query tokens, t key tokens, n heads, d width of a head, c channels, h w and y x size before and after a
convolution, k side of its kernel, r sum of ranks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from atelier_trainer.export.onnx.attention import DOMAIN, OPERATOR
from atelier_trainer.export.onnx.graph_edits import ReplacementNodes

if TYPE_CHECKING:
    import onnx

END = np.iinfo(np.int64).max
"""Of a slice that reaches to the end."""


def use_standard_operators(graph: onnx.GraphProto) -> None:
    """Replaces fused attention, and convolutions whose weights are inputs, in place."""
    weights, nodes = {item.name for item in graph.initializer}, list[Any]()
    for node in graph.node:
        if (node.domain, node.op_type) == (DOMAIN, OPERATOR):
            nodes += _attention(node, graph)
        elif node.op_type == "Conv" and node.input[1] not in weights:
            nodes += _convolution(node, graph)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _attention(node: onnx.NodeProto, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """softmax(scale * Q K^T) V per head; Q and K each get the root of the scale, as in torch's own export.

    The scores take 4 * n * s * t bytes a row. Source: arXiv:1706.03762 equation 1.
    """
    made = ReplacementNodes(node, graph)
    query, key, value = node.input
    heads_split = made.constant("split", np.array([0, 0, made.attributes["num_heads"], -1], np.int64))
    heads_joined = made.constant("joined", np.array([0, 0, -1], np.int64))
    scale = made.constant("root of scale", np.sqrt(np.float32(made.attributes["scale"])))

    def by_head(name: str, tensor: str, order: list[int]) -> str:
        return made.add("Transpose", [made.add("Reshape", [tensor, heads_split], f"{name} by head")], name, perm=order)

    q, k = by_head("query", query, [0, 2, 1, 3]), by_head("key", key, [0, 2, 3, 1])  # [b, n, s, d], [b, n, d, t]
    v = by_head("value", value, [0, 2, 1, 3])  # [b, n, t, d]
    q, k = made.add("Mul", [q, scale], "scaled query"), made.add("Mul", [k, scale], "scaled key")
    scores = made.add("MatMul", [q, k], "scores")  # [b, n, s, t]
    heads = made.add("MatMul", [made.add("Softmax", [scores], "weights", axis=-1), v], "heads")  # [b, n, s, d]
    made.add("Reshape", [made.add("Transpose", [heads], "tokens", perm=[0, 2, 1, 3]), heads_joined], "")  # [b, s, n * d]
    return made.nodes


def _convolution(node: onnx.NodeProto, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The sum over the kernel's cells of W[cell] x, each shifted by its cell's place in the kernel."""
    made = ReplacementNodes(node, graph)
    x, weight = node.input  # [b, c, h, w], [r, c, k, k]
    side, stride, pads = made.attributes["kernel_shape"][0], made.attributes["strides"][0], made.attributes["pads"]
    zero, one, two, four, minus = (made.constant(f"int {value}", np.array([value], np.int64)) for value in (0, 1, 2, 4, -1))
    cells = made.constant("cells", np.array([side**2], np.int64))
    size, rank = made.add("Shape", [x], "size"), made.add("Shape", [weight], "rank", end=1)
    channels = made.add("Shape", [weight], "channels", start=1, end=2)
    rows, grid = made.add("Slice", [size, zero, one], "rows"), made.add("Slice", [size, two, four], "grid")

    def reshape(tensor: str, shape: list[str], name: str) -> str:
        return made.add("Reshape", [tensor, made.add("Concat", shape, f"{name} shape", axis=0)], name, allowzero=1)

    by_cell = made.add("Transpose", [weight], "cells first", perm=[2, 3, 0, 1])  # [k, k, r, c]
    weights = reshape(by_cell, [cells, rank, channels], "weights")  # [k * k, r, c]
    flat = reshape(x, [rows, one, channels, minus], "flat")  # [b, 1, c, h * w]
    maps = made.add("MatMul", [weights, flat], "maps")  # [b, k * k, r, h * w]
    maps = reshape(maps, [rows, cells, rank, grid], "on the grid")  # [b, k * k, r, h, w]
    border = made.constant("border", np.array([0, 0, 0, pads[0], pads[1], 0, 0, 0, pads[2], pads[3]], np.int64))
    padded = made.add("Pad", [maps, border], "padded")
    axes = made.constant("axes", np.array([1, 3, 4], np.int64))
    steps = made.constant("steps", np.array([1, stride, stride], np.int64))
    shifted = []
    for cell in range(side**2):
        down, right = divmod(cell, side)
        after = [down + 1 - side or END, right + 1 - side or END]
        ends = made.constant(f"{cell} ends", np.array([cell + 1, *after], np.int64))
        starts = made.constant(f"{cell} starts", np.array([cell, down, right], np.int64))
        part = made.add("Slice", [padded, starts, ends, axes, steps], f"cell {cell}")  # [b, 1, r, y, x]
        shifted.append(made.add("Squeeze", [part, one], f"shifted {cell}"))
    made.add("Sum", shifted, "")
    return made.nodes
