"""A session fed through IO binding: an array that is fed repeatedly, such as an adapter's, stays on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from atelier_infer.onnx.session import Feeds


class BoundSession:
    """Implements `session.Session`. Used by one thread.

    Args:
        session: of the graph.
        device: `cuda` or `cpu`.

    Attributes:
        copied: arrays copied to the device so far.
    """

    def __init__(self, session: ort.InferenceSession, device: str) -> None:
        self._session, self._device, self.copied = session, device, 0
        self._on_device: dict[str, tuple[NDArray[Any], ort.OrtValue]] = {}

    def run(self, output_names: None, feeds: Feeds, run_options: ort.RunOptions | None = None) -> list[Any]:
        """An array that is the same object as before is not copied again, so callers must not write into it."""
        binding = self._session.io_binding()
        for name, array in feeds.items():
            bound = self._on_device.get(name)
            if bound is None or bound[0] is not array:
                bound = array, ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self._device, 0)
                self._on_device[name] = bound
                self.copied += 1
            binding.bind_ortvalue_input(name, bound[1])
        for output in self._session.get_outputs():
            binding.bind_output(output.name, self._device)
        self._session.run_with_iobinding(binding, run_options)
        outputs: list[Any] = binding.copy_outputs_to_cpu()
        return outputs
