"""The graphs that a bundle has of one model: they read the same weights and differ in operators and LoRA inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from atelier_contracts.manifests import LoraGroups

from atelier_trainer.export.onnx import attention, lora_operators
from atelier_trainer.export.onnx.graph_edits import drop_unused
from atelier_trainer.export.onnx.lora_operators import lower_lora
from atelier_trainer.export.onnx.standard_operators import use_standard_operators


@dataclass(frozen=True)
class GraphVariant:
    """How a traced model becomes a graph.

    Attributes:
        standard: only ONNX's own operators, convolutions with constant weights, and no skipping of unused LoRA groups.
        lora_by_layer: see `lora_operators.lower_lora`.
    """

    standard: bool = False
    lora_by_layer: bool = False


def write_variants(traced: Path, groups: LoraGroups, variants: Mapping[str, GraphVariant]) -> None:
    """Writes the variants of a traced graph next to it, by file name; they share its file of weights.

    Args:
        traced: the graph, with the nodes of `lora_inputs.LoraLayer`; one of the variants replaces it.
        groups: from the bundle's manifest.
        variants: by file name.
    """
    import onnx

    for name, variant in variants.items():
        model = onnx.load(traced, load_external_data=False)
        lower_lora(model.graph, groups, by_layer=variant.lora_by_layer, skip_unused=not variant.standard)
        if variant.standard:
            use_standard_operators(model.graph)
        drop_unused(model.graph)
        unused = {lora_operators.DOMAIN} | ({attention.DOMAIN} if variant.standard else set())
        for index, opset in reversed(list(enumerate(model.opset_import))):
            if opset.domain in unused:
                del model.opset_import[index]
        onnx.save(model, traced.with_name(f"{name}.lowered"))
    for name in variants:
        traced.with_name(f"{name}.lowered").replace(traced.with_name(name))
