"""What runs the graphs: the CPU provider in fp32, OpenVINO in bf16, or CUDA in fp16; chosen at start and verified."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from atelier_infer.errors import BundleError, ProviderError
from atelier_infer.onnx.fp16 import write_half
from atelier_infer.onnx.graph_cache import OPTIMIZED, WEIGHTS, making, usable
from atelier_infer.onnx.io_binding import BoundSession
from atelier_infer.onnx.session import Graph
from atelier_infer.settings import ProviderName

NAMES: dict[ProviderName, str] = {
    "cpu": "CPUExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cuda": "CUDAExecutionProvider",
}
HOW_TO_GET: dict[ProviderName, str] = {
    "cpu": "install the extra infer",
    "openvino": "install the extra infer-openvino into an environment of its own: it has the import name of onnxruntime",
    "cuda": "install the extra infer-cuda into an environment of its own, on a machine with an NVIDIA GPU",
}
WHAT_TO_DO: dict[ProviderName, str] = {
    "cpu": "this build of it is broken",
    "openvino": "or set ATELIER_INFER_PROVIDER=cpu",
    "cuda": "give the container a GPU (docker run --gpus all; needs NVIDIA's container toolkit), or take the image for the CPU",
}
DEVICES: dict[ProviderName, str] = {"cuda": "cuda"}
"""Of providers whose memory is not the processor's: where arrays go."""
FUSING: tuple[ProviderName, ...] = ("cpu", "cuda")
"""Providers that have ONNX Runtime's own attention operator."""


@dataclass(frozen=True)
class Runtime:
    """How sessions are made.

    Attributes:
        provider: what runs them.
        intra_op_threads: threads of one operator; 0 leaves it to ONNX Runtime, which takes one per core.
        cache_dir: where optimised graphs and compiled blobs are kept; none keeps none.
    """

    provider: ProviderName = "cpu"
    intra_op_threads: int = 0
    cache_dir: Path | None = None

    @property
    def fuses(self) -> bool:
        """Whether it runs graphs with ONNX Runtime's own attention operator."""
        return self.provider in FUSING

    def check(self) -> None:
        """Whether this build of ONNX Runtime has the provider.

        Raises:
            ProviderError: it has not.
        """
        available = ort.get_available_providers()
        if NAMES[self.provider] not in available:
            raise ProviderError(
                f"provider {self.provider} needs {NAMES[self.provider]}; this build of ONNX Runtime {ort.__version__} has "
                f"{', '.join(available)}; {HOW_TO_GET[self.provider]}"
            )
        if self.provider == "cuda":
            ort.preload_dlls()  # CUDA's and cuDNN's libraries came as packages, where the loader does not look

    def session(self, path: Path, key: str, *, half: bool = False) -> ort.InferenceSession:
        """A session that is run by the provider.

        Args:
            path: an ONNX graph, with its weights beside it.
            key: names the graph's content, so that what was made of it before is found.
            half: CUDA runs it in float16, if there is a folder to keep that graph in.

        Raises:
            BundleError: ONNX Runtime cannot open the graph.
            ProviderError: another provider would run it, of which ONNX Runtime itself only writes a line in its log.
        """
        home = self._home(key)
        try:
            if home and self.provider == "cpu":
                session = self._cached(path, home)
            elif home and self.provider == "cuda" and half:
                session = self._halved(path, home)
            else:
                session = self._open(path, home)
        except BundleError:
            raise
        except Exception as error:  # the library's classes share no other base
            raise BundleError(f"{path.name}: ONNX Runtime cannot open it: {error}") from error
        if (found := session.get_providers()[0]) != NAMES[self.provider]:
            raise ProviderError(
                f"{path.name}: must be run by {NAMES[self.provider]}; ONNX Runtime fell back to {found}, and its log says why; "
                f"{WHAT_TO_DO[self.provider]}"
            )
        return session

    @property
    def build(self) -> str:
        """Names what graphs are made for: one optimised by one version, or for one kind of processor, may not suit another."""
        return f"{self.provider}-{ort.__version__}-{_processor()}"

    def _home(self, key: str) -> Path | None:
        return self.cache_dir and self.cache_dir / "graphs" / self.build / key

    def _open(self, path: Path, home: Path | None, options: ort.SessionOptions | None = None) -> ort.InferenceSession:
        return ort.InferenceSession(str(path), options or self._options(), providers=[self._provider(home)])

    def _options(self) -> ort.SessionOptions:
        options = ort.SessionOptions()
        # against ORT_ENABLE_ALL: a quarter of the load time, less than half the memory, same speed
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.intra_op_num_threads = self.intra_op_threads
        options.enable_mem_pattern = False  # it would hold a second copy of a step's memory for each size, at the same speed
        options.log_severity_level = 3  # errors; what matters is checked here
        return options

    def _provider(self, home: Path | None) -> str | tuple[str, dict[str, Any]]:
        if self.provider == "openvino":
            config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "bf16"}
            if self.intra_op_threads:
                config["INFERENCE_NUM_THREADS"] = str(self.intra_op_threads)
            if home:
                home.mkdir(parents=True, exist_ok=True)
                config["CACHE_DIR"] = str(home)
            return NAMES["openvino"], {"device_type": "CPU", "load_config": json.dumps({"CPU": config})}
        if self.provider == "cuda":
            return NAMES["cuda"], {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "1"}
        return NAMES["cpu"]

    def _cached(self, path: Path, home: Path) -> ort.InferenceSession:
        """Opens what was optimised before, if it is intact; otherwise optimises, and keeps that."""
        if usable(home):
            options = self._options()
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            return self._open(home / OPTIMIZED, None, options)
        with making(home) as made:
            options = self._options()
            options.optimized_model_filepath = str(made / OPTIMIZED)
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)
            return self._open(path, None, options)

    def _halved(self, path: Path, home: Path) -> ort.InferenceSession:
        """Opens the graph in float16, which is made if it is not there."""
        if not usable(home):
            with making(home) as made:
                write_half(path, made / OPTIMIZED, WEIGHTS)
        return self._open(home / OPTIMIZED, None)

    def bound(self, session: ort.InferenceSession) -> Graph:
        """The session, fed through IO binding where arrays have to travel to a device."""
        return BoundSession(session, DEVICES[self.provider]) if self.provider in DEVICES else session


def _processor() -> str:
    """What the processor can do, as far as optimised graphs may depend on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(flags.encode()).hexdigest()[:8]
