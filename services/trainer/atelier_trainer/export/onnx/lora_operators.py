"""What the LoRA of a layer is in an ONNX graph: a few small products next to the layer.

A group that no adapter of the batch touches costs next to nothing. Where layers have inputs of their own, a condition skips its
products. The conversion to float16 does not support conditions: there the product, which is zero, is computed for one token or
pixel alone and added to all of them by broadcasting. In OpenVINO the slices for that cost more than they save.

Notation: b batch, n tokens, m pixels, r sum of the ranks of the adapters in the batch, k side of a kernel; n', h' and w' are 1
where the group is unused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from atelier_contracts import names
from atelier_contracts.manifests import LoraGroups

from atelier_trainer.export.onnx.graph_edits import ReplacementNodes

if TYPE_CHECKING:
    import onnx

DOMAIN, OPERATOR = "atelier", "LoraLayer"
END = np.array([2**24], np.int64)
"""Of a slice that reaches to the end, whatever the size; with larger numbers OpenVINO overflows."""


def lower_lora(graph: onnx.GraphProto, groups: LoraGroups, *, by_layer: bool, skip_unused: bool = True) -> None:
    """Replaces the nodes of `lora_inputs.LoraLayer`, in place.

    Args:
        graph: as it was traced.
        groups: from the bundle's manifest.
        by_layer: each layer gets an A and a B of its own as inputs, so that nothing is copied; otherwise each group has one, of
            which the layers are slices.
        skip_unused: whether groups that no adapter touches are skipped.
    """
    nodes: list[Any] = []
    for group in groups:
        nodes += _group_nodes(group, graph, sorted({1} | {kernel for *_, kernel in groups[group].values()}))
    matrices = {group: _layer_inputs(graph, groups, group) if by_layer else _slices(graph, groups, group) for group in groups}
    for node in graph.node:
        if (node.domain, node.op_type) != (DOMAIN, OPERATOR):
            nodes.append(node)
            continue
        made = ReplacementNodes(node, graph)
        group, layer = (made.attributes[name].decode() for name in ("group", "layer"))
        slices, a, b = matrices[group][layer]
        y, x, *_, scale = node.input
        product = _Product(made, group, x, a, b, scale, corner_only=skip_unused and not by_layer)
        shape = groups[group][layer]
        up = product.of_convolution(*shape) if made.attributes["dimensions"] == 4 else product.of_linear()
        nodes += slices
        if by_layer:
            nodes.append(_if_used(made, group, up))
            up = nodes[-1].output[0]
        else:
            nodes += made.nodes
        nodes.append(made.final_node("Add", [y, up]))
    del graph.node[:]
    graph.node.extend(nodes)


def _end(group: str, kernel: int = 1) -> str:
    """Name of the end of a slice, int64 [1]: all of it, or `kernel` where the group is unused."""
    return f"{group}.lora_end_{kernel}"


def _group_nodes(group: str, graph: onnx.GraphProto, kernels: list[int]) -> list[onnx.NodeProto]:
    """Computes the ends of the group's slices."""
    from onnx import helper, numpy_helper

    scale, prefix = names.lora_inputs(group).scale, f"{group}.lora_"
    constants = {"unused_rank": [names.UNUSED_RANK.get(group, 0)], "all": END} | {str(kernel): [kernel] for kernel in kernels}
    for name, value in constants.items():
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), prefix + name))
    nodes = [
        helper.make_node("Shape", [scale], [f"{prefix}rank"], f"{prefix}rank/Shape", start=2, end=3),
        helper.make_node("Greater", [f"{prefix}rank", f"{prefix}unused_rank"], [f"{prefix}used"], f"{prefix}used/Greater"),
    ]
    for kernel in kernels:
        inputs = [f"{prefix}used", f"{prefix}all", f"{prefix}{kernel}"]
        nodes.append(helper.make_node("Where", inputs, [_end(group, kernel)], f"{_end(group, kernel)}/Where"))
    return nodes


Matrices = dict[str, tuple[list[Any], str, str]]
"""By layer: the nodes that make its A and B, and their names."""


def _layer_inputs(graph: onnx.GraphProto, groups: LoraGroups, group: str) -> Matrices:
    """Replaces the group's two inputs by two for each layer."""
    from onnx import TensorProto, helper

    packed, made, inputs = names.lora_inputs(group), Matrices(), list[Any]()
    for layer, (inner, outer, kernel) in groups[group].items():
        own = names.layer_inputs(group, layer)
        for name, rows in ((own.a, inner * kernel**2), (own.b, outer)):
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, f"r_{group}"]))
        made[layer] = [], own.a, own.b
    for index, item in reversed(list(enumerate(graph.input))):
        if item.name in (packed.a, packed.b):
            del graph.input[index]
    graph.input.extend(inputs)
    return made


def _slices(graph: onnx.GraphProto, groups: LoraGroups, group: str) -> Matrices:
    """Each layer's rows of the group's inputs."""
    from onnx import helper, numpy_helper

    packed, made = names.lora_inputs(group), Matrices()
    graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), f"{group}.lora_axis"))
    first_a = first_b = 0
    for layer, (inner, outer, kernel) in groups[group].items():
        own, nodes = names.layer_inputs(group, layer), list[Any]()
        for name, whole, first, rows in (
            (own.a, packed.a, first_a, inner * kernel**2),
            (own.b, packed.b, first_b, outer),
        ):
            bounds = []
            for bound, value in (("first", first), ("end", first + rows)):
                graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), f"{name}/{bound}"))
                bounds.append(f"{name}/{bound}")
            nodes.append(helper.make_node("Slice", [whole, *bounds, f"{group}.lora_axis"], [name], f"{name}/Slice"))
        made[layer] = nodes, own.a, own.b
        first_a, first_b = first_a + inner * kernel**2, first_b + outer
    return made


def _if_used(made: ReplacementNodes, group: str, product: str) -> onnx.NodeProto:
    """The nodes so far under the condition that the group is used, and a zero otherwise."""
    from onnx import TensorProto, helper

    zero = made.constant("zero", np.zeros([1] * made.attributes["dimensions"], np.float32))
    unused = f"{made.out}/unused"
    nothing = [helper.make_node("Identity", [zero], [unused], f"{unused}/Identity")]
    branches = {"then_branch": (made.nodes, product), "else_branch": (nothing, unused)}
    graphs = {
        name: helper.make_graph(nodes, f"{made.out}/{name}", [], [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)])
        for name, (nodes, out) in branches.items()
    }
    return helper.make_node("If", [f"{group}.lora_used"], [f"{made.out}/product"], f"{made.out}/product/If", **graphs)


class _Product:
    """B ((A x) * scale) of one layer.

    Args:
        made: gets the nodes.
        group: of the layer.
        x: name of the layer's input; likewise the others.
        corner_only: computes one token or pixel alone where the group is unused.
    """

    def __init__(self, made: ReplacementNodes, group: str, x: str, a: str, b: str, scale: str, *, corner_only: bool) -> None:
        self.made, self.group, self.corner_only = made, group, corner_only
        self.x, self.a, self.b, self.scale = x, a, b, scale

    def of_linear(self) -> str:
        """[b, n', out], or [b, out] for an embedding."""
        made, flat = self.made, self.made.attributes["dimensions"] == 2
        zero, one = (made.constant(f"int {value}", np.array([value], np.int64)) for value in (0, 1))
        tokens = made.add("Unsqueeze", [self.x, one], "one token") if flat else self.x
        down = made.add("Mul", [made.add("MatMul", [tokens, self.a], "down"), self.scale], "scaled")  # [b, n, r]
        if self.corner_only:
            down = made.add("Slice", [down, zero, _end(self.group), one], "used")  # [b, n', r]
        up = made.add("MatMul", [down, made.add("Transpose", [self.b], "B transposed", perm=[1, 0])], "up")
        return made.add("Squeeze", [up, one], "flat") if flat else up

    def of_convolution(self, channels: int, outer: int, kernel: int) -> str:
        """[b, out, h', w']: A has the kernel, stride and padding of the layer."""
        made, stride = self.made, self.made.attributes["stride"]
        weight = made.add("Transpose", [self.a], "A transposed", perm=[1, 0])  # [r, in * k * k]
        by_pixel = made.constant("by pixel", np.array([0, 0, -1], np.int64))
        image = self._corner(self.x, "corner", kernel)
        if (kernel, stride) == (1, 1):
            pixels = made.add("MatMul", [weight, made.add("Reshape", [image, by_pixel], "flat")], "pixels")  # [b, r, m]
        else:
            kernels = made.constant("kernels", np.array([-1, channels, kernel, kernel], np.int64))
            down = made.add(
                "Conv", [image, made.add("Reshape", [weight, kernels], "kernels of A")], "down",
                kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=made.attributes["pads"],
            )  # fmt: skip
            image = self._corner(down, "used")  # [b, r, h', w']
            pixels = made.add("Reshape", [image, by_pixel], "pixels")
        scales = made.add("Transpose", [self.scale], "scales", perm=[0, 2, 1])  # [b, r, 1]
        up = made.add("MatMul", [self.b, made.add("Mul", [pixels, scales], "scaled")], "up")  # [b, out, m]
        rows = made.constant("rows and channels", np.array([0, outer], np.int64))
        grid = made.add("Concat", [rows, made.add("Shape", [image], "grid", start=2, end=4)], "image shape", axis=0)
        return made.add("Reshape", [up, grid], "image")

    def _corner(self, tensor: str, name: str, kernel: int = 1) -> str:
        """All of an image, or its first kernel x kernel pixels where the group is unused."""
        if not self.corner_only:
            return tensor
        made = self.made
        axes = made.constant(f"axes of {name}", np.array([2, 3], np.int64))
        zeros = made.constant(f"starts of {name}", np.array([0, 0], np.int64))
        ends = made.add("Concat", [_end(self.group, kernel)] * 2, f"ends of {name}", axis=0)
        return made.add("Slice", [tensor, zeros, ends, axes], name)
