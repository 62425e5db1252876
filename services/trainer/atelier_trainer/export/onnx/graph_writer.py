"""Writes torch modules as ONNX graphs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

OPSET = 20  # OpenVINO's provider has no Attention operator, which opset 23 would use


@dataclass(frozen=True)
class GraphSignature:
    """Inputs and outputs of a graph.

    Attributes:
        input_names: in the order of the module's arguments.
        output_names: in the order of its results.
        example: one tensor per input, which the module is traced with.
        dynamic_shapes: the free dimensions of each input, as torch.onnx.export takes them.
    """

    input_names: list[str]
    output_names: list[str]
    example: list[torch.Tensor]
    dynamic_shapes: tuple[Any, ...]


def write_graph(module: torch.nn.Module, signature: GraphSignature, file: Path) -> None:
    """Traces a module and writes the graph, with its weights in a file next to it and without this machine's paths."""
    with _without_exporter_warnings():
        program = torch.onnx.export(
            module.eval(),
            tuple(signature.example),
            dynamic_shapes=signature.dynamic_shapes,
            input_names=signature.input_names,
            output_names=signature.output_names,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # two thirds of the file; holds this machine's paths
    program.save(str(file), external_data=True)


@contextmanager
def _without_exporter_warnings() -> Iterator[None]:
    """The exporter warns of its own deprecations and logs each pass; errors still raise."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
