"""A session fed through IO binding: an array that is fed again, such as an adapter's, stays on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from atelier_infer.onnx.session import Feeds


class BoundSession:
    """Runs a session as `graphs.Graph` says. Used by one thread.

    Args:
        session: one output.
        device: where ONNX Runtime keeps arrays for it: `cuda` or `cpu`.
    """

    def __init__(self, session: ort.InferenceSession, device: str) -> None:
        self._session, self._device = session, device
        self._held: dict[str, tuple[NDArray[Any], ort.OrtValue]] = {}
        self.copied = 0
        """Arrays that were brought to the device so far."""

    def run(self, output_names: None, feeds: Feeds, run_options: ort.RunOptions | None = None) -> list[Any]:
        """Every output of the graph.

        An array counts as fed again when it is the same object; so whoever feeds one must not write into it later.
        """
        binding = self._session.io_binding()
        for name, array in feeds.items():
            held = self._held.get(name)
            if held is None or held[0] is not array:
                held = array, ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self._device, 0)
                self._held[name] = held
                self.copied += 1
            binding.bind_ortvalue_input(name, held[1])
        for output in self._session.get_outputs():
            binding.bind_output(output.name, self._device)
        self._session.run_with_iobinding(binding, run_options)
        outputs: list[Any] = binding.copy_outputs_to_cpu()
        return outputs
